"""Ports of quantized DeepSeek models against plain torch models of the same schemes: does a port do what it says?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting import frontends
from porting.parity.widen import widened_model
from porting.pipeline import Pipeline
from porting.quantization.decide import decider
from porting.simulation.interpreter import Interpreter
from porting.target import Target

TINY = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"
KEPT = frozenset({"lm_head", "kv_b_proj"})
GATINGS = ("GatingTopK", "npu_moe_gating_top_k", "moe_sigmoid_topk")
ON_MLU = KEPT | {"q_a_proj", "kv_a_proj_with_mqa"}
KL = 1e-5
"""Nats by which two engines may differ that compute one scheme in float32."""
NEAR_TIE = 1e-3
"""Distance of two scores, between 0 and 1, that codes which fall on two sides of a border can turn around."""


def on_surface(folder: Path, backend: str, scheme: str) -> Pipeline:
    """The checkpoint in the operators of a backend, not lowered yet."""
    source, target = frontends.load(str(folder)), Target.resolve(backend, scheme=scheme, language_model=True)
    pipeline = Pipeline(source.model, target, language_model=True)
    pipeline.bind(source.dims)
    pipeline.to_surface(decide=lambda: decider(source, target))
    pipeline.require_legal()
    return pipeline


def ported(folder: Path, scheme: str) -> Interpreter:
    """The port to the reference backend, in float32, with its numerics exact."""
    return Interpreter(on_surface(folder, "reference", scheme).model)


def lowered(folder: Path, backend: str, scheme: str) -> Interpreter:
    """The port to a chip in the vendor's operators, with the chip's numerics; bfloat16 widened to float32.

    Rounding to bfloat16, of values between operators and of weights that stay in float, is noise of its own, as large
    as the scheme's: it is left out, so that what the operators mean shows.
    """
    pipeline = on_surface(folder, backend, scheme)
    pipeline.lower()
    return Interpreter(widened_model(pipeline.model), numerics=pipeline.target.backend.numerics.numerics())


def run(port: Interpreter, ids: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and the chosen experts of every router, in order."""
    chosen = []

    def tap(value, tensor) -> None:
        producer = value.producer()
        if producer is not None and producer.op_type in GATINGS and value is producer.outputs[1]:
            chosen.append(tensor.long())

    return port.run({"input_ids": torch.from_numpy(ids)}, tap=tap)["logits"], chosen


def divergence(expected: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """KL of each token, in nats."""
    p, q = expected.double().log_softmax(-1), met.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def compare(ids: np.ndarray, port: Interpreter, model: torch.nn.Module, routing) -> tuple[float, int, int]:
    """Mean KL with the port's experts forced upon the torch model, how many choices differ, and of how many."""
    logits, chosen = run(port, ids)
    watched = routing(model)
    names = [name for name, module in model.named_modules() if type(module).__name__ == "DeepseekV3TopkRouter"]
    assert len(names) == len(chosen)
    watched.forced = dict(zip(names, chosen, strict=True))
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(ids), use_cache=False).logits
    flips = 0
    for name, ours in watched.forced.items():
        differ = (watched.chosen[name].sort(-1)[0] != ours.sort(-1)[0]).any(-1)
        flips += int(differ.sum())
        assert (watched.margins[name][differ] < NEAR_TIE).all(), "a choice of experts that no rounding explains"
    return float(divergence(expected, logits).mean()), flips, ids.size * len(names)


def text(length: int, at: int = 0) -> np.ndarray:
    """Bytes of the example's text as two rows of ids."""
    return (
        np.frombuffer((TINY / "sample.txt").read_bytes()[at : at + 2 * length], np.uint8)
        .astype(np.int64)
        .reshape(2, -1)
    )


def test_trained_model_in_w8a8(fake_quantized, scheme, routing):
    model = fake_quantized(TINY, KEPT, scheme())
    mean, flips, decisions = compare(text(128), ported(TINY, "w8a8"), model, routing)
    assert mean <= KL
    assert flips <= 0.005 * decisions


@pytest.mark.parametrize("backend, kept", [("ascend-910b", KEPT), ("cambricon-mlu590", ON_MLU)])
def test_trained_model_in_the_operators_of_a_chip(backend, kept, fake_quantized, scheme, routing):
    model = fake_quantized(TINY, kept, scheme())
    mean, flips, decisions = compare(text(128), lowered(TINY, backend, "w8a8"), model, routing)
    assert mean <= KL
    assert flips <= 0.005 * decisions


def test_int4_experts_on_ascend(fake_quantized, scheme, int4, routing):
    model = fake_quantized(TINY, KEPT, scheme(), int4)
    mean, flips, decisions = compare(text(128), lowered(TINY, "ascend-910b", "w4a8"), model, routing)
    assert mean <= KL
    assert flips <= 0.005 * decisions


@pytest.mark.parametrize("name, activations", [("w8a8", True), ("w8a16", False)])
def test_random_models_with_outliers(name, activations, random_checkpoint, fake_quantized, scheme, routing, tmp_path):
    folder = random_checkpoint(tmp_path, 1, outliers=30.0)
    model = fake_quantized(folder, KEPT, scheme(activations=activations))
    mean, flips, decisions = compare(text(48), ported(folder, name), model, routing)
    assert mean <= KL
    assert flips <= 0.005 * decisions + 1


SHAPES = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([32, 64, 96, 130]),
        "moe_intermediate_size": st.sampled_from([16, 40, 96]),
        "num_hidden_layers": st.integers(1, 3),
        "first_k_dense_replace": st.integers(0, 1),
        "n_shared_experts": st.integers(1, 2),
        "norm_topk_prob": st.booleans(),
        "q_lora_rank": st.sampled_from([None, 24, 48]),
        "kv_lora_rank": st.sampled_from([16, 40]),
    }
)
GROUPS = st.sampled_from([(4, 1, 1), (8, 4, 2), (8, 2, 1), (12, 3, 2), (16, 4, 4)])


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(SHAPES, GROUPS, st.integers(1, 4), st.sampled_from([1.0, 30.0]), st.integers(0, 1000))
def test_any_model_of_the_family(random_checkpoint, fake_quantized, scheme, routing, fields, groups, k, outliers, seed):
    experts, n_group, topk_group = groups
    fields |= {"n_routed_experts": experts, "n_group": n_group, "topk_group": topk_group}
    fields["num_experts_per_tok"] = min(k, experts // n_group * topk_group)
    with tempfile.TemporaryDirectory() as folder:
        random_checkpoint(Path(folder), seed, outliers=outliers, **fields)
        model = fake_quantized(Path(folder), KEPT, scheme())
        mean, flips, decisions = compare(text(24, seed), ported(Path(folder), "w8a8"), model, routing)
    assert mean <= KL
    assert flips <= 0.005 * decisions + 1
