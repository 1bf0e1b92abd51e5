import math

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.dtypes import to_torch
from porting_kernels.gating_top_k import SCORES, gating_top_k
from porting_passes.operators.gating_top_k import SINCE
from porting_passes.schemas import NEWEST_OPSET

OUTPUTS = [(ir.DataType.FLOAT, 2), (ir.DataType.INT64, 2)]
OPSETS = sorted({SINCE, 17, 18, 20, 21, 23, NEWEST_OPSET})


def check(run_outputs, opset, logits, bias, attributes):
    """Ids exact; weights to a few units in the last place, by which two libraries' exp and sums of k differ."""
    weights, ids = run_outputs("GatingTopK", opset, [logits, bias], attributes, OUTPUTS)
    expected_weights, expected_ids = gating_top_k(to_torch(logits), to_torch(bias), **attributes)
    np.testing.assert_array_equal(ids, expected_ids.numpy())
    np.testing.assert_allclose(weights, expected_weights.numpy(), rtol=2e-6)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("after_top_k", [0, 1])
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_body_equals_kernel(run_outputs, tokens, after_top_k, score, opset):
    rng = np.random.default_rng(tokens)
    logits, bias = rng.standard_normal((tokens, 32), np.float32), rng.standard_normal(32, np.float32)
    scoring = {"score": score, "after_top_k": after_top_k}
    check(run_outputs, opset, logits, np.zeros(1, np.float32), {"k": 1, **scoring})
    grouped = {"k": 6, "groups": 8, "k_group": 3, "group_top": 2, **scoring}
    weighting = {"renormalize": 1, "epsilon": 1e-20, "scale": 2.5}
    check(run_outputs, opset, logits, bias, {**grouped, **weighting})
    check(run_outputs, opset, logits, bias, {**grouped, "mask_value": 0.0})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_body_takes_half_precision(run_outputs, dtype):
    logits = np.random.default_rng(0).standard_normal((9, 16)).astype(dtype)
    check(run_outputs, 18, logits, np.zeros(16, np.float32), {"k": 3, "score": "sigmoid"})


@st.composite
def gatings(draw):
    """Logits and biases on a coarse grid full of ties; equal logits have equal scores in any library."""
    groups, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    k_group, group_top = draw(st.integers(1, groups)), draw(st.integers(1, min(2, width)))
    experts, values = groups * width, st.integers(1, 5).map(lambda i: i / 4)
    rows = draw(st.lists(st.lists(values, min_size=experts, max_size=experts), min_size=1, max_size=4))
    attributes = {
        "k": draw(st.integers(1, k_group * width)),
        "groups": groups,
        "k_group": k_group,
        "group_top": group_top,
        "score": draw(st.sampled_from(sorted(SCORES))),
        "after_top_k": draw(st.integers(0, 1)),
        "renormalize": draw(st.integers(0, 1)),
        "mask_value": draw(st.sampled_from([-math.inf, 0.0])),
    }
    bias = draw(st.lists(st.sampled_from([-1.0, 0.0]), min_size=experts, max_size=experts))
    return np.array(rows, np.float32), np.array(bias, np.float32), attributes


@given(gatings())
@settings(max_examples=60)
def test_body_breaks_ties_as_the_kernel_does(run_outputs, case):
    check(run_outputs, 20, *case)
