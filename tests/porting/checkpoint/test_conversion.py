"""The engine: what is written does not depend on how, and whatever ends a run leaves something to go on from."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fp8_checkpoint
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from porting import schemas
from porting.checkpoint import blocks, conversion, rows
from porting.checkpoint.conversion import Conversion, convert, dry_run
from porting.checkpoint.record import NAME
from porting.checkpoint.source import Source
from porting.checkpoint.validation import detect, validate
from porting.errors import ExistingOutputError, InvalidModelError, OutputBusyError, OutputError, UsageError
from porting.output_folder import lock
from porting.quantization.scheme_map import read_scheme_map

from .conftest import Convert

ROOT = Path(__file__).parents[3]
FORMATS = ("ascend", "cambricon", "compressed-tensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def whole(source_folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """What a run that nothing interrupts writes."""
    out = tmp_path / "whole"
    convert(Conversion(Source(source_folder), "w8a8", FORMATS), out, threads=1)
    return contents(out)


def test_bytes_do_not_depend_on_threads_and_blocks(
    whole: dict[str, bytes], converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_ELEMENTS", 1 << 12)
    monkeypatch.setattr(rows, "SCRATCH", 1 << 10)
    assert contents(converted("w8a8", *FORMATS, threads=4)) == whole


def test_a_format_alone_is_the_same_as_among_others(whole: dict[str, bytes], converted: Convert) -> None:
    alone = contents(converted("w8a8", "ascend"))
    del alone[NAME]
    assert alone == {
        name.removeprefix("ascend/"): data for name, data in whole.items() if name.startswith("ascend/")
    }  # fmt: skip


def test_every_byte_is_read_once_for_three_formats(source_folder: Path, tmp_path: Path) -> None:
    source = Source(source_folder)
    convert(Conversion(source, "w8a8", FORMATS), tmp_path / "out", threads=2)
    scales = sum(tensor.scale.length for tensor in source.tensors.values() if tensor.scale is not None)
    # Scales, a hundredth of a percent in a real checkpoint, are judged, and read again for each block of rows.
    assert source.data_bytes - scales <= source.store.data_bytes_read <= source.data_bytes + 3 * scales


def test_the_null_sink_finds_the_same_and_writes_nothing(
    whole: dict[str, bytes], source_folder: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    found = dry_run(Conversion(Source(source_folder), "w8a8", FORMATS), threads=2)
    files = json.loads(whole[NAME])["files"]
    for facts in files.values():
        del facts["digest"]
    assert found["files"] == files
    assert contents(tmp_path) == before


def test_a_complete_conversion_is_left_as_it_is(source_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = Conversion(Source(source_folder), "w8a8", ("ascend",))
    convert(asked, out, threads=1)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = Conversion(Source(source_folder), "w8a8", ("ascend",))
    convert(again, out, threads=1)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert again.source.store.data_bytes_read == 0


def test_another_option_is_refused(source_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), out, threads=1)
    with pytest.raises(UsageError, match="another scheme"):
        convert(Conversion(Source(source_folder), "w8a16", ("ascend",)), out, threads=1)
    with pytest.raises(UsageError, match="another formats"):
        convert(Conversion(Source(source_folder), "w8a8", ("cambricon",)), out, threads=1)
    with pytest.raises(UsageError, match="another divisor"):
        convert(Conversion(Source(source_folder), "w8a8", ("ascend",), whole=True), out, threads=1)


def test_a_divisor_is_of_integers_by_rows(source_folder: Path) -> None:
    for scheme, form in (("mxfp8", "ascend"), ("int8-block", "sglang"), ("bf16", "cambricon")):
        with pytest.raises(UsageError, match="no integers with scales of rows"):
            Conversion(Source(source_folder), scheme, (form,), whole=True).layouts()


def test_another_source_is_refused(tmp_path: Path) -> None:
    folder, out = tmp_path / "source", tmp_path / "out"
    fp8_checkpoint.write(folder)
    convert(Conversion(Source(folder), "w8a8", ("ascend",)), out, threads=1)
    fp8_checkpoint.write(folder, seed=1)
    with pytest.raises(UsageError, match="another source"):
        convert(Conversion(Source(folder), "w8a8", ("ascend",)), out, threads=1)


def test_a_source_that_was_moved_is_the_same(source_folder: Path, tmp_path: Path) -> None:
    """Times of change and the folder's name differ between machines; formats may be named in any order."""
    out, moved = tmp_path / "out", tmp_path / "moved"
    convert(Conversion(Source(source_folder), "w8a8", ("ascend", "cambricon")), out, threads=1)
    before = contents(out)
    shutil.copytree(source_folder, moved)
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    again = Conversion(Source(moved), "w8a8", ("cambricon", "ascend"))
    convert(again, out, threads=1)
    assert contents(out) == before
    assert again.source.store.data_bytes_read == 0


@pytest.mark.parametrize("damage", ["removed", "changed"])
@pytest.mark.parametrize("name", ["config.json", "quant_model_weights.safetensors.index.json"])
def test_a_document_that_is_lost_or_changed_is_found_and_written_anew(
    name: str, damage: str, source_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = Conversion(Source(source_folder), "w8a8", ("ascend",))
    convert(asked, out, threads=1)
    before = contents(out)
    if damage == "changed":
        (out / name).write_text((out / name).read_text().replace(": ", ":  ", 1))
        assert [fault.where for fault in validate(out, digests=True)] == [name]
    else:
        (out / name).unlink()
    convert(asked, out, threads=1)
    assert contents(out) == before


def test_a_result_in_the_source_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    fp8_checkpoint.write(folder)
    for out in (folder, folder / "out"):
        with pytest.raises(ExistingOutputError, match="in the source"):
            convert(Conversion(Source(folder), "w8a8", ("ascend",)), out, threads=1)


def test_more_threads_than_there_is_memory_for(source_folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    convert(Conversion(Source(source_folder), "w8a8", FORMATS), tmp_path / "out", threads=192)
    assert contents(tmp_path / "out") == whole


def test_a_conversion_that_has_not_ended_is_told_as_such(source_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(Conversion(Source(source_folder), "w8a8", ("ascend", "cambricon")), out, threads=1)
    with pytest.raises(InvalidModelError, match="a folder of several formats"):
        detect(out)
    record = json.loads((out / NAME).read_text())
    (out / NAME).write_text(json.dumps(record | {"complete": False}))
    for folder in (out, out / "ascend"):
        with pytest.raises(InvalidModelError, match="has not ended"):
            detect(folder)


def test_a_layer_in_float_that_no_cambricon_loader_takes_is_refused(source_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({r"model\.layers\.1\.self_attn\.o_proj": "none"}))
    asked = Conversion(Source(source_folder), "w8a8", ("cambricon",), read_scheme_map(path))
    with pytest.raises(UsageError, match="no list of such ones"):
        asked.layouts()


def test_a_second_run_on_the_same_out_is_refused(source_folder: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out"), pytest.raises(OutputBusyError):
        convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), tmp_path / "out", threads=1)


def test_the_lock_of_a_process_that_died_holds_nothing(source_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, pathlib\nfrom porting.output_folder import lock\n"
        f"held = lock(pathlib.Path({str(out)!r}))\nheld.__enter__()\nos.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == -9
    assert (tmp_path / ".out.lock").exists()
    assert convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), out, threads=1)["complete"]


def test_a_folder_of_something_else_is_not_touched(source_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ExistingOutputError):
        convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), tmp_path / "out", threads=1)
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]


def test_a_disk_that_is_too_small_is_known_before_the_first_byte(
    source_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match="too small"):
        convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_refused(source_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="memory is too small"):
        convert(Conversion(Source(source_folder), "w8a8", ("ascend",)), tmp_path / "out", threads=1, memory=1 << 20)


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in ("", "passes", "kernels"))
    return {**os.environ, "PYTHONPATH": path}


def start(source: Path, out: Path, *, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "porting", "checkpoint", "convert", str(source), "--scheme", "w8a8"]
    command += [argument for form in FORMATS for argument in ("--format", form)]
    return subprocess.Popen(
        [*command, "--threads", "2", "-o", str(out)], env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=limit,
    )  # fmt: skip


def require_whole_files(out: Path) -> None:
    """Whatever ends in .safetensors is one, to its last byte."""
    for path in out.rglob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                opened.get_tensor(name)


def test_a_full_disk_stops_cleanly_and_the_same_command_goes_on(
    whole: dict[str, bytes], source_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sizes = [len(data) for name, data in whole.items() if name.endswith(".safetensors")]
    limit = sorted(sizes)[len(sizes) // 2]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    run = start(source_folder, out, limit=small_files)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 2, errors
    assert "no room" in errors
    assert "the same command goes on" in errors
    assert not list(out.rglob("*.partial"))
    require_whole_files(out)
    second = start(source_folder, out)
    assert second.communicate(timeout=120)[1] is not None
    assert second.returncode == 0
    assert contents(out) == whole


def test_an_interrupt_ends_cleanly(whole: dict[str, bytes], source_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = start(source_folder, out)
    while not out.exists() and run.poll() is None:
        time.sleep(0.001)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=120)
    assert run.returncode in (0, 130), errors
    assert not list(out.rglob("*.safetensors.partial"))
    require_whole_files(out)
    assert start(source_folder, out).wait(timeout=120) == 0
    assert contents(out) == whole


def changed(path: Path) -> int:
    """When, in nanoseconds; 0 for what is not there (any more)."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill_and_go_on(source: Path, out: Path, whole: dict[str, bytes], kills: int, seed: int) -> int:
    """Kill runs on OUT at random moments after they have begun to write; then let one end. Returns how many died."""
    random = np.random.default_rng(seed)
    died = 0
    for _ in range(kills):
        begin = time.time_ns()
        run = start(source, out)
        while run.poll() is None and not any(changed(path) > begin for path in [out, *out.rglob("*")]):
            time.sleep(0.001)
        try:
            run.wait(timeout=float(random.uniform(0, 0.15)))
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            died += 1
        run.communicate()
        require_whole_files(out)
        if run.returncode == 0:
            assert contents(out) == whole
            shutil.rmtree(out)
    last = start(source, out)
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors
    assert contents(out) == whole
    return died


def test_a_killed_run_goes_on_to_the_same_bytes(whole: dict[str, bytes], source_folder: Path, tmp_path: Path) -> None:
    kill_and_go_on(source_folder, tmp_path / "out", whole, kills=2, seed=0)


@pytest.mark.slow
def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    fp8_checkpoint.write(source, shards=12)
    convert(Conversion(Source(source), "w8a8", FORMATS), tmp_path / "reference", threads=1)
    died = kill_and_go_on(source, out, contents(tmp_path / "reference"), kills=50, seed=1)
    assert died >= 10, "the moments are not within the runs"


def test_odd_sizes_are_aligned_and_readable(converted: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {
        "model.layers.0.mlp.up_proj.weight": torch.randn(5, 7).bfloat16(),
        "model.layers.0.mlp.down_proj.weight": torch.randn(3, 5).bfloat16(),
        "model.layers.0.mlp.down_proj.bias": torch.randn(3),
        "model.layers.0.empty": torch.empty(0, 4),
        "model.layers.0.scalar": torch.tensor(3.0),
        "model.layers.0.ids": torch.arange(3),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    out = converted("w8a16", *FORMATS[:1], "compressed-tensors", folder=folder)
    for path in out.rglob("*.safetensors"):
        with safe_open(path, "pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        for name in ("model.layers.0.mlp.down_proj.bias", "model.layers.0.ids", "model.layers.0.scalar"):
            assert torch.equal(found[name], tensors[name])
        assert found["model.layers.0.empty"].shape == (0, 4)
    record = json.loads((out / NAME).read_text())
    for name, facts in record["files"].items():
        assert facts["digest"] == "sha256:" + hashlib.sha256((out / name).read_bytes()).hexdigest()


def test_rows_of_zeros_and_nan_are_counted(converted: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    weight = torch.randn(8, 16)
    weight[1] = 0
    weight[2, 3] = torch.nan
    weight[4] = 1e-40
    save_file({"model.layers.0.mlp.up_proj.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    out = converted("w8a8", "ascend", folder=folder)
    record = json.loads((out / NAME).read_text())
    schemas.validate("conversion", record)
    (facts,) = record["files"].values()
    assert facts["findings"] == {"model.layers.0.mlp.up_proj.weight": {"zero": 1, "not_finite": 1, "tiny": 1}}


def test_scales_that_are_no_powers_of_two_are_named(converted: Convert) -> None:
    record = json.loads((converted("w8a8", "ascend") / NAME).read_text())
    schemas.validate("conversion", record)
    files = record["files"]
    others = [name for facts in files.values() for name in facts.get("block_scales", {}).get("others", {})]
    assert set(others) == {"model.layers.*.self_attn.o_proj.weight_scale_inv"}


def test_a_scale_stored_as_an_exponent(converted: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "e8m0"
    folder.mkdir()
    codes = torch.randn(256, 128).mul(50).to(torch.float8_e4m3fn)
    name = "model.layers.0.mlp.up_proj.weight"
    exponents = torch.tensor([[120], [130]], dtype=torch.uint8)
    save_file({name: codes, f"{name}_scale_inv": exponents.view(torch.float8_e8m0fnu)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    out = converted("bf16", "ascend", folder=folder)
    with safe_open(out / "quant_model_weights.safetensors", "pt") as opened:
        found = opened.get_tensor(name)
    scale = torch.exp2(exponents.float() - 127).repeat_interleave(128, 0)
    assert torch.equal(found.float(), codes.float() * scale)


def test_a_quantized_source_is_refused(converted: Convert, tmp_path: Path) -> None:
    out = converted("w8a8", "compressed-tensors")
    with pytest.raises(InvalidModelError, match="quantized already"):
        Source(out)


def test_unknown_formats_and_schemes_name_the_known(source_folder: Path) -> None:
    for scheme, form, words in (
        ("w8a8", "mindie", "ascend or"),
        ("w3a3", "ascend", "bf16 or"),
        ("fp8-block", "ascend", "--format compressed"),
    ):
        with pytest.raises(UsageError, match=words):
            Conversion(Source(source_folder), scheme, (form,)).layouts()
