"""Every call that the rows say, made against stand-ins that check it, and faults planted in the calls."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from composite_cases import BFLOAT, CASES, HALF, Draw, taken

from porting import backends
from porting.errors import RunnerError
from porting.runner.arguments import CONVERSIONS
from porting.runner.vendor_calls import VendorCalls
from porting.simulation.interpreter import Interpreter
from porting.simulation.plan import ExecutionError
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.lowering import add_surface_bodies
from porting_passes.operator_set import OperatorSet

TYPE = pytest.mark.parametrize("dtype", [BFLOAT, HALF], ids=["bfloat16", "float16"])


BACKENDS = {"torch_npu": "ascend-910b", "torch_mlu_ops": "cambricon-mlu590"}
SURFACE = pytest.mark.parametrize("surface", BACKENDS)
Vendor = Callable[[str], ModuleType]


def operator_set(surface: str = "torch_npu", toolkit: str | None = None) -> OperatorSet:
    return backends.get(BACKENDS[surface]).at(toolkit).surface(surface).operator_set


def lowered(
    name: str, dtype: ir.DataType, operators: OperatorSet | None = None
) -> tuple[ir.Model, dict[str, np.ndarray]]:
    operators = operators or operator_set()
    model, feeds = CASES[name](Draw(zlib.crc32(name.encode())), dtype).model()
    LowerToSurface(operators)(model)
    add_surface_bodies(model, operators)
    return model, feeds


@pytest.mark.parametrize(("surface", "name"), [(s, name) for s in BACKENDS for name in taken(s)])
@TYPE
def test_a_call_is_accepted_and_gives_what_the_body_gives(
    vendor: Vendor, surface: str, name: str, dtype: ir.DataType
) -> None:
    operators = operator_set(surface)
    model, feeds = lowered(name, dtype, operators)
    calls = VendorCalls(operators)
    got = Interpreter(model, bind=calls.bind).run(feeds)
    assert (
        len(vendor(surface).CALLS) == len(calls.made) == sum(n.domain == surface for n in model.graph.all_nodes()) > 0
    )
    for key, expected in Interpreter(model).run(feeds).items():
        assert got[key].dtype == expected.dtype
        torch.testing.assert_close(got[key], expected, rtol=2.0**-7 if dtype == BFLOAT else 2.0**-10, atol=1e-5)


# Of older or newer versions; the rest has no lowering and tests of its own.
OTHER_VERSIONS = {"torch_npu": (), "torch_mlu_ops": ("tmo-1.3.2", "tmo-1.12.1")}
NOT_CALLED = {"torch_npu": {("npu_quant_matmul", "fp19")}, "torch_mlu_ops": set()}


@SURFACE
def test_every_row_with_a_call_is_called_by_some_case(surface: str) -> None:
    called = set()
    for toolkit in (None, *OTHER_VERSIONS[surface]):
        operators = operator_set(surface, toolkit)
        for name in taken(surface):
            for dtype in (BFLOAT, HALF):
                for node in lowered(name, dtype, operators)[0].graph.all_nodes():
                    called.add((node.op_type, node.overload))
    rows = {(row.operator, row.form) for row in operator_set(surface).rows if row.call}
    assert rows - called == NOT_CALLED[surface]


VERSIONED = [
    *(("tmo-1.12.1", n) for n in ("quantized", "quantized_rank3_bias", "weight_only", "weight_only_int4_groups")),
    *(
        ("tmo-1.3.2", n)
        for n in ("dynamic_quantize", "dynamic_quantize_smooth", "quantized", "weight_only_int4_groups")
    ),
]


@pytest.mark.parametrize(
    ("toolkit", "name"), [v for v in VERSIONED if v[1] not in ("weight_only_bias", "weight_only_int4_bias")]
)
def test_the_functions_of_one_version_are_called(torch_mlu_ops: ModuleType, toolkit: str, name: str) -> None:
    operators = operator_set("torch_mlu_ops", toolkit)
    model, feeds = lowered(name, BFLOAT, operators)
    got = Interpreter(model, bind=VendorCalls(operators).bind).run(feeds)
    absent = {"tmo-1.12.1": {"smooth_quant_matmul", "weight_only_quant_matmul"}, "tmo-1.3.2": {"scaled_quantize"}}
    assert torch_mlu_ops.CALLS
    assert not absent[toolkit] & set(torch_mlu_ops.CALLS)
    for key, expected in Interpreter(model).run(feeds).items():
        torch.testing.assert_close(got[key], expected, rtol=2.0**-7, atol=1e-5)


# case, fault in the call of its row: (old text, new text), and what the stand-in says
ASCEND: dict[str, tuple[str, str, str, str]] = {
    "weight in the other layout": ("quantized", "transposed(x2)", "x2", "x2 (k, n)"),
    "per-token scale lost": ("quantized", " pertoken_scale=pertoken_scale,", "", "pertoken_scale is missing"),
    "scale and per-token scale swapped": (
        "quantized",
        "scale, pertoken_scale=pertoken_scale",
        "pertoken_scale, pertoken_scale=scale",
        "scale has 1 or 8 elements",
    ),
    "output in another type": ("quantized", "output_dtype=dtype(output_dtype)", "output_dtype=dtype(1)", "float32"),
    "output type left out": ("quantized", ", output_dtype=dtype(output_dtype)", "", "output int8"),
    "weight in ND": ("quantized_grouped", "torch_npu.npu_format_cast(dense(transposed(weight)), 29)",
                     "transposed(weight)", "output bfloat16, allowed"),
    "layout cast of a view": ("quantized_grouped", "dense(transposed(weight))", "transposed(weight)", "not dense"),
    "grouped weight not transposed": ("grouped_transposed", "transposed(weight)", "weight", "x has k 16"),
    "counts taken for ends": ("grouped", "group_list_type=0", "group_list_type=1", "covers the rows"),
    "ends taken for counts": ("quantized_grouped_int4", "group_list_type=1", "group_list_type=0", "covers the rows"),
    "pairs of groups": ("grouped", "group_list_type=0", "group_list_type=2", "group_list_type 2"),
    "weights not in a list": ("grouped", "[weight]", "weight", "is a list"),
    "groups along another axis": ("grouped", "group_type=0", "group_type=1", "group_type 0"),
    "results apart": ("grouped", "split_item=2", "split_item=0", "split_item"),
    "group list lost": ("grouped", "group_list=group_list, ", "", "group_list is int64"),
    "grouped scale lost": ("quantized_grouped", "scale=[scale], per_token", "per_token", "scale and per_token_scale"),
    "bias of int4 lost": ("quantized_grouped_int4", "bias=[bias], ", "", "8 * sum"),
    "int4 scale not in words": ("quantized_grouped_int4", "float32_words(scale)", "scale", "no combination"),
    "int4 weight not in words": ("quantized_grouped_int4", "int32_words(dense(transposed(weight)))",
                                 "dense(transposed(weight))", "no combination"),
    "weight-only offset lost": ("weight_only_grouped", ", antiquant_offset=[zeros_like(antiquant_scale)]", "",
                                "antiquant_offset are missing"),
    "weight-only weight not transposed": ("weight_only", "transposed(weight)", "weight", "weight (k, n)"),
    "experts of a gating lost": ("gating_v3", "x, k, ", "x, ", "lacks k"),
    "renormalization asked for": ("gating_v3", "renorm=0", "renorm=1", "renorm is 0"),
    "a flag as a number": ("gating_v3", "out_flag=False", "out_flag=0", "out_flag is bool"),
    "entries of a routing not said": ("dispatch", "active_num=numel(expert_idx), ", "", "active_num"),
    "cumulative counts asked for": ("dispatch", "expert_tokens_num_type=1", "expert_tokens_num_type=0", "counts"),
    "quantization asked for": ("dispatch", "quant_mode=-1", "quant_mode=1", "quant_mode -1"),
    "an absent operand not said": ("combine", "skip2=None, ", "", "lacks skip2"),
    "rows dropped": ("combine", "drop_pad_mode=2", "drop_pad_mode=3", "drops rows"),
    "epsilon by another name": ("rms_norm", "epsilon=epsilon", "eps=epsilon", "no parameter eps"),
    "unknown rotation": ("rotary_half_16_narrow", "'half'", "'halves'", "rotary_mode"),
    "mask lost": ("attention_causal", "atten_mask=causal_mask(query), ", "", "2048 x 2048 mask"),
    "heads lost": ("attention_causal", "num_query_heads=heads(query), ", "", "num_query_heads"),
    "another layout of heads": ("attention_causal", "'BNSD'", "'BSH'", "layout BNSD"),
}  # fmt: skip


CAMBRICON: dict[str, tuple[str, str, str, str]] = {
    "weight in the other layout": ("quantized", "a_scale, b,", "a_scale, transposed(b),", "a (m, k), b (n, k)"),
    "scales swapped": ("quantized", "a, a_scale, b, b_scale", "a, b_scale, b, a_scale", "a_scale is (6,)"),
    "scale of rows lost": ("quantized", "a, a_scale, b", "a, None, b", "lacks a_scale"),
    "weight and scale swapped": ("quantized", "a_scale, b, b_scale", "a_scale, b_scale, b", "b is float32"),
    "output type left out": ("quantized", ", dtype(output_dtype)", "", "lacks dtype"),
    "bias for the added matrix": ("quantized_bias", ", bias)", ", None, bias)", "c is not computed"),
    "grouped result in float32": ("quantized_grouped", "dtype(output_dtype)", "dtype(1)", "result in float32"),
    "counts lost": ("grouped_transposed", "m_list, None", "None, None", "lacks m_list"),
    "bound of counts lost": ("grouped_transposed", ", rows(a)", "", "max_m bounds m_list"),
    "grouped weight not turned": ("grouped", "dense(transposed(b))", "b", "a has k 16, b 8"),
    "grouped weight turned": ("grouped_transposed", "a, b, m_list", "a, transposed(b), m_list", "a has k 16, b 8"),
    "groups of scales last": ("quantized_grouped_int4_groups", "groups_first(b_scale)", "b_scale", "b_scale is"),
    "weights in a list": ("grouped_transposed", "a, b, m_list", "a, [b], m_list", "b is a tensor, not list"),
    "int4 taken for int8": ("weight_only_int4", "'none', 4", "'none', 8", "b has k 8, a 16"),
    "a zero point": ("weight_only", "scale, None", "scale, scale", "zero must be absent"),
    "factors lost": ("dynamic_quantize_smooth", "x, smooth, None", "x, None, smooth", "zero must be absent"),
    "another way of quantizing": ("dynamic_quantize", "dynamic_per_token", "dynamic_per_row", "quant_mode is one of"),
    "experts of a gating lost": ("gating_v3", "input, topk, ", "input, ", "topk is int"),
    "a flag as a number": ("gating_v3", "flag(normalize)", "normalize", "normalize is bool"),
    "bias by another name": ("gating_v3", "score_bias=score_bias", "bias=score_bias", "no parameter bias"),
    "groups swapped": ("gating_v2", "num_expert_group, topk_group", "topk_group, num_expert_group", "hold topk"),
    "mask in the place of a norm": ("gating_v2", "None, 'topk_logit'", "'topk_logit', None", "mask"),
    "experts not said": ("dispatch", "expert_id, expert_num", "expert_id", "lacks expert_num"),
    "an absent operand not said": ("combine", ", None, None, 0, 0", "", "lacks residual"),
    "gate not asked for": ("swiglu", "'silu', True", "'silu', False", "gated silu"),
    "another activation": ("swiglu", "'silu'", "'swiglu'", "act_mode is one of"),
    "epsilon by another place": ("rms_norm", "None, None, eps, False", "None, eps, None, False", "lacks eps"),
    "residual in another place": ("add_rms_norm", "residual, gamma, None", "gamma, residual, None", "gamma is"),
    "tables of the other kind of pairs": ("rotary_half_16_narrow", "False, False, False", "True, False, False",
                                          "turn by one angle"),
    "length lost": ("rotary_half_16_narrow", "tokens(x)", "rows(x)", "max_seqlen is 5"),
    "operands of rotation swapped": ("rotary_half_16_narrow", "copied(x), sin", "sin, copied(x)", "input (b, s, n, d)"),
    "mask in the place of slopes": ("attention_masked", "None, attn_bias", "attn_bias, None", "alibi_slope is"),
    "lengths lost": ("attention_causal_whole", "tokens(q), tokens(k), ", "", "lacks"),
    "result in another type": ("attention_causal_whole", ", out_dtype=dtype_of(v)", "", "out_dtype is that of v"),
    "values for keys": ("attention_causal_whole", "q, k, v", "q, v, k", "keys as wide as queries"),
}  # fmt: skip
FAULTS = {("torch_npu", fault): planted for fault, planted in ASCEND.items()}
FAULTS |= {("torch_mlu_ops", fault): planted for fault, planted in CAMBRICON.items()}


@pytest.mark.parametrize(("surface", "fault"), FAULTS)
def test_a_fault_in_a_call_is_found(vendor: Vendor, surface: str, fault: str) -> None:
    name, old, new, message = FAULTS[surface, fault]
    whole = operator_set(surface)
    model, feeds = lowered(name, BFLOAT, whole)
    node = next(n for n in model.graph.all_nodes() if n.domain == surface)
    row = whole.form(node.domain, node.op_type, node.overload)
    assert row is not None
    assert old in row.call
    wrong = dataclasses.replace(row, call=row.call.replace(old, new))
    broken = dataclasses.replace(whole, rows=tuple(wrong if r is row else r for r in whole.rows))
    with pytest.raises(ExecutionError) as error:
        Interpreter(model, bind=VendorCalls(broken).bind).run(feeds)
    assert isinstance(error.value.__cause__, vendor(surface).SignatureError)
    assert message in str(error.value.__cause__)


DTYPES: dict[tuple[str, str], tuple[str, int, ir.DataType]] = {
    ("torch_npu", "float32 rows for the quantizer"): ("dynamic_quantize", 0, ir.DataType.FLOAT),
    ("torch_npu", "int64 experts"): ("dispatch", 1, ir.DataType.INT64),
    ("torch_npu", "norm weight of the other half"): ("rms_norm", 1, HALF),
    ("torch_npu", "float16 scales of bfloat16 rows"): ("combine", 1, HALF),
    ("torch_npu", "int64 index"): ("combine", 2, ir.DataType.INT64),
    ("torch_npu", "int32 group list"): ("grouped", 2, ir.DataType.INT32),
    ("torch_npu", "rotary tables of another type"): ("rotary_half_16_narrow", 1, ir.DataType.FLOAT),
    ("torch_npu", "weight of another type"): ("grouped", 1, HALF),
    ("torch_npu", "float16 scale of an int8 product"): ("quantized", 2, HALF),
    ("torch_mlu_ops", "narrow factors"): ("dynamic_quantize_smooth", 1, HALF),
    ("torch_mlu_ops", "int64 experts"): ("dispatch", 0, ir.DataType.INT64),
    ("torch_mlu_ops", "norm weight of the other half"): ("rms_norm", 1, HALF),
    ("torch_mlu_ops", "weights of a combination in bfloat16"): ("combine", 1, BFLOAT),
    ("torch_mlu_ops", "int64 index"): ("combine", 2, ir.DataType.INT64),
    ("torch_mlu_ops", "int64 counts"): ("grouped", 2, ir.DataType.INT64),
    ("torch_mlu_ops", "float32 tables of a bfloat16 rotation"): ("rotary_half_16_narrow", 1, ir.DataType.FLOAT),
    ("torch_mlu_ops", "weight of another type"): ("grouped", 1, HALF),
    ("torch_mlu_ops", "float16 scale of rows"): ("quantized", 1, HALF),
    ("torch_mlu_ops", "float32 scales of groups"): ("weight_only_int4_groups", 2, ir.DataType.FLOAT),
    ("torch_mlu_ops", "mask of another type"): ("attention_masked", 3, ir.DataType.FLOAT),
}


@pytest.mark.parametrize(("surface", "fault"), DTYPES)
def test_an_operand_of_another_type_is_found(vendor: Vendor, surface: str, fault: str) -> None:
    name, place, dtype = DTYPES[surface, fault]
    operators = operator_set(surface)
    model, feeds = lowered(name, BFLOAT, operators)
    node = next(n for n in model.graph.all_nodes() if n.domain == surface)
    cast = ir.node("Cast", [node.inputs[place]], {"to": int(dtype)}, name="planted")
    cast.outputs[0].name = "planted"
    model.graph.insert_before(node, [cast])
    node.replace_input_with(place, cast.outputs[0])
    with pytest.raises(ExecutionError) as error:
        Interpreter(model, bind=VendorCalls(operators).bind).run(feeds)
    assert isinstance(error.value.__cause__, vendor(surface).SignatureError)


def test_a_function_that_writes_into_its_argument_gets_a_copy(torch_mlu_ops: ModuleType) -> None:
    operators = operator_set("torch_mlu_ops")
    model, feeds = lowered("rotary_half_16_narrow", BFLOAT, operators)
    node = next(n for n in model.graph.all_nodes() if n.domain == "torch_mlu_ops")
    before: dict[str, torch.Tensor] = {}
    bind = VendorCalls(operators).bind

    def watched(node: ir.Node, attributes: Mapping[str, Any]) -> Callable[..., Any] | None:
        call = bind(node, attributes)
        return None if call is None else lambda x, *rest: (before.update(x=x, as_it_was=x.clone()), call(x, *rest))[1]

    Interpreter(model, bind=watched).run(feeds)
    assert node.op_type == "apply_rotary"
    assert torch.equal(before["x"], before["as_it_was"])


def test_what_is_made_of_weights_alone_is_made_once(torch_npu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = lowered("quantized_grouped", BFLOAT)
    casts: list[int] = []
    cast = torch_npu.npu_format_cast
    monkeypatch.setattr(torch_npu, "npu_format_cast", lambda x, code: casts.append(code) or cast(x, code))
    interpreter = Interpreter(model, bind=VendorCalls(operator_set()).bind)
    first = interpreter.run(feeds)["y0"]
    assert torch.equal(interpreter.run(feeds)["y0"], first)
    assert casts == [29]


def test_the_static_form_packs_its_scale_into_words(torch_npu: ModuleType) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "torch_npu" : 1]>
    g (int8[6, 16] x, int8[8, 16] w, float[8] s) => (float16[6, 8] y) {
    y = torch_npu.npu_quant_matmul:fp19 (x, w, s) }"""
    model = ir.from_onnx_text(text)
    add_surface_bodies(model, operator_set())
    draw = Draw(0)
    feeds = {"x": draw.codes(6, 16).astype(np.int8), "w": draw.codes(8, 16).astype(np.int8)}
    feeds["s"] = draw.scales(8).astype(np.float32)
    got = Interpreter(model, bind=VendorCalls(operator_set()).bind).run(feeds)["y"]
    chip = Interpreter(model, numerics=backends.get("ascend-910b").numerics.numerics()).run(feeds)["y"]
    assert torch_npu.CALLS == ["npu_trans_quant_param", "npu_quant_matmul"]
    assert torch.equal(got, chip)


def test_a_missing_module_is_an_error_of_the_runner() -> None:
    model, _ = lowered("swiglu", BFLOAT)
    with pytest.raises(RunnerError, match="torch_npu is not here") as error:
        VendorCalls(operator_set()).modules(model)
    assert error.value.exit_code == 5


def test_a_function_that_the_module_lacks_is_an_error_of_the_runner(
    torch_npu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feeds = lowered("swiglu", BFLOAT)
    monkeypatch.delattr(torch_npu, "npu_swiglu")
    with pytest.raises(RunnerError, match=r"has no torch_npu\.npu_swiglu"):
        Interpreter(model, bind=VendorCalls(operator_set()).bind).run(feeds)


def test_words_of_scales_and_of_codes() -> None:
    scale = torch.tensor([[1.0, -2.5]])
    words = CONVERSIONS["float32_words"](scale)
    assert words.shape == (1, 1, 2)
    assert [hex(word) for word in words.flatten().tolist()] == ["0x3f800000", "0xc0200000"]
    packed = torch.tensor([[0x21, 0x43, 0x65, 0x07]], dtype=torch.int8)
    assert CONVERSIONS["int32_words"](packed).tolist() == [[0x07654321]]


def test_the_compressed_causal_mask_is_the_future() -> None:
    mask = CONVERSIONS["causal_mask"](torch.zeros(1, 1, 3, 8))
    assert mask.shape == (2048, 2048)
    assert mask[:3, :3].tolist() == [[False, True, True], [False, False, True], [False, False, False]]
