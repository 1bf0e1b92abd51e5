from __future__ import annotations

from typing import Any

import pytest

from porting.errors import UsageError
from porting.quantization.weight_spec import WeightSpec


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"group": 0}, {"search": "best"}])
def test_others_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="8 or 4 bits"):
        WeightSpec(**wrong)


def test_scales_are_one_a_row_or_one_a_group() -> None:
    assert WeightSpec().scale_shape((3, 4, 256)) == (3, 4)
    assert WeightSpec(4, 128).scale_shape((3, 4, 256)) == (3, 4, 2)
    assert WeightSpec(4, 128).fits(256)
    assert not WeightSpec(4, 128).fits(96)
    assert WeightSpec(4).fits(96)
