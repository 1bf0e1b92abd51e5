"""Views against plain torch over the same tensors: every way to put them together, and every way to read them."""

import io

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from porting.errors import DtypeError, InvalidModelError, ShapeError, UsageError
from porting.weights.store import WeightStore
from porting.weights.stored import CHUNK, WORK
from porting.weights.view import BLOCKS, WeightView

F32, BF16, F16, F8 = torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn


@pytest.fixture
def store_of(checkpoint):
    return lambda tensors, config=None: WeightStore(checkpoint({"model.safetensors": tensors}, config))


# One tensor


@pytest.mark.parametrize("logical", [F32, BF16, F16, torch.float64])
@pytest.mark.parametrize("stored", [F32, BF16, F16, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (0, 4), (2, 0)])
def test_floats_are_rounded_once_to_the_type_of_the_view(store_of, stored, logical, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(stored)
    view = WeightView.of(store_of({"x": x}), "x", logical)
    assert (view.name, view.dims, view.torch_dtype) == ("x", shape, logical)
    assert torch.equal(view.tensor(), x.to(logical))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.uint16])
def test_other_types_are_read_as_they_are(store_of, dtype):
    x = torch.tensor([[0, 1, 1]]).to(dtype)
    store = store_of({"x": x})
    assert torch.equal(WeightView.of(store, "x", dtype).tensor(), x)
    with pytest.raises(DtypeError, match="cannot be read as this type"):
        WeightView.of(store, "x", F32)


@pytest.mark.parametrize("logical", [F32, BF16, F16])
@pytest.mark.parametrize("scale_dtype", [F32, BF16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("shape", [(576, 200), (1, 1), (128, 256), (3, 130, 140)])
def test_float8_is_dequantized_in_float32_and_rounded_once(
    store_of, quantized, dequantized, shape, scale_dtype, logical
):
    codes, scales = quantized(shape, 0)
    scales = scales.to(scale_dtype)
    view = WeightView.of(store_of({"l.weight": codes, "l.weight_scale_inv": scales}), "l.weight", logical)
    expected = dequantized(codes, scales)
    assert torch.equal(view.tensor(), expected.to(logical))
    # Not by way of the view's own type: that would be two roundings.
    assert torch.equal(view.as_dtype(F32).tensor(), expected)


def test_float8_vector_is_one_row(store_of):
    codes = torch.randn(300).to(F8)
    scales = torch.tensor([2.0, 3.0, 5.0])
    view = WeightView.of(store_of({"v": codes, "v_scale_inv": scales}), "v", F32)
    assert torch.equal(view.tensor(), codes.to(F32) * scales.repeat_interleave(128)[:300])


def test_block_of_the_config(store_of, quantized, dequantized):
    codes, scales = quantized((100, 90), 0, (32, 64))
    tensors = {"l.weight": codes, "l.weight_scale_inv": scales}
    store = store_of(tensors, {"quantization_config": {"weight_block_size": [32, 64]}})
    assert torch.equal(WeightView.of(store, "l.weight", F32).tensor(), dequantized(codes, scales, (32, 64)))


def test_int8_with_a_scale_for_each_row(store_of):
    codes, scales = torch.arange(-6, 6, dtype=torch.int8).view(3, 4), torch.tensor([[0.1], [0.2], [0.3]])
    store = store_of({"l.weight": codes, "l.weight_scale": scales})
    view = WeightView.of(store, "l.weight", F32, scale="l.weight_scale", block=(1, 4))
    assert torch.equal(view.tensor(), codes * scales)


def test_weight_and_scale_in_different_shards(checkpoint, quantized, dequantized):
    codes, scales = quantized((200, 300), 0)
    folder = checkpoint({"a.safetensors": {"l.weight": codes}, "b.safetensors": {"l.weight_scale_inv": scales}})
    view = WeightView.of(WeightStore(folder), "l.weight", F32)
    assert torch.equal(view.tensor(), dequantized(codes, scales))
    assert [entry.file.path.name for entry in view.entries] == ["a.safetensors", "b.safetensors"]


# The algebra


# An expert's width of 96 is no multiple of 128: the scales of a stack of gate and up projections are no uniform grid.
EXPERTS, WIDTH, HIDDEN = 3, 96, 300
SHAPES = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}


@pytest.fixture
def layer(store_of, quantized, dequantized):
    """Views of the projections of each expert by kind, and their float32 values stacked."""
    tensors, values = {}, {}
    for kind, shape in SHAPES.items():
        parts = [quantized(shape, len(tensors) + expert) for expert in range(EXPERTS)]
        for expert, (codes, scales) in enumerate(parts):
            tensors |= {f"{expert}.{kind}.weight": codes, f"{expert}.{kind}.weight_scale_inv": scales}
        values[kind] = torch.stack([dequantized(*part) for part in parts])
    store = store_of(tensors)
    views = {k: [WeightView.of(store, f"{e}.{k}.weight", F32) for e in range(EXPERTS)] for k in SHAPES}
    return store, views, values


@pytest.fixture
def gate_up(layer):
    """experts.gate_up_proj [E, 2I, H]: the view, and its values."""
    _, views, values = layer
    view = WeightView.concatenated([WeightView.stacked(views["gate"]), WeightView.stacked(views["up"])], axis=1)
    return view, torch.cat([values["gate"], values["up"]], dim=1)


def test_stack_and_concatenation_of_ragged_experts(gate_up):
    view, expected = gate_up
    assert view.dims == (EXPERTS, 2 * WIDTH, HIDDEN)
    assert torch.equal(view.tensor(), expected)
    assert len(view.entries) == 4 * EXPERTS


def test_expert_of_a_stack_is_read_alone(layer, gate_up):
    store, _, _ = layer
    view, expected = gate_up
    part = view.part(1)
    assert store.data_bytes_read == 0
    assert part.dims == (2 * WIDTH, HIDDEN)
    assert torch.equal(part.tensor(), expected[1])
    assert store.data_bytes_read == 2 * (WIDTH * HIDDEN + 4 * 3)
    assert [entry.name for entry in part.entries][::2] == ["1.gate.weight", "1.up.weight"]


def test_transposed_stack(layer, gate_up):
    _, views, values = layer
    down = WeightView.stacked(views["down"]).transposed()
    assert down.dims == (EXPERTS, WIDTH, HIDDEN)
    assert torch.equal(down.tensor(), values["down"].transpose(1, 2))
    view, expected = gate_up
    assert torch.equal(view.transposed().part(2).tensor(), expected[2].T)
    assert torch.equal(view.transposed().transposed().tensor(), expected)
    halves = [view.transposed().sliced(2, 0, WIDTH), view.transposed().sliced(-1, WIDTH)]
    assert torch.equal(halves[0].tensor(), values["gate"].transpose(1, 2))
    assert torch.equal(WeightView.concatenated(halves, -1).tensor(), expected.transpose(1, 2))


def test_interleaved_rows_by_slices_with_a_step(gate_up):
    view, expected = gate_up
    parted = WeightView.concatenated([view.sliced(1, 0, None, 2), view.sliced(1, 1, None, 2)], 1)
    assert torch.equal(parted.tensor(), torch.cat([expected[:, ::2], expected[:, 1::2]], 1))


def test_reading_a_view_of_three_axes_of_stored_matrices(store_of, quantized, dequantized):
    codes, scales = quantized((4, 130, 140), 0)
    view = WeightView.of(store_of({"experts": codes, "experts_scale_inv": scales}), "experts", F32)
    expected = dequantized(codes, scales)
    assert torch.equal(view.read(125, 400), expected.view(-1, 140)[125:400])
    assert torch.equal(view.transposed().tensor(), expected.transpose(1, 2))
    assert torch.equal(view.sliced(1, 1, None, 3).sliced(2, 7, 140, 2).tensor(), expected[:, 1::3, 7::2])


def test_views_of_other_types_and_shapes_do_not_join(store_of):
    store = store_of({"a": torch.zeros(2, 3), "b": torch.zeros(2, 4)})
    a, b = WeightView.of(store, "a", F32), WeightView.of(store, "b", F32)
    with pytest.raises(ShapeError, match="axis 0"):
        WeightView.concatenated([a, b])
    with pytest.raises(DtypeError):
        WeightView.concatenated([a, a.as_dtype(F16)])
    for wrong in (lambda: WeightView.concatenated([]), lambda: WeightView.stacked([]), lambda: a.reshaped((3, 2))):
        with pytest.raises(ShapeError):
            wrong()
    with pytest.raises(ShapeError, match="no such axis"):
        a.sliced(2)
    with pytest.raises(ShapeError, match="no such axis to stack"):
        WeightView.stacked([a, a], axis=2)
    with pytest.raises(ShapeError, match="two axes"):
        a.part(0).transposed()
    with pytest.raises(IndexError):
        a.part(2)
    with pytest.raises(IndexError):
        a.read(1, 3)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Stored tensors of one to four axes, float8 and others, with their values."""
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(0)
    tensors, values = {}, {}
    for shape in [(4,), (6,), (3, 4), (6, 4), (7, 5), (2, 3, 4), (3, 4, 6), (2, 2, 3, 4)]:
        name = "x".join(map(str, shape))
        tensors[name] = values[name] = torch.randn(shape, generator=g)
        if len(shape) > 1:
            codes = torch.randn(shape, generator=g).mul(30).to(F8)
            scales = torch.rand((*shape[:-2], -(-shape[-2] // 2), -(-shape[-1] // 3)), generator=g) + 0.1
            tensors |= {f"f8.{name}": codes, f"f8.{name}_scale_inv": scales}
            spread = scales.repeat_interleave(2, -2).repeat_interleave(3, -1)[..., : shape[-2], : shape[-1]]
            values[f"f8.{name}"] = codes.to(F32) * spread
    folder = tmp_path_factory.mktemp("pool")
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"quantization_config": {"weight_block_size": [2, 3]}}')
    store = WeightStore(folder)
    return {name: (WeightView.of(store, name, F32), value) for name, value in values.items()}


@settings(max_examples=250)
@given(data=st.data())
def test_any_expression_equals_the_same_in_torch(pool, data):
    """A random chain of operations, then a random range of rows."""
    view, value = pool[data.draw(st.sampled_from(sorted(pool)))]
    for _ in range(data.draw(st.integers(0, 5))):
        view, value = step(data, view, value)
        assert view.dims == tuple(value.shape)
    assert torch.equal(view.tensor(), value)
    first, last = sorted(data.draw(st.tuples(st.integers(0, view.rows), st.integers(0, view.rows))))
    flat = value.reshape(view.rows, view.columns)
    assert torch.equal(view.read(first, last, chunk=data.draw(st.integers(1, 200))), flat[first:last])


def step(data, view, value):
    rank = value.ndim
    axis = data.draw(st.integers(-rank, rank - 1))
    operation = data.draw(st.sampled_from(["slice", "concatenate", "stack", "transpose", "reshape", "part"]))
    if operation == "slice":
        start, stop = (data.draw(st.none() | st.integers(-8, 8)) for _ in "ab")
        by = data.draw(st.integers(1, 3))
        index = [slice(None)] * rank
        index[axis] = slice(start, stop, by)
        return view.sliced(axis, start or 0, stop, by), value[tuple(index)]
    if operation == "concatenate":
        cut = data.draw(st.integers(0, value.shape[axis]))
        others = [(view, value), (view.sliced(axis, 0, cut), value.narrow(axis, 0, cut)), (view, value)]
        return WeightView.concatenated([v for v, _ in others], axis), torch.cat([x for _, x in others], axis)
    if operation == "stack" and axis != -1 and rank < 5:
        axis %= rank
        return WeightView.stacked([view, view], axis), torch.stack([value, value], axis)
    if operation == "transpose" and rank > 1:
        return view.transposed(), value.transpose(-1, -2)
    if operation == "reshape":
        shape = (view.rows, view.columns) if data.draw(st.booleans()) else (1, *value.shape)
        return view.reshaped(shape), value.reshape(shape)
    if operation == "part" and rank > 1 and value.shape[0]:
        index = data.draw(st.integers(0, value.shape[0] - 1))
        return view.part(index), value[index]
    return view, value


# Reading


def test_rows_cost_their_own_bytes_and_those_of_their_scales(store_of, quantized):
    codes, scales = quantized((576, 300), 0)
    store = store_of({"l.weight": codes, "l.weight_scale_inv": scales, "other": torch.zeros(1000)})
    view = WeightView.of(store, "l.weight", F32)
    assert store.data_bytes_read == 0
    view.read(100, 150)
    assert store.data_bytes_read == 50 * 300 + 2 * 3 * 4  # rows 100 to 149 lie in two rows of blocks
    view.read(0, 0)
    assert store.data_bytes_read == 50 * 300 + 2 * 3 * 4
    view.tensor()
    assert store.data_bytes_read == 50 * 300 + 2 * 3 * 4 + codes.nbytes + scales.nbytes


def test_whole_view_reads_each_stored_byte_once(layer, gate_up):
    store, _, _ = layer
    view, _ = gate_up
    view.tensor()
    assert store.data_bytes_read == sum(entry.length for entry in view.entries)


def test_rows_into_memory_that_is_there(gate_up):
    view, expected = gate_up
    buffer = torch.full((HIDDEN, 70), -1.0).T[3:]
    out = buffer[:50]
    assert view.read(100, 150, out=out) is out
    assert torch.equal(out, expected.view(-1, HIDDEN)[100:150])
    assert (buffer[50:] == -1).all()
    for wrong in (buffer, out.to(BF16)):
        with pytest.raises(ShapeError, match="rows do not fit"):
            view.read(100, 150, out=wrong)


@pytest.mark.parametrize("logical", [F32, BF16])
@pytest.mark.parametrize("spare", [0, 5000, 200_000, 10_000_000])
def test_blocks_are_the_view_in_order(gate_up, logical, spare):
    view = gate_up[0].as_dtype(logical)
    least = WORK * (HIDDEN + 4096) + BLOCKS * HIDDEN * logical.itemsize
    for each in (view, view.transposed()):
        rows, parts = 0, []
        for first, values in each.blocks(least + spare):
            assert first == rows
            rows += len(values)
            parts.append(values)
        assert torch.equal(torch.cat(parts).view(each.dims), each.tensor())


def test_blocks_keep_to_the_budget(store_of, quantized):
    codes, scales = quantized((4096, 512), 0)
    store = store_of({"l.weight": codes, "l.weight_scale_inv": scales})
    view = WeightView.of(store, "l.weight", F32)
    budget = 1 << 20
    largest = max(values.nbytes for _, values in view.blocks(budget))
    # The work of a chunk is a quarter here.
    assert largest * BLOCKS + budget // 4 <= budget
    assert largest * BLOCKS + budget // 4 > budget - 4 * view.columns * BLOCKS


def test_budget_below_one_row(gate_up):
    view, _ = gate_up
    with pytest.raises(UsageError) as caught:
        next(view.blocks(1000))
    assert caught.value.met == 1000
    least = int(str(caught.value.required).split()[2])
    next(view.blocks(least))
    with pytest.raises(UsageError):
        next(view.blocks(least - 1))


def test_chunks_of_one_read_stay_small(store_of, monkeypatch):
    store = store_of({"x": torch.zeros(3000, 1000, dtype=BF16)})
    sizes = []
    real = WeightStore.read_into

    def recorded(self, entry, start, out):
        sizes.append(out.nbytes)
        real(self, entry, start, out)

    monkeypatch.setattr(WeightStore, "read_into", recorded)
    view = WeightView.of(store, "x", F32)
    view.tensor()
    assert max(sizes) <= CHUNK
    view.read(0, 3000, chunk=10_000)
    assert sizes[-1] <= 10_000
    view.transposed().read(0, 1)
    assert max(sizes) <= CHUNK


# An ONNX tensor


def test_a_view_is_a_tensor_of_onnx_ir(gate_up):
    view, expected = gate_up
    assert isinstance(view, ir.TensorProtocol)
    assert (view.dtype, view.shape, view.size) == (ir.DataType.FLOAT, list(view.dims), expected.numel())
    assert view.nbytes == expected.nbytes
    np.testing.assert_array_equal(view.numpy(), expected.numpy())
    np.testing.assert_array_equal(np.asarray(view), expected.numpy())
    assert np.asarray(view, dtype=np.float64).dtype == np.float64
    assert view.tobytes() == expected.numpy().tobytes()
    assert torch.equal(torch.from_dlpack(view), expected)
    file = io.BytesIO()
    view.tofile(file)
    assert file.getvalue() == view.tobytes()


def test_bfloat16_view_as_numpy_and_as_bytes(gate_up):
    view = gate_up[0].as_dtype(BF16)
    expected = gate_up[1].to(BF16)
    assert view.dtype == ir.DataType.BFLOAT16
    assert view.numpy().dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(view.numpy().astype(np.float32), expected.float().numpy())
    assert view.tobytes() == expected.view(torch.uint8).numpy().tobytes()


def test_a_model_with_views_is_written_without_reading_them_before(layer, gate_up, tmp_path):
    store, _, _ = layer
    view, expected = gate_up
    view.name = "w"
    value = ir.Value(name="w", shape=view.shape, type=ir.TensorType(view.dtype), const_value=view)
    out = ir.Value(name="y", shape=view.shape, type=ir.TensorType(view.dtype))
    node = ir.Node("", "Identity", [value], outputs=[out])
    graph = ir.Graph([], [out], nodes=[node], initializers=[value], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    assert store.data_bytes_read == 0
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    written = onnx.load(tmp_path / "m.onnx").graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(written), expected.numpy())


def test_missing_tensor(store_of):
    with pytest.raises(InvalidModelError, match="no tensor 'y'"):
        WeightView.of(store_of({"x": torch.zeros(1)}), "y", F32)
