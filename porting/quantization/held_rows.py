"""Bookkeeping of a pass over rows: what was made and not fetched yet, and which rows are new."""

from __future__ import annotations

import itertools
import threading

import torch


class HeldRows:
    """Values of rows from when they are made until they are fetched. Memory for all rows is taken at the first one.

    width: float32 numbers a row. Safe to use from several threads.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.width = width
        self._rows = rows
        self._values: torch.Tensor | None = None
        self._held = torch.empty(0, dtype=torch.bool)
        self._lock = threading.Lock()

    def put(self, first: int, values: torch.Tensor) -> None:
        """Hold values [r, width] of the rows from ``first`` on."""
        with self._lock:
            if self._values is None:
                self._values = torch.empty(self._rows, self.width)
                self._held = torch.zeros(self._rows, dtype=torch.bool)
            self._values[first : first + len(values)] = values
            self._held[first : first + len(values)] = True

    def take(self, first: int, last: int) -> torch.Tensor | None:
        """The values of rows, which are let go; None unless all of them are held."""
        with self._lock:
            if self._values is None or not self._held[first:last].all():
                return None
            found = self._values[first:last].clone()
            self._held[first:last] = False
            if not self._held.any():
                self._values = None
            return found


class NewRows:
    """Tells rows that are met for the first time from others. Safe to use from several threads.

    count: rows that have been met.
    """

    def __init__(self, rows: int) -> None:
        self.count = 0
        self._rows = rows
        self._met: torch.Tensor | None = torch.zeros(rows, dtype=torch.bool)
        self._lock = threading.Lock()

    def runs(self, first: int, last: int, step: int) -> list[tuple[int, int, bool]]:
        """Begin and end of runs of at most ``step`` rows which together are ``first`` to ``last``; whether each is new.

        They count as met from now on.
        """
        with self._lock:
            if self._met is None:
                return [(begin, min(begin + step, last), False) for begin in range(first, last, step)]
            met = self._met[first:last]
            edges = [0, *((met[1:] != met[:-1]).nonzero()[:, 0] + 1).tolist(), last - first]
            found = [
                (first + begin, first + min(begin + step, end), not met[begin])
                for start, end in itertools.pairwise(edges)
                for begin in range(start, end, step)
            ]
            met[:] = True
            self.count += sum(end - begin for begin, end, new in found if new)
            if self.count == self._rows:
                self._met = None
            return found
