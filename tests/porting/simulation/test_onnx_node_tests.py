"""ONNX's own backend node tests: what is not listed with a reason passes, and what is listed does not."""

import collections

import pytest
import torch

from porting.simulation.node_tests import Outcome, collect, listings, run
from porting_kernels.registry import registered

LEAST_SHARE = 0.95
"""Of the tests that are neither training nor string tests; a floor against losing operators unnoticed."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    torch.set_num_threads(1)
    return run(collect())


def test_none_fails(outcomes: list[Outcome]) -> None:
    assert [f"{o.name}: {o.detail}" for o in outcomes if o.status == "failed"] == []


def test_the_list_of_exceptions_is_not_stale(outcomes: list[Outcome]) -> None:
    assert [o.name for o in outcomes if o.status == "stale"] == []


def test_every_exception_has_a_reason_and_a_kind() -> None:
    for listing in listings():
        assert len(listing.reason) > 10
        assert listing.kind in ("string", "training", "ml", "other")


def test_nearly_all_that_are_neither_training_nor_string_tests_pass(outcomes: list[Outcome]) -> None:
    counted = [o for o in outcomes if o.kind not in ("training", "string")]
    passed = collections.Counter(o.status for o in counted)["passed"]
    assert passed / len(counted) >= LEAST_SHARE


def test_at_least_a_hundred_operators_have_kernels_of_their_own() -> None:
    assert len({k.op_type for k in registered() if k.domain == ""}) >= 100
