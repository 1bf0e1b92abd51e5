"""Rows of one source tensor, read once and made into the bytes of every format."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from porting.checkpoint.codecs import BlockSpec, Spec, code_dtype, encode, packed, rows_together
from porting.checkpoint.layout import Part
from porting.checkpoint.made import Made, Packing
from porting.checkpoint.source import Source, SourceTensor
from porting.quantization.scale_bias import scale_bias
from porting.quantization.weight_spec import WeightSpec
from porting.weights.safetensors_file import DTYPES
from porting.weights.scales import ScaleFinding, judge
from porting_kernels.fp8 import decode_scales
from porting_kernels.weight_quantization import Findings

SCRATCH = 1 << 19
"""float32 numbers that are worked on at a time: they stay in the cache of a core."""
_CONSTANT = ("zeros", "ones", "shape", "stored_scale", "group_index", "zero_points")
_ZERO_POINTS = 0x77777777


class Piece(NamedTuple):
    """Bytes of a file. offset: of the first.

    stride: 0 where they lie together. Otherwise each ``run`` of them begins ``stride`` bytes after the one before.
    """

    offset: int
    data: memoryview
    run: int = 0
    stride: int = 0


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows ``first`` to before ``last`` of a tensor. parts: what they become, by number of format."""

    tensor: SourceTensor
    first: int
    last: int
    parts: tuple[tuple[int, Part], ...]

    @property
    def is_last(self) -> bool:
        """Whether no rows come after these."""
        return self.last == self.tensor.entry.rows

    @property
    def nbytes(self) -> int:
        """Memory that making it takes: what is read, what is made, and the numbers between."""
        entry = self.tensor.entry
        elements = (self.last - self.first) * entry.columns
        made = sum(
            each.nbytes * (self.last - self.first) // max(1, entry.rows) for _, part in self.parts for each in part.made
        )
        codes = elements * len({part.treatment.spec for _, part in self.parts if part.treatment.spec is not None})
        scratch = min(max(SCRATCH, entry.columns), entry.rows * entry.columns)
        return elements * entry.torch_dtype.itemsize + made + codes + 4 * scratch * 4


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a block became. pieces, findings: by number of format. scale: what is known of the source's scales."""

    pieces: dict[int, list[Piece]]
    findings: dict[int, Findings]
    scale: ScaleFinding | None


def step_of(parts: Sequence[tuple[int, Part]]) -> int:
    """Rows that cannot be cut."""
    steps = [
        rows_together(part.treatment.spec, each.packing)
        for _, part in parts
        for each in part.made
        if each.content == "codes"
    ]
    return math.lcm(*steps)


def make_rows(source: Source, block: Block) -> Rows:
    """Read the rows and make the bytes of all formats. InvalidModelError for what cannot be read."""
    tensor = block.tensor
    contents = {each.content for _, part in block.parts for each in part.made}
    specs: dict[Spec, int] = {}
    for _, part in block.parts:
        if part.treatment.spec is not None and not part.treatment.verbatim:
            slices = next((each.shape[-1] for each in part.made if each.content == "bias"), 0)
            specs[part.treatment.spec] = max(slices, specs.get(part.treatment.spec, 0))
    floats = {each.dtype for _, part in block.parts for each in part.made if each.content == "float"}
    work = _Work(source, tensor, block.first, block.last, specs, floats, "stored" in contents)
    work.run(step_of(block.parts))
    pieces: dict[int, list[Piece]] = {}
    findings: dict[int, Findings] = {}
    for number, part in block.parts:
        found = pieces[number] = []
        for each, offset in zip(part.made, part.offsets, strict=True):
            if each.content not in _CONSTANT:
                found.append(_piece(each, part, block, offset, _bytes(work.values(each, part))))
            elif block.is_last:
                found.append(Piece(offset, _bytes(_constant(source, each, part))))
        if part.treatment.spec in work.findings:
            findings[number] = work.findings[part.treatment.spec]
    return Rows(pieces, findings, _judged(source, tensor) if block.first == 0 else None)


class _Work:
    """The numbers of some rows in all the forms that are wanted."""

    def __init__(
        self,
        source: Source,
        tensor: SourceTensor,
        first: int,
        last: int,
        specs: dict[Spec, int],
        floats: set[str],
        stored: bool,
    ) -> None:
        rows, columns = last - first, tensor.entry.columns
        self.source, self.tensor, self.first, self.rows, self.columns = source, tensor, first, rows, columns
        self.specs = specs
        self.findings: dict[Spec, Findings] = dict.fromkeys(specs, Findings())
        self.codes = {spec: torch.empty(rows, columns, dtype=code_dtype(spec)) for spec in specs}
        self.scales: dict[Spec, list[torch.Tensor]] = {spec: [] for spec in specs}
        self.biases: dict[Spec, list[torch.Tensor]] = {spec: [] for spec in specs}
        self.floats = {dtype: torch.empty(rows, columns, dtype=DTYPES[dtype]) for dtype in floats}
        self.stored = source.store.read_box(tensor.entry, range(first, last), range(columns)) if stored else None

    def run(self, step: int) -> None:
        """Fill all of them, some rows at a time."""
        if not self.rows or not self.columns:
            for spec, slices in self.specs.items():
                self._encode(torch.empty(self.rows, self.columns), spec, slices, 0, self.rows)
            return
        if not self.specs and len(self.floats) == 1 and self.stored is None:
            ((_, out),) = self.floats.items()
            self._read(0, self.rows, out)
            return
        if not self.specs and not self.floats:
            return
        if not self.floats and self.stored is None and len(self.specs) == 1:
            ((spec, slices),) = self.specs.items()
            if isinstance(spec, WeightSpec):
                self._quantize(spec, slices)
                return
        together = max(1, SCRATCH // self.columns // step) * step
        scratch = torch.empty(min(together, self.rows), self.columns)
        for begin in range(0, self.rows, together):
            end = min(begin + together, self.rows)
            values = scratch[: end - begin]
            if self.stored is not None and self.tensor.scale is None:
                values.copy_(self.stored[begin:end])
            else:
                self._read(begin, end, values)
            for out in self.floats.values():
                out[begin:end].copy_(values)
            for spec, slices in self.specs.items():
                self._encode(values, spec, slices, begin, end)

    def _quantize(self, spec: WeightSpec, slices: int) -> None:
        """What most of a checkpoint takes: one kind of integer codes and nothing else."""
        codes = self.codes[spec]
        scale, self.findings[spec] = self.source.stored(self.tensor).quantize_into(
            range(self.first, self.first + self.rows),
            codes,
            bits=spec.bits,
            group=spec.group,
            search=spec.search,
            divisor=spec.divisor,
        )
        self.scales[spec] = [scale]
        if slices:
            self.biases[spec] = [scale_bias(codes, scale, slices)]

    def _read(self, begin: int, end: int, out: torch.Tensor) -> None:
        rows = range(self.first + begin, self.first + end)
        self.source.stored(self.tensor).read_into(rows, range(self.columns), out)

    def _encode(self, values: torch.Tensor, spec: Spec, slices: int, begin: int, end: int) -> None:
        encoded = encode(values, spec, slices, self.codes[spec][begin:end])
        self.scales[spec].append(encoded.scale)
        if encoded.bias is not None:
            self.biases[spec].append(encoded.bias)
        self.findings[spec] += encoded.findings

    def values(self, made: Made, part: Part) -> torch.Tensor:
        """The rows as a tensor of a result has them; as columns, where it is transposed."""
        spec = part.treatment.spec
        if made.content == "stored":
            assert self.stored is not None
            return self.stored
        if made.content == "float":
            return self.floats[made.dtype]
        assert spec is not None
        if made.content == "codes":
            bits = 8 if isinstance(spec, BlockSpec) else spec.bits
            return (_packed_columns if made.transposed else packed)(self.codes[spec], made.packing, bits)
        values = torch.cat(self.scales[spec] if made.content == "scale" else self.biases[spec])
        values = _rounded(values, DTYPES[made.dtype])
        return values.T if made.transposed else values


def _packed_columns(codes: torch.Tensor, packing: Packing, bits: int) -> torch.Tensor:
    """``packed`` transposed, some rows at a time: a block of all rows of a weight is not in memory three times."""
    rows, columns = codes.shape
    step = max(1, SCRATCH // max(1, columns))
    first = packed(codes[:step], packing, bits)
    out = torch.empty(first.shape[1], rows, dtype=first.dtype)
    out[:, :step] = first.T
    for begin in range(step, rows, step):
        out[:, begin : begin + step] = packed(codes[begin : begin + step], packing, bits).T
    return out


def _rounded(scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales in the dtype of a result, half to even. None becomes zero: where float16 ends, its least number stands."""
    if scales.dtype == dtype:
        return scales
    limits = torch.finfo(dtype)
    return scales.clamp_min(limits.smallest_normal * limits.eps).to(dtype)


def _piece(made: Made, part: Part, block: Block, offset: int, data: memoryview) -> Piece:
    """Where the bytes of these rows go. Of a transposed tensor that is cut, each of its rows gets a run of them."""
    rows = block.tensor.entry.rows
    if made.transposed and block.last - block.first < rows:
        run = (block.last - block.first) * made.itemsize
        return Piece(offset + block.first * made.itemsize, data, run, rows * made.itemsize)
    return Piece(offset + _begin(made, part, block), data)


def _begin(made: Made, part: Part, block: Block) -> int:
    """Bytes of a tensor of a result before these rows."""
    spec = part.treatment.spec
    if isinstance(spec, BlockSpec) and made.content == "scale":
        return block.first // spec.block[0] * made.shape[-1] * made.itemsize
    return made.nbytes * block.first // max(1, block.tensor.entry.rows)


def _constant(source: Source, made: Made, part: Part) -> torch.Tensor:
    dtype, tensor, spec = DTYPES[made.dtype], part.tensor, part.treatment.spec
    if made.content == "group_index":
        assert isinstance(spec, WeightSpec)
        assert spec.group is not None
        return torch.arange(made.shape[0], dtype=dtype) // spec.group
    if made.content == "zero_points":
        return torch.full(made.shape, _ZERO_POINTS, dtype=dtype)
    if made.content == "shape":
        return torch.tensor(tensor.shape, dtype=dtype)
    if made.content == "stored_scale":
        assert tensor.scale is not None
        return decode_scales(source.store.tensor(tensor.scale.name)).to(dtype)
    return torch.full(made.shape, 1.0 if made.content == "ones" else 0.0, dtype=dtype)


def _bytes(values: torch.Tensor) -> memoryview:
    flat: np.ndarray = values.contiguous().view(-1).view(torch.uint8).numpy()
    return flat.data


def _judged(source: Source, tensor: SourceTensor) -> ScaleFinding | None:
    if tensor.scale is None:
        return None
    return judge(tensor.scale, decode_scales(source.store.tensor(tensor.scale.name)))
