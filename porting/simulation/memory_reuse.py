"""When memory is given back or used again: slots freed after their last use, operands written over.

Elementwise steps may write over their operand, which is half the memory traffic of an activation behind a convolution,
but only where nothing can notice. The operand was made by a kernel that owns what it returns (no view of anything), the
step is its only use, and no observer looks on: a tap may keep the tensors that it was shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir as ir

from porting.simulation.plan import Step
from porting_kernels.registry import Kernel


def overwriting(steps: Sequence[Step], kernel_of: Callable[[ir.Node], Kernel | None]) -> list[Step]:
    """The steps, with ``in_place`` set where it is safe. kernel_of: what computes a node, None if not a kernel."""
    owned: set[ir.Value | None] = set()
    result = []
    for step in steps:
        kernel = kernel_of(step.node)
        value = step.node.inputs[0] if step.node.inputs else None
        if (
            kernel is not None
            and kernel.in_place is not None
            and value is not None
            and value in owned
            and len(value.uses()) == 1
            and not value.is_graph_output()
            and not step.node.attributes
        ):
            step = dataclasses.replace(step, in_place=kernel.in_place)
        # What was written over is still owned by whoever holds it: chains of activations go on in one buffer.
        if kernel is not None and (kernel.owns_result or step.in_place is not None):
            owned.update(step.node.outputs[:1])
        result.append(step)
    return result


def freeing(steps: Sequence[Step], kept: set[int]) -> list[Step]:
    """The steps with each slot, other than the kept ones, freed after the last step that touches it."""
    seen = set(kept)
    freed: list[Step] = []
    for step in reversed(steps):
        last = {slot for slot in (*step.inputs, *step.outputs) if slot not in seen}
        seen |= last
        freed.append(dataclasses.replace(step, frees=tuple(sorted(last))))
    return freed[::-1]
