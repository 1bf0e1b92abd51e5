"""Faults that a writer of ports could make, planted into the written files of a port of a DeepSeek model.

Each fault changes the model that was read back, as the writer would have got it wrong, and the port is written again by
the toolkit's own writer: weights, graph and digests are consistent, and only the numbers can show it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from porting import manifest
from porting.emit import WEIGHTS, WeightFile, write_model
from porting.port_folder import MODEL, PROVENANCE
from porting.weights.raw import leave_in_file


class Graph:
    """A port's model with the user's names of its parts."""

    def __init__(self, folder: Path) -> None:
        self.model = ir.load(folder / MODEL)
        lines = (json.loads(line) for line in (folder / PROVENANCE).read_text().splitlines())
        self._modules = {line["value"]: line["module"] or "" for line in lines}

    def nodes(self, module: str, op_type: str) -> list[ir.Node]:
        """Nodes of one operator whose results belong to a module."""
        own = [n for n in self.model.graph if n.op_type == op_type]
        return [n for n in own if any(self.module(v) == module for v in n.outputs)]

    def module(self, value: ir.Value) -> str:
        """The user's name of the module whose result a value is."""
        return self._modules.get(value.name or "", "")

    def node(self, module: str, op_type: str, index: int = 0) -> ir.Node:
        """One of them."""
        return self.nodes(module, op_type)[index]

    def product(self, module: str, index: int = 0) -> ir.Node:
        """The node that multiplies with a module's weights; experts have two, gate and up first."""
        operator = "npu_grouped_matmul" if module.endswith("experts") and ".shared" not in module else ""
        return self.node(module, operator or "npu_quant_matmul", index)


def change(value: ir.Value | None, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Give an initializer other contents of the same type."""
    assert value is not None
    assert value.const_value is not None
    old = value.const_value
    new = np.ascontiguousarray(edit(old.numpy().copy())).astype(old.numpy().dtype)
    assert (new != old.numpy()).any(), "the fault changes nothing"
    value.const_value = ir.Tensor(new, dtype=old.dtype, name=old.name)


def floats(node: ir.Node) -> Iterator[ir.Value]:
    """Scales of a product's weight; with int4 the corrections that are made of them are first."""
    for value in node.inputs[2:]:
        if value is not None and value.is_initializer() and value.dtype == ir.DataType.FLOAT:
            yield value


def scale_of(node: ir.Node) -> ir.Value:
    """The scales of a product's weight."""
    return list(floats(node))[-1]


Edit = Callable[[Graph], None]


@dataclasses.dataclass(frozen=True)
class Fault:
    """kind: what the writer got wrong. module: where, in the user's names. scheme: of the port it is planted into.

    also: further modules that compute otherwise because of it.
    """

    kind: str
    module: str
    edit: Edit
    scheme: str = "w8a8"
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The id of the test."""
        return f"{self.kind}-{self.scheme}-{self.module.removeprefix('model.')}"


def plant(port: Path, fault: Fault | None, folder: Path) -> Path:
    """A copy of a port with a fault, or without one, whose files agree with each other."""
    shutil.copytree(port, folder, ignore=shutil.ignore_patterns(MODEL, WEIGHTS))
    graph = Graph(port)
    leave_in_file(graph.model)
    if fault is not None:
        fault.edit(graph)
    weights = WeightFile(folder)
    write_model(graph.model, folder / MODEL, weights)
    weights.close()
    record = manifest.read(folder)
    record["files"] = {name: digest for name, digest in manifest.digests(folder).items() if name != "port.json"}
    manifest.write(folder, record)
    return folder


# What is wrong with a weight's scales


def scaled(module: str, factor: float = 1.5, index: int = 0) -> Edit:
    """All scales of one tensor."""
    return lambda g: change(scale_of(g.product(module, index)), lambda s: s * np.float32(factor))


def scaled_channel(module: str, seed: int, index: int = 0) -> Edit:
    """The scale of one channel (of one expert), times 4."""

    def edit(scales: np.ndarray) -> np.ndarray:
        scales.reshape(-1)[np.random.default_rng(seed).integers(scales.size)] *= 4
        return scales

    return lambda g: change(scale_of(g.product(module, index)), edit)


def scaled_expert(module: str, expert: int, index: int = 0) -> Edit:
    """The scales of one expert, times 1.5; with int4 the correction too."""

    def edit(values: np.ndarray) -> np.ndarray:
        values[expert] *= 1.5
        return values

    def plant_it(g: Graph) -> None:
        for value in floats(g.product(module, index)):
            change(value, edit)

    return plant_it


def swapped_scales(module: str, other: str, index: int = 0) -> Edit:
    """Scales of two layers, each in the other's place."""

    def edit(g: Graph) -> None:
        a, b = scale_of(g.product(module, index)), scale_of(g.product(other, index))
        a.const_value, b.const_value = b.const_value, a.const_value

    return edit


def reciprocal(module: str, index: int = 0) -> Edit:
    """One over the scale: the convention of another tool."""
    return lambda g: change(scale_of(g.product(module, index)), lambda s: 1 / s)


def stale_activation_scale(module: str) -> Edit:
    """The scales of the rows are those of what the layer norm gave."""

    def edit(g: Graph) -> None:
        layer = module.rpartition(".self_attn")[0]
        other = g.node(f"{layer}.self_attn.q_a_proj", "npu_quant_matmul").inputs[3]
        g.product(module).replace_input_with(3, other)

    return edit


# What is wrong with a weight's codes


def swapped_nibbles(module: str, index: int) -> Edit:
    """The two int4 codes of every byte in the wrong order."""

    def edit(codes: np.ndarray) -> np.ndarray:
        bytes_ = codes.view(np.uint8)
        return ((bytes_ << 4) | (bytes_ >> 4)).view(np.int8)

    return lambda g: change(g.product(module, index).inputs[1], edit)


def codes_of_other_experts(module: str, index: int) -> Edit:
    """Codes one expert further than scales."""
    return lambda g: change(g.product(module, index).inputs[1], lambda codes: np.roll(codes, 1, 0))


def experts_reordered(module: str) -> Edit:
    """Codes and scales of both products one expert further than the router."""

    def edit(g: Graph) -> None:
        for index in (0, 1):
            node = g.product(module, index)
            for value in (node.inputs[1], *floats(node)):
                change(value, lambda values: np.roll(values, 1, 0))

    return edit


def lost_correction(module: str, index: int) -> Edit:
    """Without 8 * sum(codes * scale), which unsigned int4 codes need."""
    return lambda g: change(next(floats(g.product(module, index))), np.zeros_like)


def gate_and_up_swapped(module: str) -> Edit:
    """The halves of a joined weight in the wrong order, scales with them."""

    def edit(values: np.ndarray, axis: int) -> np.ndarray:
        return np.roll(values, values.shape[axis] // 2, axis)

    def plant_it(g: Graph) -> None:
        node = g.product(module)
        experts = node.op_type == "npu_grouped_matmul"
        change(node.inputs[1], lambda codes: edit(codes, 1 if experts else 0))
        for value in floats(node):
            change(value, lambda values: edit(values, -1))

    return plant_it


def reversed_columns(module: str, index: int = 0) -> Edit:
    """Input channels from last to first."""
    return lambda g: change(g.product(module, index).inputs[1], lambda codes: codes[..., ::-1])


def clipped(module: str, index: int = 0) -> Edit:
    """Codes of 8 bits cut to the range of 4."""
    return lambda g: change(g.product(module, index).inputs[1], lambda codes: codes.clip(-8, 7))


# What is wrong with the graph


def unsorted_rotary(attention: str, index: int) -> Edit:
    """Pairs of neighbours go as they are to the operator that turns halves. index: 0 of queries, 1 of keys."""

    def edit(g: Graph) -> None:
        node = g.node(attention, "npu_rotary_mul", index)
        sorted_ = node.inputs[0].producer()  # reshape, transpose, reshape
        node.replace_input_with(0, sorted_.inputs[0].producer().inputs[0].producer().inputs[0])

    return edit


def cos_and_sin_swapped(attention: str, index: int) -> Edit:
    """The two tables in the wrong order."""

    def edit(g: Graph) -> None:
        node = g.node(attention, "npu_rotary_mul", index)
        cos, sin = node.inputs[1:]
        node.replace_input_with(1, sin)
        node.replace_input_with(2, cos)

    return edit


def unrotated(attention: str, index: int) -> Edit:
    """Queries or keys go on as they were before the rotation."""

    def edit(g: Graph) -> None:
        node = g.node(attention, "npu_rotary_mul", index)
        node.outputs[0].replace_all_uses_with(node.inputs[0])

    return edit


def attribute(module: str, op_type: str, name: str, value: float) -> Edit:
    """Another number in an attribute."""

    def edit(g: Graph) -> None:
        node = g.node(module, op_type)
        old = node.attributes[name]
        assert old.value != value
        node.attributes[name] = ir.Attr(name, old.type, value)

    return edit


def epsilon(norm: str, value: float = 1e-2) -> Edit:
    """Of a norm, 1e4 times what it should be."""

    def edit(g: Graph) -> None:
        _norm(g, norm).attributes["epsilon"] = ir.AttrFloat32("epsilon", value)

    return edit


def norm_of_other_layer(norm: str, other: str) -> Edit:
    """The weight of another layer's norm."""

    def edit(g: Graph) -> None:
        node = _norm(g, norm)
        node.replace_input_with(len(node.inputs) - 1, _norm(g, other).inputs[-1])

    return edit


def _norm(g: Graph, module: str) -> ir.Node:
    return [*g.nodes(module, "npu_rms_norm"), *g.nodes(module, "npu_add_rms_norm")][0]


def lost_router_bias(router: str) -> Edit:
    """Zeros in the place of e_score_correction_bias."""
    return lambda g: change(g.node(router, "npu_moe_gating_top_k").inputs[1], np.zeros_like)


def residual_after_norm(layer: str) -> Edit:
    """What attention gives is added to the normed input and not to the input."""

    def edit(g: Graph) -> None:
        node = g.node(f"{layer}.post_attention_layernorm", "npu_add_rms_norm")
        residual = 0 if g.node(f"{layer}.self_attn.o_proj", "Reshape", -1).outputs[0] is not node.inputs[0] else 1
        node.replace_input_with(residual, _norm(g, f"{layer}.input_layernorm").outputs[0])

    return edit


def without_shared_experts(mlp: str) -> Edit:
    """The sum with the routed experts left out."""

    def edit(g: Graph) -> None:
        node = g.node(mlp, "Add")
        routed = next(v for v in node.inputs if "shared" not in g.module(v))
        only = ir.node("Identity", [routed], name=node.name)
        only.outputs[0].name, node.outputs[0].name = node.outputs[0].name, None
        only.outputs[0].type, only.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
        g.model.graph.insert_before(node, only)
        node.outputs[0].replace_all_uses_with(only.outputs[0])
        g.model.graph.remove(node)

    return edit


def all_faults() -> list[Fault]:
    """Every kind in several places."""
    return list(_all())


def _all() -> Iterator[Fault]:
    def layer(index: int, rest: str = "") -> str:
        return f"model.layers.{index}" + (f".{rest}" if rest else "")

    q_a, q_b, kv_a, o = ("self_attn." + n for n in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"))
    experts, shared, shared_down = "mlp.experts", "mlp.shared_experts", "mlp.shared_experts.down_proj"
    for i, name in ((1, q_a), (2, kv_a), (3, o), (4, experts), (5, shared_down), (0, "mlp.down_proj")):
        yield Fault("scale of a tensor", layer(i, name), scaled(layer(i, name)))
    for i, name in ((0, q_b), (0, "mlp"), (2, shared), (4, o), (1, experts), (5, kv_a)):
        yield Fault("scale of a channel", layer(i, name), scaled_channel(layer(i, name), seed=i))
    for i, scheme in ((1, "w8a8"), (3, "w8a8"), (5, "w4a8"), (2, "w4a8")):
        yield Fault("scale of an expert", layer(i, experts), scaled_expert(layer(i, experts), 3 * i, i % 2), scheme)
    for i, j, name in ((1, 2, q_b), (3, 4, o), (2, 5, experts)):
        yield Fault("scales of two layers swapped", layer(i, name), swapped_scales(layer(i, name), layer(j, name)),
                    also=(layer(j, name),))  # fmt: skip
    for i, name in ((2, q_a), (3, experts), (0, "mlp.down_proj")):
        yield Fault("reciprocal scale", layer(i, name), reciprocal(layer(i, name)))
    for i in (0, 3):
        yield Fault("scale of other rows", layer(i, o), stale_activation_scale(layer(i, o)))
    for i in (1, 2, 3, 4, 5):
        yield Fault("swapped nibbles", layer(i, experts), swapped_nibbles(layer(i, experts), i % 2), "w4a8")
        yield Fault("lost 8*sum", layer(i, experts), lost_correction(layer(i, experts), (i + 1) % 2), "w4a8")
    for i, scheme in ((1, "w8a8"), (3, "w8a8"), (5, "w4a8")):
        yield Fault(
            "codes of other experts", layer(i, experts), codes_of_other_experts(layer(i, experts), i % 2), scheme
        )
    for i, scheme in ((2, "w8a8"), (4, "w8a8"), (1, "w4a8")):
        yield Fault("stale expert order", layer(i, experts), experts_reordered(layer(i, experts)), scheme)
    for i, name, scheme in ((0, "mlp", "w8a8"), (2, shared, "w8a8"), (3, experts, "w8a8"), (5, experts, "w8a8"),
                            (4, experts, "w4a8")):  # fmt: skip
        yield Fault("gate and up swapped", layer(i, name), gate_and_up_swapped(layer(i, name)), scheme)
    for i, name in ((5, q_a), (1, o), (2, experts)):
        yield Fault("columns reversed", layer(i, name), reversed_columns(layer(i, name)))
    for i, name in ((4, q_b), (3, shared_down), (1, experts)):
        yield Fault("codes clipped to 4 bits", layer(i, name), clipped(layer(i, name)))
    attention = "self_attn"
    for i, which in ((0, 0), (2, 0), (4, 1), (5, 1)):
        yield Fault("wrong rotary half", layer(i, attention), unsorted_rotary(layer(i, attention), which))
    for i, which in ((1, 0), (3, 1)):
        yield Fault("cos and sin swapped", layer(i, attention), cos_and_sin_swapped(layer(i, attention), which))
    for i, which in ((2, 1), (5, 0)):
        yield Fault("only one rotated", layer(i, attention), unrotated(layer(i, attention), which))
    for i in (0, 3, 4):
        call = "npu_fused_infer_attention_score_v2"
        edit = attribute(layer(i, attention), call, "softmax_scale", 48**-0.5)
        yield Fault("attention scale without mscale", layer(i, attention), edit)
    norms = ("input_layernorm", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm", "post_attention_layernorm")
    # Where a variance is far above 1, as in every later layer of the committed model, 1e-2 is as good as 1e-6.
    for scheme in ("w8a8", "w4a8"):
        yield Fault("epsilon of a norm", layer(0, norms[0]), epsilon(layer(0, norms[0])), scheme)
    for i, norm in zip((2, 4, 0, 1), norms, strict=True):
        edit = norm_of_other_layer(layer(i, norm), layer(i + 1, norm))
        yield Fault("norm of another layer", layer(i, norm), edit)
    router = "mlp.gate"
    for i in (1, 3, 5):
        yield Fault("lost router bias", layer(i, router), lost_router_bias(layer(i, router)))
    call = "npu_moe_gating_top_k"
    for i in (2, 4):
        edit = attribute(layer(i, router), call, "routed_scaling_factor", 1.0)
        yield Fault("routed_scaling_factor", layer(i, router), edit)
    for i, groups in ((1, 1), (5, 4)):
        yield Fault("k_group", layer(i, router), attribute(layer(i, router), call, "k_group", groups))
    for i in (0, 3):
        yield Fault("residual after the norm", layer(i), residual_after_norm(layer(i)),
                    also=(layer(i, "post_attention_layernorm"),))  # fmt: skip
    for i in (1, 4):
        yield Fault("without shared experts", layer(i, "mlp"), without_shared_experts(layer(i, "mlp")))
