"""Lazy codes and scales: one pass over the source, however they are asked for in the usual order."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.emit import WEIGHTS, WeightFile, write_model
from porting.errors import DtypeError, ShapeError, UsageError
from porting.quantization import quantized_weight
from porting.quantization.quantized_weight import QuantizedWeight, quantize_weight
from porting.quantization.weight_spec import WeightSpec
from porting.simulation.weight_cache import CachedWeight, WeightCache
from porting.weights.store import WeightStore
from porting.weights.view import WeightView
from porting_kernels.weight_quantization import Findings
from porting_passes.declared import DeclaredTensor, UnboundWeightError

Experts = tuple[WeightStore, torch.Tensor]
BUDGET = 8 << 20


def stacked(store: WeightStore) -> WeightView:
    return WeightView.stacked([WeightView.of(store, f"e{e}.weight", torch.bfloat16) for e in range(3)])


def plain(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes and scales of float32 rows, by the formula."""
    scale = w.abs().amax(-1, keepdim=True) / 127
    return torch.round(w / scale).to(torch.int8), scale[..., 0]


def test_codes_and_scales_of_a_stack_cost_one_pass(experts: Experts) -> None:
    store, values = experts
    view = stacked(store)
    weight = quantize_weight(view, WeightSpec())
    assert store.data_bytes_read == 0
    codes, scales = plain(values)
    found = torch.cat([rows for _, rows in weight.codes.blocks(BUDGET)]).view(3, 200, 256)
    once = store.data_bytes_read
    assert torch.equal(found, codes)
    assert torch.equal(torch.cat([rows for _, rows in weight.scale.blocks(BUDGET)]), scales)
    assert store.data_bytes_read == once
    assert 3 * 200 * 256 <= once <= 3 * (200 * 256 + 64), "each code once, and the few scales"


def test_scales_first_is_a_pass_that_keeps_no_codes(experts: Experts) -> None:
    store, values = experts
    weight = quantize_weight(stacked(store), WeightSpec())
    assert torch.equal(weight.scale.tensor(), plain(values)[1])
    once = store.data_bytes_read
    assert torch.equal(weight.codes.tensor(), plain(values)[0])
    assert store.data_bytes_read == 2 * once


def test_an_expert_at_a_time(experts: Experts) -> None:
    store, values = experts
    weight = quantize_weight(stacked(store), WeightSpec())
    codes, scales = plain(values)
    assert torch.equal(weight.codes.part(1).tensor(), codes[1])
    once = store.data_bytes_read
    assert torch.equal(weight.scale.part(1).tensor(), scales[1])
    assert store.data_bytes_read == once <= 200 * 256 + 64
    assert torch.equal(weight.codes.part(2).part(7).tensor(), codes[2, 7])
    assert torch.equal(weight.scale.tensor(), scales)


def test_groups_and_search_have_scales_by_group(experts: Experts) -> None:
    store, values = experts
    weight = quantize_weight(stacked(store), WeightSpec(4, 128, "mse"))
    codes, scale = weight.codes.tensor(), weight.scale
    assert scale.dims == (3, 200, 2)
    assert torch.equal(scale.part(2).tensor(), scale.tensor()[2])
    wide = scale.tensor().repeat_interleave(128, -1)
    assert codes.min() >= -8
    assert codes.max() <= 7
    relative = (codes * wide - values).norm() / values.norm()
    absmax = values.view(3, 200, 2, 128).abs().amax(-1, keepdim=True) / 7
    simple = (torch.round(values.view(3, 200, 2, 128) / absmax) * absmax).view_as(values)
    assert relative < 0.95 * (simple - values).norm() / values.norm()


@pytest.mark.parametrize("slices", [1, 16])
def test_the_bias_of_int4_on_ascend(experts: Experts, slices: int) -> None:
    store, _ = experts
    weight = quantize_weight(stacked(store), WeightSpec(4, None, "mse"), bias_slices=slices)
    bias = weight.scale_bias
    codes, scale = weight.codes.tensor(), weight.scale.tensor()
    once = store.data_bytes_read
    products = codes.double() * scale.double()[..., None]
    expected = 8 * products.view(3, 200, slices, -1).sum(-1)
    assert torch.equal(bias.tensor(), expected.float().view(bias.dims))
    assert bias.dims == ((3, 200) if slices == 1 else (3, 200, 16))
    assert store.data_bytes_read == once


def test_column_factors_are_multiplied_in_before(experts: Experts) -> None:
    store, values = experts
    factors = torch.rand(256, generator=torch.Generator().manual_seed(1)) + 0.5
    weight = quantize_weight(stacked(store), WeightSpec(), column_factors=factors)
    codes, scales = plain(values * factors)
    assert torch.equal(weight.codes.tensor(), codes)
    assert torch.equal(weight.scale.tensor(), scales)


def test_joined_and_transposed_views(experts: Experts) -> None:
    store, values = experts
    views = [WeightView.of(store, f"e{e}.weight", torch.float32) for e in range(3)]
    joined = WeightView.concatenated(views[:2])
    assert torch.equal(quantize_weight(joined, WeightSpec()).codes.tensor(), plain(values[:2].flatten(0, 1))[0])
    turned = quantize_weight(WeightView.stacked(views).transposed(), WeightSpec())
    assert torch.equal(turned.codes.tensor(), plain(values.mT.contiguous())[0])
    back = quantize_weight(views[0].transposed().transposed(), WeightSpec())
    assert torch.equal(back.codes.tensor(), plain(values[0])[0])


def test_findings_count_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_weight, "SCRATCH", 16)
    w = torch.ones(12, 8)
    w[2] = 0
    w[3, 1] = torch.nan
    w[11] = torch.inf
    w[5] = 1e-40
    weight = QuantizedWeight(ir.tensor(w.numpy()), WeightSpec())
    weight.codes.read(1, 4)
    assert (weight.findings, weight.rows_read) == (Findings(zero=1, not_finite=1), 3)
    weight.codes.tensor()
    weight.codes.tensor()
    assert (weight.findings, weight.rows_read) == (Findings(zero=1, not_finite=2, tiny=1), 12)


def test_a_source_that_is_read_in_float32_whatever_it_is() -> None:
    w = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).half()
    weight = quantize_weight(ir.tensor(w.numpy(), name="w"), WeightSpec())
    assert torch.equal(weight.codes.tensor(), plain(w.float())[0])
    assert weight.codes.name == "w/codes"
    assert weight.scale.name == "w/scale"


def test_facts_of_the_tensors() -> None:
    weight = quantize_weight(ir.tensor(np.ones((3, 4, 8), np.float32)), WeightSpec(4, 4))
    codes, scale = weight.codes, weight.scale
    assert (codes.dtype, codes.dims, codes.nbytes, codes.rows, codes.columns) == (
        ir.DataType.INT8,
        (3, 4, 8),
        96,
        12,
        8,
    )
    assert (scale.dtype, scale.dims, scale.nbytes) == (ir.DataType.FLOAT, (3, 4, 2), 96)
    assert isinstance(codes, ir.TensorProtocol)
    assert isinstance(scale, ir.TensorProtocol)
    assert codes.tobytes() == codes.numpy().tobytes()
    per_channel = quantize_weight(ir.tensor(np.ones((3, 4, 8), np.float32)), WeightSpec()).scale
    assert (per_channel.dims, per_channel.rows, per_channel.columns) == ((3, 4), 3, 4)


def test_scales_convert_and_codes_do_not() -> None:
    weight = quantize_weight(ir.tensor(np.array([[1.0, 0.3]], np.float32)), WeightSpec())
    scale = weight.scale.converted(ir.DataType.BFLOAT16, "narrow")
    assert scale.name == "narrow"
    assert torch.equal(scale.tensor(), weight.scale.tensor().bfloat16())
    assert weight.codes.as_dtype(torch.int8).dims == (1, 2)
    for tensor, dtype in ((weight.codes, torch.float32), (weight.scale, torch.int8)):
        with pytest.raises(DtypeError):
            tensor.as_dtype(dtype)


def test_refusals() -> None:
    for shape, spec in (((4,), WeightSpec()), ((2, 96), WeightSpec(4, 128)), ((1, 2, 3, 4), WeightSpec())):
        with pytest.raises(ShapeError):
            quantize_weight(ir.tensor(np.zeros(shape, np.float32)), spec)
    with pytest.raises(ShapeError, match="slices"):
        quantize_weight(ir.tensor(np.zeros((2, 10), np.float32)), WeightSpec(4), bias_slices=16)
    weight = quantize_weight(ir.tensor(np.zeros((2, 10), np.float32)), WeightSpec())
    for wrong in (lambda: weight.codes.read(0, 3), lambda: weight.codes.part(2)):
        with pytest.raises(IndexError):
            wrong()
    with pytest.raises(ShapeError):
        weight.scale.part(0)


def test_too_little_memory_for_a_row(experts: Experts) -> None:
    weight = quantize_weight(stacked(experts[0]), WeightSpec())
    with pytest.raises(UsageError, match="too small"):
        next(weight.codes.blocks(1000))


@given(budget=st.integers(20_000, 400_000), rows=st.integers(0, 90), bits=st.sampled_from([8, 4]))
def test_blocks_of_any_size_make_the_whole(budget: int, rows: int, bits: int) -> None:
    w = torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows))
    weight = quantize_weight(ir.tensor(w.numpy()), WeightSpec(bits, 32))
    blocks = list(weight.codes.blocks(budget))
    assert [first for first, _ in blocks] == [sum(len(b) for _, b in blocks[:i]) for i in range(len(blocks))]
    whole = quantize_weight(ir.tensor(w.numpy()), WeightSpec(bits, 32))
    assert torch.equal(
        torch.cat([b for _, b in blocks] or [torch.empty(0, 64, dtype=torch.int8)]), whole.codes.tensor()
    )
    assert torch.equal(weight.scale.tensor(), whole.scale.tensor())


def test_threads_share_a_weight(experts: Experts) -> None:
    store, values = experts
    weight = quantize_weight(stacked(store), WeightSpec())
    codes, scales = plain(values)
    wrong: list[int] = []

    def work(expert: int) -> None:
        for _ in range(5):
            if not torch.equal(weight.codes.part(expert).tensor(), codes[expert]):
                wrong.append(expert)
            if not torch.equal(weight.scale.part(expert).tensor(), scales[expert]):
                wrong.append(expert)

    threads = [threading.Thread(target=work, args=(n % 3,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert weight.rows_read == 600


def model_of(weight: QuantizedWeight) -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, [2, 3, 256])
    values = [
        ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        for tensor in (weight.codes, weight.scale)
    ]
    node = ir.node("Made", [x, *values], domain="test")
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=values, opset_imports={"": 20, "test": 1})
    return ir.Model(graph, ir_version=10)


def test_a_model_and_its_twin_are_written_in_one_pass(tmp_path: Path, experts: Experts) -> None:
    store, values = experts
    model = model_of(quantize_weight(stacked(store), WeightSpec(), name="experts"))
    out = tmp_path / "out"
    out.mkdir()
    weights = WeightFile(out)
    for name in ("model.onnx", "twin.onnx"):
        write_model(model, out / name, weights)
    weights.close()
    assert store.data_bytes_read <= 3 * (200 * 256 + 64)
    codes, scales = plain(values)
    assert (out / WEIGHTS).read_bytes() == codes.numpy().tobytes() + scales.numpy().tobytes()
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out / "twin.onnx").graph.initializer}
    np.testing.assert_array_equal(tensors["experts/codes"], codes.numpy())
    np.testing.assert_array_equal(tensors["experts/scale"], scales.numpy())


def test_weights_that_are_left_out_are_not_read(tmp_path: Path, experts: Experts) -> None:
    store, _ = experts
    weights = WeightFile(tmp_path, stored=False)
    write_model(model_of(quantize_weight(stacked(store), WeightSpec(), name="e")), tmp_path / "model.onnx", weights)
    weights.close()
    assert store.data_bytes_read == 0


def test_a_grouped_product_asks_for_the_experts_that_have_rows(experts: Experts) -> None:
    store, values = experts
    weight = quantize_weight(stacked(store), WeightSpec())
    cache = WeightCache()
    codes = CachedWeight(weight.codes, cache, torch.int8)
    scale = CachedWeight(weight.scale, cache, torch.float32)
    assert torch.equal(codes[2], plain(values)[0][2])
    assert torch.equal(scale[2], plain(values)[1][2])
    once = store.data_bytes_read
    assert once <= 200 * 256 + 64
    assert torch.equal(codes[2], plain(values)[0][2])
    assert store.data_bytes_read == once
    assert CachedWeight(weight.scale, cache, torch.float64)[0].dtype == torch.float64


def test_a_weight_that_is_only_declared_has_shapes_and_no_contents() -> None:
    declared = DeclaredTensor(ir.DataType.BFLOAT16, (3, 4, 256), lambda look_up: look_up("w"), "w")
    weight = quantize_weight(declared, WeightSpec(4, 128))
    assert (weight.codes.dims, weight.scale.dims, weight.codes.name) == ((3, 4, 256), (3, 4, 2), "w/codes")
    with pytest.raises(UnboundWeightError):
        weight.codes.numpy()
