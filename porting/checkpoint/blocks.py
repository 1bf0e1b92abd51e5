"""The source's tensors cut into blocks of rows that a memory budget can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from porting.checkpoint.layout import Part, ShardLayout
from porting.checkpoint.rows import Block, step_of
from porting.errors import UsageError

PROCESS = 640 << 20
"""Resident memory of the interpreter, torch, and the headers of a checkpoint of 90,000 tensors."""
_ELEMENTS = 4 << 20
"""Of a block, where there is memory for it: an expert of DeepSeek-V3 in four."""
_TOUCHED = 2
"""The allocator keeps about as much again as is in use."""


def budget(memory: int) -> int:
    """Bytes that blocks may take together under ``memory`` of the whole process. UsageError for too little."""
    if memory <= PROCESS:
        raise UsageError(
            "the memory is too small", required=f"more than {PROCESS >> 20} MiB, 1 GiB to be quick",
            met=f"{memory >> 20} MiB",
        )  # fmt: skip
    return (memory - PROCESS) // _TOUCHED


def blocks(shards: Mapping[int, ShardLayout], limit: int) -> Iterator[Block]:
    """All rows of a source file, in the order of its bytes. shards: the files that it becomes, by number of format.

    limit: memory of one block. UsageError when that is too little for rows that cannot be cut.
    """
    groups: dict[str, list[tuple[int, Part]]] = {}
    for number, shard in shards.items():
        for part in shard.parts:
            groups.setdefault(part.tensor.name, []).append((number, part))
    for parts in groups.values():
        yield from _of_tensor(tuple(parts), limit)


def _of_tensor(parts: tuple[tuple[int, Part], ...], limit: int) -> Iterator[Block]:
    tensor = parts[0][1].tensor
    rows, columns = tensor.entry.rows, tensor.entry.columns
    step = step_of(parts)
    least = Block(tensor, 0, min(step, rows), parts)
    if least.nbytes > limit:
        raise UsageError(
            "the memory is too small for rows of a weight that belong together",
            required=f"{least.nbytes} bytes for {step} rows",
            met=f"{limit} bytes for a block",
            where=tensor.entry,
            fix="a larger --memory, or fewer --threads",
        )
    per_step = max(1, Block(tensor, 0, min(2 * step, rows), parts).nbytes - least.nbytes)
    fit = 1 + (limit - least.nbytes) // per_step
    if not any(each.transposed for _, part in parts for each in part.made):
        # A transposed tensor comes to its file in runs as long as a block is high: memory alone may cut it.
        fit = min(fit, _ELEMENTS // max(1, columns * step))
    height = step * max(1, min(fit, -(-rows // step)))
    for first in range(0, max(1, rows), height):
        yield Block(tensor, first, min(first + height, rows), parts)
