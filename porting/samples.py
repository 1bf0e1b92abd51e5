"""DATA: arrays by graph-input name in an .npz file, or in a folder of them, cut into samples and streamed.

The first dimension counts examples. An input whose first dimension is a number takes that many at a time; one whose
first dimension is a symbol takes up to ``CHUNK``, within the symbol's range. Only one sample is in memory at a time,
whatever the size of the files; an array in Fortran order, whose rows lie spread over its file, is held whole.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from porting.errors import InvalidInputError
from porting.parity.sampling import SampleSet

CHUNK = 32
_FILE_SIZE = 64 << 20
Arrays = dict[str, np.ndarray]
Ranges = Mapping[str, tuple[int, int]]
_Header = tuple[np.dtype[Any], tuple[int, ...], bool]


class Samples:
    """The samples of DATA for one model: sized, and iterable any number of times, always in the same order.

    Raises InvalidInputError, before the first sample, for a file that is no whole .npz, names that the model does not
    have or that are missing, and dtypes or shapes that do not fit; and while iterating, for NaN or infinities.
    """

    def __init__(
        self, path: Path, inputs: Sequence[ir.Value], dims: Ranges | None = None, *, chunk: int = CHUNK
    ) -> None:
        self._inputs = {v.name or "": v for v in inputs if not v.is_initializer()}
        self._files = [_File.plan(p, self._inputs, dims or {}, chunk) for p in _files(path)]

    def __len__(self) -> int:
        return sum(f.samples for f in self._files)

    def __iter__(self) -> Iterator[Arrays]:
        for file in self._files:
            yield from file

    @property
    def examples(self) -> int:
        """Rows along the first dimension, over all files."""
        return sum(f.examples for f in self._files)


def counted(samples: SampleSet) -> str:
    """``450 examples in 15 batches``, or the batches alone where nothing says what an example is."""
    batches = f"{len(samples)} batch{'es' * (len(samples) != 1)}"
    return f"{samples.examples} examples in {batches}" if isinstance(samples, Samples) else batches


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix == ".npz")
        if not found:
            raise InvalidInputError(f"no .npz files in {path}", required="at least one")
        return found
    if not path.is_file():
        raise InvalidInputError(
            f"no data at {path}", required="an .npz file, a text file, or a folder of either", met="no such file"
        )
    return [path]


@dataclasses.dataclass(frozen=True)
class _Member:
    """One array of a file: what its header says, and how many rows a sample takes (0: all of it)."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: int
    fortran: bool = False

    def skip_header(self, stream: IO[bytes]) -> None:
        _header(stream, self.name)


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    members: tuple[_Member, ...]
    samples: int

    @property
    def examples(self) -> int:
        return max((m.shape[0] for m in self.members if m.shape), default=1)

    @classmethod
    def plan(cls, path: Path, inputs: Mapping[str, ir.Value], dims: Ranges, chunk: int) -> _File:
        headers = _headers(path)
        _check_names(path, headers, inputs)
        members = []
        counts: dict[str, int] = {}
        for name, (dtype, shape, fortran) in headers.items():
            rows = _check_fit(path, inputs[name], dtype, shape, dims, chunk)
            members.append(_Member(name, dtype, shape, rows, fortran))
            if rows:
                counts[name] = math.ceil(shape[0] / rows)
        if len(set(counts.values())) > 1:
            raise InvalidInputError(
                "the inputs do not hold the same number of batches",
                met=", ".join(f"{name}: {count}" for name, count in counts.items()),
                where=path,
            )
        return cls(path, tuple(members), next(iter(counts.values()), 1))

    def __iter__(self) -> Iterator[Arrays]:
        with zipfile.ZipFile(self.path) as archive:
            streams = {m.name: archive.open(f"{m.name}.npy") for m in self.members}
            try:
                for member in self.members:
                    member.skip_header(streams[member.name])
                whole = {m.name: self._values(streams[m.name], m, m.shape[::-1]).T for m in self.members if m.fortran}
                for index in range(self.samples):
                    yield {m.name: self._read(streams[m.name], m, index, whole.get(m.name)) for m in self.members}
            finally:
                for stream in streams.values():
                    stream.close()

    def _read(self, stream: IO[bytes], member: _Member, index: int, whole: np.ndarray | None) -> np.ndarray:
        start = index * member.rows
        shape = (min(member.rows, member.shape[0] - start), *member.shape[1:]) if member.rows else member.shape
        if whole is None:
            array = self._values(stream, member, shape)
        else:
            array = np.ascontiguousarray(whole[start : start + shape[0]])
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidInputError(
                "NaN or infinity in the data",
                met=f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values",
                where=f"array {member.name!r}, batch {index}, {self.path}",
            )
        return array

    def _values(self, stream: IO[bytes], member: _Member, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * member.dtype.itemsize
        try:
            data = stream.read(size)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise InvalidInputError(
                f"{self.path} is damaged", met=str(error), where=f"array {member.name!r}"
            ) from error
        if len(data) != size:
            raise InvalidInputError(
                f"{self.path} is truncated", required=f"{size} bytes", met=len(data), where=f"array {member.name!r}"
            )
        return np.frombuffer(data, member.dtype).reshape(shape)


def _headers(path: Path) -> dict[str, _Header]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            found = {}
            for name in names:
                with archive.open(f"{name}.npy") as stream:
                    found[name] = _header(stream, name)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path} is not a whole .npz file",
            met=str(error),
            fix="numpy.savez(path, input_name=array, ...) writes one",
        ) from error
    if not found:
        raise InvalidInputError(f"{path} holds no arrays", fix="numpy.savez(path, input_name=array, ...)")
    return found


def _header(stream: IO[bytes], name: str) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise InvalidInputError(f"array {name!r} holds Python objects", required="numbers")
    return dtype, shape, fortran and len(shape) > 1


def _check_names(path: Path, given: Mapping[str, Any], inputs: Mapping[str, ir.Value]) -> None:
    missing = [n for n in inputs if n not in given]
    unknown = [n for n in given if n not in inputs]
    if missing or unknown:
        fix = [f"add {', '.join(missing)}"] * bool(missing) + [f"leave out {', '.join(unknown)}"] * bool(unknown)
        raise InvalidInputError(
            "the arrays are not named as the model's inputs",
            required=", ".join(inputs),
            met=", ".join(given),
            where=path,
            fix="; ".join(fix),
        )


def _check_fit(
    path: Path, value: ir.Value, dtype: np.dtype[Any], shape: tuple[int, ...], dims: Ranges, chunk: int
) -> int:
    """Rows a sample takes, 0 for all. InvalidInputError where dtype or shape do not fit."""
    declared = [d if isinstance(d, int) else d.value for d in value.shape] if value.shape is not None else None
    where = f"array {value.name!r} of {path}"
    if not dtype.isnative:
        raise InvalidInputError(
            "an array in the byte order of another machine", required=f"{sys.byteorder}-endian {dtype.name}",
            met=dtype.str, where=where, fix="array.astype(array.dtype.newbyteorder('=')) before saving",
        )  # fmt: skip
    if value.dtype is not None and value.dtype.numpy() != dtype:
        raise InvalidInputError(
            "an array of another dtype than its input", required=value.dtype.numpy().name, met=dtype.name, where=where
        )
    if declared is None:
        return 0
    required = "[" + ", ".join(str(d or "?") for d in declared) + "]"
    if len(shape) != len(declared):
        raise InvalidInputError(
            "an array of another rank than its input", required=required, met=list(shape), where=where
        )
    for axis in range(1, len(shape)):
        low, high = _interval(declared[axis], dims)
        if not low <= shape[axis] <= high:
            raise InvalidInputError(
                f"an array of another size than its input at axis {axis}",
                required=required,
                met=list(shape),
                where=where,
            )
    if not shape:
        return 0
    if shape[0] == 0:
        raise InvalidInputError("an empty array", required=required, met=list(shape), where=where)
    low, high = _interval(declared[0], dims)
    rows = low if isinstance(declared[0], int) else max(low, min(chunk, high))
    if (isinstance(declared[0], int) and shape[0] % rows) or (shape[0] % rows and shape[0] % rows < low):
        raise InvalidInputError(
            "the number of examples does not divide into batches",
            required=f"a multiple of {rows}",
            met=shape[0],
            where=where,
        )
    return rows


def _interval(dim: int | str | None, dims: Ranges) -> tuple[int, int]:
    if isinstance(dim, int):
        return dim, dim
    return dims.get(dim or "", (1, 1 << 31))


def write(samples: Iterable[Mapping[str, np.ndarray]], folder: Path, inputs: Sequence[ir.Value]) -> None:
    """Write samples so that reading the folder for these inputs cuts them the same way, in files up to 64 MiB.

    Samples of equal shape are joined along the first dimension where a reader cuts there whatever ranges it knows;
    any other sample has a file of its own.
    """
    folder.mkdir(parents=True)
    free = frozenset(v.name or "" for v in inputs if v.shape is None or not v.shape or not isinstance(v.shape[0], int))
    pending: list[Mapping[str, np.ndarray]] = []
    index = 0

    def flush() -> None:
        nonlocal index
        if pending:
            joined = {
                n: np.concatenate([p[n] for p in pending]) if len(pending) > 1 else a for n, a in pending[0].items()
            }
            save(joined, folder / f"{index:06d}.npz")
            index += 1
            pending.clear()

    for sample in samples:
        arrays = {name: np.asarray(array) for name, array in sample.items()}
        if pending and not _continues(pending, arrays, free):
            flush()
        pending.append(arrays)
        if sum(a.nbytes for p in pending for a in p.values()) >= _FILE_SIZE:
            flush()
    flush()


def _continues(pending: Sequence[Mapping[str, np.ndarray]], arrays: Mapping[str, np.ndarray], free: Set[str]) -> bool:
    """Whether a sample can be joined: the rows before it are full, its own are no more, all else is equal.

    free: inputs that have no fixed number of rows a sample; there only ``CHUNK`` rows are full for every reader.
    """
    return all(
        a.ndim > 0
        and a.shape[1:] == pending[0][n].shape[1:]
        and pending[-1][n].shape[0] == pending[0][n].shape[0] >= a.shape[0]
        and (n not in free or pending[0][n].shape[0] == CHUNK)
        for n, a in arrays.items()
    )


def run_file(
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    samples: SampleSet,
    target: Path,
) -> int:
    """Run every sample and write the outputs, joined along the first dimension, to ``target``.

    The file appears whole or not at all. Returns the number of samples.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        for name, array in run(sample).items():
            parts.setdefault(name, []).append(np.asarray(array))
    joined = {name: arrays[0] if len(arrays) == 1 else _joined(name, arrays) for name, arrays in parts.items()}
    save(joined, target)
    return len(samples)


def _joined(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    if arrays[0].ndim == 0:
        raise InvalidInputError(
            f"output {name!r} is a scalar: the results of several batches cannot be joined", required="one batch"
        )
    return np.concatenate(arrays)


def save(arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Write an .npz file, whole or not at all. InvalidInputError where the place cannot be written."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open(partial, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy types **kwds as bool too
        os.replace(partial, target)
    except OSError as error:
        raise InvalidInputError(f"cannot write {target}", met=error.strerror) from error
    finally:
        partial.unlink(missing_ok=True)
