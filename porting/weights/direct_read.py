"""Large reads that leave the page cache alone: a checkpoint that is read once would only push out what others need.

A copy through the cache also costs a processor as much as quantizing does.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch

from porting.weights.descriptors import DescriptorPool

LEAST = 1 << 18
"""Bytes from which on it pays: a disk is asked for all of them at once."""
ALIGNED = 4096
"""What places, lengths and memory past the cache are a multiple of; no disk in use asks for more."""


class DirectRead:
    """Reads past the page cache, as long as the file system does not refuse it. Safe to use from several threads."""

    def __init__(self, *, descriptors: int) -> None:
        self._pool = DescriptorPool(descriptors, flags=getattr(os, "O_DIRECT", 0))
        self._refused = not hasattr(os, "O_DIRECT")

    def read(self, path: Path, offset: int, nbytes: int) -> torch.Tensor | None:
        """Bytes of a file as uint8, in memory that is aligned as far as ``offset`` is; None: read them as usual.

        None for few bytes, a file system that refuses, and a file that has become shorter. OSError as the disk has it.
        """
        if self._refused or nbytes < LEAST:
            return None
        head = offset % ALIGNED
        length = -(-(head + nbytes) // ALIGNED) * ALIGNED
        memory = torch.empty(length + ALIGNED, dtype=torch.uint8)
        shift = -memory.data_ptr() % ALIGNED
        whole = memory[shift : shift + length]
        return whole[head : head + nbytes] if self._filled(path, offset - head, whole, head + nbytes) else None

    def _filled(self, path: Path, offset: int, out: torch.Tensor, needed: int) -> bool:
        """Whether ``needed`` bytes came. The file may end within ``out``."""
        target = out.numpy().data
        done = 0
        try:
            with self._pool.open(path) as descriptor:
                while done < needed:
                    count = os.preadv(descriptor, [target[done:]], offset + done)
                    done += count
                    if done < needed and (count == 0 or count % ALIGNED):
                        return False
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused = True
            return False
        return True

    def close(self) -> None:
        """Close the descriptors; a later read opens them again."""
        self._pool.close()
