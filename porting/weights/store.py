"""The tensors of a checkpoint folder, read in place.

Opening a store reads headers only. Data is read with ``pread`` through a few descriptors and never mapped: a checkpoint
of 90,000 tensors is more than a process may have maps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from porting.errors import InvalidModelError
from porting.weights.index import STEM, read_index, read_json
from porting.weights.reader import Reader
from porting.weights.safetensors_file import Entry, Header, read_header
from porting_kernels.fp8 import BLOCK


class WeightStore(Reader):
    """A checkpoint folder: ``model.safetensors``, or ``model.safetensors.index.json`` with its shards.

    stem: in the place of ``model``, as some formats have it. past_cache: as of a ``Reader``. entries: by tensor name;
    what the shards hold beyond the index is left out and counted in ``unlisted``.
    header_bytes_read: so far.
    Raises InvalidModelError for an index that does not tell the truth, a malformed or truncated shard, and pickles.
    """

    def __init__(
        self, folder: Path | str, *, stem: str = STEM, descriptors: int = 64, past_cache: bool = False
    ) -> None:
        super().__init__(descriptors=descriptors, past_cache=past_cache)
        self.folder = Path(folder)
        self._stem = stem
        self.header_bytes_read = 0
        self.unlisted = 0
        self.entries: Mapping[str, Entry] = MappingProxyType(self._read_headers())
        self.block = _block(self.folder)

    @property
    def bytes_read(self) -> int:
        """Of headers and data together."""
        return self.header_bytes_read + self.data_bytes_read

    @property
    def _index(self) -> Path:
        return self.folder / f"{self._stem}.safetensors.index.json"

    def _read_headers(self) -> dict[str, Entry]:
        files = read_index(self.folder, self._stem)
        missing = [file for file in files if not os.path.exists(self.folder / file)]  # False for a name too long, too
        if missing:
            raise InvalidModelError(
                f"{len(missing)} of {len(files)} weight files are missing",
                required="every file of the index",
                met=f"no {_some(missing)}",
                where=self._index,
                fix="download them",
            )
        entries: dict[str, Entry] = {}
        for file, names in files.items():
            header = read_header(self.folder / file)
            self.header_bytes_read += header.bytes_read
            entries.update(self._listed(header, names))
        return entries

    def _listed(self, header: Header, names: Sequence[str] | None) -> dict[str, Entry]:
        if names is None:
            return header.entries
        absent = [name for name in names if name not in header.entries]
        if absent:
            raise InvalidModelError(
                f"the index names {len(absent)} tensors that are not in their shard",
                required=f"{ascii(_some(absent))[1:-1]} in {header.file.path.name}",
                met=f"{len(header.entries)} tensors, without these",
                where=self._index,
                fix="download the index and the shard again, from one revision",
            )
        self.unlisted += len(header.entries) - len(names)
        return {name: header.entries[name] for name in names}

    def entry(self, name: str) -> Entry:
        """The entry of a tensor. InvalidModelError, with the nearest names, when there is none."""
        found = self.entries.get(name)
        if found is None:
            import difflib

            near = difflib.get_close_matches(name, self.entries, n=3) if len(self.entries) < 2000 else []
            raise InvalidModelError(
                f"the checkpoint has no tensor {name!r}",
                met=f"{len(self.entries)} tensors" + (f", among them {_some(near)}" if near else ""),
                where=self.folder,
            )
        return found

    def tensor(self, name: str) -> torch.Tensor:
        """A whole tensor as stored: its shape, the torch type of its bits."""
        entry = self.entry(name)
        return self.read_box(entry, range(entry.rows), range(entry.columns)).reshape(entry.shape)

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"WeightStore({str(self.folder)!r}, {len(self.entries)} tensors)"


def _block(folder: Path) -> tuple[int, int]:
    """``quantization_config.weight_block_size`` of config.json; [128, 128] where it says nothing."""
    path = folder / "config.json"
    if not path.exists():
        return BLOCK
    config = read_json(path)
    quantization = config.get("quantization_config") if isinstance(config, dict) else None
    block = quantization.get("weight_block_size") if isinstance(quantization, dict) else None
    if block is None:
        return BLOCK
    if (
        not isinstance(block, list)
        or len(block) != 2
        or any(type(size) is not int or not 1 <= size < 1 << 31 for size in block)
    ):
        raise InvalidModelError(
            "malformed quantization_config.weight_block_size",
            required="two integers from 1 to 2**31 - 1",
            met=ascii(block)[:100],
            where=path,
        )
    return block[0], block[1]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
