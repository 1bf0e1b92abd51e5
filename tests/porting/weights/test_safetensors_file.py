"""Headers: what the safetensors library writes is read alike, what it refuses is refused, and nothing crashes."""

import copy
import json
import os
import struct

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting.errors import InvalidModelError
from porting.weights.safetensors_file import DTYPES, read_header

MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_of(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def one(**changes):
    return {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


def test_every_dtype_is_read_as_the_library_wrote_it(tmp_path):
    tensors = {name: torch.zeros(2, 3, dtype=dtype) for name, dtype in DTYPES.items()}
    safetensors.torch.save_file(tensors, tmp_path / "x", metadata={"format": "pt"})
    header = read_header(tmp_path / "x")
    assert header.metadata == {"format": "pt"}
    assert {name: (e.dtype, e.shape, e.torch_dtype) for name, e in header.entries.items()} == {
        name: (name, (2, 3), dtype) for name, dtype in DTYPES.items()
    }
    with safetensors.safe_open(tmp_path / "x", "pt") as library:
        assert set(library.keys()) == set(header.entries)


def test_offsets_are_of_the_file(tmp_path):
    tensors = {f"t{i}": torch.arange(i, i + 5, dtype=torch.int32) for i in range(4)}
    safetensors.torch.save_file(tensors, tmp_path / "x")
    raw = (tmp_path / "x").read_bytes()
    for name, entry in read_header(tmp_path / "x").entries.items():
        assert raw[entry.offset : entry.offset + entry.length] == tensors[name].numpy().tobytes()


def test_only_the_header_is_read_and_no_descriptor_stays(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(100_000)}, tmp_path / "x")
    before = len(os.listdir("/proc/self/fd"))
    header = read_header(tmp_path / "x")
    assert header.bytes_read == header.entries["a"].offset < 200
    assert len(os.listdir("/proc/self/fd")) == before


def test_scalars_empty_tensors_and_no_tensors_are_fine(tmp_path):
    tensors = {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4), "also": torch.zeros(3, 0)}
    safetensors.torch.save_file(tensors, tmp_path / "x")
    entries = read_header(tmp_path / "x").entries
    assert (entries["scalar"].rows, entries["scalar"].columns) == (1, 1)
    assert (entries["empty"].rows, entries["empty"].columns) == (0, 4)
    safetensors.torch.save_file({}, tmp_path / "none")
    assert read_header(tmp_path / "none").entries == {}


BAD = {
    "empty file": (b"", None, "shorter than its header"),
    "length past the end": (one(), 10_000, "shorter than its header"),
    "length of 2**63": (one(), 1 << 63, "shorter than its header"),
    "no JSON": (b"{nonsense", None, "no valid JSON"),
    "no UTF-8": (b'{"\xff": 1}', None, "no valid JSON"),
    "deep nesting": (b'{"a":' * 100_000, None, "no valid JSON"),
    "no object": ([], None, "no JSON object"),
    "name twice": (b'{"a": 1, "a": 2}', None, "'a' is there twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, None, "__metadata__"),
    "field missing": ({"a": {"dtype": "F32", "shape": []}}, None, "malformed tensor"),
    "tensor is a list": ({"a": []}, None, "malformed tensor"),
    "unknown dtype": (one(dtype="F12"), None, "unknown dtype"),
    "dtype is a list": (one(dtype=["F32"]), None, "unknown dtype"),
    "negative size": (one(shape=[-2, -3]), None, "malformed shape"),
    "size is true": (one(shape=[True, 6]), None, "malformed shape"),
    "size is a float": (one(shape=[2.0, 3]), None, "malformed shape"),
    "size of 2**64": (one(shape=[1 << 64, 0]), None, "malformed shape"),
    "product past any file": (one(shape=[1 << 40, 1 << 40]), None, "do not fit"),
    "one offset": (one(data_offsets=[0]), None, "malformed data_offsets"),
    "offsets backwards": (one(data_offsets=[24, 0]), None, "do not fit"),
    "shape does not fit": (one(shape=[2, 4]), None, "do not fit"),
    "past the end": (one(data_offsets=[24, 48]), None, "truncated"),
    "nothing inside a tensor": (
        {**one(), "b": {"dtype": "U8", "shape": [0], "data_offsets": [12, 12]}},
        None,
        "overlaps",
    ),
    "overlap": ({**one(), "b": {"dtype": "U8", "shape": [8], "data_offsets": [16, 24]}}, None, "overlaps"),
    "hole": ({"b": {"dtype": "U8", "shape": [8], "data_offsets": [16, 24]}}, None, "hole"),
    "data left over": ({"b": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}, None, "longer than its tensors"),
    "name with a line break": ({"a\n": one()["a"]}, None, "not printable"),
    "name is half a character": (b'{"\\ud800": {}}', None, "not printable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers_are_refused_with_the_file_and_the_reason(tmp_path, case):
    header, length, reason = BAD[case]
    path = tmp_path / "weights.safetensors"
    if case == "empty file":
        path.write_bytes(b"")
    else:
        file_of(path, header, bytes(24), length)
    with pytest.raises(InvalidModelError) as caught:
        read_header(path)
    assert reason in str(caught.value)
    assert "weights.safetensors" in str(caught.value.where)
    assert caught.value.exit_code == 2
    if case != "name with a line break":  # which the library lets through
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(path, "pt")


def test_errors_name_the_tensor_the_limit_and_the_value(tmp_path):
    with pytest.raises(InvalidModelError) as caught:
        read_header(file_of(tmp_path / "x", one(shape=[2, 4]), bytes(24)))
    assert "tensor 'a'" in str(caught.value.where)
    assert (caught.value.required, caught.value.met) == ("32 bytes", 24)


def test_not_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidModelError):
            read_header(path)


def test_header_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(struct.pack("<Q", 200_000_000))
    os.truncate(path, 300_000_000)
    with pytest.raises(InvalidModelError, match="too long"):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@MANY
@given(st.binary(max_size=120))
def test_any_bytes_are_a_header_or_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    try:
        header = read_header(tmp_path / "x")
    except InvalidModelError:
        return
    with safetensors.safe_open(tmp_path / "x", "pt") as theirs:
        assert sorted(theirs.keys()) == sorted(header.entries)


@st.composite
def nearly_right(draw):
    """A valid header of a few tensors in which at most two values were replaced, and its data, at most slightly cut."""
    header, end = {}, 0
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        length = DTYPES[dtype].itemsize
        for size in shape:
            length *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    header = copy.deepcopy(header)
    for _ in range(draw(st.integers(0, 2))):
        place = header
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not isinstance(place[key], (dict, list)) or draw(st.booleans()):
                place[key] = draw(JSON | st.integers(0, end + 2))
                break
            place = place[key]
    return header, bytes(max(0, end + draw(st.sampled_from([0, 0, 0, 1, -1]))))


@MANY
@given(nearly_right())
def test_what_is_accepted_the_library_accepts_with_the_same_meaning(tmp_path, file):
    path = file_of(tmp_path / "x", *file)
    try:
        found = read_header(path)
    except InvalidModelError:
        found = None
    try:
        with safetensors.safe_open(path, "pt") as library:
            expected = {name: library.get_slice(name).get_shape() for name in library.keys()}  # noqa: SIM118
    except safetensors.SafetensorError:
        expected = None
    if found is None:
        assert expected is None or only_we_object(file[0])
    else:
        assert {name: list(entry.shape) for name, entry in found.entries.items()} == expected


def only_we_object(header):
    """Names that would break a message, and types that we do not read."""
    return any(
        not name.isprintable() or fields["dtype"] not in DTYPES
        for name, fields in header.items()
        if name != "__metadata__"
    )


def test_more_axes_than_any_tensor_has(tmp_path):
    assert read_header(file_of(tmp_path / "x", one(shape=[1] * 62 + [2, 3]), bytes(24)))
    with pytest.raises(InvalidModelError, match="at most 64"):
        read_header(file_of(tmp_path / "x", one(shape=[1] * 63 + [2, 3]), bytes(24)))


def test_fields_that_the_format_may_gain_are_passed_over(tmp_path):
    path = file_of(tmp_path / "x", one(checksum=1), bytes(24))
    assert read_header(path).entries["a"].shape == (2, 3)
