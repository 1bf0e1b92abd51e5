"""Emit ONNX nodes that are valid at one opset, in the attribute and input forms of that opset.

``builder.Mul(x, y)`` emits the operator of that name; every emitted node is checked against its schema at the opset
(existence, attributes, number of inputs, dtypes) and gets the dtype and shape that ONNX infers for it. Operators
whose form changed between opsets (axes that moved from attribute to input, the old 2-D Softmax) have a method in
lower case that hides the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.inference import dims_of, infer_outputs, signature_error
from porting_passes.schemas import exists
from porting_passes.splice import discard

Array = np.ndarray[Any, Any]
_REDUCE_AXES_INPUT_SINCE = {"ReduceSum": 13}


class BuildError(PortingError):
    """A form that the opset does not have, or a fact (dtype, rank) that building needs and the model does not say."""

    exit_code = 3


class Builder:
    """Collects new nodes in order; they belong to no graph until the caller inserts ``nodes``.

    opset: the version of the default domain. Constants are values with ``const_value`` set and no producer; they are
    listed in ``initializers`` and become initializers (or Constant nodes) of the graph that takes the nodes.
    foreign: the output dtypes of a node of another domain than ONNX's own, where something knows them.
    Raises BuildError when a node would not be valid at the opset.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.foreign: Callable[[ir.Node], Sequence[ir.DataType | None]] | None = None
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self.emit(op_type, inputs, attributes)[0]

        return emit

    def has(self, op_type: str) -> bool:
        """Whether the operator exists at the opset and is not deprecated there."""
        return exists("", op_type, self.opset)

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        outputs: int = 1,
        domain: str = "",
        overload: str = "",
    ) -> Sequence[ir.Value]:
        """One node; attributes with value None are left out. Returns its outputs, typed.

        A node of another domain than ONNX's own is taken on trust; its outputs have the dtypes that ``foreign`` knows.
        """
        trimmed = list(inputs)
        while trimmed and trimmed[-1] is None:
            trimmed.pop()
        attrs = [
            value if isinstance(value, ir.Attr) else ir.convenience.convert_attribute(name, value)
            for name, value in (attributes or {}).items()
            if value is not None
        ]
        node = ir.Node(domain, op_type, trimmed, attrs, overload=overload, num_outputs=outputs)
        problem = signature_error(node, self.opset) if domain in ("", "ai.onnx") else None
        if problem:
            discard([node])
            raise BuildError(problem)
        for value, (dtype, dims) in zip(node.outputs, infer_outputs(node, self.opset), strict=True):
            if dtype is not None:
                value.dtype = dtype
            value.shape = None if dims is None else ir.Shape(dims)
        if domain not in ("", "ai.onnx") and self.foreign is not None:
            for value, known in zip(node.outputs, self.foreign(node), strict=True):
                if known is not None:
                    value.dtype = known
        self.nodes.append(node)
        return node.outputs

    # -- constants --------------------------------------------------------------------------------------------------

    def constant(self, array: Any, dtype: ir.DataType) -> ir.Value:
        """A constant tensor, rounded once to ``dtype``."""
        with np.errstate(over="ignore"):
            data = np.asarray(array).astype(dtype.numpy())
        return self.tensor(ir.Tensor(data, dtype=dtype))

    def tensor(self, tensor: ir.TensorProtocol) -> ir.Value:
        """A constant that holds (or lazily binds) an existing tensor."""
        value = ir.Value(type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor)
        self.initializers.append(value)
        return value

    def derived(self, source: ir.TensorProtocol, dims: Sequence[int], change: Callable[[Array], Array]) -> ir.Value:
        """A constant of extents ``dims`` made from another one when it is first read: building reads no weights."""

        def make() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(change(source.numpy())), dtype=source.dtype)

        return self.tensor(ir.LazyTensor(make, dtype=source.dtype, shape=ir.Shape(dims), cache=True))

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self.constant(np.asarray(list(values), dtype=np.int64), ir.DataType.INT64)

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A rank-0 constant with the dtype of ``like``."""
        return self.constant(number, self.dtype_of(like))

    def dtype_of(self, value: ir.Value) -> ir.DataType:
        """The dtype of a value; BuildError when the model does not say."""
        if value.dtype is None:
            raise BuildError(f"dtype of {value.name!r} is unknown")
        return value.dtype

    def rank_of(self, value: ir.Value) -> int:
        """The rank of a value; BuildError when the model does not say."""
        if value.shape is None:
            raise BuildError(f"rank of {value.name!r} is unknown")
        return len(value.shape)

    # -- operators whose form depends on the opset ------------------------------------------------------------------

    def reduce(self, op_type: str, x: ir.Value, axes: Sequence[int], *, keepdims: bool = True) -> ir.Value:
        """ReduceX over ``axes`` (attribute below opset 18, below 13 for ReduceSum; input from there on)."""
        keep = int(keepdims)
        if self.opset >= _REDUCE_AXES_INPUT_SINCE.get(op_type, 18):
            return self.emit(op_type, [x, self.ints(axes)], {"keepdims": keep})[0]
        return self.emit(op_type, [x], {"axes": list(axes), "keepdims": keep})[0]

    def squeeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Drop dimensions of extent 1."""
        return self._with_axes("Squeeze", x, axes)

    def unsqueeze(self, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        """Insert dimensions of extent 1 at positions ``axes`` of the result."""
        return self._with_axes("Unsqueeze", x, axes)

    def _with_axes(self, op_type: str, x: ir.Value, axes: Sequence[int]) -> ir.Value:
        if self.opset >= 13:
            return self.emit(op_type, [x, self.ints(axes)])[0]
        return self.emit(op_type, [x], {"axes": list(axes)})[0]

    def softmax(self, x: ir.Value, axis: int, *, op_type: str = "Softmax") -> ir.Value:
        """Softmax, LogSoftmax or Hardmax along one axis.

        Below opset 13 these operators flatten to 2-D at ``axis``, which is the same thing only for the last axis:
        another axis is brought there and back by Transposes.
        """
        rank = self.rank_of(x)
        axis %= rank
        if self.opset >= 13 or axis == rank - 1:
            return self.emit(op_type, [x], {"axis": axis})[0]
        perm = list(range(rank))
        perm[axis], perm[-1] = perm[-1], perm[axis]
        return self.Transpose(self.emit(op_type, [self.Transpose(x, perm=perm)], {"axis": rank - 1})[0], perm=perm)

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape to constant extents; 0 copies the extent at that position, -1 is computed.

        BuildError where the known extents of ``x`` do not make the target: an extent that *is* 0 may not be what
        stands at its position.
        """
        dims = dims_of(x)
        if dims is not None:
            copied = [dims[i] if d == 0 and i < len(dims) else d for i, d in enumerate(shape)]
            static = all(isinstance(d, int) for d in (*dims, *copied))
            past_the_end = any(d == 0 for d in shape[len(dims) :])
            computed = -1 in shape and 0 in dims
            if past_the_end or computed or (static and -1 not in shape and math.prod(dims) != math.prod(copied)):  # type: ignore[arg-type]
                raise BuildError(f"Reshape of {list(dims)} has no target {list(shape)}")
        return self.Reshape(x, self.ints(shape))

    def slice(self, x: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """``x[..., start:end:step, ...]`` along one axis."""
        steps = self.ints([step]) if step != 1 else None
        return self.Slice(x, self.ints([start]), self.ints([end]), self.ints([axis]), steps)

    def split(self, x: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        """Split along ``axis`` into parts of the given extents."""
        if self.opset >= 13:
            return self.emit("Split", [x, self.ints(sizes)], {"axis": axis}, outputs=len(sizes))
        return self.emit("Split", [x], {"axis": axis, "split": list(sizes)}, outputs=len(sizes))

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Cast, or ``x`` itself where it already has the dtype."""
        return x if x.dtype == dtype else self.Cast(x, to=dtype.value)

    def transpose(self, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Transpose, or ``x`` itself for the identity permutation."""
        return x if list(perm) == list(range(len(perm))) else self.Transpose(x, perm=list(perm))

    def swap_last(self, x: ir.Value) -> ir.Value:
        """Transpose of the last two dimensions."""
        rank = self.rank_of(x)
        return self.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])
