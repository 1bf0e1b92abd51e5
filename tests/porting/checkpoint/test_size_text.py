"""Sizes as people read them."""

from __future__ import annotations

import pytest

from porting.checkpoint.size_text import size_text


@pytest.mark.parametrize(
    "nbytes, text",
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (8_605_696, "8.21 MiB"),
        (688_574_839_360, "641.29 GiB"),
    ],
)
def test_the_largest_unit_of_which_there_is_one(nbytes: int, text: str) -> None:
    assert size_text(nbytes) == text
