"""What a rewrite promises about numbers, and the small models that hold it to the promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True)
class Contract:
    """How far the replacement may be from what it replaces.

    kind ``exact``: the same bits (any NaN equals any NaN). ``ulp``: at most ``value`` units in the last place of the
    output's dtype. ``tolerance``: largest absolute difference at most ``value`` times the largest finite magnitude of
    the expected output; ``value`` is meant for float32, see :meth:`limit`. ``reason`` says where the difference
    comes from and is required unless the kind is ``exact``.
    nonfinite: False when infinities and NaN in the inputs are outside the promise (the reason says why).
    """

    kind: Literal["exact", "ulp", "tolerance"]
    value: float = 0.0
    reason: str = ""
    nonfinite: bool = True

    def __post_init__(self) -> None:
        if self.kind != "exact" and (self.value <= 0 or not self.reason):
            raise ValueError(f"a {self.kind} contract needs a positive value and a reason")
        if not self.nonfinite and not self.reason:
            raise ValueError("a contract without infinities and NaN needs a reason")

    def limit(self, dtype: np.dtype[Any]) -> float:
        """The bound in force for outputs of ``dtype``: a tolerance scales with the dtype's epsilon over float32's."""
        if self.kind != "tolerance" or dtype.kind != "f":
            return self.value
        return self.value * max(float(np.finfo(dtype).eps / np.finfo(np.float32).eps), 1e-3)

    def violation(self, expected: np.ndarray, actual: np.ndarray) -> str | None:
        """None when ``actual`` is within the contract of ``expected``; else one line with the worst element."""
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return f"{actual.dtype}{actual.shape} where {expected.dtype}{expected.shape} was expected"
        if expected.size == 0:
            return None
        if expected.dtype.kind != "f":
            different = int(np.count_nonzero(expected != actual))
            return f"{different} of {expected.size} elements differ" if different else None
        distance = self._distance(expected, actual)
        worst = int(np.argmax(distance))
        bound = self.limit(expected.dtype)
        if distance.flat[worst] <= bound:
            return None
        met = f"{distance.flat[worst]:.3g} where {self.kind} allows {bound:.3g}"
        return f"{met}: expected {expected.flat[worst]!r}, got {actual.flat[worst]!r} at flat index {worst}"

    def _distance(self, expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
        """Distance of each element in the contract's own unit; infinite where only one side is NaN or infinite."""
        if self.kind == "exact":
            same = (expected == actual) & (np.signbit(expected) == np.signbit(actual))
            return np.where(same | (np.isnan(expected) & np.isnan(actual)), 0.0, np.inf)
        if self.kind == "ulp":
            raw = np.abs(_ordered(expected).astype(np.float64) - _ordered(actual).astype(np.float64))
        else:
            finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
            scale = max(float(finite.max(initial=0.0)), float(np.finfo(expected.dtype).tiny))
            with np.errstate(invalid="ignore"):
                raw = np.abs(expected.astype(np.float64) - actual.astype(np.float64)) / scale
        same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
        broken = ~(np.isfinite(expected) & np.isfinite(actual))
        return np.where(same, 0.0, np.where(broken, np.inf, raw))


EXACT = Contract("exact")


def _ordered(x: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats, neighbours one apart, both zeros 0 (as int64)."""
    bits = x.view(f"i{x.dtype.itemsize}").astype(np.int64)
    smallest = -(1 << (8 * x.dtype.itemsize - 1))
    return np.where(bits < 0, smallest - bits, bits)


@dataclasses.dataclass(frozen=True)
class Example:
    """A small float32 model that triggers a rewrite (or, with ``applies=False``, looks like it and must not).

    inputs: values for inputs that random data does not fit (indices, shapes); the others are generated from their
    dtype and shape. dtypes: the floating types that the example also holds in once its float32 tensors are retyped.
    """

    name: str
    model: ir.Model
    applies: bool = True
    inputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dtypes: tuple[ir.DataType, ...] = FLOATS

    @classmethod
    def from_text(
        cls,
        name: str,
        text: str,
        *,
        applies: bool = True,
        inputs: Mapping[str, np.ndarray] | None = None,
        dtypes: tuple[ir.DataType, ...] = FLOATS,
        **weights: np.ndarray,
    ) -> Example:
        """An example in ONNX's textual form; ``weights`` become initializers of these names."""
        tensors = [ir.tensor(array, name=weight) for weight, array in weights.items()]
        return cls(name, ir.from_onnx_text(text, initializers=tensors), applies, dict(inputs or {}), dtypes)
