"""A converted folder read back: each weight as float32 rows, whatever the format makes of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porting.checkpoint.contracts import gptq
from porting.checkpoint.validation import detect, stem_of
from porting.errors import InvalidModelError
from porting.weights.safetensors_file import Entry
from porting.weights.store import WeightStore
from porting_kernels import fp8, int4, microscaling

Unpack = Callable[[torch.Tensor], torch.Tensor]
_SUFFIX = re.compile(r"\.weight$")


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A weight of a converted folder. rows, columns: of the matrix that it stands for.

    limit: its largest code, 0 for floats. codes: the stored tensor; each of its rows is ``rows_a_row`` rows of the
    matrix, or each of its columns is one row, where it is ``transposed``. scale: float32 (rows or blocks of them,
    groups or blocks). factors: of columns, where smoothing has divided by them.
    """

    store: WeightStore
    codes: Entry
    rows: int
    columns: int
    limit: int = 0
    scale: torch.Tensor | None = None
    block: tuple[int, int] = (1, 1)
    unpack: Unpack | None = None
    rows_a_row: int = 1
    factors: torch.Tensor | None = None
    transposed: bool = False

    def read_codes(self, first: int, last: int) -> torch.Tensor:
        """Rows as they are stored, unpacked: [last - first, columns]. first: a multiple of ``rows_a_row``."""
        begin, end = first // self.rows_a_row, -(-last // self.rows_a_row)
        if self.transposed:
            raw = self.store.read_box(self.codes, range(self.codes.rows), range(begin, end)).T
        else:
            raw = self.store.read_box(self.codes, range(begin, end), range(self.codes.columns))
        values = raw if self.unpack is None else self.unpack(raw)
        return values[: last - first, : self.columns]

    def values(self, codes: torch.Tensor, first: int) -> torch.Tensor:
        """The numbers, float32, that codes of the rows from ``first`` on stand for."""
        if self.scale is None:
            return codes.to(torch.float32)
        if self.scale.dtype == torch.uint8:
            return microscaling.dequantize(codes, self.scale[first : first + len(codes)])
        height, width = self.block
        rows = torch.arange(first, first + len(codes)) // height
        columns = torch.arange(self.columns) // width
        floats = fp8.decode_e4m3(codes) if codes.dtype == torch.float8_e4m3fn else codes.to(torch.float32)
        values = floats * self.scale[rows][:, columns]
        return values if self.factors is None else values * self.factors


class ConvertedFolder:
    """The weights of a converted folder by the names of the source. Raises InvalidModelError for other folders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.form = detect(path)
        self.store = WeightStore(path, stem=stem_of(self.form))
        self._config = _json(path / "config.json").get("quantization_config") or {}
        self._types: Mapping[str, Any] = {}
        if self.form == "ascend":
            self._types = _json(path / "quant_model_description.json")

    def decoded(self, name: str, shape: tuple[int, ...]) -> Decoded:
        """The tensor that a source tensor of this name and shape became.

        InvalidModelError where there is none, or one of another size.
        """
        rows, columns = _matrix(shape)
        found = self._found(name, rows, columns)
        across, down = found.codes.columns, found.codes.rows
        stored = (across if found.transposed else down) * found.rows_a_row
        few = down if found.transposed else across
        scales = len(found.scale) if found.scale is not None else 0
        fit = found.scale is None or scales == -(-rows // found.block[0])
        if not rows <= stored < rows + found.rows_a_row or few > columns or not fit:
            raise InvalidModelError(
                "a tensor of another size than that of the source", required=f"[{rows}, {columns}]",
                met=f"{list(found.codes.shape)}" + ("" if fit else f", with {scales} rows of scales"),
                where=f"{self.path}, {found.codes.name}",
            )  # fmt: skip
        return found

    def _found(self, name: str, rows: int, columns: int) -> Decoded:
        found = self.store.entries.get(name)
        scale = self.store.entries.get(f"{name}_scale")
        if scale is not None and scale.dtype == "U8":
            return self._microscaled(name, rows, columns)
        if found is not None and found.dtype not in ("I8", "F8_E4M3"):
            return Decoded(self.store, found, rows, columns)
        module = _SUFFIX.sub("", name)
        quantized = self._smooth(module, rows, columns) if self.form == "cambricon" else None
        if quantized is None and found is None:
            quantized = self._words(name, rows, columns)
        if quantized is None and found is not None:
            quantized = self._plain(name, found, rows, columns)
        if quantized is None:
            raise InvalidModelError("the converted folder lacks a tensor", required=name, where=self.path)
        return quantized

    def quantizes_activations(self, name: str) -> bool:
        """Whether a runtime makes int8 of the rows that integer codes under this name are multiplied with."""
        if self.form == "ascend":
            return str(self._types.get(name)) in ("W8A8_DYNAMIC", "W4A8_DYNAMIC")
        if self.form == "compressed-tensors":
            activations = (self._group(name) or {}).get("input_activations")
            return isinstance(activations, dict) and activations.get("type", "int") == "int"
        return self._config.get("quant_method") in ("smoothquant", "w8a8_int8")

    def _group(self, name: str) -> dict[str, Any] | None:
        """Of the weight of a linear layer in config.json of compressed-tensors."""
        from porting.checkpoint.contracts.compressed_tensors import group_of

        groups = self._config.get("config_groups")
        return group_of(_SUFFIX.sub("", name), groups) if isinstance(groups, dict) else None

    def _microscaled(self, name: str, rows: int, columns: int) -> Decoded:
        packed = f"{name}_packed"
        entry = self.store.entry(packed if packed in self.store.entries else name)
        scale = self.store.tensor(f"{name}_scale")
        if entry.columns == columns:
            return Decoded(self.store, entry, rows, columns, 448, scale)
        return Decoded(self.store, entry, rows, columns, 7, scale, unpack=_nibbles)

    def _smooth(self, module: str, rows: int, columns: int) -> Decoded | None:
        entry = self.store.entries.get(f"{module}.qweight")
        if entry is None:
            return None
        if self._config.get("quant_method") == gptq.METHOD:
            return self._gptq(module, entry, rows, columns)
        named = f"{module}.per_channel_scale"
        scale = self._scale(named if named in self.store.entries else f"{module}.scales").reshape(rows, -1)
        block = (1, columns // scale.shape[1])
        smooth = f"{module}.smooth"
        factors = self._scale(smooth) if smooth in self.store.entries else None
        if entry.columns == columns:
            return Decoded(self.store, entry, rows, columns, 127, scale, block, factors=factors)
        return Decoded(
            self.store, entry, rows, columns, 7, scale, block, unpack=lambda raw: _pairs(raw, 1), factors=factors
        )

    def _gptq(self, module: str, entry: Entry, rows: int, columns: int) -> Decoded:
        kind = {key: self._config.get(key) for key in ("bits", "sym", "desc_act")}
        group = self._config.get("group_size")
        if kind != {"bits": 4, "sym": True, "desc_act": False} or not isinstance(group, int) or group < 1:
            raise InvalidModelError(
                "GPTQ of another kind", required="4 bits in groups, symmetric, columns in their order (desc_act false)",
                met={**kind, "group_size": group}, where=self.path / "config.json",
            )  # fmt: skip
        scale = self._scale(f"{module}.scales")
        wanted = "I32", (columns // 8, rows), (columns // group, rows)
        met = entry.dtype, entry.shape, tuple(scale.shape)
        if met != wanted or columns % 8 or columns % group:
            raise InvalidModelError(
                f"codes or scales of another size than the weight [{rows}, {columns}] of the source",
                required=wanted, met=met, where=entry,
            )  # fmt: skip
        return Decoded(
            self.store, entry, rows, columns, 7, scale.T.contiguous(), (1, group), unpack=_words_of(4), transposed=True
        )

    def _words(self, name: str, rows: int, columns: int) -> Decoded | None:
        entry = self.store.entries.get(f"{name}_packed")
        if entry is None:
            return None
        bits = entry.columns * 32 // columns
        scale = self._scale(f"{name}_scale")
        block = (1, columns // scale.shape[1])
        unpack = _words_of(bits)
        return Decoded(self.store, entry, rows, columns, (1 << (bits - 1)) - 1, scale, block, unpack=unpack)

    def _plain(self, name: str, entry: Entry, rows: int, columns: int) -> Decoded:
        inverse = f"{name}_scale_inv" in self.store.entries
        scale = self._scale(f"{name}_scale_inv" if inverse else f"{name}_scale")
        if entry.dtype == "F8_E4M3" or inverse:
            size = self._config.get("weight_block_size", list(fp8.BLOCK))
            limit = 448 if entry.dtype == "F8_E4M3" else 127
            return Decoded(self.store, entry, rows, columns, limit, scale, (int(size[0]), int(size[1])))
        block = (1, columns // scale.shape[1])
        if self._types.get(name) == "W4A8_DYNAMIC":
            return Decoded(
                self.store, entry, rows, columns, 7, scale, block, unpack=lambda raw: _pairs(raw, 0), rows_a_row=2
            )
        return Decoded(self.store, entry, rows, columns, 127 if self._bits(name) == 8 else 7, scale, block)

    def _bits(self, name: str) -> int:
        """Of codes that take a byte each: compressed-tensors has four bits there, too."""
        group = self._group(name)
        return 8 if group is None else int(group["weights"].get("num_bits", 8))

    def _scale(self, name: str) -> torch.Tensor:
        return self.store.tensor(name).to(torch.float32)


def _pairs(raw: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.from_numpy(int4.unpack_pairs(raw.contiguous().numpy(), axis))


def _nibbles(raw: torch.Tensor) -> torch.Tensor:
    """Codes of e2m1, uint8 of 0 to 15, the even column from the low nibble."""
    return torch.stack([raw & 0x0F, raw >> 4], dim=-1).reshape(len(raw), -1)


def _words_of(bits: int) -> Unpack:
    def unpack(raw: torch.Tensor) -> torch.Tensor:
        unsigned = raw.contiguous().numpy().view(np.uint8)
        if bits == 4:
            unsigned = np.stack([unsigned & 0x0F, unsigned >> 4], axis=-1).reshape(len(unsigned), -1)
        return torch.from_numpy(unsigned.astype(np.int16) - (1 << (bits - 1))).to(torch.int8)

    return unpack


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    columns = shape[-1] if shape else 1
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows, columns


def _json(path: Path) -> dict[str, Any]:
    from porting.weights.index import read_json

    document = read_json(path)
    if not isinstance(document, dict):
        raise InvalidModelError("no JSON object", required="an object", where=path)
    return document
