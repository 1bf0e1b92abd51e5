"""Gaps and margins, against a search over perturbations and against numbers by hand."""

from __future__ import annotations

import itertools
import math

import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.parity import anchors, routing
from porting.parity.routing import SPREAD, Router
from porting_kernels.gating_top_k import gating_top_k

GROUPED = {"groups": 4, "k_group": 2, "group_top": 2}


def router(experts: int, k: int, **attributes: object) -> Router:
    """A router whose scores are its logits, so that numbers can be read off."""
    given = {"k": k, "after_top_k": 1, "score": "softmax", **attributes}
    return Router("gate", "l", "w", "i", torch.zeros(1), given, experts)


def test_gap_and_margin_of_four_experts_by_hand() -> None:
    plain = router(4, 2)
    logits = torch.tensor([[4.0, 3.0, 2.5, 0.0]])
    assert plain.choose(logits).tolist() == [[0, 1]]
    assert plain.margin(logits).tolist() == [0.5]
    assert plain.gap(logits, torch.tensor([[1, 0]])).tolist() == [0.0], "the same set in another order"
    assert plain.gap(logits, torch.tensor([[0, 2]])).tolist() == [0.5]
    assert plain.gap(logits, torch.tensor([[3, 2]])).tolist() == [4.0], "expert 0 is left out for expert 3"


def test_a_group_flips_by_the_sum_of_its_two_best() -> None:
    grouped = router(8, 2, groups=4, k_group=1, group_top=2)
    logits = torch.tensor([[3.0, 1.0, 2.0, 1.5, 0.0, 0.0, 0.0, 0.0]])
    assert grouped.choose(logits).tolist() == [[0, 1]]
    assert grouped.margin(logits).tolist() == [0.25], "4.0 against 3.5, two scores each"
    assert grouped.gap(logits, torch.tensor([[2, 3]])).tolist() == [0.25]
    assert grouped.gap(logits, torch.tensor([[4, 5]])).tolist() == [2.0]


def test_a_group_that_gives_no_expert_does_not_widen_the_gap() -> None:
    """All experts come from group 0; which other group was open is not seen. That of the port, group 2, has only low
    scores, so nothing but the near tie of the groups 1 and 2 was needed."""
    grouped = router(6, 2, groups=3, k_group=2, group_top=1)
    logits = torch.tensor([[5.0, 3.0, 3.1, 0.0, 3.0, 0.0]])
    assert grouped.choose(logits).tolist() == [[0, 2]]
    gap = grouped.gap(logits, torch.tensor([[0, 1]]))
    assert gap.item() == pytest.approx(0.1, abs=1e-6)


def moved_at_most(r: Router, logits: torch.Tensor, distance: float, steps: int = 3) -> set[frozenset[int]]:
    """The sets that the router chooses when each score moves by up to distance / 2: corners and middles."""
    offsets = torch.linspace(-distance / 2, distance / 2, steps).tolist()
    moves = torch.tensor(list(itertools.product(offsets, repeat=logits.shape[-1])))
    ids = gating_top_k(logits + moves, r.bias, **r.attributes)[1]
    return {frozenset(row) for row in ids.tolist()}


@pytest.mark.parametrize("attributes", [{}, {"groups": 3, "k_group": 2, "group_top": 2}, {"groups": 3, "k_group": 1}])
@given(seed=st.integers(0, 10_000), distance=st.floats(0.05, 1.5))
def test_gap_bounds_what_a_perturbation_can_choose(attributes: dict[str, int], seed: int, distance: float) -> None:
    """No set that moving scores by distance / 2 leads to has a larger gap, the router's own has none."""
    r = router(6, 2, **attributes)
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    assert r.gap(logits, r.choose(logits)).item() == 0
    for chosen in moved_at_most(r, logits, distance):
        assert r.gap(logits, torch.tensor([sorted(chosen)])).item() <= distance * (1 + 1e-5) + 1e-6


@given(seed=st.integers(0, 10_000))
def test_beyond_the_gap_a_perturbation_finds_the_set_without_groups(seed: int) -> None:
    r = router(6, 2)
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    for pair in itertools.combinations(range(6), 2):
        ids = torch.tensor([pair])
        gap = r.gap(logits, ids).item()
        moved = logits - gap / 2 - 1e-4
        moved[0, list(pair)] = logits[0, list(pair)] + gap / 2 + 1e-4
        assert set(r.choose(moved)[0].tolist()) == set(pair)


def test_reach_is_the_measured_deviation_up_to_the_tolerance() -> None:
    plain = router(4, 2)
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    near = logits + torch.tensor([[0.01, -0.01, 0.01, -0.01]])
    assert plain.reach(logits, near, tolerance=0.1).item() == pytest.approx(SPREAD * 0.01, rel=1e-4)
    assert plain.reach(logits, near, tolerance=0.001).item() == pytest.approx(SPREAD * 0.001, rel=1e-3)
    assert plain.reach(logits, logits + 5, tolerance=0.001).item() == pytest.approx(SPREAD * 0.001, rel=1e-3)
    assert plain.reach(logits, None, tolerance=0.1).item() == pytest.approx(SPREAD * 0.1, rel=1e-3)
    assert plain.reach(logits, logits, tolerance=0.1).item() == 0


def test_sigmoid_scores_move_a_quarter_of_the_logits_at_most() -> None:
    sigmoid = Router("gate", "l", "w", "i", torch.zeros(4), {"k": 2, "score": "sigmoid"}, 4)
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    assert sigmoid.reach(logits, None, tolerance=0.1).item() == pytest.approx(SPREAD * 0.025, rel=1e-3)


def test_a_gap_that_is_no_number_is_within_no_reach() -> None:
    plain = router(4, 2)
    gap = plain.gap(torch.tensor([[math.nan] * 4]), torch.tensor([[0, 2]]))
    assert not bool((gap <= 1e30).any())


NET = """<ir_version: 10, opset_import: ["": 20]> net (float[5, 8] l) => (float[5, 2] w, int64[5, 2] i) {
    s = Softmax<axis = -1>(l) v, i = TopK<axis = 1>(s, k) last = Constant<value_ints = [-1]>()
    t = ReduceSum<keepdims = 1>(v, last) w = Div(v, t) }"""


def test_routers_are_found_in_the_unrewritten_source_with_their_values() -> None:
    from porting.frontends import origin

    source = ir.from_onnx_text(NET, initializers=[ir.tensor([2], dtype=ir.DataType.INT64, name="k")])
    origin.stamp(source)
    ported = source.clone()
    nodes = [node.op_type for node in source.graph]
    (found,) = routing.find(source, anchors.find(source, ported, anchors.of_model(ported)))
    assert (found.logits, found.weights, found.ids, found.experts) == ("l", "w", "i", 8)
    assert (found.ported_logits, found.ported_weights, found.ported_ids) == (None, "w", "i"), "l is a graph input"
    assert found.attributes["renormalize"] == 1
    assert [node.op_type for node in source.graph] == nodes


def test_weights_of_chosen_experts_are_those_of_the_router() -> None:
    found = Router("gate", "l", "w", "i", torch.linspace(-0.1, 0.1, 8), {
        "k": 3, **GROUPED, "score": "sigmoid", "renormalize": 1, "epsilon": 1e-20, "scale": 2.5}, 8)  # fmt: skip
    logits = torch.randn(7, 8, generator=torch.Generator().manual_seed(3))
    weights, ids = gating_top_k(logits, found.bias, **found.attributes)
    assert torch.equal(found.weights_of(logits, ids), weights)
    swapped = ids.flip(-1)
    assert torch.allclose(found.weights_of(logits, swapped), weights.flip(-1), atol=1e-7), "a sum in another order"
