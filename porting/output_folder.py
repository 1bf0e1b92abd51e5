"""OUT is whole or absent: written beside itself, under a lock, and renamed in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from porting.errors import ExistingOutputError, OutputBusyError, OutputError

# Only a folder that a run of ours wrote may be replaced by --force.
MANIFEST = "port.json"

_UNWRITABLE = (errno.EACCES, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def claim(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``out`` when the block ends well, and vanishes otherwise.

    force replaces an earlier port. Raises ExistingOutputError when ``out`` exists (or is no port, with force),
    OutputBusyError when another run holds it, OutputError when the place cannot be written or is full.
    """
    out = Path(os.path.abspath(out))
    _refuse_existing(out, force)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    with disk_errors(out), lock(out):
        _refuse_existing(out, force)
        shutil.rmtree(partial, ignore_errors=True)  # What a killed run left: we hold the lock, nobody writes it.
        try:
            partial.mkdir()
            yield partial
            _sync(partial)
            _replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path, force: bool) -> None:
    if not os.path.lexists(out):
        return
    if not force:
        raise ExistingOutputError(f"{out} exists", required="a path that does not exist", fix="another -o, or --force")
    if not (out / MANIFEST).is_file():
        raise ExistingOutputError(
            f"{out} exists and is no port",
            required=f"a folder with {MANIFEST}, which alone --force replaces",
            fix="remove it yourself, or name another -o",
        )


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold ``out``: OutputBusyError while another process does. A process that died holds nothing."""
    path = out.with_name(f".{out.name}.lock")
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError as error:  # A folder that takes no files, as /proc.
            raise OutputError(f"cannot write {out}", met=error.strerror, where=out.parent, fix="another -o") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise OutputBusyError(
                f"another run is writing {out}", fix="wait for it, or name another -o", where=f"lock {path}"
            ) from None
        # The holder before us may have removed the file between our open and our lock: then it locks nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(descriptor)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _replace(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
        try:
            os.rename(partial, out)
        except BaseException:
            os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(partial, out)


@contextlib.contextmanager
def disk_errors(out: Path, left: str = "nothing was left behind") -> Iterator[None]:
    """A disk that is full or cannot be written is an OutputError. left: what a full disk leaves, for the message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(
                f"no room to write {out}",
                met=os.strerror(error.errno or 0),
                where=error.filename or out,
                fix=f"free space or name another -o; {left}",
            ) from error
        if error.errno in _UNWRITABLE:
            raise OutputError(
                f"cannot write {out}", met=os.strerror(error.errno or 0), where=error.filename or out, fix="another -o"
            ) from error
        raise
