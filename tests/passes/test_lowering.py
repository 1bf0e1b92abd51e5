"""Composite operators in the operators of a surface: every lowering against the composite's own meaning."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from composite_cases import (
    BFLOAT,
    CASES,
    FLOAT,
    HALF,
    INT8,
    INT64,
    NOT_TAKEN,
    OPSET,
    V3,
    Composite,
    Draw,
    none,
    run,
    taken,
    weight,
)

from porting import backends
from porting.backends import Surface
from porting.parity.widen import widened
from porting.simulation.interpreter import Interpreter
from porting_kernels import registry
from porting_passes.builder import BuildError
from porting_passes.legality import Illegal, Legal, check
from porting_passes.legalize import Legalize
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.lowering import add_surface_bodies, body_function
from porting_passes.operator_set import OperatorSet
from porting_passes.operators import BODIES

PYTHON_SURFACES = [s for name in backends.names() for s in backends.get(name).surfaces.values() if s.kind == "python"]
SURFACES = pytest.mark.parametrize("surface", PYTHON_SURFACES, ids=lambda s: s.name)
TAKEN = pytest.mark.parametrize(
    ("surface", "name"),
    [pytest.param(s, name, id=f"{s.name}-{name}") for s in PYTHON_SURFACES for name in taken(s.name)],
)
TYPE = pytest.mark.parametrize("dtype", [BFLOAT, HALF], ids=["bfloat16", "float16"])
ROUNDING = {BFLOAT: 2.0**-8, HALF: 2.0**-11}
"""Half a unit in the last place, relative."""


def node_of(model: ir.Model) -> ir.Node:
    return next(iter(model.graph))


def lowered(model: ir.Model, operator_set: OperatorSet) -> ir.Model:
    low = model.clone()
    LowerToSurface(operator_set)(low)
    add_surface_bodies(low, operator_set)
    return low


def made(name: str, dtype: ir.DataType) -> tuple[ir.Model, dict[str, np.ndarray]]:
    return CASES[name](Draw(zlib.crc32(name.encode())), dtype).model()


@TAKEN
@TYPE
def test_a_lowering_means_what_the_composite_means(surface: Surface, name: str, dtype: ir.DataType) -> None:
    model, feeds = made(name, dtype)
    verdict = check(node_of(model), surface.operator_set, OPSET)
    assert isinstance(verdict, Legal), verdict
    assert verdict.lowering is not None
    low = lowered(model, surface.operator_set)
    assert not any(node.domain == "porting" for node in low.graph.all_nodes())
    want, got = Interpreter(model).run(feeds), Interpreter(low).run(feeds)
    tolerance = verdict.lowering.tolerance
    for key, expected in want.items():
        assert got[key].dtype == expected.dtype
        assert got[key].shape == expected.shape
        if tolerance is None:
            assert torch.equal(got[key], expected), key
        else:  # One rounding to the type on the way, of what the tolerance's reason says, and one at the end.
            off = (got[key].double() - expected.double()).abs().max()
            assert off <= 4 * ROUNDING[dtype] * expected.double().abs().max(), (key, float(off))


@pytest.mark.parametrize(("surface", "name"), [(s, name) for s in PYTHON_SURFACES for name in NOT_TAKEN[s.name]])
def test_a_case_that_a_surface_does_not_take_is_illegal_with_the_reason(surface: Surface, name: str) -> None:
    verdict = check(node_of(made(name, BFLOAT)[0]), surface.operator_set, OPSET)
    assert isinstance(verdict, Illegal)
    assert any(NOT_TAKEN[surface.name][name] in reason.rule for reason in verdict.reasons), verdict.reasons


@TAKEN
@TYPE
def test_every_node_of_a_lowering_is_legal_and_has_a_body(surface: Surface, name: str, dtype: ir.DataType) -> None:
    model, _ = made(name, dtype)
    low = lowered(model, surface.operator_set)
    for node in low.graph.all_nodes():
        assert isinstance(check(node, surface.operator_set, OPSET), Legal), node
        if node.domain:
            assert node.op_identifier() in low.functions


@TAKEN
def test_bodies_run_in_stock_onnxruntime(
    surface: Surface, name: str, run_onnxruntime: Callable[[Any, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    model, feeds = made(name, HALF)
    low = lowered(model, surface.operator_set)
    want = Interpreter(low).run(feeds)
    proto = ir.to_proto(low)
    proto.ir_version = 10
    for output, value in zip(proto.graph.output, want.values(), strict=True):
        for size in value.shape:
            output.type.tensor_type.shape.dim.add().dim_value = size
    onnx.checker.check_model(proto)
    got = run_onnxruntime(proto, feeds)
    for key, expected in want.items():
        exact = expected.numpy()
        if exact.dtype.kind in "iu":
            # A quotient next to a tie may round either way: onnxruntime divides by multiplying with the reciprocal.
            assert np.abs(got[key].astype(np.int64) - exact.astype(np.int64)).max(initial=0) <= (exact.dtype == np.int8)
        else:
            np.testing.assert_allclose(got[key], exact, rtol=2e-3, atol=2e-3 * np.abs(exact).max(initial=0))


@SURFACES
def test_a_bfloat16_graph_runs_in_stock_onnxruntime_widened(surface: Surface, tmp_path: Any) -> None:
    import onnxruntime

    model, feeds = made("quantized", BFLOAT)
    low = lowered(model, surface.operator_set)
    want = Interpreter(low).run(feeds)["y0"]
    proto = ir.to_proto(low)
    proto.ir_version = 10
    for size in want.shape:
        proto.graph.output[0].type.tensor_type.shape.dim.add().dim_value = size
    session = onnxruntime.InferenceSession(widened(proto, tmp_path).SerializeToString())
    (got,) = session.run(None, feeds)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.float().numpy(), rtol=2.0**-8)


def versions(surface: Surface) -> list[OperatorSet]:
    """The operator set of each toolkit, those that are the same once."""
    backend = next(b for b in map(backends.get, backends.names()) if b.surfaces.get(surface.name) is surface)
    sets = [surface.operator_set, *(backend.at(t).surfaces[surface.name].operator_set for t in backend.toolkits)]
    return list(dict.fromkeys(sets))


@SURFACES
def test_every_lowering_is_chosen_by_some_case(surface: Surface) -> None:
    chosen = set()
    for operator_set in versions(surface):
        for name in taken(surface.name):
            for dtype in (BFLOAT, HALF):
                verdict = check(node_of(made(name, dtype)[0]), operator_set, OPSET)
                if isinstance(verdict, Legal):
                    assert verdict.lowering is not None
                    chosen.add(verdict.lowering.name)
    shadowed = {"npu_moe_gating_top_k_softmax"}  # npu_moe_gating_top_k takes the same, and comes first.
    assert {lowering.name for lowering in surface.operator_set.lowerings} - chosen <= shadowed


@SURFACES
def test_every_body_parses_and_uses_known_operators(surface: Surface) -> None:
    for row in surface.operator_set.rows:
        if not row.body:
            continue
        for node in body_function(row, OPSET):
            if node.domain == "porting":
                assert ("porting", node.op_type) in BODIES
            else:
                assert node.domain == ""
                assert registry.lookup("", node.op_type, OPSET) is not None, node.op_type


def ascend() -> OperatorSet:
    return backends.get("ascend-910b").surface("torch_npu").operator_set


GATINGS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "softmax_with_bias": ({"k": 2, "score": "softmax"}, True, "no bias"),
    "scores_after_the_selection": ({"k": 2, "score": "softmax", "after_top_k": 1}, False, "before the selection"),
    "experts_outside_count_as_zero": ({**V3, "mask_value": 0.0}, True, "outside the chosen groups"),
    "sigmoid_not_renormalized": ({**V3, "renormalize": 0}, True, "divided by their sum"),
    "three_best_of_a_group": ({**V3, "group_top": 3}, True, "its best, or the sum of its two best"),
}


@pytest.mark.parametrize("name", GATINGS)
def test_a_gating_that_the_vendor_does_not_have_is_illegal_and_decomposed(name: str) -> None:
    attributes, bias, why = GATINGS[name]
    draw = Draw(1)
    shift = weight(draw.floats(32), FLOAT) if bias else none()
    one = Composite("GatingTopK", (run(draw.floats(6, 32), FLOAT), shift), (FLOAT, INT64), attributes)
    model, feeds = one.model()
    verdict = check(node_of(model), ascend(), OPSET)
    assert isinstance(verdict, Illegal)
    assert any(why in reason.rule for reason in verdict.reasons), verdict.reasons
    want = Interpreter(model).run(feeds)
    result = Legalize(ascend())(model)
    assert not result.failures
    assert [a.rule for a in result.applied] == ["inline_GatingTopK"]
    got = Interpreter(model).run(feeds)
    assert torch.equal(got["y1"], want["y1"])
    torch.testing.assert_close(got["y0"], want["y0"], rtol=1e-6, atol=1e-7)


LIMITS = {
    "groups_of_two": ((6, 8), {**V3, "k": 3}, "more than 2"),
    "too_many_experts": ((2, 2112), {**V3, "groups": 1, "k_group": 1}, "at most 2048 experts"),
    "groups_aligned_to_32": ((2, 2046), {**V3, "groups": 66, "k_group": 2}, "aligned to 32"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_of_npu_moe_gating_top_k(name: str) -> None:
    shape, attributes, why = LIMITS[name]
    draw = Draw(2)
    operands = (run(draw.floats(*shape), FLOAT), weight(draw.floats(shape[1]), FLOAT))
    model, _ = Composite("GatingTopK", operands, (FLOAT, INT64), attributes).model()
    verdict = check(node_of(model), ascend(), OPSET)
    assert isinstance(verdict, Illegal)
    assert any(why in reason.rule for reason in verdict.reasons), verdict.reasons


def test_attention_with_a_mask_of_its_own_is_written_in_plain_operators() -> None:
    composite = CASES["attention_full"](Draw(3), BFLOAT)
    mask = np.where(np.tri(3, 5, 2), 0.0, -1e30)[None, None]
    model, feeds = Composite(
        composite.op_type, (*composite.operands[:5], run(mask, BFLOAT)), composite.outputs, composite.attributes
    ).model()
    assert isinstance(check(node_of(model), ascend(), OPSET), Illegal)
    want = Interpreter(model).run(feeds)["y0"]
    result = Legalize(ascend())(model)
    assert not result.failures
    assert {node.domain for node in model.graph.all_nodes()} == {""}
    torch.testing.assert_close(Interpreter(model).run(feeds)["y0"], want, rtol=2.0**-7, atol=2.0**-7)


def test_smoothing_factors_are_not_rounded_to_the_type_of_the_input() -> None:
    draw = Draw(4)
    operands = (run(draw.floats(3, 16), BFLOAT), weight(draw.scales(16), FLOAT))
    model, _ = Composite("DynamicQuantize", operands, (INT8, FLOAT)).model()
    verdict = check(node_of(model), ascend(), OPSET)
    assert isinstance(verdict, Illegal)
    assert "smoothing" in verdict.reasons[0].rule


def test_int4_weights_that_a_run_brings_are_not_packed() -> None:
    case = CASES["quantized_grouped_int4"](Draw(5), BFLOAT)
    codes, dtype, _ = case.operands[2]
    operands = (*case.operands[:2], run(codes, dtype), *case.operands[3:])
    model, _ = Composite(case.op_type, operands, case.outputs, case.attributes).model()
    verdict = check(node_of(model), ascend(), OPSET)
    assert isinstance(verdict, Illegal)
    assert "known before the model runs" in verdict.reasons[0].rule


def test_a_lost_bias_and_swapped_nibbles_change_the_result() -> None:
    model, feeds = made("quantized_grouped_int4", BFLOAT)
    low = lowered(model, ascend())
    want = Interpreter(low).run(feeds)["y0"].float()
    node = next(n for n in low.graph.all_nodes() if n.domain == "torch_npu")
    packed, bias = node.inputs[1], node.inputs[2]
    assert packed is not None
    assert bias is not None
    assert packed.const_value is not None
    assert bias.const_value is not None
    right = bias.const_value
    bias.const_value = ir.tensor(np.zeros(right.shape.numpy(), np.float32))
    assert (Interpreter(low).run(feeds)["y0"].float() - want).abs().max() > 0.1 * want.abs().max()
    bias.const_value = right
    bytes_ = packed.const_value.numpy()
    packed.const_value = ir.tensor(((bytes_ << 4) | ((bytes_ >> 4) & 15)).astype(np.int8))
    assert (Interpreter(low).run(feeds)["y0"].float() - want).abs().max() > 0.1 * want.abs().max()


def test_the_fixpipe_form_keeps_ten_bits_of_a_scale_under_the_chip_s_numerics() -> None:
    from porting_kernels import fp19

    backend = backends.get("ascend-910b")
    draw = Draw(6)
    codes, weights, scale = draw.codes(6, 16), draw.codes(8, 16), draw.scales(8).astype(np.float32)
    text = """<ir_version: 10, opset_import: ["" : 20, "torch_npu" : 1]>
    g (int8[6, 16] x, int8[8, 16] w, float[8] s) => (float16[6, 8] y) {
    y = torch_npu.npu_quant_matmul:fp19 (x, w, s) }"""
    model = ir.from_onnx_text(text)
    add_surface_bodies(model, ascend())
    assert isinstance(check(node_of(model), ascend(), OPSET), Legal)
    feeds = {"x": codes.astype(np.int8), "w": weights.astype(np.int8), "s": scale}
    acc = (codes @ weights.T).astype(np.float32)
    exact = Interpreter(model).run(feeds)["y"].numpy()
    chip = Interpreter(model, numerics=backend.numerics.numerics()).run(feeds)["y"].numpy()
    np.testing.assert_array_equal(exact, (acc * scale).astype(np.float16))
    stored, _ = fp19.unpack(fp19.pack(scale))
    np.testing.assert_array_equal(chip, (acc * stored).astype(np.float16))
    assert (exact != chip).any()


def test_an_unknown_stored_form_and_an_operand_of_a_run_are_errors() -> None:
    from porting_kernels.errors import PortingError
    from porting_passes.stored_forms import stored_form

    with pytest.raises(PortingError, match="unknown stored form"):
        stored_form("int3", [])
    with pytest.raises(BuildError, match="computed when the model runs"):
        stored_form("int4_pairs", [ir.Value(name="x")])
