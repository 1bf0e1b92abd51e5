"""Bytes as people read them."""

from __future__ import annotations

_UNITS = ((30, "GiB"), (20, "MiB"), (10, "KiB"))


def size_text(nbytes: float) -> str:
    """``641.29 GiB``, ``8.21 MiB``: two digits of the largest unit of which there is one."""
    for power, unit in _UNITS:
        if nbytes >= 1 << power:
            return f"{nbytes / (1 << power):.2f} {unit}"
    return f"{nbytes:.0f} bytes"
