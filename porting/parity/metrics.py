"""How far a result is from its reference: streamed over samples, accumulated in float64.

Every number is finite, so that each can be compared with a limit by any reader of the JSON:

=============  =====================================================================================================
sqnr_db        10 log10(sum r^2 / sum (r - s)^2), cut to +-300 dB: 300 says "no difference at all", -300 says "the
               reference is zero everywhere and the result is not"
rel_l2         sqrt(sum (r - s)^2 / sum r^2), the same statement as sqnr_db: 0 and 1e15 at the two ends
cosine         of the flattened tensors over all samples; 1 when both are zero, 0 when one is
max_abs        largest |r - s|
max_ulp        largest distance in steps of the result's format, the reference rounded to it first; None for formats
               without a meaning here (integers, float64, 8-bit floats)
nan_count      elements where exactly one side is NaN
inf_count      elements where one side is infinite and the other is not the same infinity
overflows      elements beyond the range of the result's format: finite in the reference and not in the result, or
               saturated at its largest value
mismatches     integers and booleans only: elements that differ; None for floats
compared       elements behind these numbers: finite on both sides, or masks that agree. NaN on both sides, and the same
               infinity, are no difference, but no evidence either
=============  =====================================================================================================

Elements that are not finite on either side are counted and left out of the sums, and so are masks: where the reference
holds -1e8 or less (masks are written -1e9 or finfo(float32).min) and the result the same, or the lowest value of its
own format, or -Inf, both mean minus infinity. Kept in, they would drown the energy of everything else.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from porting.errors import ParityError

SQNR_CAP_DB = 300.0
MASK_THRESHOLD = -1e8
_CHUNK = 1 << 18
_SUMS = (
    "count",
    "compared",
    "reference_energy",
    "result_energy",
    "product",
    "noise",
    "nan_count",
    "inf_count",
    "overflows",
)
_ULP_VIEW = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The table above, for one value over all samples.

    count: elements met. reference_max: largest finite |r|, masks aside.
    """

    count: int
    compared: int
    cosine: float
    sqnr_db: float
    rel_l2: float
    max_abs: float
    max_ulp: int | None
    nan_count: int
    inf_count: int
    overflows: int
    mismatches: int | None
    reference_max: float

    @property
    def nonfinite_count(self) -> int:
        """NaN and infinities that only one side has."""
        return self.nan_count + self.inf_count

    @property
    def mismatch_fraction(self) -> float | None:
        """Share of integer elements that differ; None for floats."""
        return None if self.mismatches is None else self.mismatches / max(self.count, 1)

    def to_json(self) -> dict[str, float | int | None]:
        """Plain numbers, floats rounded to nine significant digits."""
        return {k: significant(v) if isinstance(v, float) else v for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass
class Accumulator:
    """The sums behind `Metrics`: merged in a fixed order, they have the same bits for any number of threads."""

    count: int = 0
    compared: int = 0
    reference_energy: float = 0.0
    result_energy: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    max_ulp: int | None = None
    nan_count: int = 0
    inf_count: int = 0
    overflows: int = 0
    mismatches: int | None = None
    reference_max: float = 0.0

    def update(self, reference: torch.Tensor, result: torch.Tensor, *, where: str | None = None) -> None:
        """Add one pair of equal shape, any real dtypes. Raises ParityError, naming `where`, when the shapes differ."""
        if reference.shape != result.shape:
            raise ParityError(
                "reference and result have different shapes",
                required=f"shape {list(reference.shape)}",
                met=f"shape {list(result.shape)}",
                where=where,
            )
        flat_reference, flat_result = reference.detach().reshape(-1), result.detach().reshape(-1)
        for start in range(0, flat_reference.numel(), _CHUNK):
            stop = start + _CHUNK
            self._update_chunk(flat_reference[start:stop], flat_result[start:stop])
        if reference.numel() == 0 and _is_integer(result):
            self.mismatches = self.mismatches or 0

    def _update_chunk(self, reference: torch.Tensor, result: torch.Tensor) -> None:
        self.count += reference.numel()
        if _is_integer(reference) and _is_integer(result):
            differ = reference.to(torch.int64) != result.to(torch.int64)
            self.mismatches = (self.mismatches or 0) + int(differ.sum())
        r, s = reference.double(), result.double()
        usable = r.isfinite() & s.isfinite()
        masked = _both_masked(r, s, result.dtype)
        if masked is not None or not bool(usable.all()):
            agreed = (r == s) if masked is None else (r == s) | masked
            nan_r, nan_s = r.isnan(), s.isnan()
            self.nan_count += int((nan_r != nan_s).sum())
            self.inf_count += int((~usable & ~nan_r & ~nan_s & ~agreed).sum())
            lost = r.isfinite() & ~s.isfinite() & ~agreed
            if bool(lost.any()):
                self.overflows += int(lost.sum())
                self.reference_max = max(self.reference_max, float(r[lost].abs().max()))
            if masked is not None:
                self.compared += int(masked.sum())
                usable = usable & ~masked
            r, s, reference, result = r[usable], s[usable], reference[usable], result[usable]
        self.compared += r.numel()
        if r.numel() == 0:
            return
        if result.dtype in _ULP_VIEW:
            limit = torch.finfo(result.dtype).max
            self.overflows += int(((s.abs() == limit) & (r.abs() > limit)).sum())
        difference = r - s
        self.reference_energy += float((r * r).sum())
        self.result_energy += float((s * s).sum())
        self.product += float((r * s).sum())
        self.noise += float((difference * difference).sum())
        self.max_abs = max(self.max_abs, float(difference.abs().max()))
        self.reference_max = max(self.reference_max, float(r.abs().max()))
        if result.dtype in _ULP_VIEW and reference.is_floating_point():
            self.max_ulp = max(self.max_ulp or 0, ulp_distance(reference, result))

    def merge(self, other: Accumulator) -> None:
        """Add the sums of another accumulator to this one."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.max_abs = max(self.max_abs, other.max_abs)
        self.reference_max = max(self.reference_max, other.reference_max)
        for name in ("max_ulp", "mismatches"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None:
                both = max(mine or 0, theirs) if name == "max_ulp" else (mine or 0) + theirs
                setattr(self, name, both)

    def metrics(self) -> Metrics:
        """The finished numbers."""
        return Metrics(
            count=self.count,
            compared=self.compared,
            cosine=_cosine(self.product, self.reference_energy, self.result_energy),
            sqnr_db=_sqnr_db(self.reference_energy, self.noise),
            rel_l2=_rel_l2(self.reference_energy, self.noise),
            max_abs=self.max_abs,
            max_ulp=self.max_ulp,
            nan_count=self.nan_count,
            inf_count=self.inf_count,
            overflows=self.overflows,
            mismatches=self.mismatches,
            reference_max=self.reference_max,
        )


def measure(reference: torch.Tensor, result: torch.Tensor) -> Metrics:
    """The metrics of one pair of tensors."""
    accumulator = Accumulator()
    accumulator.update(reference, result)
    return accumulator.metrics()


def ulp_distance(reference: torch.Tensor, result: torch.Tensor) -> int:
    """Largest number of representable values between the two, in the result's format (float32, float16, bfloat16).

    The reference is rounded to that format first; pairs where that overflows are left out. -0 and 0 are the same.
    """
    rounded = reference.to(result.dtype)
    finite = rounded.isfinite() & result.isfinite()
    if not bool(finite.any()):
        return 0
    a, b = _ordered(rounded[finite]), _ordered(result[finite])
    return int((a - b).abs().max())


def _ordered(x: torch.Tensor) -> torch.Tensor:
    """Floats -> int64 such that neighbours differ by one: the magnitude bits, negated below zero."""
    view = _ULP_VIEW[x.dtype]
    bits = x.contiguous().view(view).to(torch.int64)
    magnitude = bits & torch.iinfo(view).max
    return torch.where(bits < 0, -magnitude, magnitude)


def significant(value: float, digits: int = 9) -> float:
    """Rounded to significant digits: what the JSON files hold, so that they do not depend on the last bits of a sum."""
    return float(f"{value:.{digits - 1}e}")


def _both_masked(r: torch.Tensor, s: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """Where both mean minus infinity; None when the reference has no such element. dtype: the result's format."""
    low = r <= MASK_THRESHOLD
    if not dtype.is_floating_point or not bool(low.any()):
        return None
    return low & ((s <= torch.finfo(dtype).min) | (s == r))


def _is_integer(x: torch.Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def _cosine(product: float, reference: float, result: float) -> float:
    if reference == 0.0 or result == 0.0:
        return 1.0 if reference == result else 0.0
    return max(-1.0, min(1.0, product / math.sqrt(reference) / math.sqrt(result)))


def _sqnr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return SQNR_CAP_DB
    if signal == 0.0:
        return -SQNR_CAP_DB
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, 10.0 * (math.log10(signal) - math.log10(noise))))


def _rel_l2(signal: float, noise: float) -> float:
    worst: float = 10.0 ** (SQNR_CAP_DB / 20.0)
    if noise == 0.0:
        return 0.0
    return worst if signal == 0.0 else min(worst, math.sqrt(noise) / math.sqrt(signal))
