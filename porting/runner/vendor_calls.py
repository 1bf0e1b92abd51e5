"""Nodes of a surface's own operators -> calls of the vendor's Python modules, as the rows say."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import onnx_ir as ir
import torch

from porting.errors import RunnerError
from porting.runner.arguments import CONVERSIONS
from porting_passes.call_text import Argument, Call, Converted, Listed, Name, Plain, parse_call
from porting_passes.node_view import is_constant
from porting_passes.operator_set import OperatorRow, OperatorSet


class VendorCalls:
    """Binds the nodes that a row with a call names. ``made``: which node was bound to which function.

    What is made of constants alone (a transposed, packed or reordered weight) is made once and kept.
    """

    def __init__(self, operator_set: OperatorSet) -> None:
        self._operator_set = operator_set
        self.made: dict[str, str] = {}

    def modules(self, model: ir.Model) -> dict[str, ModuleType]:
        """The vendor's modules that the model needs, imported. RunnerError for one that is not there."""
        rows = (self._row(node) for node in model.graph.all_nodes())
        names = {parse_call(row.call).path.split(".")[0] for row in rows if row is not None}
        return {name: _module(name) for name in sorted(names)}

    def bind(self, node: ir.Node, attributes: Mapping[str, Any]) -> Callable[..., Any] | None:
        """The vendor's call of a node, or None for a node of plain torch."""
        row = self._row(node)
        if row is None:
            return None
        call = parse_call(row.call)
        self.made[node.name or ""] = call.path
        return _Bound(node, row, call, attributes)

    def _row(self, node: ir.Node) -> OperatorRow | None:
        row = self._operator_set.form(node.domain, node.op_type, node.overload)
        return row if row is not None and row.call else None


class _Bound:
    """One node's call: takes the node's operands, gives its outputs."""

    def __init__(self, node: ir.Node, row: OperatorRow, call: Call, attributes: Mapping[str, Any]) -> None:
        self._call = call
        self._names = [operand.name for operand in row.inputs or ()]
        self._outputs = len(node.outputs)
        defaults = {a.name: a.default for a in row.attributes if a.default is not None}
        self._attributes = {**defaults, **attributes}
        self._constant = {n for n, v in zip(self._names, node.inputs, strict=False) if v is not None and is_constant(v)}
        self._kept: dict[Argument, Any] = {}

    def __call__(self, *operands: torch.Tensor | None) -> Any:
        values = {**self._attributes, **dict(zip(self._names, operands, strict=False))}
        result = self._value(self._call, values)
        results = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if len(results) < self._outputs:
            raise RunnerError(f"{self._call.path} returned too little", required=self._outputs, met=len(results))
        return results[: self._outputs] if self._outputs > 1 else results[0]

    def _value(self, argument: Argument, values: Mapping[str, Any]) -> Any:
        if argument in self._kept:
            return self._kept[argument]
        value: Any
        match argument:
            case Name(name=name):
                return values[name]
            case Plain(value=plain):
                return plain
            case Listed(items=items):
                return [self._value(item, values) for item in items]
            case Converted(conversion=conversion, argument=inner):
                value = CONVERSIONS[conversion](self._value(inner, values))
            case Call(path=path, positional=positional, keywords=keywords):
                value = _function(path)(
                    *[self._value(a, values) for a in positional],
                    **{name: self._value(a, values) for name, a in keywords},
                )
        if _names(argument) <= self._constant and argument is not self._call:
            self._kept[argument] = value
        return value


def _names(argument: Argument) -> set[str]:
    return Call("", (argument,), ()).names


@functools.cache
def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RunnerError(
            f"the vendor's Python module {name} is not here",
            required=f"import {name}",
            met=str(error),
            fix="run this on a machine of the vendor's, or `porting simulate`, which needs none",
        ) from error


def _function(path: str) -> Callable[..., Any]:
    name, *rest = path.split(".")
    found: Any = _module(name)
    for part in rest:
        if not hasattr(found, part):
            version = getattr(_module(name), "__version__", "of unknown version")
            raise RunnerError(f"{name} {version} has no {path}", fix="another toolkit version: --backend NAME@TOOLKIT")
        found = getattr(found, part)
    function: Callable[..., Any] = found
    return function
