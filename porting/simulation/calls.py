"""What is put around the call of a node: weights read, results promoted, operands completed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from porting.simulation.plan import Plan
from porting.simulation.weight_cache import CachedWeight

Call = Callable[..., Any]


def call_function(plan: Plan, parameters: int, *operands: Any) -> tuple[Any, ...]:
    """Run a function body; operands that the caller leaves out at the end are absent."""
    return plan(*operands, *[None] * (parameters - len(operands)))


def at_places(results: tuple[Any, ...], places: Sequence[int | None]) -> tuple[Any, ...]:
    """Results in another order, None where a place has none."""
    return tuple([None if place is None else results[place] for place in places])


def reading(call: Call, streams: Sequence[int]) -> Call:
    """The call with weights read into memory, but for those operands that the kernel reads by itself."""

    def read(*operands: Any) -> Any:
        return call(
            *[
                operand.tensor() if isinstance(operand, CachedWeight) and index not in streams else operand
                for index, operand in enumerate(operands)
            ]
        )

    return read


def promoting(call: Call) -> Call:
    """The call with every floating-point result in float64."""

    def promoted(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.double() if value.is_floating_point() else value
        if isinstance(value, list | tuple):
            return type(value)(promoted(item) for item in value)
        return value

    return lambda *operands: promoted(call(*operands))
