"""One-node models of composite operators, a case for each way in which a surface of Python calls takes one.

The tests of lowerings, of bodies and of calls are all run over these cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

OPSET = 20
FLOAT, HALF, BFLOAT, INT8, INT64 = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.INT8,
    ir.DataType.INT64,
)
Operand = tuple[np.ndarray, ir.DataType, bool]
"""Values, type, and whether they are a weight."""


@dataclasses.dataclass(frozen=True)
class Composite:
    """op_type with operands and attributes; outputs by type. Shapes of outputs stay unknown, as after a fusion."""

    op_type: str
    operands: tuple[Operand, ...]
    outputs: tuple[ir.DataType, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def model(self) -> tuple[ir.Model, dict[str, np.ndarray]]:
        """The model, and values for its inputs."""
        values, inputs, weights, feeds = [], [], [], {}
        for index, (array, dtype, constant) in enumerate(self.operands):
            tensor = ir.Tensor(np.asarray(array).astype(dtype.numpy()), dtype=dtype, name=f"x{index}")
            value = ir.Value(name=f"x{index}", type=ir.TensorType(dtype), shape=ir.Shape(tensor.shape))
            values.append(value)
            if constant:
                value.const_value = tensor
                weights.append(value)
            else:
                inputs.append(value)
                feeds[f"x{index}"] = tensor.numpy()
        node = ir.node(
            self.op_type, values, self.attributes, domain="porting", num_outputs=len(self.outputs), name="node"
        )
        for index, (output, dtype) in enumerate(zip(node.outputs, self.outputs, strict=True)):
            output.name, output.type = f"y{index}", ir.TensorType(dtype)
        imports = {"": OPSET, "porting": 1}
        graph = ir.Graph(inputs, node.outputs, nodes=[node], initializers=weights, opset_imports=imports, name="one")
        return ir.Model(graph, ir_version=10), feeds


def run(array: Any, dtype: ir.DataType) -> Operand:
    """An operand that a run brings."""
    return np.asarray(array), dtype, False


def weight(array: Any, dtype: ir.DataType) -> Operand:
    """An operand that is a constant."""
    return np.asarray(array), dtype, True


def none(*shape: int, dtype: ir.DataType = FLOAT) -> Operand:
    """The zeros that stand for an absent bias or mask."""
    return weight(np.zeros(shape or (1,)), dtype)


class Draw:
    """Random operands of the right kind."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def floats(self, *shape: int) -> np.ndarray:
        """Standard normal."""
        return self.rng.standard_normal(shape)

    def scales(self, *shape: int) -> np.ndarray:
        """Small and positive."""
        return self.rng.uniform(0.001, 0.01, shape)

    def codes(self, *shape: int, bits: int = 8) -> np.ndarray:
        """All codes of so many bits."""
        return self.rng.integers(-(1 << bits - 1), 1 << bits - 1, shape)

    def ids(self, tokens: int, experts: int, k: int) -> np.ndarray:
        """k different experts a token."""
        return np.stack([self.rng.permutation(experts)[:k] for _ in range(tokens)])


OFFSETS = run([3, 3, 7, 12], INT64)
V3 = {
    "k": 4,
    "groups": 4,
    "k_group": 2,
    "group_top": 2,
    "score": "sigmoid",
    "renormalize": 1,
    "scale": 2.5,
    "epsilon": 1e-20,
}
Make = Callable[[Draw, ir.DataType], Composite]


def _gating(bias: bool, **attributes: Any) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        shift = weight(draw.floats(32), FLOAT) if bias else none()
        return Composite("GatingTopK", (run(draw.floats(6, 32), FLOAT), shift), (FLOAT, INT64), attributes)

    return make


def _rotary(layout: str, width: int, narrow_tables: bool) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        tables = t if narrow_tables else FLOAT
        angles = draw.floats(1, 5, width // 2)
        operands = (run(draw.floats(2, 3, 5, width), t), run(np.cos(angles), tables), run(np.sin(angles), tables))
        return Composite("RotaryEmbedding", operands, (t,), {"layout": layout})

    return make


def _attention(is_causal: int, queries: int = 3, masked: bool = False) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        operands = (
            run(draw.floats(2, 4, queries, 8), t),
            run(draw.floats(2, 4, queries, 4), t),
            run(draw.floats(2, 5, 16), t),
            run(draw.floats(2, 1, 5, 4), t),
            weight(draw.floats(16, 4 * 14) / 4, t),
            run(draw.floats(2, 1, queries, 5), t) if masked else none(1, 1, 1, 1, dtype=t),
        )
        return Composite("MLAAttention", operands, (t,), {"scale": 0.3, "is_causal": is_causal})

    return make


def _grouped(transposed: int, bias: bool) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        shape = (4, 8, 16) if transposed else (4, 16, 8)
        shift = weight(draw.floats(4, 8), t) if bias else none(4, 1, dtype=t)
        operands = (run(draw.floats(12, 16), t), weight(draw.floats(*shape), t), OFFSETS, shift)
        return Composite("GroupedMatmul", operands, (t,), {"transposed": transposed})

    return make


def _quantized(lead: tuple[int, ...], bias: bool) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        operands = (
            run(draw.codes(*lead, 16), INT8),
            run(draw.scales(*lead), FLOAT),
            weight(draw.codes(8, 16), INT8),
            weight(draw.scales(8), FLOAT),
            weight(draw.floats(8), FLOAT) if bias else none(),
        )
        return Composite("QuantizedMatMul", operands, (t,), {"to": int(t)})

    return make


def _quantized_grouped(bits: int, groups: int = 0) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        width = 128 * groups or 16
        operands = (
            run(draw.codes(12, width), INT8),
            run(draw.scales(12), FLOAT),
            weight(draw.codes(4, 8, width, bits=bits), INT8),
            weight(draw.scales(4, 8, groups) if groups else draw.scales(4, 8), FLOAT),
            OFFSETS,
            none(4, 1),
        )
        return Composite("QuantizedGroupedMatmul", operands, (t,), {"to": int(t), "bits": bits})

    return make


def _weight_only(lead: tuple[int, ...], bits: int = 8, groups: int = 0, bias: bool = False) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        width = 128 * groups or 16
        scale = weight(draw.scales(8, groups) if groups else draw.scales(8), FLOAT)
        codes = weight(draw.codes(8, width, bits=bits), INT8)
        shift = weight(draw.floats(8), FLOAT) if bias else none()
        return Composite(
            "WeightOnlyMatMul", (run(draw.floats(*lead, width), t), codes, scale, shift), (t,), {"bits": bits}
        )

    return make


def _weight_only_grouped(bits: int, groups: int) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        width = 128 * groups or 16
        scale = weight(draw.scales(4, 8, groups) if groups else draw.scales(4, 8), FLOAT)
        codes = weight(draw.codes(4, 8, width, bits=bits), INT8)
        operands = (run(draw.floats(12, width), t), codes, scale, OFFSETS, none(4, 1))
        return Composite("WeightOnlyGroupedMatmul", operands, (t,), {"bits": bits})

    return make


def _norm(op_type: str, operands: int, narrow_weight: bool) -> Make:
    def make(draw: Draw, t: ir.DataType) -> Composite:
        values = tuple(run(draw.floats(3, 5, 32), t) for _ in range(operands))
        factor = weight(draw.floats(32), t if narrow_weight else FLOAT)
        return Composite(op_type, (*values, factor), (t,) * operands, {"epsilon": 1e-5})

    return make


CASES: dict[str, Make] = {
    "rms_norm": _norm("RMSNorm", 1, True),
    "rms_norm_float32_weight": _norm("RMSNorm", 1, False),
    "add_rms_norm": _norm("AddRMSNorm", 2, True),
    "add_rms_norm_float32_weight": _norm("AddRMSNorm", 2, False),
    "swiglu": lambda draw, t: Composite("SwiGLU", (run(draw.floats(3, 5, 32), t),), (t,)),
    **{
        f"rotary_{layout}_{width}_{'narrow' if narrow else 'float32'}": _rotary(layout, width, narrow)
        for layout in ("half", "interleaved", "interleaved_to_half")
        for width in (16, 64)
        for narrow in (True, False)
    },
    "attention_full": _attention(0),
    "attention_causal": _attention(1),
    "attention_causal_whole": _attention(1, queries=5),
    "attention_masked": _attention(0, masked=True),
    "attention_causal_masked": _attention(1, masked=True),
    "grouped": _grouped(0, False),
    "grouped_bias": _grouped(0, True),
    "grouped_transposed": _grouped(1, False),
    "grouped_transposed_bias": _grouped(1, True),
    "dynamic_quantize": lambda draw, t: Composite(
        "DynamicQuantize", (run(draw.floats(2, 5, 16), t), weight(np.ones(1), FLOAT)), (INT8, FLOAT)
    ),
    "dynamic_quantize_smooth": lambda draw, t: Composite(
        "DynamicQuantize", (run(draw.floats(2, 5, 16), t), weight(draw.scales(16), FLOAT)), (INT8, FLOAT)
    ),
    "quantized": _quantized((6,), False),
    "quantized_bias": _quantized((6,), True),
    "quantized_rank3": _quantized((2, 3), False),
    "quantized_rank3_bias": _quantized((2, 3), True),
    "quantized_grouped": _quantized_grouped(8),
    "quantized_grouped_groups": _quantized_grouped(8, groups=2),
    "quantized_grouped_int4": _quantized_grouped(4),
    "quantized_grouped_int4_groups": _quantized_grouped(4, groups=2),
    "weight_only": _weight_only((6,)),
    "weight_only_rank3": _weight_only((2, 3)),
    "weight_only_bias": _weight_only((6,), bias=True),
    "weight_only_groups": _weight_only((6,), groups=2),
    "weight_only_int4": _weight_only((6,), bits=4),
    "weight_only_int4_bias": _weight_only((6,), bits=4, bias=True),
    "weight_only_int4_groups": _weight_only((2, 3), bits=4, groups=2),
    "weight_only_grouped": _weight_only_grouped(8, 0),
    "weight_only_grouped_int4_groups": _weight_only_grouped(4, 2),
    "dispatch": lambda draw, t: Composite(
        "MoeDispatch", (run(draw.floats(6, 16), t), run(draw.ids(6, 8, 3), INT64)), (t, INT64, INT64), {"experts": 8}
    ),
    "combine": lambda draw, t: Composite(
        "MoeCombine",
        (run(draw.floats(18, 16), t), run(draw.rng.permutation(18), INT64), run(draw.scales(6, 3), FLOAT)),
        (t,),
    ),
    "gating_v3": _gating(True, **V3),
    "gating_v3_no_bias": _gating(False, **V3),
    "gating_sigmoid_best": _gating(True, **{**V3, "group_top": 1}),
    "gating_sigmoid_best_no_bias": _gating(False, **{**V3, "group_top": 1}),
    "gating_v2": _gating(False, k=4, groups=4, k_group=2, score="softmax", scale=16.0),
    "gating_softmax_bias": _gating(True, k=4, groups=4, k_group=2, score="softmax", mask_value=0.0),
    "gating_softmax_two_best": _gating(False, k=4, groups=4, k_group=2, group_top=2, score="softmax"),
    "gating_mixtral": _gating(False, k=2, score="softmax", renormalize=1),
}
"""Name -> makes the case of random operands in a floating type."""

NOT_TAKEN: dict[str, dict[str, str]] = {
    "torch_npu": {
        "attention_masked": "no mask of its own",
        "attention_causal_masked": "no mask of its own",
        "dynamic_quantize_smooth": "smoothing is folded",
        "quantized_grouped_groups": "a scale for each channel",
        "quantized_grouped_int4_groups": "a scale for each channel",
        "weight_only_bias": "no bias",
        "weight_only_groups": "a scale for each channel",
        "weight_only_int4": "int8 weights",
        "weight_only_int4_bias": "int8 weights",
        "weight_only_int4_groups": "int8 weights",
        "weight_only_grouped_int4_groups": "int8 weights",
        "gating_softmax_bias": "no bias",
    },
    "torch_mlu_ops": {
        "gating_sigmoid_best": "a group's score",
        "gating_softmax_two_best": "a group's score",
    },
}
"""Surface -> the cases that it does not take, with a word of the reason."""


def taken(surface: str) -> list[str]:
    """The cases that a surface takes."""
    return [name for name in CASES if name not in NOT_TAKEN[surface]]
