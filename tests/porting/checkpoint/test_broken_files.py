"""Files from strangers: broken headers and cut-off files are refused by name, never half converted."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import fp8_checkpoint
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.source import Source
from porting.cli.checkpoint import convert as command
from porting.errors import PortingError

FILE = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "source"
    fp8_checkpoint.write(folder)
    return folder


def copy(folder: Path, base: Path, data: bytes) -> Path:
    to = base / "source"
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).symlink_to(path)
    (to / FILE).unlink()
    (to / FILE).write_bytes(data)
    return to


def refused(folder: Path) -> str:
    """The message; that it has the exit code of bad input and leaves no weight file of the broken one."""
    with tempfile.TemporaryDirectory() as out:
        with pytest.raises(PortingError) as error:
            convert(Conversion(Source(folder), "w8a8", ("ascend",)), Path(out) / "out", threads=1)
        assert error.value.exit_code == 2
        assert not list(Path(out).rglob("*.partial"))
    return str(error.value)


@given(data=st.data())
@settings(max_examples=100)
def test_a_file_cut_off_anywhere_is_refused_by_name(data: st.DataObject, whole: Path) -> None:
    original = (whole / FILE).read_bytes()
    end = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(original) - 1)))
    with tempfile.TemporaryDirectory() as folder:
        assert FILE in refused(copy(whole, Path(folder), original[:end]))


def outcome(folder: Path, out: Path) -> PortingError | None:
    """What a conversion ends with."""
    try:
        convert(Conversion(Source(folder), "w8a8", ("ascend",)), out, threads=1)
    except PortingError as error:
        return error
    return None


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)


@given(data=st.data())
@settings(max_examples=150)
def test_a_header_with_one_wrong_field_is_refused_or_means_the_same(data: st.DataObject, whole: Path) -> None:
    original = (whole / FILE).read_bytes()
    length = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + length])
    name = data.draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    changed = data.draw(ODD)
    if changed == header[name][key]:
        return
    header[name][key] = changed
    text = json.dumps(header).encode()
    broken = struct.pack("<Q", len(text)) + text + original[8 + length :]
    with tempfile.TemporaryDirectory() as folder:
        assert FILE in refused(copy(whole, Path(folder), broken))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=2000)
def test_bytes_changed_at_random_are_refused_or_give_a_whole_result(data: st.DataObject, whole: Path) -> None:
    original = bytearray((whole / FILE).read_bytes())
    length = struct.unpack("<Q", original[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        source = copy(whole, Path(folder), bytes(original))
        out = Path(folder) / "out"
        error = outcome(source, out)
        if error is None:
            assert (out / "quant_model_weights.safetensors.index.json").exists()
        else:
            assert error.exit_code == 2
            assert str(source) in str(error) or FILE in str(error)


def test_a_file_that_shrinks_while_it_is_read_is_named(whole: Path, tmp_path: Path) -> None:
    source = Source(copy(whole, tmp_path, (whole / FILE).read_bytes()))
    (source.folder / FILE).write_bytes((whole / FILE).read_bytes()[:-100])
    with pytest.raises(PortingError, match=f"(?s)shorter.*{FILE}") as error:
        convert(Conversion(source, "w8a8", ("ascend",)), tmp_path / "out", threads=2)
    assert error.value.exit_code == 2


def test_scales_of_nan_are_refused_by_name(whole: Path, tmp_path: Path) -> None:
    original = bytearray((whole / FILE).read_bytes())
    length = struct.unpack("<Q", original[:8])[0]
    header = json.loads(original[8 : 8 + length])
    name = next(key for key in header if key.endswith("_scale_inv"))
    begin = 8 + length + header[name]["data_offsets"][0]
    original[begin : begin + 4] = np.float32(np.nan).tobytes()
    message = refused(copy(whole, tmp_path, bytes(original)))
    assert name in message
    assert FILE in message


def test_the_command_shows_the_error_and_no_traceback(whole: Path, tmp_path: Path) -> None:
    folder = copy(whole, tmp_path, b"nothing")
    result = CliRunner().invoke(
        command.command, [str(folder), "--scheme", "w8a8", "--format", "ascend", "-o", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, PortingError)
    assert FILE in str(result.exception)
