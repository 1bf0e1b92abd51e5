"""If, Loop, Scan and SequenceMap: operators whose meaning is a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from porting.simulation.plan import Plan
from porting_kernels import dtypes
from porting_kernels.errors import PortingError, ShapeError

Call = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """A planned body. picks: which of the node's captured values it takes, after its own arguments."""

    graph: ir.Graph
    plan: Plan
    picks: tuple[int, ...]

    def __call__(self, arguments: Sequence[Any], captured: Sequence[Any]) -> tuple[Any, ...]:
        """Outputs of the body for its own arguments and the captured values of the whole node."""
        return self.plan(*arguments, *[captured[index] for index in self.picks])


@dataclasses.dataclass(frozen=True)
class ControlNode:
    """What a builder sees: the bodies by attribute name, the other attributes, and the number of the node's inputs.

    The built call gets the node's operands and then the captured values of all bodies.
    """

    subgraphs: Mapping[str, Subgraph]
    attributes: Mapping[str, Any]
    operands: int
    version: int


def _branch(node: ControlNode) -> Call:
    """If: only the taken branch is computed."""
    then_branch, else_branch = node.subgraphs["then_branch"], node.subgraphs["else_branch"]

    def call(condition: torch.Tensor, *captured: Any) -> tuple[Any, ...]:
        return (then_branch if bool(condition) else else_branch)((), captured)

    return call


def _empty_scan(output: ir.Value, axis: int = 0) -> torch.Tensor:
    """The stacked output of no iterations: dtype and rank come from the body's declared output."""
    dims = [dim if isinstance(dim, int) else 0 for dim in output.shape or ()]
    dims.insert(axis if axis >= 0 else axis + len(dims) + 1, 0)
    dtype = dtypes.torch_dtype(output.dtype) if output.dtype is not None else torch.float32
    return torch.empty(dims, dtype=dtype)


def _stack(values: list[torch.Tensor], output: ir.Value, axis: int = 0) -> torch.Tensor:
    return torch.stack(values, axis) if values else _empty_scan(output, axis)


def _loop(node: ControlNode) -> Call:
    """Loop: carried values first, then one stacked output for each further output of the body."""
    body = node.subgraphs["body"]
    carried_count = node.operands - 2
    scanned_outputs = list(body.graph.outputs)[1 + carried_count :]

    def call(*operands: Any) -> tuple[Any, ...]:
        trips, condition = operands[:2]
        carried, captured = operands[2 : node.operands], operands[node.operands :]
        del operands
        limit = None if trips is None else int(trips)
        going = condition is None or bool(condition)
        scanned: list[list[torch.Tensor]] = [[] for _ in scanned_outputs]
        iteration = 0
        while going and (limit is None or iteration < limit):
            results = body((torch.tensor(iteration), torch.tensor(going), *carried), captured)
            going = bool(results[0])
            carried = results[1 : 1 + carried_count]
            for values, value in zip(scanned, results[1 + carried_count :], strict=True):
                values.append(value)
            iteration += 1
        return (*carried, *map(_stack, scanned, scanned_outputs))

    return call


def _scan_once(
    body: Subgraph,
    state: Sequence[Any],
    scanned: Sequence[torch.Tensor],
    captured: Sequence[Any],
    *,
    input_axes: Sequence[int],
    input_reverse: Sequence[int],
    output_axes: Sequence[int],
    output_reverse: Sequence[int],
) -> tuple[Any, ...]:
    lengths = {tensor.shape[axis] for tensor, axis in zip(scanned, input_axes, strict=True)}
    if len(lengths) != 1:
        raise ShapeError("scanned inputs differ in length", required="one length", met=sorted(lengths))
    slices = [
        tensor.flip(axis).unbind(axis) if reverse else tensor.unbind(axis)
        for tensor, axis, reverse in zip(scanned, input_axes, input_reverse, strict=True)
    ]
    collected: list[list[torch.Tensor]] = [[] for _ in output_axes]
    for step in zip(*slices, strict=True):
        results = body((*state, *step), captured)
        state = results[: len(state)]
        for values, value in zip(collected, results[len(state) :], strict=True):
            values.append(value)
    outputs = []
    declared = list(body.graph.outputs)[len(state) :]
    for values, output, axis, reverse in zip(collected, declared, output_axes, output_reverse, strict=True):
        outputs.append(_stack(values[::-1] if reverse else values, output, axis))
    return (*state, *outputs)


def _scan(node: ControlNode) -> Call:
    """Scan from opset 9 on: no batch axis; axes and directions of each scanned input and output."""
    if node.version < 9:
        return _batched_scan(node)
    body, attributes = node.subgraphs["body"], node.attributes
    scan_inputs = attributes["num_scan_inputs"]
    states = node.operands - scan_inputs
    scan_outputs = len(body.graph.outputs) - states
    axes = {
        "input_axes": attributes.get("scan_input_axes") or [0] * scan_inputs,
        "input_reverse": attributes.get("scan_input_directions") or [0] * scan_inputs,
        "output_axes": attributes.get("scan_output_axes") or [0] * scan_outputs,
        "output_reverse": attributes.get("scan_output_directions") or [0] * scan_outputs,
    }

    def call(*operands: Any) -> tuple[Any, ...]:
        return _scan_once(body, operands[:states], operands[states : node.operands], operands[node.operands :], **axes)

    return call


def _batched_scan(node: ControlNode) -> Call:
    """Scan of opset 8: the first operand holds sequence lengths, axis 0 is the batch and axis 1 the sequence."""
    body, attributes = node.subgraphs["body"], node.attributes
    scan_inputs = attributes["num_scan_inputs"]
    states = node.operands - 1 - scan_inputs
    scan_outputs = len(body.graph.outputs) - states
    reverse = attributes.get("directions") or [0] * scan_inputs

    def call(*operands: Any) -> tuple[Any, ...]:
        lengths, captured = operands[0], operands[node.operands :]
        initial, scanned = operands[1 : 1 + states], operands[1 + states : node.operands]
        batch, longest = scanned[0].shape[:2]
        rows = []
        for index in range(batch):
            length = longest if lengths is None else int(lengths[index])
            row = _scan_once(
                body,
                [value[index] for value in initial],
                [value[index, :length] for value in scanned],
                captured,
                input_axes=[0] * scan_inputs,
                input_reverse=reverse,
                output_axes=[0] * scan_outputs,
                output_reverse=[0] * scan_outputs,
            )
            padded = [
                torch.nn.functional.pad(value, (0, 0) * (value.dim() - 1) + (0, longest - length))
                for value in row[states:]
            ]
            rows.append((*row[:states], *padded))
        return tuple(torch.stack(values) for values in zip(*rows, strict=True))

    return call


def _sequence_map(node: ControlNode) -> Call:
    """SequenceMap: the body on each element of the first sequence; other sequences go along, tensors are repeated."""
    body = node.subgraphs["body"]

    def call(*operands: Any) -> tuple[Any, ...]:
        arguments, captured = operands[: node.operands], operands[node.operands :]
        length = len(arguments[0])
        for index, argument in enumerate(arguments):
            if isinstance(argument, list) and len(argument) != length:
                raise ShapeError(
                    f"sequence {index} has another length than the first", required=length, met=len(argument)
                )
        results = [body([a[i] if isinstance(a, list) else a for a in arguments], captured) for i in range(length)]
        return tuple([row[output] for row in results] for output in range(len(body.graph.outputs)))

    return call


_BUILDERS: Mapping[tuple[str, str], Callable[[ControlNode], Call]] = {
    ("", "If"): _branch,
    ("", "Loop"): _loop,
    ("", "Scan"): _scan,
    ("", "SequenceMap"): _sequence_map,
}


def handles(domain: str, op_type: str) -> bool:
    """True for the operators of this file."""
    return (domain, op_type) in _BUILDERS


def operators() -> list[tuple[str, str]]:
    """(domain, type) of the operators of this file."""
    return sorted(_BUILDERS)


def build(domain: str, op_type: str, node: ControlNode) -> Call:
    """The call of one node. Raises PortingError when a body is missing."""
    try:
        return _BUILDERS[domain, op_type](node)
    except KeyError as error:
        raise PortingError(f"{op_type} lacks its attribute {error}") from error
