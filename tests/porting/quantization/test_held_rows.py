from __future__ import annotations

import torch

from porting.quantization.held_rows import HeldRows, NewRows


def test_values_are_held_until_they_are_fetched() -> None:
    held = HeldRows(6, 2)
    assert held.take(0, 1) is None
    values = torch.arange(12.0).view(6, 2)
    held.put(1, values[1:5])
    assert held.take(0, 2) is None, "row 0 was never put"
    assert torch.equal(held.take(2, 4), values[2:4])
    assert held.take(2, 4) is None
    assert held.take(1, 5) is None
    held.put(2, values[2:4])
    assert torch.equal(held.take(1, 5), values[1:5])


def test_memory_is_let_go_with_the_last_row() -> None:
    held = HeldRows(6, 2)
    held.put(0, torch.zeros(3, 2))
    held.take(0, 2)
    assert held._values is not None
    held.take(2, 3)
    assert held._values is None


def test_runs_part_new_rows_from_old_ones() -> None:
    new = NewRows(20)
    assert new.runs(4, 9, 3) == [(4, 7, True), (7, 9, True)]
    assert new.runs(0, 12, 4) == [(0, 4, True), (4, 8, False), (8, 9, False), (9, 12, True)]
    assert new.count == 12
    assert new.runs(3, 3, 4) == []
    assert new.runs(12, 20, 100) == [(12, 20, True)]
    assert new.runs(0, 20, 16) == [(0, 16, False), (16, 20, False)]
    assert new.count == 20
