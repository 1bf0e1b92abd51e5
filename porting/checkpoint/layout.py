"""Which tensor of a result lies where: one file for each file of the source, sizes known before anything is read."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from porting.checkpoint.formats import Format
from porting.checkpoint.formats.format import float_dtype
from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import Treatment

SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True)
class Part:
    """A source tensor with what it becomes, and the byte of the file where each of these begins."""

    tensor: SourceTensor
    treatment: Treatment
    made: tuple[Made, ...]
    offsets: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ShardLayout:
    """A file of a result. source: the file that it comes from. header: its first bytes. size: all of its bytes."""

    name: str
    source: Path
    parts: tuple[Part, ...]
    header: bytes
    size: int

    @property
    def data_bytes(self) -> int:
        """Of tensors, without the header."""
        return self.size - len(self.header)


@dataclasses.dataclass(frozen=True)
class FormatLayout:
    """All files of one format. folder: below OUT; empty for OUT itself."""

    form: Format
    folder: str
    treatments: Mapping[str, Treatment]
    source: Source

    def shards(self) -> Iterator[ShardLayout]:
        """The files in their order, made anew each time: a large checkpoint has 90,000 tensors."""
        filled = [path for path, tensors in self.source.shards.items() if tensors]
        for number, path in enumerate(filled, 1):
            yield self.shard(path, number, len(filled))

    def shard(self, path: Path, number: int, count: int) -> ShardLayout:
        """The file made of the source file ``path``."""
        stem = self.form.stem
        name = f"{stem}{SUFFIX}" if count == 1 else f"{stem}-{number:05d}-of-{count:05d}{SUFFIX}"
        made = [(tensor, self.made(tensor)) for tensor in self.source.shards[path]]
        offsets = _offsets([each for _, group in made for each in group])
        header = _header([each for _, group in made for each in group], offsets)
        parts, at = [], 0
        for tensor, group in made:
            begins = tuple(len(header) + offset for offset in offsets[at : at + len(group)])
            parts.append(Part(tensor, self.treatments[tensor.name], group, begins))
            at += len(group)
        size = len(header) + sum(each.nbytes for _, group in made for each in group)
        return ShardLayout(name, path, tuple(parts), header, size)

    def made(self, tensor: SourceTensor) -> tuple[Made, ...]:
        """What a source tensor becomes."""
        return self.form.tensors(tensor, self.treatments[tensor.name], float_dtype(self.source))

    def index(self) -> dict[str, Any]:
        """model.safetensors.index.json: total_size and the file of each tensor."""
        weight_map: dict[str, str] = {}
        total = 0
        for shard in self.shards():
            total += shard.data_bytes
            weight_map |= {made.name: shard.name for part in shard.parts for made in part.made}
        return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def _offsets(made: Sequence[Made]) -> list[int]:
    """Where each tensor begins in the data. In order where that aligns all; else types of more bytes first.

    A reader that views bytes as numbers needs them aligned, and the format allows no holes.
    """
    order = range(len(made))
    end, aligned = 0, True
    for each in made:
        aligned = aligned and end % each.itemsize == 0
        end += each.nbytes
    ordered = order if aligned else sorted(order, key=lambda number: -made[number].itemsize)
    offsets, end = [0] * len(made), 0
    for number in ordered:
        offsets[number] = end
        end += made[number].nbytes
    return offsets


def _header(made: Sequence[Made], offsets: Sequence[int]) -> bytes:
    """Length and JSON, padded with blanks so that the data begins at a multiple of 8."""
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for each, begin in zip(made, offsets, strict=True):
        document[each.name] = {
            "dtype": each.dtype, "shape": each.shape, "data_offsets": (begin, begin + each.nbytes),
        }  # fmt: skip
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
