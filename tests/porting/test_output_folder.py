"""OUT is whole or absent, whatever happens while it is written."""

import errno
import multiprocessing
import os
import resource
from pathlib import Path

import pytest

from porting.errors import ExistingOutputError, OutputBusyError, OutputError
from porting.output_folder import MANIFEST, claim


def write_port(folder: Path, text: str = "{}") -> None:
    (folder / MANIFEST).write_text(text)


def test_a_finished_block_leaves_out_and_nothing_else(tmp_path: Path) -> None:
    with claim(tmp_path / "deep" / "out") as folder:
        write_port(folder)
    assert (tmp_path / "deep" / "out" / MANIFEST).read_text() == "{}"
    assert os.listdir(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupted_block_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), claim(tmp_path / "out") as folder:
        write_port(folder)
        raise interruption
    assert os.listdir(tmp_path) == []


def test_an_existing_out_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExistingOutputError, match="exists") as error, claim(tmp_path / "out"):
        pytest.fail("the block ran")
    assert error.value.exit_code == 2


def test_force_replaces_an_earlier_port(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with claim(tmp_path / "out", force=True) as folder:
            write_port(folder, text)
    assert (tmp_path / "out" / MANIFEST).read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_force_keeps_the_earlier_port_when_the_new_one_fails(tmp_path: Path) -> None:
    with claim(tmp_path / "out") as folder:
        write_port(folder, "old")
    with pytest.raises(ValueError, match="midway"), claim(tmp_path / "out", force=True) as folder:
        write_port(folder, "new")
        raise ValueError("midway")
    assert (tmp_path / "out" / MANIFEST).read_text() == "old"


def test_force_refuses_a_folder_that_is_no_port(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(ExistingOutputError, match="is no port"), claim(tmp_path / "precious", force=True):
        pytest.fail("the block ran")
    assert (tmp_path / "precious" / "thesis.tex").exists()


def _second_run(out: Path, outcome: "multiprocessing.Queue[str]") -> None:
    try:
        with claim(out):
            outcome.put("claimed")
    except OutputBusyError as error:
        outcome.put(f"busy {error.exit_code}")


def test_a_second_run_on_the_same_out_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    outcome: multiprocessing.Queue[str] = context.Queue()
    with claim(tmp_path / "out") as folder:
        write_port(folder)
        second = context.Process(target=_second_run, args=(tmp_path / "out", outcome))
        second.start()
        assert outcome.get(timeout=30) == "busy 2"
        second.join()
    assert (tmp_path / "out" / MANIFEST).exists()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.onnx").write_bytes(b"half")
    (tmp_path / ".out.lock").touch()
    with claim(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
        write_port(folder)
    assert os.listdir(tmp_path) == ["out"]


def test_a_write_past_the_limit_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="no room") as error, claim(tmp_path / "out") as folder:
            (folder / "weights.bin").write_bytes(b"\0" * 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no room") as error, claim(tmp_path / "out"), open("/dev/full", "wb") as full:
        full.write(b"\0" * 65536)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no folder that takes no files")
def test_a_parent_that_takes_no_files_is_a_clear_error() -> None:
    with pytest.raises(OutputError, match="cannot write"), claim(Path("/proc/porting-out")):
        pytest.fail("the block ran")


def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write|no room"), claim(tmp_path / "file" / "out"):
        pytest.fail("the block ran")
