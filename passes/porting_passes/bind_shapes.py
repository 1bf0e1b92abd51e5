"""Fix or bound the dimensions of graph inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from porting_kernels.errors import PortingError, ShapeError
from porting_passes.infer_shapes import InferShapes

Dim = int | str | None
Ranges = dict[str, tuple[int, int]]


class BindShapesError(PortingError):
    """A shape or dimension given by the user that the model cannot take."""


class BindShapes(ir.passes.InPlacePass):
    """Give dimensions of inputs a number, a name, or a range, and infer what follows.

    shapes: input name -> one entry a dimension: a number fixes it, a string names it, None leaves it. dims: symbol ->
    (lowest, highest), both included.

    1. A symbol with one possible value, or with another name, is replaced wherever it stands: in other inputs, inner
       values, outputs. A range may be given under its old or its new name.
    2. A symbol with a real range stays; :attr:`ranges` holds it after the call.
    3. A dimension that is a number in the model cannot become another one.
    Unknown inputs and symbols, wrong ranks and contradictions are BindShapesErrors that name what is known.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[Dim]] | None = None, dims: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        super().__init__()
        self._shapes = dict(shapes or {})
        self._dims = dict(dims or {})
        self.ranges: Ranges = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Bind in place. Raises ShapeError when the bound shapes do not go together."""
        annotated = [(value, value.shape) for value in _values(model)]
        inputs = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
        given: dict[str, int | str] = {}
        for name, dims in self._shapes.items():
            if name not in inputs:
                raise BindShapesError(
                    f"no input {name!r}", required=f"one of {', '.join(inputs)}", met=name, fix="one of these"
                )
            _bind_input(inputs[name], dims, given)
        renamed = {old: new for old, new in given.items() if isinstance(new, str)}
        fixed = {old: new for old, new in given.items() if isinstance(new, int)}
        _substitute(model, renamed)
        symbols = {
            str(dim.value)
            for value in inputs.values()
            for dim in value.shape or ()
            if isinstance(dim, ir.SymbolicDim) and dim.value
        }
        self.ranges = {}
        for symbol, (low, high) in self._dims.items():
            known = symbols | set(fixed)
            self._bound(symbol if symbol in known else renamed.get(symbol, symbol), low, high, known, fixed)
        _substitute(model, fixed)
        _infer(model, annotated)
        return ir.passes.PassResult(model, bool(self._shapes or self._dims))

    def _bound(self, symbol: str, low: int, high: int, known: set[str], fixed: dict[str, int]) -> None:
        if symbol not in known:
            listed = ", ".join(sorted(known)) or "none: every input dimension is a number or nameless"
            raise BindShapesError(
                f"no dimension {symbol!r}",
                required=f"one of {listed}",
                met=symbol,
                fix="one of these, or a whole shape",
            )
        if not 0 <= low <= high:
            raise BindShapesError(f"range of {symbol}", required="0 <= lowest <= highest", met=f"{low}..{high}")
        if symbol in fixed and not low <= fixed[symbol] <= high:
            raise BindShapesError(f"dimension {symbol}", required=f"{low}..{high}", met=fixed[symbol])
        if low == high:
            fixed[symbol] = low
            self.ranges.pop(symbol, None)
        elif symbol not in fixed:
            self.ranges[symbol] = (low, high)


def bind_shapes(
    model: ir.Model,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    dims: Mapping[str, tuple[int, int]] | None = None,
) -> Ranges:
    """Bind the model's inputs in place (see :class:`BindShapes`); the ranges of the symbols that remain bounded."""
    step = BindShapes(shapes, dims)
    step(model)
    return step.ranges


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from (output for node in graph for output in node.outputs)


def _infer(model: ir.Model, annotated: Sequence[tuple[ir.Value, ir.Shape | None]]) -> None:
    """Strict inference, unless the model's own annotations did not pass it before binding: then the bound ones may."""
    try:
        InferShapes(strict=True)(model)
        return
    except ShapeError as error:
        contradiction = error
    bound = [value.shape for value, _ in annotated]
    for value, shape in annotated:
        value.shape = shape
    try:
        InferShapes(strict=True)(model)
    except ShapeError:
        for (value, _), shape in zip(annotated, bound, strict=True):
            value.shape = shape
        InferShapes()(model)
        return
    raise contradiction


def _bind_input(value: ir.Value, dims: Sequence[Dim], given: dict[str, int | str]) -> None:
    """Bind the nameless dimensions; ``given`` takes what the user wants in the place of each symbol."""
    where = f"input {value.name}"
    known: list[int | ir.SymbolicDim] = (
        list(value.shape) if value.shape is not None else [ir.SymbolicDim(None)] * len(dims)
    )
    if len(known) != len(dims):
        raise BindShapesError(
            "wrong rank", required=f"{len(known)} dimensions: {value.shape}", met=list(dims), where=where
        )
    bound: list[int | ir.SymbolicDim] = []
    for axis, (old, new) in enumerate(zip(known, dims, strict=True)):
        place = f"{where}, dimension {axis}"
        if new is None or old == new:
            bound.append(old)
        elif isinstance(old, int):
            raise BindShapesError("the model fixes this dimension", required=old, met=new, where=place)
        elif isinstance(new, int) and new < 0:
            raise BindShapesError("a dimension is negative", required="0 or more", met=new, where=place)
        elif old.value is None:
            bound.append(ir.SymbolicDim(new) if isinstance(new, str) else new)
        elif given.setdefault(str(old.value), new) != new:
            raise BindShapesError(
                f"dimension {old.value} has two values", required=given[str(old.value)], met=new, where=place
            )
        else:
            bound.append(old)
    value.shape = ir.Shape(bound)


def _substitute(model: ir.Model, given: Mapping[str, int | str]) -> None:
    """Put numbers or names in the place of symbols everywhere; expressions over them are forgotten, inferred anew."""
    if not given:
        return
    words = re.compile(r"\b(" + "|".join(map(re.escape, given)) + r")\b")

    def bound(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
        if isinstance(dim, int) or dim.value is None:
            return dim
        if dim.value in given:
            new = given[str(dim.value)]
            return ir.SymbolicDim(new) if isinstance(new, str) else new
        return ir.SymbolicDim(None) if words.search(str(dim.value)) else dim

    for value in _values(model):
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([bound(dim) for dim in value.shape])
