"""A graph as a list of calls over numbered slots.

Everything that does not change between runs (which kernel, which attributes, which constants, when a value is used
for the last time) is settled when the plan is made; running it is one loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from porting_kernels.dtypes import describe
from porting_kernels.errors import PortingError
from porting_passes import provenance

ABSENT = 0
"""The slot of an optional operand that is not given; it always holds None."""

Observer = Callable[["Step", list[Any]], None]


class ExecutionError(PortingError):
    """A kernel failed inside a node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One node: ``call`` takes the values of ``inputs`` and gives those of ``outputs``; then ``frees`` are dropped.

    in_place: stands for ``call`` where nobody observes; it writes over its first operand.
    """

    node: ir.Node
    call: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]
    in_place: Callable[..., Any] | None = None


def describe_node(node: ir.Node) -> str:
    """``Conv node 'name'`` with the domain where it is not ONNX's own."""
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    return f"{domain}{node.op_type} node {node.name!r}"


def place(node: ir.Node) -> str:
    """Where a node comes from in the user's own names, or the name of its first output."""
    return provenance.place(node.outputs[0]) if node.outputs else str(node.name)


def _located(error: Exception, step: Step, frame: list[Any]) -> PortingError:
    """The error with the node that it happened in; an error of an inner graph keeps its text and gains a place."""
    operands = ", ".join(describe(frame[slot]) for slot in step.inputs[: len(step.node.inputs)])
    here = f"{describe_node(step.node)} at {place(step.node)}"
    if not isinstance(error, PortingError):
        message = f"{describe_node(step.node)} failed: {error}"
        return ExecutionError(message, met=operands or None, where=place(step.node))
    if error.where is None:
        error.met = f"{error.met}; operands {operands}" if error.met is not None else operands or None
        error.where = here
    else:
        error.where = f"{error.where}, inside {here}"
    return error


class Plan:
    """A graph ready to run: called with the values of its inputs (and captured values), gives those of its outputs.

    parameters: slots of the arguments, in order. results: slots of the outputs. constants: slot -> value.
    A plan holds no state of a run: several threads may run one at once.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        slots: int,
        parameters: Sequence[int],
        results: Sequence[int],
        constants: dict[int, Any],
    ) -> None:
        self.steps = tuple(steps)
        self.parameters = tuple(parameters)
        self.results = tuple(results)
        self._template: list[Any] = [None] * slots
        for slot, value in constants.items():
            self._template[slot] = value
        # A plain tuple a step, and a plain number where there is one output: the loop below pays for every look-up.
        self._observed = tuple(_instruction(step, step.call) for step in self.steps)
        self._program = tuple(_instruction(step, step.in_place or step.call) for step in self.steps)

    def __call__(self, *arguments: Any, observe: Observer | None = None) -> tuple[Any, ...]:
        """Run once. observe: called after each step with the frame, before values are freed; may replace values."""
        frame = self._template.copy()
        for slot, value in zip(self.parameters, arguments, strict=True):
            frame[slot] = value
        del arguments
        step: Step | None = None
        try:
            for call, inputs, outputs, frees, step in self._program if observe is None else self._observed:
                result = call(*[frame[slot] for slot in inputs])
                if isinstance(outputs, int):
                    frame[outputs] = result[0] if result.__class__ is tuple else result
                else:
                    _spread(result, outputs, frame)
                if observe is not None:
                    observe(step, frame)
                for slot in frees:
                    frame[slot] = None
        except Exception as error:
            if step is None:
                raise
            located = _located(error, step, frame)
            if located is error:
                raise
            raise located from error
        return tuple([frame[slot] for slot in self.results])


def _instruction(
    step: Step, call: Callable[..., Any]
) -> tuple[Callable[..., Any], tuple[int, ...], int | tuple[int, ...], tuple[int, ...], Step]:
    return call, step.inputs, step.outputs[0] if len(step.outputs) == 1 else step.outputs, step.frees, step


def _spread(result: Any, outputs: tuple[int, ...], frame: list[Any]) -> None:
    if not outputs:
        return
    if not isinstance(result, tuple) or len(result) < len(outputs):
        got = len(result) if isinstance(result, tuple) else 1
        raise ExecutionError("a kernel gave fewer outputs than its node names", required=len(outputs), met=got)
    for slot, value in zip(outputs, result, strict=False):
        frame[slot] = value
