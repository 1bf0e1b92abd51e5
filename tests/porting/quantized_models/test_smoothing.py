"""Planted outliers of activations, and what smoothing makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting import frontends
from porting.pipeline import Pipeline
from porting.quantization.decide import decider
from porting.quantization.smooth_norms import smooth_norms
from porting.simulation.interpreter import Interpreter
from porting.target import Target
from porting_passes.smoothable import smooth_groups

TINY = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"


def floats(folder: Path) -> tuple[frontends.Source, Target, Pipeline]:
    source, target = frontends.load(str(folder)), Target.resolve("reference", scheme="w8a8")
    pipeline = Pipeline(source.model, target, language_model=True)
    pipeline.bind(source.dims)
    pipeline.to_float_surface()
    return source, target, pipeline


def ids(length: int, at: int = 0) -> np.ndarray:
    read = (TINY / "sample.txt").read_bytes()[at : at + 2 * length]
    return np.frombuffer(read, np.uint8).astype(np.int64).reshape(2, -1)


def logits(model: ir.Model) -> torch.Tensor:
    return Interpreter(model).run({"input_ids": torch.from_numpy(ids(256))})["logits"]


def divergence(expected: torch.Tensor, met: torch.Tensor) -> float:
    p, q = expected.double().log_softmax(-1), met.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def quantized(folder: Path, alpha: float | None) -> float:
    """KL of the port from its float model, on the example's text."""
    source, target, pipeline = floats(folder)
    expected = logits(pipeline.model)
    smoothed = None
    if alpha is not None:
        smoothed = smooth_norms(pipeline.model, [{"input_ids": ids(128, at=2048)}], alpha=alpha)
    pipeline.quantize_weights(decider(source, target, None, smoothed))
    return divergence(expected, logits(pipeline.model))


@pytest.fixture(scope="module")
def planted(fp8_layout, plant, tmp_path_factory) -> Path:
    """The trained model with five channels behind every norm thirty times as large, the same function."""
    folder = tmp_path_factory.mktemp("planted")
    state = fp8_layout.read(TINY)
    plant(state, 30.0)
    config = json.loads((TINY / "config.json").read_text())
    fp8_layout.write(folder, config, fp8_layout.encode(state))
    return folder


@pytest.mark.slow
def test_smoothing_brings_outliers_back_to_the_error_of_a_model_without(planted: Path) -> None:
    plain, worse, smoothed = quantized(TINY, None), quantized(planted, None), quantized(planted, 0.5)
    assert worse > 3 * plain
    assert smoothed < 1.5 * plain


def test_the_model_computes_what_it_did(random_checkpoint, tmp_path) -> None:
    """Factors are powers of two: norms and weights take them without rounding. Routers are among the readers."""
    _, _, pipeline = floats(random_checkpoint(tmp_path, 3, outliers=30.0))
    small = torch.from_numpy(ids(24))
    before = Interpreter(pipeline.model).run({"input_ids": small})["logits"]
    groups = list(smooth_groups(pipeline.model))
    smoothed = smooth_norms(pipeline.model, [{"input_ids": ids(24)}])
    assert any(len(group.readers) > 2 for group in groups)
    assert any((s.columns != 1).any() for s in smoothed.values())
    for value, each in smoothed.items():
        value.const_value = each.float_weight()
    after = Interpreter(pipeline.model).run({"input_ids": small})["logits"]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * float(before.abs().max()))


def test_what_something_else_reads_is_left_alone(random_checkpoint, tmp_path) -> None:
    """The latent's norm feeds attention, the last norm a head that is tied to nothing: only one of them is a group."""
    _, _, pipeline = floats(random_checkpoint(tmp_path, 3))
    names = {group.weight.name for group in smooth_groups(pipeline.model)}
    assert not any("kv_a_layernorm" in name for name in names)
    assert {name.split(".")[-2] for name in names} == {
        "input_layernorm", "post_attention_layernorm", "q_a_layernorm", "norm",
    }  # fmt: skip


def test_a_port_folder_smoothed_by_text(tmp_path) -> None:
    from click.testing import CliRunner

    from porting.cli.port import command

    out = tmp_path / "out"
    sample = tmp_path / "sample.txt"
    sample.write_bytes((TINY / "sample.txt").read_bytes()[:512])
    arguments = [str(TINY), "--backend", "reference", "--scheme", "w8a8", "--smooth", "0.5"]
    result = CliRunner().invoke(
        command,
        [*arguments, "--calibrate", str(sample), "--inputs", str(sample), "-o", str(out)],
        standalone_mode=False,
    )
    assert result.exception is None, result.output
    record = json.loads((out / "port.json").read_text())
    assert record["smoothing"] == {"alpha": 0.5, "samples": 2}
    shutil.rmtree(out)
