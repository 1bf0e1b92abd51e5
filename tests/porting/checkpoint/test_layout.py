"""Where tensors lie: aligned, without holes, in an order that can be streamed where there is one."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.checkpoint.conversion import Conversion
from porting.checkpoint.layout import _header, _offsets
from porting.checkpoint.made import Made
from porting.checkpoint.source import Source

MADE = st.builds(
    lambda dtype, shape: Made("", dtype, tuple(shape), "codes"),
    st.sampled_from(["I8", "BF16", "F32", "I64", "F8_E4M3"]),
    st.lists(st.integers(0, 9), max_size=3),
)


@given(st.lists(MADE, max_size=12))
def test_tensors_are_aligned_and_follow_each_other(made: list[Made]) -> None:
    offsets = _offsets(made)
    end = 0
    for offset, each in sorted(zip(offsets, made, strict=True), key=lambda pair: (pair[0], pair[1].nbytes)):
        assert offset == end
        assert offset % each.itemsize == 0
        end += each.nbytes


def test_sizes_that_align_by_themselves_stay_in_order() -> None:
    made = [Made("a", "I8", (4, 8), "codes"), Made("b", "F32", (4, 1), "scale"), Made("c", "I8", (4, 4), "codes")]
    assert _offsets(made) == [0, 32, 48]


def test_headers_are_json_padded_to_a_multiple_of_eight() -> None:
    header = _header([Made("ä", "I8", (3,), "codes")], [0])
    (length,) = struct.unpack("<Q", header[:8])
    assert len(header) == 8 + length
    assert len(header) % 8 == 0
    assert json.loads(header[8:]) == {
        "__metadata__": {"format": "pt"}, "ä": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ascend", "cambricon", "compressed-tensors", "sglang"])
def test_all_tensors_of_a_weight_are_in_one_file_and_each_is_there_once(name: str, source_folder: Path) -> None:
    (layout,) = Conversion(Source(source_folder), "w8a8", (name,)).layouts()
    index = layout.index()["weight_map"]
    for tensor in layout.source.tensors.values():
        assert len({index[made.name] for made in layout.made(tensor)}) == 1
    assert len(index) == sum(len(layout.made(tensor)) for tensor in layout.source.tensors.values())
