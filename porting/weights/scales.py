"""The scales of 8-bit weights: which tensor they are, and whether they are what a format says they are."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from porting.errors import InvalidModelError
from porting.weights.reader import Reader
from porting.weights.safetensors_file import DTYPES, Entry
from porting.weights.store import WeightStore
from porting_kernels.fp8 import SCALE_DTYPES, decode_scales, scale_shape

FLOAT8 = ("F8_E4M3", "F8_E5M2")
CODES = (*FLOAT8, "I8")


def scale_names(name: str) -> tuple[str, ...]:
    """Names under which the scales of a weight may be stored, the most usual first."""
    names = (f"{name}_scale_inv", f"{name}_scale")
    return (*names, name.removesuffix("weight") + "scale") if name.endswith(".weight") else names


def find_scale(entries: Mapping[str, Entry], name: str) -> Entry | None:
    """The scales of a weight, by name: ``X.weight_scale_inv``, ``X.weight_scale`` or ``X.scale``."""
    return next((entries[scale] for scale in scale_names(name) if scale in entries), None)


def required_scale_shape(weight: Entry, block: tuple[int, int]) -> tuple[int, ...]:
    """Scales of each matrix of a weight: leading axes stay, the last two are counted in blocks. A vector is one row."""
    matrix = scale_shape(weight.shape[-2] if len(weight.shape) > 1 else 1, weight.columns, block)
    return weight.shape[:-2] + (matrix if len(weight.shape) > 1 else matrix[1:])


def check_scale(weight: Entry, scale: Entry | None, block: tuple[int, int]) -> None:
    """Raise InvalidModelError unless weight and scales are of known dtypes, and the scales fit in number."""
    if weight.dtype not in CODES:
        raise InvalidModelError("a weight of this dtype takes no scale", required=" or ".join(CODES), where=weight)
    if scale is None:
        raise InvalidModelError(
            f"no scale for the 8-bit weight {weight.name}",
            required=" or ".join(scale_names(weight.name)),
            where=weight,
        )
    if scale.torch_dtype not in SCALE_DTYPES:
        known = ", ".join(name for name, dtype in DTYPES.items() if dtype in SCALE_DTYPES)
        raise InvalidModelError(f"scales of an unknown dtype for {weight.name}", required=known, where=scale)
    required = required_scale_shape(weight, block)
    if scale.shape != required:
        raise InvalidModelError(
            f"scales of a wrong shape for {weight.name} {list(weight.shape)}",
            required=f"{list(required)}, one for each block of {block[0]} x {block[1]}",
            met=list(scale.shape),
            where=scale,
        )


def read_scales(store: Reader, scale: Entry, rows: range, columns: range) -> torch.Tensor:
    """Part of a scale tensor as float32. InvalidModelError, naming the tensor, for NaN and infinity."""
    values = decode_scales(store.read_box(scale, rows, columns))
    finite = torch.isfinite(values)
    if not finite.all():
        row, column = (int(i) for i in (~finite).nonzero()[0])
        raise InvalidModelError(
            f"not a number among the scales {scale.name}",
            required="finite scales",
            met=f"{values[row, column].item()} at {rows[row], columns[column]}",
            where=scale,
            fix="download the file again; a checkpoint that was published so cannot be used",
        )
    return values


@dataclasses.dataclass(frozen=True, slots=True)
class ScaleFinding:
    """What one scale tensor holds.

    powers_of_two: every value is one, so that its exponent bits alone say all. Where config.json says
    ``scale_fmt: ue8m0`` this still has to be looked at: DeepSeek-V3.1's o_proj scales are none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    powers_of_two: bool
    nan: int
    infinite: int
    negative: int
    zero: int

    @property
    def usable(self) -> bool:
        """No value that poisons a weight: all finite and above zero."""
        return not (self.nan or self.infinite or self.negative or self.zero)


def scale_report(store: WeightStore) -> Iterator[ScaleFinding]:
    """Read and judge the scales of every float8 weight, in the order of the store. Weights are not read.

    NaN among the weights themselves is counted when they are read: ``WeightStore.nan_codes``.
    """
    for weight in store.entries.values():
        scale = find_scale(store.entries, weight.name) if weight.dtype in FLOAT8 else None
        if scale is not None and scale.torch_dtype in SCALE_DTYPES:
            yield judge(scale, decode_scales(store.tensor(scale.name)))


def scale_summary(store: WeightStore) -> dict[str, Any]:
    """``block_scales`` of port.json: how many scale tensors there are, and which are no powers of two, or not usable.

    Names are grouped: numbers in them become ``*``. scale_fmt of config.json takes no part: it tells of activations.
    """
    total = powers = 0
    others: Counter[str] = Counter()
    unusable: list[str] = []
    for finding in scale_report(store):
        total += 1
        powers += finding.powers_of_two
        if not finding.powers_of_two:
            others[re.sub(r"\d+", "*", finding.name)] += 1
        if not finding.usable:
            unusable.append(finding.name)
    return {"tensors": total, "powers_of_two": powers, "others": dict(sorted(others.items())), "not_usable": unusable}


def judge(scale: Entry, values: torch.Tensor) -> ScaleFinding:
    """What float32 values of a scale tensor are. An empty tensor is all powers of two."""
    mantissa, _ = torch.frexp(values)
    return ScaleFinding(
        name=scale.name,
        dtype=scale.dtype,
        shape=scale.shape,
        powers_of_two=bool((mantissa == 0.5).all()),
        nan=int(values.isnan().sum()),
        infinite=int(values.isinf().sum()),
        negative=int((values < 0).sum()),
        zero=int((values == 0).sum()),
    )
