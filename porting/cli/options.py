"""Options that several commands share, and the parsers of their small notations."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from porting.errors import UsageError

if TYPE_CHECKING:
    from porting.target import Target

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")

MOST = (1 << 31) - 1  # what the vendors' converters hold a dimension in
DTYPES = ("float32", "float16", "bfloat16")


class PathType(click.Path):
    """A path; the empty one, which pathlib takes for the current folder, is what a shell makes of an unset variable."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A Path; a usage error where there is nothing."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType()


class ShapeType(click.ParamType[tuple[str, tuple[int | str | None, ...]]]):
    """``x=1x3x224x224``; a dimension may be a number, a name, or ``?`` to leave it as it is."""

    name = "NAME=DIMS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | str | None, ...]]:
        """``(input name, dimensions)``; a usage error where the notation is broken."""
        name, separator, text = str(value).rpartition("=")
        parts = text.split("x") if text else []
        if not separator or not name or not all(re.fullmatch(r"\d+|\?|[A-Za-z_]\w*", p) for p in parts):
            self.fail(f"{value!r} is not NAME=DIMS, e.g. x=1x3x224x224 or x=batchx3x?x?", param, ctx)
        if any(p.isdigit() and not 0 < int(p) <= MOST for p in parts):
            self.fail(f"{value!r}: a dimension is 1 to {MOST}", param, ctx)
        return name, tuple(int(p) if p.isdigit() else None if p == "?" else p for p in parts)


class DimType(click.ParamType[tuple[str, tuple[int, int]]]):
    """``batch=1..8`` or ``batch=4``."""

    name = "NAME=LOW..HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, int]]:
        """``(symbol, (low, high))``; a usage error where the notation or the interval is broken."""
        match = re.fullmatch(r"([^=]+)=(\d+)(?:\.\.(\d+))?", str(value))
        if not match:
            self.fail(f"{value!r} is not NAME=LOW..HIGH, e.g. batch=1..8, or NAME=N", param, ctx)
        low, high = int(match[2]), int(match[3] or match[2])
        if not 1 <= low <= high <= MOST:
            self.fail(f"{value!r}: an interval runs from 1 or more up to its end, {MOST} at most", param, ctx)
        return match[1], (low, high)


class SizeType(click.ParamType[int]):
    """``4GiB``, ``512MiB``, ``2GB`` or a number of bytes."""

    name = "SIZE"
    _UNITS: ClassVar = {"": 1, "B": 1} | {
        f"{prefix}{suffix}": base ** (power + 1)
        for power, prefix in enumerate("KMGT")
        for suffix, base in (("iB", 1024), ("B", 1000))
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; a usage error where the notation is broken."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?i?B|)", str(value))
        if not match or match[2] not in self._UNITS:
            self.fail(f"{value!r} is not a size, e.g. 4GiB or 512MiB", param, ctx)
        return int(float(match[1]) * self._UNITS[match[2]])


def memory(command: Command) -> Command:
    """--memory: what a run may keep of a checkpoint's weights between their uses."""
    return click.option(
        "--memory",
        type=SizeType(),
        default="4GiB",
        show_default=True,
        help="Weights of a checkpoint that a run keeps in memory; the others are read again when they are needed.",
    )(command)


def process_memory(command: Command) -> Command:
    """--memory: of the whole process, where rows stream through it."""
    return click.option(
        "--memory",
        type=SizeType(),
        default="2GiB",
        show_default=True,
        help="Resident memory of the process, about, whatever the size of files.",
    )(command)


def conversion(command: Command) -> Command:
    """What a checkpoint is converted to: --scheme, --format, --scheme-map, --divisor."""
    for option in reversed(
        (
            click.option(
                "--scheme",
                required=True,
                help="bf16, w8a8, w8a16, w4a8, w4a16-g128, fp8-block, int8-block, mxfp8 or mxfp4.",
            ),
            click.option(
                "--format",
                "formats",
                required=True,
                multiple=True,
                help="ascend, cambricon, compressed-tensors or sglang; several from one read.",
            ),
            scheme_map,
            click.option(
                "--divisor",
                type=click.Choice(["127", "127.5"]),
                default="127",
                show_default=True,
                help="What the greatest magnitude under an int8 scale becomes, with 7 or 7.5 of int4; 127.5 as "
                "compressed-tensors has it.",
            ),
        )
    ):
        command = option(command)
    return command


def target(command: Command) -> Command:
    """What the model is ported to, and under which shapes: --backend, --surface, --scheme, --dtype, --shape, --dim."""
    for option in reversed(
        (
            click.option("--backend", required=True, metavar="NAME[@TOOLKIT]", help="See `porting backends`."),
            click.option(
                "--surface",
                help="The interface to port for.  [default: by scheme and kind of model]",
            ),
            click.option(
                "--scheme", default="none", show_default=True, help="How weights and activations are quantized."
            ),
            click.option(
                "--dtype",
                type=click.Choice(DTYPES),
                help="The floating type between operators.  [default: the surface's first]",
            ),
            click.option(
                "--shape", "shapes", type=ShapeType(), multiple=True, help="Fix an input's shape: x=1x3x224x224."
            ),
            click.option(
                "--dim", "dims", type=DimType(), multiple=True, help="Bound a symbolic dimension: batch=1..8."
            ),
            click.option(
                "--allow-unknown",
                metavar="OP,..",
                default="",
                help="Let these operators through although their legality is unknown; recorded in port.json.",
            ),
        )
    ):
        command = option(command)
    return command


def scheme_map(command: Command) -> Command:
    """--scheme-map: which weights are quantized otherwise than the scheme says."""
    return click.option(
        "--scheme-map",
        type=PATH,
        metavar="FILE",
        help="Patterns of module names with the scheme of each, before the keep-tables (JSON).",
    )(command)


def resolved(source: str, given: dict[str, Any]) -> Target:
    """The Target for ``source`` of the options that :func:`target` added; they are taken out of ``given``."""
    from porting.target import Target

    return Target.resolve(
        given.pop("backend"),
        given.pop("surface"),
        scheme=given.pop("scheme"),
        dtype=given.pop("dtype"),
        language_model=Path(source).is_dir(),
        shapes=_once("--shape", given.pop("shapes")),
        dims=_once("--dim", given.pop("dims")),
        allow_unknown=frozenset(names(given.pop("allow_unknown"))),
    )


def _once(option: str, pairs: Sequence[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise UsageError(
                f"{option} says two things of {name!r}", met=f"{found[name]} and {value}", fix="one of them"
            )
    return found


def threads(command: Command) -> Command:
    """--threads: samples run side by side; every result is the same for any number."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=os.cpu_count() or 1,
        show_default="all cores",
        help="Batches run side by side; results do not depend on it.",
    )(command)


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list without blanks and empties."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def require_writable(path: Path | None) -> None:
    """UsageError where a file cannot be written: before the work, not after it. Leaves everything as it is."""
    if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
        return  # Opening a pipe would wait for its reader.
    existed = path.exists()
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {path}", met=error.strerror, fix="a file in a folder that exists") from error
    if not existed:
        path.unlink()


def write(path: Path, text: str) -> None:
    """Write a report file; UsageError where the place cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}", met=error.strerror) from error
