"""Quantization styles: read from data, refused when they do not say what they must."""

from __future__ import annotations

from typing import Any

import pytest

from porting_passes.quantization_style import QuantizationStyle, QuantizationStyleError

STYLE: dict[str, Any] = {
    "operators": ["Conv", "MatMul"],
    "activation": "symmetric",
    "weight": {"Conv": "channel", "MatMul": "tensor"},
    "depthwise": "tensor",
    "bias": "int32",
    "parameters": "reciprocal_scale",
    "carrier": "nodes",
    "keep_float": [{"operator": "MatMul", "when": "not constant(B)", "reason": "two activations", "source": "doc"}],
}


def test_granularity_with_the_depthwise_exception() -> None:
    style = QuantizationStyle.from_json(STYLE)
    assert style.weight_granularity("Conv") == "channel"
    assert style.weight_granularity("Conv", depthwise=True) == "tensor"
    assert style.weight_granularity("MatMul") == "tensor"
    assert style.keep_float[0].reason == "two activations"


@pytest.mark.parametrize(
    "change",
    [{"activation": "both"}, {"bias": "int64"}, {"weight": {"Conv": "row", "MatMul": "tensor"}}, {"carrier": "air"},
     {"parameters": "scale"}, {"depthwise": "all"}, {"operators": ["Conv", "MatMul", "Gemm"]}],
    ids=str,
)  # fmt: skip
def test_a_bad_style_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(QuantizationStyleError):
        QuantizationStyle.from_json({**STYLE, **change})
