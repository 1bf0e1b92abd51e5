"""A model as a converted folder has it served: the graph of the source, weights and codes of the folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import onnx_ir as ir
import torch

from porting.checkpoint.decoded import ConvertedFolder, Decoded
from porting.errors import InvalidModelError
from porting.quantization.encoded_rows import Encode
from porting.quantization.quantized_weight import SCRATCH, QuantizedWeight
from porting.quantization.weight_spec import WeightSpec
from porting.weights.piece import Piece
from porting.weights.stored import Stored
from porting.weights.view import WeightView
from porting_kernels.weight_quantization import Findings
from porting_passes.quantize_dynamic import QUANTIZED_NUMBERS, IntegerWeight, LinearWeight

_BITS = {127: 8, 7: 4}
"""Greatest code -> bits."""
_SCHEMES = (((4, True), "w4a8"), ((8, True), "w8a8"), ((4, False), "w4a16-g128"), ((8, False), "w8a16"))
"""Bits and whether activations are quantized -> the word for a model that has such weights."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Served(Stored):
    """A tensor of the source with the numbers that a converted folder has for it."""

    decoded: Decoded | None = None

    def read_into(self, rows: range, columns: range, out: torch.Tensor, chunk: int = 0) -> None:
        """As of ``Stored``; rows are decoded one cache-full at a time."""
        assert self.decoded is not None
        step = max(1, SCRATCH // self.decoded.columns // rows.step)
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            values = self.decoded.values(_codes(self.decoded, part[0], part[-1] + 1), part[0])
            out[begin : begin + len(part)].copy_(values[:: rows.step][:, columns.start : columns.stop : columns.step])


class Served:
    """The weights of a converted folder in the place of those of its source.

    Raises InvalidModelError for a folder that is no conversion, or lacks a weight.
    """

    def __init__(self, path: Path) -> None:
        self.folder = ConvertedFolder(path)
        self._decoded: dict[str, Decoded] = {}

    def put_into(self, model: ir.Model) -> None:
        """Let every weight of an imported checkpoint be read from the folder."""
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, WeightView):
                view = value.const_value.over_others(self._other)
                value.const_value = cast(ir.TensorProtocol, view)

    def _other(self, stored: Stored) -> Stored:
        return _Served(stored.store, stored.entry, stored.scale, stored.block, self._of(stored))

    def _of(self, stored: Stored) -> Decoded:
        name = stored.entry.name
        if name not in self._decoded:
            self._decoded[name] = found = self.folder.decoded(name, stored.entry.shape)
            if found.scale is not None and found.scale.dtype != torch.uint8 and not found.scale.isfinite().all():
                raise InvalidModelError(
                    "scales that are no numbers", required="finite scales", where=f"{self.folder.path}, {name}"
                )
        return self._decoded[name]

    def scheme(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The scheme whose limits a model of this folder is held to; ``none`` where all of it is in float.

        Integers by rows are of a scheme themselves. Other codes (blocks, microscaling) count as weights alone of as
        many bits. shapes: of the tensors of the source, by name.
        """
        stored = {name: self.folder.decoded(name, shape) for name, shape in shapes.items()}
        kinds = {
            (_bits(decoded), _by_rows(decoded) and self.folder.quantizes_activations(name))
            for name, decoded in stored.items()
            if decoded.scale is not None
        }
        return next((scheme for kind, scheme in _SCHEMES if kind in kinds), "none")

    def decide(self, linear: LinearWeight) -> IntegerWeight | str:
        """Of a product with weights of this folder: its codes, or why it computes in float.

        InvalidModelError where the weights that a runtime joins are stored differently.
        """
        if not isinstance(linear.tensor, WeightView):
            return "not a weight of the checkpoint"
        pieces = linear.tensor.raw
        kinds = {self._kind(piece): piece for piece in pieces}
        if len(kinds) > 1:
            raise InvalidModelError(
                "weights that are joined are stored in different ways",
                required="one scheme",
                met=" and ".join(f"{piece.stored.entry.name} ({kind})" for kind, piece in list(kinds.items())[:2]),
                where=self.folder.path,
            )
        (kind,) = kinds
        decoded = self._of(pieces[0].stored)
        if not isinstance(kind, tuple):
            if decoded.scale is not None:
                linear.node.metadata_props[QUANTIZED_NUMBERS] = self.folder.form
            return kind
        spec, activations = kind
        weight = QuantizedWeight(linear.tensor, spec, name=linear.value.name, rows=_Rows(linear.tensor))
        factors = decoded.factors
        return IntegerWeight(
            cast(ir.TensorProtocol, weight.codes),
            cast(ir.TensorProtocol, weight.scale),
            weight_bits=spec.bits,
            activation_bits=8 if activations else None,
            smooth=None if factors is None or bool((factors == 1).all()) else factors.numpy(),
            reason=f"codes of {self.folder.path.name}",
        )

    def _kind(self, piece: Piece) -> tuple[WeightSpec, bool] | str:
        decoded, name = self._of(piece.stored), piece.stored.entry.name
        if decoded.scale is None:
            return "in float in the converted folder"
        if not _by_rows(decoded):
            return "no integers by rows: numbers as they are stored, activations in float"
        if piece.transposed or len(piece.columns) != decoded.columns:
            return "not whole rows of a stored weight"
        groups = decoded.scale.shape[1]
        spec = WeightSpec(_BITS[decoded.limit], None if groups == 1 else decoded.columns // groups)
        return spec, self.folder.quantizes_activations(name)


class _Rows:
    """Codes and scales of a weight that is made of whole rows of stored ones."""

    least_work = 0

    def __init__(self, view: WeightView) -> None:
        self._pieces = view.raw

    def worthwhile(self, numbers: int) -> int:
        """As many as are asked for."""
        return numbers

    def encoder(self, rows: int) -> Encode:
        """What copies them."""

        def encode(first: int, last: int, codes: torch.Tensor, chunk: int) -> tuple[torch.Tensor, Findings]:
            scales = []
            for piece in self._pieces:
                begin, end = max(first, piece.row), min(last, piece.row + piece.height)
                if begin >= end:
                    continue
                decoded = cast(_Served, piece.stored).decoded
                assert decoded is not None
                assert decoded.scale is not None
                part = piece.rows[begin - piece.row : end - piece.row]
                stored = _codes(decoded, part[0], part[-1] + 1)
                codes[begin - first : end - first].copy_(stored[:: part.step])
                scales.append(decoded.scale[part[0] : part[-1] + 1 : part.step])
            return torch.cat(scales), Findings()

        return encode


def _by_rows(decoded: Decoded) -> bool:
    """Whether it holds integers with scales of rows, or of groups of a row."""
    return decoded.limit in _BITS and decoded.scale is not None and decoded.block[0] == 1 and not _is_float(decoded)


def _bits(decoded: Decoded) -> int:
    return _BITS.get(decoded.limit, 8)


def _is_float(decoded: Decoded) -> bool:
    assert decoded.scale is not None
    return decoded.scale.dtype == torch.uint8 or decoded.codes.torch_dtype == torch.float8_e4m3fn


def _codes(decoded: Decoded, first: int, last: int) -> torch.Tensor:
    """Stored codes of rows, whatever rows share a byte with them."""
    begin = first - first % decoded.rows_a_row
    return decoded.read_codes(begin, last)[first - begin :]
