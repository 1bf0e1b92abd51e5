"""The formats that runtimes load, by name: one a file."""

from __future__ import annotations

from porting.checkpoint.formats.ascend import Ascend
from porting.checkpoint.formats.cambricon import Cambricon
from porting.checkpoint.formats.compressed_tensors import CompressedTensors
from porting.checkpoint.formats.format import Format
from porting.checkpoint.formats.sglang import SGLang
from porting.errors import UsageError

__all__ = ["FORMATS", "Format", "get"]

FORMATS: dict[str, Format] = {form.name: form for form in (Ascend(), Cambricon(), CompressedTensors(), SGLang())}


def get(name: str, scheme: str) -> Format:
    """A format by name. UsageError, with the known ones, for an unknown one and for a scheme that it does not have."""
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}", required=" or ".join(FORMATS), met=name)
    if scheme not in FORMATS[name].schemes:
        others = [other.name for other in FORMATS.values() if scheme in other.schemes]
        raise UsageError(
            f"format {name} has no scheme {scheme}",
            required=" or ".join(FORMATS[name].schemes),
            met=scheme,
            fix=f"--format {' or '.join(others)}" if others else None,
        )
    return FORMATS[name]
