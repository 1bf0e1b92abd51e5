import tracemalloc
import zipfile

import numpy as np
import onnx_ir as ir
import pytest

from porting import samples
from porting.errors import InvalidInputError
from porting.samples import CHUNK, Samples


def value(name: str, *dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


X = value("x", 2, 3)
N = value("x", "batch", 3)
IDS = value("ids", "batch", dtype=ir.DataType.INT64)


def rows(count: int) -> np.ndarray:
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def saved(folder, name="data.npz", *, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(folder / name, **arrays)
    return folder / name


@pytest.mark.parametrize("compressed", [False, True])
def test_a_fixed_first_dimension_is_taken_as_it_is(tmp_path, compressed):
    samples = Samples(saved(tmp_path, x=rows(6), compressed=compressed), [X])
    assert (len(samples), samples.examples) == (3, 6)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([s["x"] for s in samples]), rows(6))
        assert [s["x"].shape for s in samples] == [(2, 3)] * 3


@pytest.mark.parametrize(
    ("count", "dims", "shapes"),
    [
        (70, None, [CHUNK, CHUNK, 70 - 2 * CHUNK]),
        (7, {"batch": (1, 4)}, [4, 3]),
        (80, {"batch": (40, 64)}, [40, 40]),
    ],
)
def test_a_symbol_is_taken_in_chunks_within_its_range(tmp_path, count, dims, shapes):
    path = saved(tmp_path, x=rows(count), ids=np.arange(count))
    samples = list(Samples(path, [N, IDS], dims))
    assert [len(s["x"]) for s in samples] == [len(s["ids"]) for s in samples] == shapes
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in samples]), rows(count))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("count", [6, 70])
def test_an_array_in_fortran_order_is_read_as_any_other(tmp_path, count, compressed):
    path = saved(tmp_path, x=np.asfortranarray(rows(count)), ids=np.arange(count), compressed=compressed)
    found = list(Samples(path, [N, IDS]))
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in found]), rows(count))
    assert all(s["x"].flags.c_contiguous for s in found)


@pytest.mark.parametrize(("rows_", "text"), [(6, "6 examples in 3 batches"), (2, "2 examples in 1 batch")])
def test_examples_and_batches_are_two_words(tmp_path, rows_, text):
    assert samples.counted(Samples(saved(tmp_path, x=rows(rows_)), [X])) == text
    assert samples.counted([{}] * 4) == "4 batches"


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    saved(tmp_path, "b.npz", x=rows(2) + 100)
    saved(tmp_path, "a.npz", x=rows(4))
    (tmp_path / "notes.txt").write_text("not data")
    assert [float(s["x"][0, 0]) for s in Samples(tmp_path, [X])] == [0, 6, 100]


def test_an_input_with_a_default_needs_no_data(tmp_path):
    default = value("w", 1)
    default.const_value = ir.tensor(np.ones(1, np.float32), name="w")
    ir.Graph([X, default], [], nodes=[], initializers=[default])
    assert len(Samples(saved(tmp_path, x=rows(2)), [X, default])) == 1


def test_only_one_sample_is_in_memory(tmp_path):
    path = saved(tmp_path, x=np.zeros((400, 3, 4096), np.float32), compressed=True)
    tracemalloc.start()
    try:
        for _ in Samples(path, [value("x", 2, 3, 4096)]):
            pass
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("arrays", "inputs", "message"),
    [
        (
            {"y": rows(2)},
            [X],
            r"not named as the model's inputs[\s\S]*required x[\s\S]*met      y[\s\S]*add x; leave out y",
        ),
        ({"x": rows(2), "y": rows(2)}, [X], "leave out y"),
        ({"x": rows(2)}, [N, IDS], "add ids"),
        ({"x": rows(2).astype(np.float64)}, [X], r"another dtype[\s\S]*float32[\s\S]*float64"),
        ({"x": rows(2)[0]}, [X], "another rank"),
        ({"x": np.zeros((2, 4), np.float32)}, [X], "another size than its input at axis 1"),
        ({"x": rows(3)}, [X], "does not divide"),
        ({"x": rows(0)}, [X], "an empty array"),
        ({"x": rows(70), "ids": np.arange(3)}, [N, IDS], "not hold the same number of batches"),
        ({"x": np.array([["a"]], dtype=object)}, [X], "Python objects"),
        ({}, [X], "holds no arrays"),
        ({"x": rows(2).astype(">f4")}, [X], "byte order(.|\\n)*little-endian float32"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_the_first_sample(tmp_path, arrays, inputs, message):
    with pytest.raises(InvalidInputError, match=message):
        Samples(saved(tmp_path, **arrays), inputs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(tmp_path, bad):
    data = rows(6)
    data[3, 1] = bad
    with pytest.raises(InvalidInputError, match=r"NaN or infinity[\s\S]*array 'x', batch 1"):
        list(Samples(saved(tmp_path, x=data), [X]))


def test_files_that_are_no_npz_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", rows(2))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("x.npy", b"not an array")
    for name in ("text.npz", "array.npz", "member.npz"):
        with pytest.raises(InvalidInputError, match=r"not a whole \.npz file"):
            Samples(tmp_path / name, [X])
    with pytest.raises(InvalidInputError, match="no data at"):
        Samples(tmp_path / "absent.npz", [X])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"no \.npz files"):
        Samples(tmp_path / "empty", [X])


def test_a_truncated_file_is_refused(tmp_path):
    path = saved(tmp_path, x=rows(400))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InvalidInputError, match=r"not a whole \.npz file"):
        Samples(path, [X])


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_data_are_refused(tmp_path, compressed):
    path = saved(tmp_path, x=rows(4000), compressed=compressed)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4] = b"\xff\xff\x00\xff"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match="is damaged"):
        list(Samples(path, [X]))


def test_an_array_shorter_than_its_header_says_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive, archive.open("x.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (4, 3)})
        stream.write(rows(2).tobytes())
    with pytest.raises(InvalidInputError, match="is truncated"):
        list(Samples(tmp_path / "data.npz", [X]))


def read(path, inputs, dims=None) -> list[dict[str, np.ndarray]]:
    return list(Samples(path, inputs, dims))


@pytest.mark.parametrize("rows_of", [[2, 2, 2], [2]], ids=str)
def test_fixed_samples_are_written_into_one_file(tmp_path, rows_of):
    given = [{"x": rows(n) + i} for i, n in enumerate(rows_of)]
    samples.write(given, tmp_path / "out", [X])
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["000000.npz"]
    again = read(tmp_path / "out", [X])
    assert len(again) == len(given)
    for one, other in zip(given, again, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize("dims", [None, {"batch": (1, CHUNK)}, {"batch": (1, 200)}], ids=str)
@pytest.mark.parametrize(
    "rows_of",
    [[1, 1, 1], [5, 5], [5, 3, 5], [CHUNK, CHUNK, 7], [CHUNK, CHUNK, 7, CHUNK], [7, CHUNK], [2 * CHUNK // 3] * 3],
    ids=str,
)
def test_what_is_written_is_read_back_in_the_same_samples(tmp_path, rows_of, dims):
    given = [{"x": rows(n) + i} for i, n in enumerate(rows_of)]
    samples.write(given, tmp_path / "out", [N])
    again = read(tmp_path / "out", [N], dims)
    assert [len(sample["x"]) for sample in again] == rows_of
    for one, other in zip(given, again, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


def test_a_narrow_range_at_writing_needs_no_range_at_reading(tmp_path):
    taken = read(saved(tmp_path, x=rows(20)), [N], {"batch": (1, 8)})
    assert [len(sample["x"]) for sample in taken] == [8, 8, 4]
    samples.write(taken, tmp_path / "out", [N])
    assert [len(sample["x"]) for sample in read(tmp_path / "out", [N])] == [8, 8, 4]


def test_scalars_and_other_shapes_have_files_of_their_own(tmp_path):
    inputs = [value("s"), value("x", "batch", "width")]
    given = [{"s": np.float32(i), "x": np.zeros((CHUNK, width), np.float32)} for i, width in enumerate((2, 2, 3))]
    samples.write(given, tmp_path / "out", inputs)
    again = read(tmp_path / "out", inputs)
    assert [(float(one["s"]), one["x"].shape) for one in again] == [(0, (CHUNK, 2)), (1, (CHUNK, 2)), (2, (CHUNK, 3))]


def test_large_samples_are_spread_over_files(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_FILE_SIZE", 50)
    given = [{"x": rows(2) + i} for i in range(7)]
    samples.write(given, tmp_path / "out", [X])
    assert len(list((tmp_path / "out").iterdir())) == 3
    np.testing.assert_array_equal(
        np.stack([one["x"] for one in read(tmp_path / "out", [X])]), np.stack([one["x"] for one in given])
    )


def test_a_file_is_run_sample_by_sample_and_joined(tmp_path):
    calls = []

    def run(sample):
        calls.append(len(sample["x"]))
        return {"y": sample["x"] * 2, "z": sample["x"].sum(axis=1)}

    source, target = saved(tmp_path, x=rows(70)), tmp_path / "Y.npz"
    assert samples.run_file(run, Samples(source, [N]), target) == 3
    assert calls == [CHUNK, CHUNK, 6]
    with np.load(target) as outputs:
        np.testing.assert_array_equal(outputs["y"], rows(70) * 2)
        np.testing.assert_array_equal(outputs["z"], rows(70).sum(axis=1))


def test_an_output_without_rows_needs_a_single_sample(tmp_path):
    target = tmp_path / "Y.npz"

    def run(sample):
        return {"total": sample["x"].sum()}

    assert samples.run_file(run, Samples(saved(tmp_path, x=rows(3)), [N]), target) == 1
    assert np.load(target)["total"] == rows(3).sum()
    with pytest.raises(InvalidInputError, match="'total' is a scalar"):
        samples.run_file(run, Samples(saved(tmp_path, "more.npz", x=rows(50)), [N]), target)


def test_a_run_that_fails_leaves_the_old_file(tmp_path):
    source, target = saved(tmp_path, x=rows(70)), tmp_path / "Y.npz"
    np.savez(target, y=np.ones(1))
    before = target.read_bytes()

    def run(sample):
        if len(sample["x"]) < CHUNK:
            raise RuntimeError("the last one")
        return {"y": sample["x"]}

    with pytest.raises(RuntimeError, match="the last one"):
        samples.run_file(run, Samples(source, [N]), target)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Y.npz", "data.npz"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot write") as failure:
        samples.save({"y": rows(1)}, tmp_path / "missing" / "Y.npz")
    assert failure.value.exit_code == 2


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InvalidInputError, match="cannot write"):
        samples.save({"y": rows(1)}, tmp_path / "Y.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[None, 1, 2]] * 4, dtype=object), "Python objects"),
    ],
)
def test_arrays_that_cannot_be_streamed_are_refused(tmp_path, array, message):
    with pytest.raises(InvalidInputError, match=message):
        Samples(saved(tmp_path, x=array), [N])
