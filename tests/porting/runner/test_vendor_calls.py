"""Every call that the rows say, made against stand-ins that check it, and faults planted in the calls."""

from __future__ import annotations

import dataclasses
import zlib
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
import torch
from composite_cases import BFLOAT, CASES, HALF, Draw

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


def operator_set() -> OperatorSet:
    return backends.get("ascend-910b").surface("torch_npu").operator_set


def lowered(name: str, dtype: ir.DataType) -> tuple[ir.Model, dict[str, np.ndarray]]:
    model, feeds = CASES[name](Draw(zlib.crc32(name.encode())), dtype).model()
    LowerToSurface(operator_set())(model)
    add_surface_bodies(model, operator_set())
    return model, feeds


@pytest.mark.parametrize("name", CASES)
@TYPE
def test_a_call_is_accepted_and_gives_what_the_body_gives(torch_npu: ModuleType, name: str, dtype: ir.DataType) -> None:
    model, feeds = lowered(name, dtype)
    calls = VendorCalls(operator_set())
    got = Interpreter(model, bind=calls.bind).run(feeds)
    assert len(torch_npu.CALLS) == len(calls.made) == 1
    for key, expected in Interpreter(model).run(feeds).items():
        assert got[key].dtype == expected.dtype
        torch.testing.assert_close(got[key], expected, rtol=2.0**-7 if dtype == BFLOAT else 2.0**-10, atol=1e-5)


def test_every_row_with_a_call_is_called_by_some_case() -> None:
    called = set()
    for name in CASES:
        for dtype in (BFLOAT, HALF):
            for node in lowered(name, dtype)[0].graph.all_nodes():
                called.add((node.op_type, node.overload))
    rows = {(row.operator, row.form) for row in operator_set().rows if row.call}
    # Without a lowering: the static form, and what npu_moe_gating_top_k takes as well. Both have tests of their own.
    assert rows - called == {("npu_quant_matmul", "fp19")}


# case, fault in the call of its row: (old text, new text), and what the stand-in says
FAULTS: dict[str, tuple[str, str, str, str]] = {
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


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_call_is_found(torch_npu: ModuleType, fault: str) -> None:
    name, old, new, message = FAULTS[fault]
    model, feeds = lowered(name, BFLOAT)
    node = next(n for n in model.graph.all_nodes() if n.domain == "torch_npu")
    whole = operator_set()
    row = whole.form(node.domain, node.op_type, node.overload)
    assert row is not None
    assert old in row.call
    wrong = dataclasses.replace(row, call=row.call.replace(old, new))
    broken = dataclasses.replace(whole, rows=tuple(wrong if r is row else r for r in whole.rows))
    with pytest.raises(ExecutionError) as error:
        Interpreter(model, bind=VendorCalls(broken).bind).run(feeds)
    assert isinstance(error.value.__cause__, torch_npu.SignatureError)
    assert message in str(error.value.__cause__)


DTYPES: dict[str, tuple[str, int, ir.DataType]] = {
    "float32 rows for the quantizer": ("dynamic_quantize", 0, ir.DataType.FLOAT),
    "int64 experts": ("dispatch", 1, ir.DataType.INT64),
    "norm weight of the other half": ("rms_norm", 1, HALF),
    "float16 scales of bfloat16 rows": ("combine", 1, HALF),
    "int64 index": ("combine", 2, ir.DataType.INT64),
    "int32 group list": ("grouped", 2, ir.DataType.INT32),
    "rotary tables of another type": ("rotary_half_16_narrow", 1, ir.DataType.FLOAT),
    "weight of another type": ("grouped", 1, HALF),
    "float16 scale of an int8 product": ("quantized", 2, HALF),
}


@pytest.mark.parametrize("fault", DTYPES)
def test_an_operand_of_another_type_is_found(torch_npu: ModuleType, fault: str) -> None:
    name, place, dtype = DTYPES[fault]
    model, feeds = lowered(name, BFLOAT)
    node = next(n for n in model.graph.all_nodes() if n.domain == "torch_npu")
    cast = ir.node("Cast", [node.inputs[place]], {"to": int(dtype)}, name="planted")
    cast.outputs[0].name = "planted"
    model.graph.insert_before(node, [cast])
    node.replace_input_with(place, cast.outputs[0])
    with pytest.raises(ExecutionError) as error:
        Interpreter(model, bind=VendorCalls(operator_set()).bind).run(feeds)
    assert isinstance(error.value.__cause__, torch_npu.SignatureError)


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
