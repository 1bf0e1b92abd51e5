"""Planted cases of routing through the whole measurement: a near tie, a fault, an expert that nothing hits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from porting import schemas
from porting.parity.budgets import default_budget
from porting.parity.comparison import Claim, measure
from porting.parity.result import Parity

from .conftest import expert_model

Weights = dict[str, np.ndarray]
CLAIM = Claim(source="sha256:" + "0" * 64, backend="reference", surface="reference", scheme="none", dtype="float32")
FIRST = "model.layers.0.mlp.gate"


def samples(tokens: int, *, with_five: bool = True) -> list[dict[str, np.ndarray]]:
    """Rows of tokens 0 to 4 and 6, with one token 5 in the middle of the first."""
    ids = np.array([[0, 1, 2, 3, 4, 6] * (tokens // 6 + 1)])[:, :tokens].astype(np.int64)
    other = ids.copy()
    if with_five:
        ids[0, tokens // 2] = 5
    return [{"input_ids": ids}, {"input_ids": other}]


def run(
    tmp_path: Path, source: Weights, ported: Weights, data: list[dict[str, np.ndarray]], threads: int = 1
) -> Parity:
    model = expert_model(ported)
    ir.save(model, tmp_path / "port.onnx")
    parity = measure(
        expert_model(source), model, data, claim=CLAIM, inputs="user", budget=default_budget(),
        file=tmp_path / "port.onnx", language=True, threads=threads,
    )  # fmt: skip
    schemas.validate("parity", parity.to_json())
    return parity


@pytest.fixture
def rounded(expert_weights: Weights) -> Weights:
    """The port's weights: one weight of the first router 1e-5 lower, which turns the near tie of token 5."""
    ported = {name: array.copy() for name, array in expert_weights.items()}
    ported["gate0"][5, 2] -= 1e-5
    return ported


def test_a_port_that_is_the_source_has_no_flips_and_lists_experts_that_were_never_hit(
    tmp_path: Path, expert_weights: Weights
) -> None:
    parity = run(tmp_path, expert_weights, expert_weights, samples(60))
    assert parity.verdict == "pass"
    assert parity.routing is not None
    assert (parity.routing.decisions, parity.routing.flips, parity.routing.faults) == (240, 0, 0)
    assert parity.routing.settled_by == "free run"
    assert [r["untested"] for r in parity.to_json()["routing"]["routers"]] == [[3, 7], [3, 7]]
    assert parity.routing.untested == 4
    assert parity.replayed == {}
    assert [layer.module for layer in parity.decoder_layers] == ["model.layers.0", "model.layers.1"]
    assert all(layer.isolated.rel_l2 == layer.accumulated.rel_l2 == 0 for layer in parity.decoder_layers)


def test_a_near_tie_that_rounding_flips_passes_by_the_replay(
    tmp_path: Path, expert_weights: Weights, rounded: Weights
) -> None:
    """One decision of 1200, and the budget breaks at that token and, by the sums over the past, after it."""
    parity = run(tmp_path, expert_weights, rounded, samples(300))
    document = parity.to_json()
    (logits,) = document["outputs"]
    assert logits["rel_l2"] > 1e-4, "the free run is far beyond the budget"
    assert logits["replayed"]["kl_mean"] < 1e-9
    assert logits["replayed"]["kl_mean"] < logits["kl_mean"] / 1000
    assert parity.verdict == "pass", parity.reasons
    routing = document["routing"]
    assert (routing["settled_by"], routing["near_ties"], routing["faults"]) == ("replay", 1, 0)
    assert routing["near_tie_fraction"] == pytest.approx(1 / 1200)
    first, second = routing["routers"]
    (flip,) = first["flips"]
    assert (flip["kind"], flip["sample"], flip["row"], flip["position"]) == ("near_tie", 0, 0, 150)
    assert (flip["lost"], flip["gained"]) == ([2], [3])
    assert flip["gap"] < flip["reach"]
    assert second["near_ties"] == 0, "what the flip does to the second router is a consequence"
    assert [e for e in range(8) if first["flipped"][e]] == [2, 3]


def test_layers_behind_a_flip_are_wrong_accumulated_and_right_forced_and_isolated(
    tmp_path: Path, expert_weights: Weights, rounded: Weights
) -> None:
    first, second = run(tmp_path, expert_weights, rounded, samples(60)).decoder_layers
    assert first.accumulated.rel_l2 > 1e-3
    assert second.accumulated.rel_l2 > 1e-3
    assert first.forced.rel_l2 < 1e-5
    assert second.forced.rel_l2 < 1e-5
    assert first.isolated.rel_l2 < 1e-5
    assert second.isolated.rel_l2 == 0, "fed the reference's residual stream"
    assert (first.flips, second.flips) == (1, 0)


def test_a_near_tie_between_port_and_onnxruntime_is_counted_and_taken_over(
    tmp_path: Path, expert_weights: Weights, rounded: Weights
) -> None:
    """The written file rounds otherwise than the simulation: fidelity goes on with the experts of the file."""
    ir.save(expert_model(rounded), tmp_path / "port.onnx")
    model = expert_model(expert_weights)
    parity = measure(
        expert_model(expert_weights), model, samples(300), claim=CLAIM, inputs="user", budget=default_budget(),
        file=tmp_path / "port.onnx", language=True,
    )  # fmt: skip
    assert parity.verdict == "pass", parity.reasons
    assert parity.fidelity.to_json()["routing"] == {
        "decisions": 1200, "near_ties": 1, "faults": 0, "near_tie_fraction": pytest.approx(1 / 1200),
    }  # fmt: skip
    assert parity.fidelity.outputs["logits"].rel_l2 < 1e-5


def test_more_near_ties_than_noise_makes_are_ambiguous(
    tmp_path: Path, expert_weights: Weights, rounded: Weights
) -> None:
    """One decision of 72: 1.4 %."""
    parity = run(tmp_path, expert_weights, rounded, samples(18))
    assert parity.verdict == "ambiguous"
    assert parity.routing is not None
    assert (parity.routing.near_ties, parity.routing.settled_by) == (1, "replay")
    (reason,) = parity.reasons
    assert "near_tie_fraction required <= 0.005" in reason


def test_a_choice_that_is_far_from_a_tie_is_a_fault(tmp_path: Path, expert_weights: Weights) -> None:
    """The port's router has two experts in each other's place, as with a stale order of experts."""
    ported = {name: array.copy() for name, array in expert_weights.items()}
    ported["gate1"][:, [0, 1]] = expert_weights["gate1"][:, [1, 0]]
    parity = run(tmp_path, expert_weights, ported, samples(60))
    assert parity.verdict == "fail"
    assert parity.routing is not None
    first, second = parity.to_json()["routing"]["routers"]
    assert (first["differ"], first["faults"]) == (0, 0)
    assert second["faults"] > 10
    assert all(flip["gap"] > flip["reach"] for flip in second["flips"])
    assert any("routing model.layers.1.mlp.gate: fault_fraction" in reason for reason in parity.reasons)


def test_arithmetic_that_is_wrong_behind_a_near_tie_is_not_excused(
    tmp_path: Path, expert_weights: Weights, rounded: Weights
) -> None:
    """The replay takes the same experts and still differs."""
    rounded["experts1"] = rounded["experts1"] * np.float32(1.01)
    parity = run(tmp_path, expert_weights, rounded, samples(300))
    assert parity.verdict == "fail"
    assert parity.routing is not None
    assert (parity.routing.near_ties, parity.routing.faults, parity.routing.settled_by) == (1, 0, "free run")
    assert any("the reference with the same experts" in reason for reason in parity.reasons)
    first, second = parity.decoder_layers
    assert first.isolated.rel_l2 < 1e-5 < 1e-3 < second.isolated.rel_l2


def test_a_router_that_the_port_has_no_value_for_is_not_measured(tmp_path: Path, expert_weights: Weights) -> None:
    from porting_passes import provenance

    source, model = expert_model(expert_weights), expert_model(expert_weights)
    for node in model.graph:
        for value in node.outputs:
            if value.name == "e0":
                provenance.set_(value, provenance.Provenance(("e0",), equal=False))
    parity = measure(source, model, samples(12), claim=CLAIM, inputs="user", budget=default_budget(), language=True)
    assert parity.verdict == "not_measured"
    assert any(f"routing {FIRST}: aligned" in reason for reason in parity.reasons)
    assert parity.to_json()["routing"]["routers"][0]["value"] is None


def test_the_result_does_not_depend_on_threads(tmp_path: Path, expert_weights: Weights, rounded: Weights) -> None:
    data = samples(30) * 3
    one = run(tmp_path, expert_weights, rounded, data, threads=1)
    assert run(tmp_path, expert_weights, rounded, data, threads=3).to_json() == one.to_json()
