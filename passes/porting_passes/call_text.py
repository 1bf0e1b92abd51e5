"""How a row says which Python call computes its operator: one Python expression, read and never evaluated.

    torch_npu.npu_rms_norm(self, gamma, epsilon=epsilon)
    torch_npu.npu_grouped_matmul([x], [transposed(weight)], group_list=group_list, output_dtype=dtype(output_dtype))

The function is a dotted path. An argument is the name of an operand or attribute of the row, a list of arguments, a
plain constant, another dotted call, or one of CONVERSIONS applied to an argument. The call's result is the node's
output; a tuple or list that it returns holds the node's outputs, in order.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator

from porting_kernels.errors import PortingError

CONVERSIONS = (
    "causal_mask",
    "copied",
    "dense",
    "dtype",
    "dtype_of",
    "flag",
    "float32_words",
    "groups_first",
    "heads",
    "int32_words",
    "numel",
    "rows",
    "tokens",
    "transposed",
    "zeros_like",
)
"""Names of what is done to an argument on its way; :mod:`porting.runner.arguments` says what each of them is."""


class CallTextError(PortingError):
    """A call that is not written in the language."""


@dataclasses.dataclass(frozen=True)
class Name:
    """An operand or attribute of the row."""

    name: str


@dataclasses.dataclass(frozen=True)
class Plain:
    """A constant of Python."""

    value: int | float | str | bool | None


@dataclasses.dataclass(frozen=True)
class Listed:
    """Arguments in a list, as calls over lists of tensors want them."""

    items: tuple[Argument, ...]


@dataclasses.dataclass(frozen=True)
class Converted:
    """An argument under one of CONVERSIONS."""

    conversion: str
    argument: Argument


@dataclasses.dataclass(frozen=True)
class Call:
    """``path`` called with arguments by position and by keyword."""

    path: str
    positional: tuple[Argument, ...]
    keywords: tuple[tuple[str, Argument], ...]

    @property
    def names(self) -> set[str]:
        """The operands and attributes that it takes."""
        return {leaf.name for leaf in _leaves(self) if isinstance(leaf, Name)}


Argument = Name | Plain | Listed | Converted | Call


def _leaves(argument: Argument) -> Iterator[Argument]:
    match argument:
        case Listed(items=items):
            parts = items
        case Converted(argument=inner):
            parts = (inner,)
        case Call(positional=positional, keywords=keywords):
            parts = (*positional, *(value for _, value in keywords))
        case _:
            parts = ()
            yield argument
    for part in parts:
        yield from _leaves(part)


def parse_call(text: str) -> Call:
    """The call that a text says. CallTextError for anything else than a dotted call."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise CallTextError(f"call {text!r} does not parse: {error.msg}") from error
    argument = _argument(tree, text)
    if not isinstance(argument, Call):
        raise CallTextError(f"call {text!r} calls nothing", required="module.function(...)")
    return argument


def _argument(node: ast.expr, text: str) -> Argument:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return Plain(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return Plain(-value)
        case ast.Name(id=name):
            return Name(name)
        case ast.List(elts=items):
            return Listed(tuple(_argument(item, text) for item in items))
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in CONVERSIONS:
            return Converted(name, _argument(inner, text))
        case ast.Call(func=ast.Attribute() as function, args=positional, keywords=keywords):
            return Call(
                ast.unparse(function),
                tuple(_argument(a, text) for a in positional),
                tuple((k.arg, _argument(k.value, text)) for k in keywords if k.arg is not None),
            )
    raise CallTextError(
        f"call {text!r} uses {ast.unparse(node)!r}, which is not in the language",
        required=f"names, constants, lists, dotted calls, and {', '.join(CONVERSIONS)} of one argument",
    )
