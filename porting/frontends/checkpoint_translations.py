"""ATen -> ONNX for checkpoints: what torch's exporter lacks, and plain forms of what it writes at length.

``TABLE`` goes to ``torch.onnx.export(custom_translation_table=...)``. A mixture of experts stays folded: each grouped
product becomes one ``porting.GroupedMatmul``. Shape arithmetic is left out where the result is known: a decoder layer
of DeepSeek-V3 takes 160 nodes instead of 430, which is what import costs.

Every function takes what its operator's schema names, tensors as onnx_ir values and everything else as Python values
(a symbolic size is a tensor). None may return an operand: the exporter renames what is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript import values
from onnxscript.function_libs.torch_lib.ops import core as stock

Value = Any
"""An onnx_ir.Value; onnxscript does not type what its operators return."""

_END = (1 << 63) - 1
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


def _grouped_matmul_operator() -> Callable[..., Value]:
    schema = onnx.defs.OpSchema
    definition = schema(
        "GroupedMatmul",
        "porting",
        1,
        inputs=[
            schema.FormalParameter("x", "T"),
            schema.FormalParameter("w", "T"),
            schema.FormalParameter("offsets", "tensor(int64)"),
            schema.FormalParameter("bias", "T"),
        ],
        outputs=[schema.FormalParameter("y", "T")],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[schema.Attribute("transposed", schema.AttrType.INT, "")],
    )
    return values.Op(values.Opset("porting", 1), "GroupedMatmul", definition)  # type: ignore[no-any-return]


_grouped_matmul = _grouped_matmul_operator()


def grouped_mm(x: Value, w: Value, offs: Value, bias: Value | None = None, out_dtype: Any = None) -> Value:
    """x [M, K], w [E, K, N], offs int [E] cumulative -> [M, N]. A transposed [E, N, K] weight stays as it is stored."""
    if bias is not None or out_dtype not in (None, -1):
        raise NotImplementedError("a grouped product with a bias or another dtype: transformers writes neither")
    offsets = _int64(offs)
    nothing = op.Constant(value=ir.tensor([[0.0]] * _dims(w)[0], dtype=x.dtype))
    producer = w.producer()
    perm = producer.attributes["perm"].as_ints() if producer is not None and producer.op_type == "Transpose" else ()
    if tuple(perm) == (0, 2, 1):
        return _grouped_matmul(x, producer.inputs[0], offsets, nothing, transposed=1)
    return _grouped_matmul(x, w, offsets, nothing, transposed=0)


def histc(x: Value, bins: int = 100, min: int = 0, max: int = 0) -> Value:
    """How many elements of an integer x [N] equal each of 0 .. bins-1, as int64 (a cumulative sum follows)."""
    if min != 0 or max != bins - 1 or x.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        raise NotImplementedError(f"histc of {x.dtype} with {bins} bins from {min} to {max}: only counts of integers")
    ids = op.Constant(value_ints=list(range(bins)))
    hits = op.Equal(op.Unsqueeze(_int64(x), op.Constant(value_ints=[1])), ids)
    counts = op.ReduceSum(op.Cast(hits, to=ir.DataType.INT64), op.Constant(value_ints=[0]), keepdims=0)
    return op.Cast(counts, to=x.dtype)


def slice_(x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """One axis; of a concatenation exactly the part, where the bounds are those of a part."""
    start, end = 0 if start is None else start, _END if end is None else end
    if start == 0 and end == _END and step == 1:
        return op.Identity(x)
    dim = _axis(dim, x)
    if step == 1 and isinstance(start, int) and isinstance(end, int):
        for part, first, last in _parts(x, dim):
            if (start, min(end, last)) == (first, last):
                return op.Identity(part)
    return op.Slice(x, _ints([start]), _ints([end]), op.Constant(value_ints=[dim]), op.Constant(value_ints=[step]))


def slice_scatter(x: Value, src: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """x with src in place of x[start:end]: what lies before, src, and what lies behind, concatenated."""
    start, end = 0 if start is None else start, _END if end is None else end
    if step != 1 or not isinstance(start, int) or not isinstance(end, int) or start < 0 or end < 0:
        return stock.aten_slice_scatter(x, src, dim, start, end, step)
    dim = _axis(dim, x)
    size = _static(x, dim)
    parts = [slice_(x, dim, 0, start)] if start else []
    parts.append(src)
    if end < (_END if size is None else size):
        parts.append(slice_(x, dim, end))
    return op.Concat(*parts, axis=dim)


def view(x: Value, size: Sequence[Any]) -> Value:
    """A constant target where one exists: 0 copies an extent, one -1 stands for what is left."""
    target: list[Any] = list(size)
    for axis, extent in enumerate(target):
        if isinstance(extent, ir.Value) and axis < len(_dims(x)) and _expression(extent) == str(_dims(x)[axis]):
            target[axis] = 0
    symbolic = [axis for axis, extent in enumerate(target) if isinstance(extent, ir.Value)]
    if symbolic and -1 in target:
        target[target.index(-1)] = _left_over(x, size)
    if len(symbolic) == 1 and -1 not in target:
        target[symbolic[0]] = -1
    return op.Reshape(x, _ints(target))


def expand(x: Value, size: Sequence[Any], implicit: bool = False) -> Value:
    """-1, and an extent that is there already, ask for nothing."""
    dims = _dims(x)
    lead = len(size) - len(dims)
    target: list[Any] = []
    for axis, extent in enumerate(size):
        own = str(dims[axis - lead]) if axis >= lead else None
        same = own is not None and own == (_expression(extent) if isinstance(extent, ir.Value) else str(extent))
        target.append(1 if same or (isinstance(extent, int) and extent == -1) else extent)
    if lead == 0 and all(isinstance(extent, int) and extent == 1 for extent in target):
        return op.Identity(x)
    return op.Expand(x, _ints(target))


def index(x: Value, indices: Sequence[Value | None]) -> Value:
    """One integer index: Gather along its axis."""
    given = [axis for axis, value in enumerate(indices) if value is not None]
    if len(given) == 1:
        ids = indices[given[0]]
        assert ids is not None
        if ids.dtype in (ir.DataType.INT32, ir.DataType.INT64):
            return op.Gather(x, ids, axis=given[0])
    return stock.aten_index(x, indices)


def index_put(x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    """One integer index into one axis: ScatterElements, which needs no column of coordinates."""
    if len(indices) == 1 and indices[0] is not None and len(_dims(x)) == 1 and not accumulate:
        ids = indices[0]
        if ids.dtype == ir.DataType.INT64 and ids.shape is not None and values.shape == ids.shape:
            return op.ScatterElements(x, ids, values, axis=0)
    return stock.aten_index_put(x, indices, values, accumulate)


def floor_divide(x: Any, other: Any) -> Value:
    """Positions that a sort returned are not negative: for them Div rounds down."""
    producer = x.producer() if isinstance(x, ir.Value) else None
    if producer is not None and producer.op_type == "TopK" and x.index() == 1 and isinstance(other, int) and other > 0:
        return op.Div(x, op.Constant(value_int=other))
    return stock.aten_floor_divide(x, other)


def sort(x: Value, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """TopK of everything: equal elements keep their order, as torch's stable sort has it."""
    dim = _axis(dim, x)
    size = _static(x, dim)
    count = op.Constant(value_ints=[size]) if size is not None else op.Shape(x, start=dim, end=dim + 1)
    return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)  # type: ignore[no-any-return]


def topk(x: Value, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, Value]:
    """ONNX leaves the order of unsorted results open; asking for the sorted ones fixes it at no cost."""
    return op.TopK(x, _ints([k]), axis=_axis(dim, x), largest=int(largest), sorted=1)  # type: ignore[no-any-return]


def split_with_sizes(x: Value, split_sizes: Sequence[int], dim: int = 0) -> Any:
    """Split with as many outputs as sizes, no sequence in between."""
    if not all(isinstance(size, int) for size in split_sizes):
        return stock.aten_split_with_sizes(x, split_sizes, dim)
    if len(split_sizes) == 1:
        return [op.Identity(x)]
    sizes = op.Constant(value_ints=list(split_sizes))
    parts = op.Split(x, sizes, axis=_axis(dim, x), num_outputs=len(split_sizes))
    del parts[0].producer().attributes["num_outputs"]  # it told the recorder; ONNX takes sizes or their number
    return list(parts)


def split(x: Value, split_size: Any, dim: int = 0) -> Any:
    """Equal parts of an axis of known size, the last one with what is left."""
    size = _static(x, _axis(dim, x))
    if size is None or not isinstance(split_size, int):
        return stock.aten_split(x, split_size, dim)
    return split_with_sizes(x, [min(split_size, size - at) for at in range(0, size, split_size)], dim)


def mean(x: Value, dim: Sequence[int] | int | None, keepdim: bool = False, dtype: int = -1) -> Value:
    """Over some axes. dtype: an ONNX code, -1 for that of x."""
    if dtype != -1 and dtype != x.dtype:
        x = op.Cast(x, to=dtype)
    axes = [dim] if isinstance(dim, int) else list(dim or ())
    if not axes:
        return op.ReduceMean(x, keepdims=int(keepdim))
    return op.ReduceMean(x, op.Constant(value_ints=axes), keepdims=int(keepdim))


def arange(end: Any, dtype: int = -1, layout: str = "", device: str = "", pin_memory: bool = False) -> Value:
    """0 .. end-1 of integers."""
    if not _is_integer(end) or dtype not in (-1, ir.DataType.INT64):
        return stock.aten_arange(end, dtype)
    return op.Range(op.Constant(value_int=0), _scalar(end), op.Constant(value_int=1))


def arange_start(
    start: Any, end: Any, dtype: int = -1, layout: str = "", device: str = "", pin_memory: bool = False
) -> Value:
    """start .. end-1 of integers."""
    if not (_is_integer(start) and _is_integer(end)) or dtype not in (-1, ir.DataType.INT64):
        return stock.aten_arange_start(start, end, dtype)
    return op.Range(_scalar(start), _scalar(end), op.Constant(value_int=1))


def gather(x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    """Elements along an axis."""
    return op.GatherElements(x, _int64(index), axis=_axis(dim, x))


def masked_fill(x: Value, mask: Value, value: float) -> Value:
    """A number wherever the mask is true, in the dtype of x."""
    return op.Where(mask, _number(value, x), x)


def fill_like(number: float) -> Callable[..., Value]:
    """zeros_like and its kin: the number in the dtype and shape of x."""

    def like(x: Value, dtype: int = -1, layout: str = "", device: str = "", **_: Any) -> Value:
        code = x.dtype if dtype == -1 else ir.DataType(dtype)
        return op.ConstantOfShape(op.Shape(x), value=ir.tensor([number], dtype=code))

    return like


def new_empty(x: Value, size: Sequence[Any], dtype: int = -1, **_: Any) -> Value:
    """Room to write into; zeros, since a graph has no values that are not computed."""
    code = x.dtype if dtype == -1 else ir.DataType(dtype)
    return op.ConstantOfShape(_ints(list(size)), value=ir.tensor([0], dtype=code))


def copy(x: Value, src: Value, non_blocking: bool = False) -> Value:
    """src with the dtype and shape of x."""
    same = src.shape is not None and x.shape is not None and [str(d) for d in src.shape] == [str(d) for d in x.shape]
    cast = op.Identity(src) if src.dtype == x.dtype else op.Cast(src, to=x.dtype)
    return cast if same else op.Expand(cast, op.Shape(x))


def _int64(x: Value) -> Value:
    return x if x.dtype == ir.DataType.INT64 else op.Cast(x, to=ir.DataType.INT64)


def _number(value: float, like: Value) -> Value:
    return op.Constant(value=ir.tensor(value, dtype=like.dtype))


def _is_integer(x: Any) -> bool:
    return isinstance(x, int) or (isinstance(x, ir.Value) and x.dtype == ir.DataType.INT64)


def _scalar(x: Any) -> Value:
    return op.Constant(value_int=x) if isinstance(x, int) else x


def _ints(items: Sequence[Any]) -> Value:
    """Extents or bounds as one int64 vector, a constant when none of them is a tensor."""
    if all(isinstance(item, int) for item in items):
        return op.Constant(value_ints=list(items))
    one = op.Constant(value_ints=[1])
    vectors = [op.Constant(value_ints=[i]) if isinstance(i, int) else op.Reshape(_int64(i), one) for i in items]
    return vectors[0] if len(vectors) == 1 else op.Concat(*vectors, axis=0)


def _dims(x: Value) -> Sequence[Any]:
    """Extents as numbers or symbols; none when the rank is unknown."""
    return () if x.shape is None else tuple(d if isinstance(d, int) else d.value for d in x.shape)


def _left_over(x: Value, size: Sequence[Any]) -> int:
    """What -1 in a view of x to size stands for, where the symbolic extents of both are the same; else -1."""
    own = [d for d in _dims(x) if isinstance(d, int)]
    kept = sorted(str(d) for d in _dims(x) if not isinstance(d, int))
    wanted = [d for d in size if isinstance(d, int) and d != -1]
    if kept != sorted(str(_expression(d)) for d in size if isinstance(d, ir.Value)) or 0 in own or 0 in wanted:
        return -1
    return math.prod(own) // math.prod(wanted)


def _static(x: Value, axis: int) -> int | None:
    dims = _dims(x)
    return dims[axis] if axis < len(dims) and isinstance(dims[axis], int) else None


def _axis(dim: int, x: Value) -> int:
    return dim if dim >= 0 or x.shape is None else dim + len(x.shape)


def _expression(size: Value) -> str | None:
    """The symbol of a symbolic size, in the words of the exporter's shapes."""
    producer = size.producer()
    node = producer.meta.get("node") if producer is not None else None
    known = node.meta.get("val") if node is not None else None
    return str(known) if isinstance(known, torch.SymInt) else None


def _parts(x: Value, axis: int) -> list[tuple[Value, int, int]]:
    """The operands of a concatenation along axis, with their bounds, as far as sizes are known."""
    producer = x.producer()
    found: list[tuple[Value, int, int]] = []
    if producer is None or producer.op_type != "Concat" or producer.attributes["axis"].as_int() != axis:
        return found
    at = 0
    for part in producer.inputs:
        size = None if part is None else _static(part, axis)
        if part is None or size is None:
            break
        found.append((part, at, at + size))
        at += size
    return found


_aten = torch.ops.aten

TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    _aten._grouped_mm.default: grouped_mm,
    _aten.histc.default: histc,
    _aten.slice.Tensor: slice_,
    _aten.slice_scatter.default: slice_scatter,
    _aten.view.default: view,
    _aten._unsafe_view.default: view,
    _aten.reshape.default: view,
    _aten.expand.default: expand,
    _aten.index.Tensor: index,
    _aten.index_put.default: index_put,
    _aten.floor_divide.default: floor_divide,
    _aten.sort.default: sort,
    _aten.topk.default: topk,
    _aten.split_with_sizes.default: split_with_sizes,
    _aten.split.Tensor: split,
    _aten.mean.dim: mean,
    _aten.arange.default: arange,
    _aten.arange.start: arange_start,
    _aten.gather.default: gather,
    _aten.masked_fill.Scalar: masked_fill,
    _aten.zeros_like.default: fill_like(0),
    _aten.ones_like.default: fill_like(1),
    _aten.empty_like.default: fill_like(0),
    _aten.new_empty.default: new_empty,
    _aten.copy.default: copy,
}
"""What every checkpoint is exported with; :func:`table` adds the operators that transformers registers."""


def table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """``TABLE`` and transformers' own operators, which exist once transformers' integrations are imported."""
    import transformers.integrations.moe  # noqa: F401  (registers the operator)

    return {**TABLE, torch.ops.transformers.grouped_mm_fallback.default: grouped_mm}
