"""Planted: one of three products loses far more than the others."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting import schemas
from porting.frontends import origin
from porting.parity import anchors, float_regions, sensitivity
from porting.parity.sensitivity import pattern_of
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance
from porting_passes.infer_shapes import InferShapes
from porting_passes.quantize_dynamic import IntegerWeight, LinearWeight, QuantizeDynamic

NET = """<ir_version: 10, opset_import: ["": 20]> net (float[rows, 16] x) => (float[rows, 4] y) {
    a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Sigmoid (c) g = Mul (c, d) y = MatMul (g, w2) }"""
MODULES = {"a": "layers.0.fc", "b": "layers.0.act", "c": "layers.1.fc", "d": "layers.1.act", "g": "layers.1.act",
           "y": "head"}  # fmt: skip


def net() -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 32), "w1": (32, 16), "w2": (16, 4)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    weights["w1"][0] *= 3000.0  # one input row sets the scales: all others get few codes
    weights["w0"][:, 0] = 1e-4
    model = ir.from_onnx_text(NET, initializers=[ir.tensor(array, name=name) for name, array in weights.items()])
    InferShapes()(model)
    origin.stamp(model)
    for node in model.graph:
        for value in node.outputs:
            name = value.name or ""
            provenance.set_(value, provenance.Provenance((name,), equal=True, module=MODULES[name]))
    return model


def by_row(linear: LinearWeight) -> IntegerWeight | str:
    """int8 by output channel, as plain as it gets."""
    weight = linear.tensor.numpy()
    scale = np.abs(weight).max(-1) / 127
    codes = np.clip(np.round(weight / scale[:, None]), -128, 127).astype(np.int8)
    return IntegerWeight(ir.tensor(codes), ir.tensor(scale.astype(np.float32)))


def quantized() -> ir.Model:
    model = net()
    QuantizeDynamic(by_row)(model)
    return model


@pytest.fixture
def samples() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((5, 16)).astype(np.float32)} for _ in range(3)]


def found_in(ported: ir.Model) -> tuple[list[float_regions.Region], list[str]]:
    return float_regions.regions(net(), ported, anchors.of_model(ported))


def test_every_quantized_product_is_a_region_of_its_own() -> None:
    regions, lost = found_in(quantized())
    assert [r.module for r in regions] == ["layers.0.fc", "layers.1.fc", "head"]
    assert [(dict(r.inputs), dict(r.outputs)) for r in regions] == [
        ({"x": "x"}, {"a": "a"}), ({"b": "b"}, {"c": "c"}), ({"g": "g"}, {"y": "y"}),
    ]  # fmt: skip
    assert [r.weights for r in regions] == [("w0",), ("w1",), ("w2",)]
    assert lost == []


def test_a_region_alone_computes_the_float_product() -> None:
    regions, _ = found_in(quantized())
    weights = net().graph.initializers
    b = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    out = Interpreter(regions[1].model).run({"b": b})["c"]
    assert torch.equal(out, b @ torch.from_numpy(weights["w1"].const_value.numpy()))


def test_a_product_whose_result_the_port_does_not_have_takes_its_readers_along() -> None:
    """As where a port fuses a product with its gated activation: c and d are gone, g is there."""
    ported = quantized()
    for node in ported.graph:
        for value in node.outputs:
            if value.name in ("c", "d"):
                provenance.set_(value, provenance.Provenance())
                value.name = f"inner_{value.name}"
    regions, lost = found_in(ported)
    assert [(r.module, dict(r.inputs), dict(r.outputs)) for r in regions] == [
        ("layers.0.fc", {"x": "x"}, {"a": "a"}), ("layers.1.fc", {"b": "b"}, {"g": "g"}),
        ("head", {"g": "g"}, {"y": "y"}),
    ]  # fmt: skip
    assert [node.op_type for node in regions[1].model.graph] == ["MatMul", "Sigmoid", "Mul"]
    assert lost == []


def test_two_products_with_nothing_of_the_port_between_them_are_one_region() -> None:
    ported = quantized()
    for node in ported.graph:
        for value in node.outputs:
            if value.name in ("c", "d", "g"):
                provenance.set_(value, provenance.Provenance())
                value.name = f"inner_{value.name}"
    regions, _ = found_in(ported)
    assert [r.modules for r in regions] == [("layers.0.fc",), ("layers.1.fc", "head")]
    assert regions[1].weights == ("w1", "w2")


def test_products_that_stayed_in_float_are_no_regions() -> None:
    ported = net()
    QuantizeDynamic(lambda linear: by_row(linear) if linear.value.name == "w1" else "kept")(ported)
    regions, lost = found_in(ported)
    assert [r.module for r in regions] == ["layers.1.fc"]
    assert lost == []


def test_the_product_that_loses_most_comes_first_and_goes_into_the_map(samples: list[dict[str, np.ndarray]]) -> None:
    ported = quantized()
    regions, _ = found_in(ported)
    groups, by = sensitivity.groups(regions)
    assert by == "module"
    result = sensitivity.measure(net(), ported, samples, groups, by=by)
    assert result.gains[0].group.name == "layers.1.fc"
    first, second, _ = result.gains
    assert first.gain > 0.5 * result.error
    assert first.gain > 3 * abs(second.gain)
    assert result.floor < 1e-6 < result.error
    assert result.scheme_map(1) == {"w1": "none"}
    schemas.validate("sensitivity", result.to_json(2))


def test_all_groups_but_one_in_float_leave_the_error_of_that_one(samples: list[dict[str, np.ndarray]]) -> None:
    """Replacing is what keeping would have been: the port with only w1 quantized has the same error."""
    regions, _ = found_in(quantized())
    rest = sensitivity.Group("rest", tuple(r for r in regions if r.module != "layers.1.fc"))
    replaced = sensitivity.measure(net(), quantized(), samples, [rest], by="module").gains[0].error
    kept = net()
    QuantizeDynamic(lambda linear: by_row(linear) if linear.value.name == "w1" else "kept")(kept)
    assert replaced == pytest.approx(sensitivity.measure(net(), kept, samples, [], by="module").error, rel=1e-6)


def test_groups_by_decoder_layer_and_threads(samples: list[dict[str, np.ndarray]]) -> None:
    regions, _ = found_in(quantized())
    groups, by = sensitivity.groups(regions, "layer")
    assert [group.name for group in groups] == ["layers.0", "layers.1", "head"]
    one, three = (
        sensitivity.measure(net(), quantized(), samples, groups, by=by, threads=threads).to_json(3)
        for threads in (1, 3)
    )
    assert one == three


MODEL = [
    "model.layers.1.mlp.experts.0.gate_proj", "model.layers.1.mlp.experts.12.down_proj",
    "model.layers.1.mlp.shared_experts.gate_proj", "model.layers.11.mlp.experts.0.gate_proj",
    "model.layers.1.self_attn.o_proj", "model.layers.1.self_attn.q_a_proj",
]  # fmt: skip


@pytest.mark.parametrize(
    "weights, expected",
    [
        (["model.layers.1.self_attn.o_proj.weight"], {4}),
        ([f"model.layers.1.mlp.experts.{e}.{p}_proj.weight" for e in range(3) for p in ("gate", "down")], {0, 1}),
        (["model.layers.1.self_attn.o_proj.weight", "model.layers.1.mlp.shared_experts.gate_proj.weight"], {2, 4}),
    ],
    ids=["one", "experts", "two modules"],
)  # fmt: skip
def test_a_pattern_matches_its_modules_and_no_other(weights: list[str], expected: set[int]) -> None:
    pattern = re.compile(pattern_of(weights))
    assert {i for i, module in enumerate(MODEL) if pattern.fullmatch(module)} == expected
