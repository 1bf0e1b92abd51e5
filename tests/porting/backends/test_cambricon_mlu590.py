"""What the data of cambricon-mlu590 says about real nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from composite_cases import BFLOAT, CASES, FLOAT, HALF, INT8, INT64, OPSET, V3, Composite, Draw, none, run, weight

from porting import backends
from porting.simulation.interpreter import Interpreter
from porting_passes.legality import Illegal, Legal, Unknown, check
from porting_passes.legalize import Legalize
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.lowering import add_surface_bodies
from porting_passes.operator_set import OperatorSet

BACKEND = backends.get("cambricon-mlu590")
SET = BACKEND.surface().operator_set


def verdict(composite: Composite, operators: OperatorSet = SET) -> Any:
    return check(next(iter(composite.model()[0].graph)), operators, OPSET)


def gating(bias: bool, experts: int = 32, **attributes: Any) -> Composite:
    draw = Draw(1)
    shift = weight(draw.floats(experts), FLOAT) if bias else none()
    return Composite("GatingTopK", (run(draw.floats(6, experts), FLOAT), shift), (FLOAT, INT64), attributes)


GATINGS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "scores_after_the_selection": ({"k": 2, "score": "softmax", "after_top_k": 1}, False, "before the selection"),
    "sigmoid_experts_outside_count_as_zero": ({**V3, "mask_value": 0.0}, True, "count as -inf"),
    "softmax_experts_outside_are_out": ({"k": 2, "groups": 4, "k_group": 2, "score": "softmax"}, True, "count as 0"),
    "sigmoid_best_of_a_group_with_bias": ({**V3, "group_top": 1}, True, "a group's score"),
    "three_best_of_a_group": ({**V3, "group_top": 3}, True, "a group's score"),
    "something_added_to_the_sum": ({**V3, "epsilon": 1e-6}, True, "nothing is added to the sum"),
}


@pytest.mark.parametrize("name", GATINGS)
def test_a_gating_that_the_vendor_does_not_have_is_illegal_and_decomposed(name: str) -> None:
    attributes, bias, why = GATINGS[name]
    composite = gating(bias, **attributes)
    met = verdict(composite)
    assert isinstance(met, Illegal)
    assert any(why in reason.rule for reason in met.reasons), met.reasons
    model, feeds = composite.model()
    want = Interpreter(model).run(feeds)
    result = Legalize(SET)(model)
    assert not result.failures
    got = Interpreter(model).run(feeds)
    assert torch.equal(got["y1"], want["y1"])
    torch.testing.assert_close(got["y0"], want["y0"], rtol=1e-6, atol=1e-7)


def test_a_gating_that_does_not_renormalize_is_the_vendor_s() -> None:
    assert isinstance(verdict(gating(True, **{**V3, "renormalize": 0})), Legal)


def grouped(bits: int, width: int, groups: int) -> Composite:
    draw = Draw(2)
    operands = (
        run(draw.codes(12, width), INT8),
        run(draw.scales(12), FLOAT),
        weight(draw.codes(4, 8, width, bits=bits), INT8),
        weight(draw.scales(4, 8, groups), FLOAT),
        run([3, 3, 7, 12], INT64),
        none(4, 1),
    )
    return Composite("QuantizedGroupedMatmul", operands, (BFLOAT,), {"to": int(BFLOAT), "bits": bits})


@pytest.mark.parametrize(("size", "legal"), [(64, False), (128, True), (192, False), (512, True), (1024, True)])
@pytest.mark.parametrize("bits", [4, 8])
def test_groups_of_an_expert_product(bits: int, size: int, legal: bool) -> None:
    met = verdict(grouped(bits, size * 2, 2))
    assert isinstance(met, Legal if legal else Illegal)
    if not legal:
        assert any("128, 256, 512 or 1024" in reason.rule for reason in met.reasons)


@pytest.mark.parametrize(("size", "legal"), [(32, False), (64, True), (512, True), (1024, False)])
def test_groups_of_a_weight_only_product(size: int, legal: bool) -> None:
    draw = Draw(3)
    codes = weight(draw.codes(8, size * 2, bits=4), INT8)
    operands = (run(draw.floats(6, size * 2), BFLOAT), codes, weight(draw.scales(8, 2), FLOAT), none())
    composite = Composite("WeightOnlyMatMul", operands, (BFLOAT,), {"bits": 4})
    old = BACKEND.at("tmo-1.3.2").surface().operator_set
    assert isinstance(verdict(composite, old), Legal if legal else (Illegal, Unknown))
    # The newer package has groups of 1024 in scaled_matmul.
    assert isinstance(verdict(composite), Legal if legal or size == 1024 else Illegal)


@pytest.mark.parametrize(("width", "legal"), [(64, True), (256, True), (258, False)])
def test_the_width_of_a_rotation(width: int, legal: bool) -> None:
    draw = Draw(4)
    angles = draw.floats(1, 5, width // 2)
    operands = (run(draw.floats(2, 3, 5, width), BFLOAT), run(np.cos(angles), BFLOAT), run(np.sin(angles), BFLOAT))
    met = verdict(Composite("RotaryEmbedding", operands, (BFLOAT,), {"layout": "half"}))
    assert isinstance(met, Legal if legal else Illegal)


CALLED = {
    (None, "quantized"): "smooth_quant_matmul",
    ("tmo-1.3.2", "quantized"): "smooth_quant_matmul",
    ("tmo-1.12.1", "quantized"): "scaled_matmul",
    (None, "weight_only_int4"): "weight_only_quant_matmul",
    ("tmo-1.12.1", "weight_only_int4"): "scaled_matmul",
    (None, "dynamic_quantize"): "scaled_quantize",
    ("tmo-1.3.2", "dynamic_quantize"): "moe_quantize",
}


@pytest.mark.parametrize(("toolkit", "name"), CALLED)
def test_a_version_has_its_functions(toolkit: str | None, name: str) -> None:
    operators = BACKEND.at(toolkit).surface().operator_set
    model, _ = CASES[name](Draw(5), BFLOAT).model()
    LowerToSurface(operators)(model)
    assert {n.op_type for n in model.graph if n.domain == "torch_mlu_ops"} == {CALLED[toolkit, name]}


def test_float32_norms_are_of_the_newer_version() -> None:
    composite = CASES["rms_norm_float32_weight"](Draw(6), HALF)
    assert isinstance(verdict(composite), Legal)
    assert not isinstance(verdict(composite, BACKEND.at("tmo-1.3.2").surface().operator_set), Legal)


def test_a_short_run_of_causal_queries_gets_a_mask_of_its_own() -> None:
    for name, form in (("attention_causal", "bias"), ("attention_causal_whole", "causal")):
        model, _ = CASES[name](Draw(7), BFLOAT).model()
        LowerToSurface(SET)(model)
        assert [n.overload for n in model.graph if n.domain == "torch_mlu_ops"] == [form]


@pytest.mark.parametrize("name", ["quantized_grouped_int4", "weight_only_int4_groups"])
def test_swapped_nibbles_change_the_result(name: str) -> None:
    model, feeds = CASES[name](Draw(8), BFLOAT).model()
    LowerToSurface(SET)(model)
    add_surface_bodies(model, SET)
    want = Interpreter(model).run(feeds)["y0"].float()
    packed = next(n for n in model.graph if n.domain == "torch_mlu_ops").inputs[1]
    assert packed is not None
    assert packed.const_value is not None
    bytes_ = packed.const_value.numpy()
    packed.const_value = ir.tensor(((bytes_ << 4) | ((bytes_ >> 4) & 15)).astype(np.int8))
    assert (Interpreter(model).run(feeds)["y0"].float() - want).abs().max() > 0.1 * want.abs().max()


def test_unlisted_operators_are_unknown_and_loops_illegal() -> None:
    x = ir.Value(name="x", type=ir.TensorType(FLOAT), shape=ir.Shape([4]))
    assert isinstance(check(ir.node("Tanh", [x]), SET, OPSET), Legal)
    assert isinstance(check(ir.node("Det", [x]), SET, OPSET), Unknown)
    assert isinstance(check(ir.node("Loop", [x]), SET, OPSET), Illegal)
    narrow = ir.Value(name="n", type=ir.TensorType(ir.DataType.FLOAT8E4M3FN), shape=ir.Shape([4]))
    assert isinstance(check(ir.node("Relu", [narrow]), SET, OPSET), Illegal)
