"""Sources of the Python standard library as bytes: what the example model is trained on and tested with."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

# Tables and tests say little about how Python is written; the rest of the excluded folders is not the library itself.
EXCLUDED = {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
HELD_OUT_SHARE = 13 / 256
EXCERPT = 2048


def files() -> Iterator[tuple[str, bytes]]:
    """(path below the library, content) of every source file, by path; files that are not ASCII are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for folder, below, names in os.walk(root):
        below[:] = sorted(set(below) - EXCLUDED)
        for name in sorted(names):
            if name.endswith(".py"):
                content = Path(folder, name).read_bytes()
                if content.isascii():
                    yield Path(folder, name).relative_to(root).as_posix(), content


def held_out(path: str) -> bool:
    """Whether the file at `path` (below the library) is kept from training: a hash of the path decides."""
    return hashlib.sha256(path.encode()).digest()[0] < HELD_OUT_SHARE * 256


def training_bytes() -> torch.Tensor:
    """All files that are not held out, joined: uint8 [bytes]."""
    return torch.frombuffer(bytearray(b"\n".join(c for p, c in files() if not held_out(p))), dtype=torch.uint8)


def held_out_text(limit: int) -> bytes:
    """Whole lines from the middle of each held-out file, about 2 KiB of each, at most `limit` bytes in all."""
    excerpts = []
    for path, content in files():
        if held_out(path) and len(content) >= 2 * EXCERPT:
            start = content.index(b"\n", len(content) // 2 - EXCERPT // 2) + 1
            end = content.find(b"\n", start + EXCERPT) + 1
            excerpts.append(content[start : end or None])
    text = b""
    for excerpt in excerpts:
        if len(text) + len(excerpt) <= limit:
            text += excerpt
    return text
