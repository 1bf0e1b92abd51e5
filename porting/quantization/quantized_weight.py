"""Codes and scales of a weight as lazy tensors that share one pass over it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir
import torch

from porting.errors import DtypeError, ShapeError, UsageError
from porting.quantization.encoded_rows import EncodedRows, QuantizedRows
from porting.quantization.float_rows import FloatRows
from porting.quantization.held_rows import HeldRows, NewRows
from porting.quantization.paired_codes import PairedCodes
from porting.quantization.scale_bias import scale_bias
from porting.quantization.weight_spec import WeightSpec
from porting.weights.row_tensor import BLOCKS, RowTensor
from porting.weights.stored import CHUNK, WORK
from porting.weights.view import LOGICAL
from porting_kernels.weight_quantization import Findings

Kind = Literal["codes", "scale", "scale_bias"]

SCRATCH = 1 << 20
"""float32 numbers that are quantized at a time: they stay in the cache of a core."""
_WORKED = 48
"""Bytes for each of them, at most: the torch form takes ten copies on its way, the native loop one and the code."""
_BLOCK = 16 << 20
"""Bytes of codes in a block. The allocator gives larger ones back to the system, and clearing them anew costs more."""


def quantize_weight(
    source: ir.TensorProtocol,
    spec: WeightSpec,
    *,
    column_factors: torch.Tensor | None = None,
    bias_slices: int = 1,
    name: str | None = None,
) -> QuantizedWeight:
    """A weight (N, K) or (E, N, K), output channels first, as codes and scales. Reads nothing.

    source: a view of a checkpoint (read in float32, whatever its own dtype says), or any floating tensor of ONNX.
    column_factors: float32 (K,), multiplied in before quantization (smoothing). bias_slices: parts of a row with a sum
    of their own in ``scale_bias``. name: the weight's, ``source.name`` by default.
    Raises ShapeError for other ranks, groups or slices that do not divide K and factors of another shape; DtypeError
    for a source that is not floating.
    """
    return QuantizedWeight(source, spec, column_factors=column_factors, bias_slices=bias_slices, name=name)


class QuantizedWeight:
    """The pass over a weight, and the tensors that it gives. rows: where they come from, if not from ``source``.

    Whoever reads rows of the codes pays for quantizing them; the scales of these rows are held until they are read, and
    then let go. Codes first, then scales (as initializers are written) is one pass; scales first is one that keeps no
    codes, and the codes are another. Held scales are the one thing that a budget does not count: 4 bytes a scale, as
    many as the tensor of scales has. Safe to use from several threads.
    """

    def __init__(
        self,
        source: ir.TensorProtocol,
        spec: WeightSpec,
        *,
        column_factors: torch.Tensor | None = None,
        bias_slices: int = 1,
        name: str | None = None,
        rows: EncodedRows | None = None,
    ) -> None:
        self.source = source
        self.spec = spec
        self.dims = tuple(int(n) for n in source.shape.numpy())
        self.name = source.name if name is None else name
        self.bias_slices = bias_slices
        if len(self.dims) not in (2, 3):
            raise ShapeError("not the weight of a linear layer", required="2 or 3 axes", met=list(self.dims))
        self.rows, self.columns = math.prod(self.dims[:-1]), self.dims[-1]
        groups = 1 if spec.group is None else self.columns // spec.group
        if not spec.fits(self.columns) or bias_slices < 1 or (self.columns if groups == 1 else groups) % bias_slices:
            raise ShapeError(
                "the columns of a weight do not divide",
                required=f"a multiple of group {spec.group} and of {bias_slices} slices",
                met=self.columns,
                where=self.name,
            )
        self._source: EncodedRows = rows or QuantizedRows(FloatRows(source, column_factors), spec)
        self._held: dict[Kind, HeldRows] = {
            "scale": HeldRows(self.rows, groups),
            "scale_bias": HeldRows(self.rows, bias_slices),
        }
        self._wants_bias = False
        self._met = NewRows(self.rows)
        self._findings = Findings()
        self._lock = threading.Lock()

    @property
    def codes(self) -> QuantizedTensor:
        """int8 in the shape of the weight; of 4 bits, one code an element: -8 to 7."""
        return QuantizedTensor(self, "codes", self.dims, torch.int8, self._named("codes"))

    @property
    def scale(self) -> QuantizedTensor:
        """float32 (N,), (N, G), (E, N) or (E, N, G): code * scale is the weight."""
        return QuantizedTensor(self, "scale", self.spec.scale_shape(self.dims), torch.float32, self._named("scale"))

    @property
    def scale_bias(self) -> QuantizedTensor:
        """float32 (N,) or (E, N): 8 * sum over k of code * scale; with slices, (..., slices) sums of K / slices each.

        What Ascend's int4 product adds, since it reads the nibbles as code + 8. Sums and products are exact, in float64
        (but for the sum over groups), and rounded once. Ask for it before the codes are read, or it costs a pass.
        Source: Ascend/msmodelslim, quantization format AscendV1, W4A8_DYNAMIC.
        """
        self._wants_bias = True
        dims = self.dims[:-1] if self.bias_slices == 1 else (*self.dims[:-1], self.bias_slices)
        return QuantizedTensor(self, "scale_bias", dims, torch.float32, self._named("scale_bias"))

    @property
    def findings(self) -> Findings:
        """What was met in the rows that have been read so far, each counted once."""
        return self._findings

    @property
    def rows_read(self) -> int:
        """How many rows ``findings`` speaks of."""
        return self._met.count

    def _named(self, what: Kind) -> str | None:
        return None if self.name is None else f"{self.name}/{what}"

    # Reading

    def rows_of(
        self, kind: Kind, first: int, last: int, *, scratch: int | None = None, chunk: int = CHUNK
    ) -> torch.Tensor:
        """Codes, scales or biases of rows of the weight, [last - first, width]: those that are held, or by a pass.

        What else the pass gives is held. scratch: float32 numbers to work on at a time; chunk: stored bytes to read.
        """
        held = None if kind == "codes" else self._held[kind].take(first, last)
        if held is not None:
            return held
        codes = torch.empty(last - first, self.columns, dtype=torch.int8) if kind == "codes" else None
        made = self._passed(first, last, codes, scratch, chunk)
        for other, values in made.items():
            if other != kind:
                self._held[other].put(first, values)
        return made[kind] if codes is None else codes

    def width(self, kind: Kind) -> int:
        """Numbers of each row of the weight."""
        return self.columns if kind == "codes" else self._held[kind].width

    def divided(self, budget: int) -> tuple[int, int, int]:
        """Bytes of memory as numbers to work on at a time, stored bytes to read at a time, and bytes that are left."""
        work = max(self._source.least_work, min(budget // 4, WORK * CHUNK))
        scratch = min(self._source.worthwhile(SCRATCH), budget // 2 // _WORKED)
        return scratch, max(1, work // WORK), budget - work - self._step(scratch) * self.columns * _WORKED

    def _step(self, numbers: int) -> int:
        """Rows that make about so many numbers, at least one."""
        return max(1, numbers // max(1, self.columns))

    def _passed(
        self, first: int, last: int, codes: torch.Tensor | None, scratch: int | None, chunk: int
    ) -> dict[Kind, torch.Tensor]:
        """Scales and, where they are wanted, biases of some rows; their codes go to ``codes``."""
        wants_bias = self._wants_bias
        step = self._step(self._source.worthwhile(SCRATCH) if scratch is None else scratch)
        step = max(1, min(step, last - first))
        unkept = torch.empty((step, self.columns) if codes is None else (0, 0), dtype=torch.int8)
        made: dict[Kind, torch.Tensor] = {"scale": torch.empty(last - first, self._held["scale"].width)}
        if wants_bias:
            made["scale_bias"] = torch.empty(last - first, self.bias_slices)
        encode = self._source.encoder(step)
        for begin, end, new in self._met.runs(first, last, step):
            rows = slice(begin - first, end - first)
            place = unkept[: end - begin] if codes is None else codes[rows]
            scale, findings = encode(begin, end, place, chunk)
            made["scale"][rows] = scale
            if wants_bias:
                made["scale_bias"][rows] = scale_bias(place, scale, self.bias_slices)
            if new:
                with self._lock:
                    self._findings += findings
        return made


class QuantizedTensor(RowTensor):
    """Codes, scales or biases of a quantized weight, or of one of its experts."""

    __slots__ = ("_first", "_kind", "_weight")

    def __init__(
        self,
        weight: QuantizedWeight,
        kind: Kind,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        name: str | None,
        first: int = 0,
    ) -> None:
        super().__init__(shape, dtype, name)
        self._weight = weight
        self._kind: Kind = kind
        self._first = first

    @property
    def weight(self) -> QuantizedWeight:
        """What it is a part of."""
        return self._weight

    @property
    def _span(self) -> int:
        """Rows of the weight to a row of this tensor: all output channels, where these are its last axis."""
        if self._kind == "codes":
            return 1
        per_channel = self._weight.spec.group is None if self._kind == "scale" else self._weight.bias_slices == 1
        return self.columns if per_channel else 1

    def read(self, first_row: int, last_row: int) -> torch.Tensor:
        """Rows of the tensor; as ``RowTensor.read``. Reads the source, unless these are scales that are held."""
        if not 0 <= first_row <= last_row <= self.rows:
            raise IndexError(f"rows {first_row} to {last_row} of {self.rows}")
        return self._read(first_row, last_row, None, CHUNK)

    def _read(self, first_row: int, last_row: int, scratch: int | None, chunk: int) -> torch.Tensor:
        first, last = (self._first + row * self._span for row in (first_row, last_row))
        values = self._weight.rows_of(self._kind, first, last, scratch=scratch, chunk=chunk)
        return values.reshape(last_row - first_row, self.columns).to(self._torch_dtype)

    def blocks(self, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in blocks, as ``RowTensor.blocks``, in one pass over the source."""
        if not self.size:
            return
        scratch, chunk, rest = self._weight.divided(budget)
        row = self._span * self._weight.width(self._kind) * 4 if self._kind != "codes" else self.columns
        if rest < BLOCKS * row:
            raise UsageError(
                "the memory is too small for one row of a quantized weight",
                required=f"at least {budget - rest + BLOCKS * row} bytes",
                met=budget,
                where=self,
            )
        step = max(1, min(rest // BLOCKS, _BLOCK) // row)
        for first in range(0, self.rows, step):
            yield first, self._read(first, min(first + step, self.rows), scratch, chunk)

    def paired(self, axis: int = -2) -> PairedCodes:
        """Codes of 4 bits two a byte, neighbours along axis -2 or -1. Reads nothing. ShapeError for an odd extent."""
        return PairedCodes(self, axis)

    def correction(self) -> QuantizedTensor:
        """``QuantizedWeight.scale_bias`` of the weight that these are the codes of."""
        return self._weight.scale_bias

    def part(self, index: int) -> QuantizedTensor:
        """One place of the first axis, without that axis: an expert of a stack."""
        if len(self.dims) < 2:
            raise ShapeError("a tensor of one axis has no parts", required="at least 2 axes", met=len(self.dims))
        if not 0 <= index < self.dims[0]:
            raise IndexError(f"part {index} of {self.dims[0]}")
        height = self.rows * self._span // self.dims[0]
        first = self._first + index * height
        return QuantizedTensor(self._weight, self._kind, self.dims[1:], self._torch_dtype, self.name, first)

    def as_dtype(self, dtype: torch.dtype) -> QuantizedTensor:
        """Scales and biases in another floating type, rounded once from float32. DtypeError for codes."""
        if dtype != self._torch_dtype and (self._kind == "codes" or dtype not in LOGICAL):
            allowed = (torch.int8,) if self._kind == "codes" else LOGICAL
            raise DtypeError("codes and scales have types of their own", required=allowed, met=dtype, where=self)
        return QuantizedTensor(self._weight, self._kind, self.dims, dtype, self.name, self._first)
