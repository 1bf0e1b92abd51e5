"""A checkpoint folder through every command: ported, verified, simulated, and run by transformers."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from porting import frontends, schemas
from porting.check import check_source
from porting.cli import check, port, reference, simulate, verify
from porting.errors import InvalidInputError, InvalidModelError, UsageError
from porting.frontends.source import Source
from porting.target import Target

from .conftest import TEXT


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(deepseek: Path) -> Path:
    return deepseek


@pytest.fixture(scope="module")
def source(deepseek_source: Source) -> Source:
    return deepseek_source


@pytest.fixture(scope="module")
def made(folder: Path, source: Source) -> Path:
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontends, "load", lambda text: source)  # the export takes most of the time: once is enough
        result = run(
            port.command, folder / "tiny", "--backend", "reference", "--inputs", folder / "text.txt",
            "-o", out,
        )  # fmt: skip
    assert result.return_value == 0, result.output
    assert "PASS" in result.output
    assert f"logits of {len(TEXT)} tokens: KL " in result.output
    assert f"routing of {len(TEXT)} decisions: 0 flip at a near tie (0.00%), 0 are faults" in result.output
    assert "decoder layer, worst first" in result.output
    return out


def test_the_port_is_in_composite_operators_and_runs_in_stock_onnxruntime(made: Path) -> None:
    after = json.loads((made / "port.json").read_text())["operators"]["after"]
    composite = {name.removeprefix("porting."): n for name, n in after.items() if name.startswith("porting.")}
    assert composite == {
        "AddRMSNorm": 3, "GatingTopK": 1, "GroupedMatmul": 2, "MLAAttention": 2, "MoeCombine": 1, "MoeDispatch": 1,
        "RMSNorm": 6, "RotaryEmbedding": 4, "SwiGLU": 3,
    }  # fmt: skip
    onnx.checker.check_model(onnx.load(made / "model.onnx"))
    parity = json.loads((made / "parity.json").read_text())
    (fidelity,) = parity["fidelity"]["outputs"]
    assert fidelity["rel_l2"] <= 1e-5


def test_parity_speaks_of_a_language_model(made: Path) -> None:
    (logits,) = json.loads((made / "parity.json").read_text())["outputs"]
    assert logits["positions"] == len(TEXT)
    assert logits["predicted"] == len(TEXT) - 1
    assert logits["kl_mean"] < 1e-9
    assert logits["top1_agreement"] == 1
    assert logits["perplexity"] == pytest.approx(logits["perplexity_reference"], rel=1e-6)


def test_parity_speaks_of_experts_and_decoder_layers(made: Path) -> None:
    parity = json.loads((made / "parity.json").read_text())
    schemas.validate("parity", parity)
    routing = parity["routing"]
    assert (routing["near_ties"], routing["faults"], routing["settled_by"]) == (0, 0, "free run")
    (router,) = routing["routers"]
    assert (router["module"], router["experts"], router["chosen"]) == ("model.layers.1.mlp.gate", 8, 3)
    assert router["hits"] == router["reference_hits"]
    assert sum(router["hits"]) == 3 * len(TEXT)
    assert [layer["module"] for layer in parity["decoder_layers"]] == ["model.layers.0", "model.layers.1"]
    assert all(layer["isolated"]["rel_l2"] < 1e-5 for layer in parity["decoder_layers"])
    page = (made / "report.html").read_text()
    assert "Routing: which experts the tokens go to" in page
    assert 'class="chart heat"' in page


def test_layers_carry_the_users_modules(made: Path) -> None:
    modules = {layer["module"] for layer in json.loads((made / "parity.json").read_text())["layers"]}
    assert "model.layers.1.mlp.experts" in modules
    assert "model.layers.0.self_attn" in modules


def test_verify_measures_the_same_again(made: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "load", lambda text: source)
    result = run(verify.command, made, "--strict")
    assert result.return_value == 0, result.output


def test_with_little_memory_the_numbers_hold_and_onnxruntime_is_left_out(
    folder: Path, made: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontends, "load", lambda text: source)
    result = run(verify.command, made, "--memory", "64KiB", "--html", folder / "little.html")
    assert result.return_value == 0, result.output
    assert "NOT_MEASURED" in result.output
    assert "--memory is 64 KiB" in result.output
    assert "logits" in result.output


def test_simulation_and_reference_agree_on_arrays_of_ids(
    folder: Path, made: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontends, "load", lambda text: source)
    ids = np.random.default_rng(0).integers(0, 256, (2, 17))
    np.savez(folder / "ids.npz", input_ids=ids)
    outputs = [folder / name for name in ("simulated.npz", "expected.npz")]
    assert run(simulate.command, made, "--inputs", folder / "ids.npz", "--outputs", outputs[0]).exit_code == 0
    arguments = (folder / "tiny", "--inputs", folder / "ids.npz", "--outputs", outputs[1])
    assert run(reference.command, *arguments).exit_code == 0
    simulated, expected = (np.load(path)["logits"] for path in outputs)
    assert expected.shape == (2, 17, 256)
    np.testing.assert_allclose(simulated, expected, rtol=1e-4, atol=1e-4)


def test_check_judges_without_reading_weights(source: Source) -> None:
    store = next(v.const_value for v in source.model.graph.initializers.values()).raw[0].stored.store
    before = store.data_bytes_read
    assert check_source(source, Target.resolve("reference")).verdict == "legal"
    assert check_source(source, Target.resolve("ascend-910b")).verdict in ("illegal", "unknown")
    assert store.data_bytes_read == before


def test_text_for_a_source_without_tokenizer_is_bad_usage(folder: Path, source: Source) -> None:
    from porting.data import open_data

    mute = Source("tiny", "checkpoint", source.model, "0", source.open_reference)
    with pytest.raises(UsageError, match="no tokenizer"):
        open_data(folder / "text.txt", mute, source.model.graph.inputs)
    with pytest.raises(InvalidInputError, match="no data at"):
        open_data(folder / "absent.npz", source, source.model.graph.inputs)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08" + 7 * b"\0" + b"{"), "model.safetensors"),
        (lambda folder: save_file({"a": torch.ones(1)}, folder / "model.safetensors"), "missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot read config.json"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_written(folder: Path, tmp_path: Path, damage, message) -> None:
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    damage(tmp_path / "tiny")
    result = run(port.command, tmp_path / "tiny", "--backend", "reference", "-o", tmp_path / "out")
    assert isinstance(result.exception, InvalidModelError), result.output
    assert message in str(result.exception)
    assert result.exception.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_unknown_backend_is_found_before_the_import(folder: Path) -> None:
    result = run(check.command, folder / "tiny", "--backend", "ascend-910c")
    assert "did you mean" in str(result.exception)
