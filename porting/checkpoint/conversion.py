"""A checkpoint into the formats that runtimes load: planned from headers, streamed, resumed where it was left."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from porting.checkpoint import formats
from porting.checkpoint.blocks import budget
from porting.checkpoint.formats.format import Result
from porting.checkpoint.layout import SUFFIX, FormatLayout
from porting.checkpoint.pipeline import Pipeline, Written, total_rows_bytes
from porting.checkpoint.progress import Progress, Silent
from porting.checkpoint.record import NAME, Record, file_facts
from porting.checkpoint.shard_file import PARTIAL, NullSink, ShardFile, Sink, sync_folder, write_file
from porting.checkpoint.side_files import copy_side_files, side_files
from porting.checkpoint.source import Source
from porting.checkpoint.treatment import treatments, with_whole_scales
from porting.errors import ExistingOutputError, OutputError, UsageError
from porting.manifest import file_digest
from porting.output_folder import disk_errors, lock
from porting.quantization.scheme_map import SchemeMap

_LEFT = "what is complete stays, and the same command goes on from there"
_SPARE = 64 << 20
"""Disk that is left for documents and for what the file system takes for itself."""
MEMORY = 2 << 30


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is asked for. whole: of integer scales, as in ``WeightSpec``.

    Raises UsageError for formats that do not have the scheme, for ``whole`` without such scales, and as ``treatments``.
    """

    source: Source
    scheme: str
    formats: tuple[str, ...]
    scheme_map: SchemeMap | None = None
    whole: bool = False

    def layouts(self) -> list[FormatLayout]:
        """The files of each format. From headers alone."""
        if len(set(self.formats)) < len(self.formats) or not self.formats:
            raise UsageError("formats are named once, and at least one", met=", ".join(self.formats))
        found = []
        for name in self.formats:
            form = formats.get(name, self.scheme)
            decided = treatments(self.source, self.scheme, form.runtime, self.scheme_map)
            decided = form.adjusted(decided, self.source, self.scheme)
            if self.whole:
                decided = with_whole_scales(decided, self.scheme)
            found.append(FormatLayout(form, name if len(self.formats) > 1 else "", decided, self.source))
        return found

    def asked(self) -> dict[str, Any]:
        """All that the bytes of the result depend on, but for the version of porting."""
        lines = self.scheme_map.lines if self.scheme_map is not None else ()
        return {
            "source": self.source.digest(),
            "scheme": self.scheme,
            "formats": sorted(self.formats),
            "divisor": 127.5 if self.whole else 127,
            "scheme_map": [[line.pattern.pattern, line.scheme] for line in lines],
        }


def convert(
    conversion: Conversion,
    out: Path,
    *,
    threads: int,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the result into ``out`` (or into out/FORMAT for several formats), and return ``conversion.json``.

    What an earlier run of the same command has completed stays as it is: bytes do not depend on threads, memory, or
    where a run was interrupted. memory: resident bytes of the process, about.
    Raises UsageError for an ``out`` of other options, ExistingOutputError for one that is no conversion,
    OutputBusyError while another run writes it, OutputError for a disk that is too small or becomes full.
    """
    limit = budget(memory)
    layouts = conversion.layouts()
    out = Path(os.path.abspath(out))
    with disk_errors(out, _LEFT):
        out.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(out, _LEFT), lock(out):
        _require_ours(out, conversion.source.folder)
        record = Record.resumed(out, conversion.asked())
        _require_room(layouts, record, out)
        out.mkdir(exist_ok=True)
        if not record.path.exists():
            record.save()  # First of all: a folder with anything else, but without it, is not ours.
        for layout in layouts:
            (out / layout.folder).mkdir(exist_ok=True)
            for stale in (out / layout.folder).glob(f"*{PARTIAL}"):
                stale.unlink()
        _refuse_strangers(layouts, out)

        def done(written: Written) -> None:
            record.add(_name(layouts[written.number], written.shard.name), written)

        with ThreadPoolExecutor(max(1, len(layouts)), thread_name_prefix="flush") as flusher:

            def sink(layout: FormatLayout, name: str) -> Sink:
                return ShardFile(out / layout.folder / name, flusher)

            _stream(conversion.source, layouts, threads, limit, record, sink, done, progress or Silent())
        if not record.is_whole:
            record.document["documents"] = _write_documents(conversion, layouts, out)
            record.document["complete"] = True
            record.save()
    return record.document


def dry_run(
    conversion: Conversion, *, threads: int, memory: int = MEMORY, progress: Progress | None = None
) -> dict[str, Any]:
    """Read and quantize everything, and write nothing: ``files`` as conversion.json has them, without digests."""
    layouts = conversion.layouts()
    files: dict[str, Any] = {}

    def done(written: Written) -> None:
        files[_name(layouts[written.number], written.shard.name)] = file_facts(written)

    def sink(layout: FormatLayout, name: str) -> Sink:
        return NullSink()

    _stream(conversion.source, layouts, threads, budget(memory), None, sink, done, progress or Silent())
    return {**conversion.asked(), "files": dict(sorted(files.items()))}


def _stream(
    source: Source,
    layouts: Sequence[FormatLayout],
    threads: int,
    limit: int,
    record: Record | None,
    sink: Any,
    done: Any,
    progress: Progress,
) -> None:
    """Every file that the record does not hold yet."""
    with _single_threaded(), progress:
        pipeline = Pipeline(
            source, len(layouts), threads=threads, memory=limit, done=done, progress=progress.add
        )  # fmt: skip
        with pipeline:
            everything = sum(total_rows_bytes([shard]) for shard in layouts[0].shards())
            progress.begin(everything)
            for shards in zip(*(layout.shards() for layout in layouts), strict=True):
                wanted = {
                    number: shard
                    for number, shard in enumerate(shards)
                    if record is None or not record.holds(_name(layouts[number], shard.name), shard.size)
                }
                progress.file(shards[0].source.name)
                if not wanted:
                    progress.skip(total_rows_bytes([shards[0]]))
                    continue
                sinks: dict[int, Sink] = {}
                for number, shard in wanted.items():
                    sinks[number] = sink(layouts[number], shard.name)
                    sinks[number].put(0, memoryview(shard.header))
                pipeline.put(wanted, sinks)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """torch itself with one thread: rows are made side by side already."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _name(layout: FormatLayout, file: str) -> str:
    return f"{layout.folder}/{file}" if layout.folder else file


def _require_ours(out: Path, source: Path) -> None:
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise ExistingOutputError(f"{out} is in the source", required="a folder of its own", fix="another -o")
    if out.exists() and not out.is_dir():
        raise ExistingOutputError(f"{out} is a file", required="a folder, or no such path", fix="another -o")
    if out.is_dir() and not (out / NAME).exists():
        others = [path.name for path in out.iterdir() if path.name != NAME + PARTIAL]
        if others:
            raise ExistingOutputError(
                f"{out} exists and is no conversion",
                required=f"a folder with {NAME}, an empty one, or none",
                met=", ".join(sorted(others)[:3]),
                fix="remove it yourself, or name another -o",
            )


def _refuse_strangers(layouts: Sequence[FormatLayout], out: Path) -> None:
    """Weight files that are none of ours would be loaded with the others: xLLM takes every one of a folder."""
    for layout in layouts:
        ours = {shard.name for shard in layout.shards()}
        for path in (out / layout.folder).glob(f"*{SUFFIX}"):
            if path.name not in ours:
                raise ExistingOutputError(
                    "a weight file that is none of this conversion", met=path, fix="remove it yourself"
                )


def _require_room(layouts: Sequence[FormatLayout], record: Record, out: Path) -> None:
    """OutputError when the files that are missing do not fit on the disk."""
    needed = _SPARE + sum(path.stat().st_size for path in side_files(layouts[0].source.folder)) * len(layouts)
    for layout in layouts:
        for shard in layout.shards():
            if not record.holds(_name(layout, shard.name), shard.size):
                needed += shard.size
    place = out if out.exists() else out.parent
    partial = sum(path.stat().st_size for path in out.rglob(f"*{PARTIAL}")) if out.exists() else 0
    free = shutil.disk_usage(place).free + partial
    if needed > free:
        raise OutputError(
            "the disk is too small",
            required=f"{needed} bytes ({needed / 2**30:.1f} GiB)",
            met=f"{free} bytes free ({free / 2**30:.1f} GiB)",
            where=place,
            fix="free space, or name another -o",
        )


def _write_documents(conversion: Conversion, layouts: Sequence[FormatLayout], out: Path) -> dict[str, str]:
    """Index, config and description, whose digests are returned; then what is copied.

    The record calls a result complete only after them.
    """
    digests: dict[str, str] = {}
    for layout in layouts:
        folder = out / layout.folder
        made = {tensor.name: layout.made(tensor) for tensor in conversion.source.tensors.values()}
        result = Result(conversion.source, conversion.scheme, layout.treatments, made)
        documents = {f"{layout.form.stem}{SUFFIX}.index.json": layout.index(), **layout.form.documents(result)}
        for name, document in documents.items():
            write_file(folder / name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            digests[_name(layout, name)] = file_digest(folder / name)
        copy_side_files(conversion.source.folder, folder)
    sync_folder(out)
    return dict(sorted(digests.items()))
