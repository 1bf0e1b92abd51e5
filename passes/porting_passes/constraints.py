"""The language in which a row of an operator set states its limits.

One boolean Python expression over a node, with nothing of Python but this (and, or, not take conditions only):

    rank(x)  dim(x, i)  shape(x)  static(x)  dtype(x)  present(x)  constant(x)  filled(x)  producer(x)  consumers(x)
                     x: an operand's name                          opset()   the model's ai.onnx version
    attr("name")     the attribute, or its default, or None        + - * // %   min  max  roundup(value, multiple)
    == != < <= > >=  in  not in  and  or  not                      integers, floats, strings, True, False, None, lists

``static(x)`` says that every dimension of x is one number. ``filled(x)`` is the number that every element of a small
constant is, or None.
``producer(x)`` is the operator that makes x ("" for a graph input or a weight) and ``consumers(x)`` the list of those
that read it ("" stands for the graph's own output); operators of another domain read ``domain.Type``.

A dimension may be a symbol with a range. The expression is then decided for every value: true for all, or false with
the first value (in the order of the symbols' names) for which it is false. What depends on a symbol without a range,
or on a shape, dtype or attribute that is not known, is unknown.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from porting_kernels.errors import PortingError
from porting_passes.intervals import (
    MAYBE,
    Interval,
    Missing,
    Truth,
    arithmetic,
    conjunction,
    disjunction,
    equal,
    less,
    member,
    negation,
)

# Boxes tried before an expression over symbols is given up as undecided; about a second.
BOX_BUDGET = 50_000


class ConstraintError(PortingError):
    """A constraint that is not written in the language, or speaks of an operand that its row does not have."""


@dataclasses.dataclass(frozen=True)
class Operand:
    """What a constraint can see of one operand. dtype: ONNX name in lower case (``float16``); None: not known."""

    dtype: str | None = None
    shape: tuple[int | str | None, ...] | None = None
    constant: bool = False
    filled: float | None = None
    producer: str = ""
    consumers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a constraint is asked about: operands by name (None: absent), attributes by name, the model's opset."""

    operands: Mapping[str, Operand | None]
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    opset: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """holds: True, False, or None when it cannot be told. met: the values that the answer rests on, for people."""

    holds: bool | None
    met: str = ""


@dataclasses.dataclass
class _Scope:
    subject: Subject
    dims: Mapping[str, tuple[int, int]]
    box: dict[str, tuple[int, int]]
    touched: set[str] = dataclasses.field(default_factory=set)

    def operand(self, name: str) -> Operand | Missing:
        found = self.subject.operands.get(name)
        return found if found is not None else Missing(f"{name} is absent")

    def dimension(self, name: str, index: int, size: int | str | None) -> Any:
        if isinstance(size, int):
            return size
        if size is None:
            return Missing(f"dimension {index} of {name} is not known")
        if size not in self.box:
            return Missing(f"dimension {index} of {name} is the symbol {size!r} without a range", symbol=size)
        self.touched.add(size)
        return Interval(*self.box[size]).points()


_Code = Callable[[_Scope], Any]


def _shape(scope: _Scope, name: str) -> Any:
    operand = scope.operand(name)
    if isinstance(operand, Missing):
        return operand
    if operand.shape is None:
        return Missing(f"the shape of {name} is not known")
    return [scope.dimension(name, i, size) for i, size in enumerate(operand.shape)]


def _rank(scope: _Scope, name: str) -> Any:
    operand = scope.operand(name)
    if isinstance(operand, Missing):
        return operand
    return len(operand.shape) if operand.shape is not None else Missing(f"the rank of {name} is not known")


def _dim(scope: _Scope, name: str, index: int) -> Any:
    rank = _rank(scope, name)
    if isinstance(rank, Missing):
        return rank
    if not -rank <= index < rank:
        return Missing(f"{name} has no dimension {index}")
    return scope.dimension(name, index, scope.subject.operands[name].shape[index])  # type: ignore[union-attr,index]


def _static(scope: _Scope, name: str) -> Any:
    operand = scope.operand(name)
    if isinstance(operand, Missing):
        return operand
    if operand.shape is None or None in operand.shape:
        return Missing(f"the shape of {name} is not known")
    ranges = [scope.dims.get(size) for size in operand.shape if isinstance(size, str)]
    return all(span is not None and span[0] == span[1] for span in ranges)


def _field(field: str) -> Callable[[_Scope, str], Any]:
    def read(scope: _Scope, name: str) -> Any:
        operand = scope.operand(name)
        if isinstance(operand, Missing):
            return operand
        value = getattr(operand, field)
        return value if value is not None else Missing(f"the {field} of {name} is not known")

    return read


def _filled(scope: _Scope, name: str) -> Any:
    operand = scope.operand(name)
    return operand if isinstance(operand, Missing) else operand.filled


def _present(scope: _Scope, name: str) -> bool:
    return scope.subject.operands.get(name) is not None


_OF_OPERAND: dict[str, Callable[..., Any]] = {
    "rank": _rank,
    "shape": _shape,
    "static": _static,
    "dim": _dim,
    "present": _present,
    "dtype": _field("dtype"),
    "constant": _field("constant"),
    "filled": _filled,
    "producer": _field("producer"),
    "consumers": _field("consumers"),
}
_CONDITIONS = ("constant", "present", "static")
_ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Truth]] = {
    ast.Eq: equal,
    ast.NotEq: lambda a, b: negation(equal(a, b)),
    ast.Lt: lambda a, b: less(a, b, or_equal=False),
    ast.LtE: lambda a, b: less(a, b, or_equal=True),
    ast.Gt: lambda a, b: less(b, a, or_equal=False),
    ast.GtE: lambda a, b: less(b, a, or_equal=True),
    ast.In: member,
    ast.NotIn: lambda a, b: negation(member(a, b)),
}


class Expression:
    """A parsed constraint. ``operands``, ``attributes``: the names it uses. ``features``: the functions it uses."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.operands: set[str] = set()
        self.attributes: set[str] = set()
        self.features: set[str] = set()
        self._shown: dict[str, _Code] = {}
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError as error:
            raise ConstraintError(f"constraint {text!r} does not parse: {error.msg}") from error
        self._code = self._compile(tree.body)

    def _refuse(self, node: ast.AST) -> ConstraintError:
        return ConstraintError(
            f"constraint {self.text!r} uses {ast.unparse(node)!r}, which is not in the language",
            required="the operators and functions listed in porting_passes.constraints",
        )

    def _compile(self, node: ast.AST) -> _Code:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return lambda scope: value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                items = [self._compile(e) for e in elements]
                return lambda scope: [item(scope) for item in items]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._compile_condition(operand)
                return lambda scope: negation(inner(scope))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._compile(operand)
                return lambda scope: arithmetic("-", 0, inner(scope))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._arithmetic(_ARITHMETIC[type(op)], [left, right])
            case ast.BoolOp(op=op, values=values):
                parts = [self._compile_condition(v) for v in values]
                combine = conjunction if isinstance(op, ast.And) else disjunction
                return lambda scope: combine(part(scope) for part in parts)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._comparison(left, ops, comparators, node)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, node)
        raise self._refuse(node)

    def _compile_condition(self, node: ast.expr) -> _Code:
        """An operand of and, or, not: what is no truth value would count as true, whatever it is."""
        match node:
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(op=ast.Not()) | ast.Constant(value=bool()):
                return self._compile(node)
            case ast.Call(func=ast.Name(id=name)) if name in _CONDITIONS:
                return self._compile(node)
        raise ConstraintError(
            f"constraint {self.text!r} takes {ast.unparse(node)!r} for a condition",
            required="comparisons, present(x), static(x) or constant(x) under and, or, not",
        )

    def _arithmetic(self, name: str, arguments: list[ast.expr]) -> _Code:
        first, *rest = [self._compile(a) for a in arguments]

        def fold(scope: _Scope) -> Any:
            value = first(scope)
            for other in rest:
                value = arithmetic(name, value, other(scope))
            return value

        return fold

    def _comparison(self, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr], node: ast.AST) -> _Code:
        if any(type(op) not in _COMPARE for op in ops):
            raise self._refuse(node)
        terms = [self._compile(t) for t in (left, *rights)]
        tests = [_COMPARE[type(op)] for op in ops]

        def compare(scope: _Scope) -> Truth:
            values = [term(scope) for term in terms]
            return conjunction(test(values[i], values[i + 1]) for i, test in enumerate(tests))

        return compare

    def _call(self, name: str, arguments: list[ast.expr], node: ast.AST) -> _Code:
        code: _Code
        if (name in ("min", "max") and len(arguments) >= 2) or (name == "roundup" and len(arguments) == 2):
            return self._arithmetic(name, arguments)
        match name, arguments:
            case "opset", []:
                code = lambda scope: scope.subject.opset  # noqa: E731
            case "attr", [ast.Constant(value=str() as attribute)]:
                self.attributes.add(attribute)
                code = lambda scope: scope.subject.attributes.get(attribute)  # noqa: E731
            case "dim", [ast.Name(id=operand), index] if (position := _integer(index)) is not None:
                self.operands.add(operand)
                code = lambda scope: _dim(scope, operand, position)  # noqa: E731
            case _, [ast.Name(id=operand)] if name in _OF_OPERAND and name != "dim":
                self.operands.add(operand)
                function = _OF_OPERAND[name]
                code = lambda scope: function(scope, operand)  # noqa: E731
            case _:
                raise self._refuse(node)
        self.features.add(name)
        self._shown[ast.unparse(node)] = code
        return code

    def _met(self, scope: _Scope) -> str:
        """The values that were met, in words; symbols first where they were pinned."""
        pinned = [f"{s} = {scope.box[s][0]}" for s in sorted(scope.touched) if scope.box[s][0] == scope.box[s][1]]
        shown = []
        for text, code in self._shown.items():
            value = code(scope)
            if not isinstance(value, Missing):
                shown.append(f"{text} = {_words(value)}")
        return "; ".join(part for part in (", ".join(pinned), ", ".join(shown)) if part)

    def decide(self, subject: Subject, dims: Mapping[str, tuple[int, int]] | None = None) -> Answer:
        """Whether the constraint holds for every value of every symbol. dims: symbol -> (least, greatest)."""
        dims = dims or {}
        boxes = [dict(dims)]
        missing: Missing | None = None
        for _ in range(BOX_BUDGET):
            if not boxes:
                return Answer(True) if missing is None else Answer(None, missing.what)
            box = boxes.pop()
            scope = _Scope(subject, dims, box)
            truth = self._code(scope)
            if truth is True:
                continue
            if truth is False:
                return Answer(False, self._met(self._first_point(scope)))
            if isinstance(truth, Missing):
                missing = missing or truth
                continue
            if truth is not MAYBE:
                raise ConstraintError(f"constraint {self.text!r} is not a condition: its value is {truth!r}")
            name = next(s for s in sorted(scope.touched) if box[s][0] < box[s][1])
            low, high = box[name]
            middle = (low + high) // 2
            boxes.append({**box, name: (middle + 1, high)})
            boxes.append({**box, name: (low, middle)})
        return Answer(None, f"not decided within {BOX_BUDGET} ranges of {', '.join(sorted(dims))}")

    def _first_point(self, scope: _Scope) -> _Scope:
        """The first value of a box that is false everywhere."""
        point = {s: (low, low) if s in scope.touched else (low, high) for s, (low, high) in scope.box.items()}
        return _Scope(scope.subject, scope.dims, point, scope.touched)


def _integer(node: ast.expr) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _words(value: Any) -> str:
    if isinstance(value, Interval):
        return f"{value.lo}..{value.hi}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(v.symbol or "?" if isinstance(v, Missing) else _words(v) for v in value) + "]"
    return repr(value)


@functools.cache
def parse(text: str) -> Expression:
    """The parsed form of a constraint; ConstraintError when it is not in the language."""
    return Expression(text)
