"""Reading, computing and writing at once: rows are made by several threads and written in their order."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from porting.checkpoint.blocks import blocks
from porting.checkpoint.layout import ShardLayout
from porting.checkpoint.rows import Block, Rows, make_rows
from porting.checkpoint.shard_file import Sink
from porting.checkpoint.source import Source
from porting.weights.scales import ScaleFinding
from porting_kernels.weight_quantization import Findings


@dataclasses.dataclass
class Written:
    """A file of a result that is complete. findings: by source tensor, where something was found."""

    number: int
    shard: ShardLayout
    digest: str = ""
    findings: dict[str, Findings] = dataclasses.field(default_factory=dict)
    scales: list[ScaleFinding] = dataclasses.field(default_factory=list)


_BLOCKS = 12
"""Of the largest size that have room at a time."""
_WAITING = 2
"""Threads more than are asked for: some always wait for the disk, which answers several of them as fast as one."""


class Memory:
    """Bytes in use by blocks that are not written yet. Waits where there is no room, but lets one block pass alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._change = threading.Condition()
        self.stopped = False

    def take(self, nbytes: int) -> None:
        """Wait for room. Returns at once when the run was stopped."""
        with self._change:
            while self._used and self._used + nbytes > self._limit and not self.stopped:
                self._change.wait(1.0)
            self._used += nbytes

    def give_back(self, nbytes: int) -> None:
        """The block is gone."""
        with self._change:
            self._used -= nbytes
            self._change.notify_all()

    def stop(self) -> None:
        """Nobody waits any more."""
        with self._change:
            self.stopped = True
            self._change.notify_all()


@dataclasses.dataclass
class _Pending:
    """A block on its way. The last writer gives its memory back."""

    block: Block
    rows: Future[Rows]
    writers: int


class _Writer(threading.Thread):
    """Writes the files of one format, in order. failure: what ended it early."""

    def __init__(self, number: int, pipeline: Pipeline) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.number = number
        self.items: queue.SimpleQueue[_Pending | tuple[Sink, Written] | None] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self._pipeline = pipeline
        self._open: tuple[Sink, Written] | None = None

    def run(self) -> None:
        """Until None comes; after a failure what comes is only let go."""
        while (item := self.items.get()) is not None:
            try:
                if isinstance(item, tuple):
                    self._next_file(item)
                elif self.failure is None:
                    self._write(item)
            except BaseException as error:
                self.failure = self.failure or error
                self._pipeline.memory.stop()
            finally:
                if isinstance(item, _Pending):
                    self._pipeline.release(item)
                del item
        self._close(self.failure is None and not self._pipeline.stopped)

    def _next_file(self, opened: tuple[Sink, Written]) -> None:
        self._close(self.failure is None)
        self._open = opened

    def _write(self, item: _Pending) -> None:
        rows = item.rows.result()
        assert self._open is not None
        sink, written = self._open
        for piece in rows.pieces[self.number]:
            if piece.stride:
                sink.put_apart(*piece)
            else:
                sink.put(piece.offset, piece.data)
        name = item.block.tensor.name
        found = rows.findings.get(self.number)
        if found is not None and found != Findings():
            written.findings[name] = written.findings.get(name, Findings()) + found
        if rows.scale is not None:
            written.scales.append(rows.scale)

    def _close(self, complete: bool) -> None:
        if self._open is None:
            return
        sink, written = self._open
        self._open = None
        try:
            if complete:
                written.digest = sink.finish()
                self._pipeline.done(written)
            else:
                sink.abandon()
        except BaseException as error:
            self.failure = self.failure or error
            self._pipeline.memory.stop()
            sink.abandon()


class Pipeline:
    """Threads that make rows, and one writer a format.

    formats: how many. memory: bytes of all blocks together. done: called by a writer for each complete file, one at a
    time. progress: called with the source bytes of each block that was written. As a context, leaving it waits for all
    that was given to it; leaving it by an exception stops as soon as can be, and files that are not complete vanish.
    """

    def __init__(
        self,
        source: Source,
        formats: int,
        *,
        threads: int,
        memory: int,
        done: Callable[[Written], None],
        progress: Callable[[int], None],
    ) -> None:
        self.source = source
        self.memory = Memory(memory)
        self.stopped = False
        # Where there are many threads, memory decides how many of them work, not how small a block must be.
        self._block_limit = max(memory // (threads + _WAITING + 2), memory // _BLOCKS)
        self._done, self._progress = done, progress
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads + _WAITING, thread_name_prefix="rows")
        self._writers = [_Writer(number, self) for number in range(formats)]
        for writer in self._writers:
            writer.start()

    def put(self, shards: Mapping[int, ShardLayout], sinks: Mapping[int, Sink]) -> None:
        """Make the files that one source file becomes. Returns when all of it is under way. Raises what went wrong."""
        for number, sink in sinks.items():
            self._writers[number].items.put((sink, Written(number, shards[number])))
        for block in blocks(shards, self._block_limit):
            self.memory.take(block.nbytes)
            self.raise_failure()
            numbers = [number for number, _ in block.parts]
            pending = _Pending(block, self._pool.submit(make_rows, self.source, block), len(numbers))
            for number in numbers:
                self._writers[number].items.put(pending)

    def raise_failure(self) -> None:
        """What ended a writer, if anything has."""
        for writer in self._writers:
            if writer.failure is not None:
                raise writer.failure

    def release(self, pending: _Pending) -> None:
        """One writer is done with a block."""
        with self._lock:
            pending.writers -= 1
            last = pending.writers == 0
        if last:
            self.memory.give_back(pending.block.nbytes)
            entry = pending.block.tensor.entry
            share = (pending.block.last - pending.block.first) * entry.columns * entry.torch_dtype.itemsize
            self._progress(share)

    def done(self, written: Written) -> None:
        """One file is complete."""
        with self._lock:
            self._done(written)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.stopped = True
            for writer in self._writers:
                writer.failure = writer.failure or error
            self.memory.stop()
            self._pool.shutdown(wait=True, cancel_futures=True)
        for writer in self._writers:
            writer.items.put(None)
        for writer in self._writers:
            writer.join()
        self._pool.shutdown()
        if kind is None:
            self.raise_failure()


def total_rows_bytes(shards: Iterable[ShardLayout]) -> int:
    """Source bytes of files, scales left out: what progress counts up to."""
    return sum(part.tensor.entry.length for shard in shards for part in shard.parts)
