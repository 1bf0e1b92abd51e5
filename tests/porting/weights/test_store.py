"""Folders as they should be, and folders that lie."""

import json
import os
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from porting.errors import InvalidModelError
from porting.weights.store import WeightStore

A, B = torch.arange(6, dtype=torch.float32).view(2, 3), torch.ones(4, dtype=torch.bfloat16)
SHARDS = {"model-1.safetensors": {"a": A}, "model-2.safetensors": {"b": B}}


def refused(folder):
    with pytest.raises(InvalidModelError) as caught:
        WeightStore(folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


def rewrite_index(folder, **weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_shards_with_an_index(checkpoint):
    with WeightStore(checkpoint(SHARDS)) as store:
        assert list(store.entries) == ["a", "b"]
        assert torch.equal(store.tensor("a"), A)
        assert torch.equal(store.tensor("b"), B)
        assert store.entry("a").file.path.name == "model-1.safetensors"
        assert store.unlisted == 0


def test_one_file_needs_no_index_and_goes_before_one(checkpoint):
    folder = checkpoint({"model.safetensors": {"a": A}})
    rewrite_index(folder, z="elsewhere.safetensors")
    assert list(WeightStore(folder).entries) == ["a"]


def test_bytes_read_are_counted_apart(checkpoint):
    folder = checkpoint(SHARDS)
    store = WeightStore(folder)
    data = A.nbytes + B.nbytes
    assert store.header_bytes_read == sum(path.stat().st_size for path in folder.glob("*.safetensors")) - data
    assert store.data_bytes_read == 0
    store.tensor("a")
    assert store.data_bytes_read == A.nbytes
    assert store.bytes_read == store.header_bytes_read + A.nbytes


def test_links_are_followed_as_download_caches_are_made_of_them(checkpoint, tmp_path):
    folder = checkpoint(SHARDS)
    blob = (folder / "model-1.safetensors").rename(tmp_path / "blob")
    (folder / "model-1.safetensors").symlink_to(blob)
    assert torch.equal(WeightStore(folder).tensor("a"), A)


def test_what_the_index_does_not_list_is_counted_and_left_out(checkpoint):
    folder = checkpoint({"model-1.safetensors": {"a": A, "stale": B}, "model-2.safetensors": {"b": B}})
    store = WeightStore(rewrite_index(folder, a="model-1.safetensors", b="model-2.safetensors"))
    assert list(store.entries) == ["a", "b"]
    assert store.unlisted == 1


def test_index_names_a_tensor_that_its_shard_lacks(checkpoint):
    folder = rewrite_index(checkpoint(SHARDS), a="model-1.safetensors", b="model-1.safetensors")
    message = refused(folder)
    assert "the index names 1 tensors that are not in their shard" in message
    assert "b in model-1.safetensors" in message


def test_missing_shard(checkpoint):
    folder = checkpoint(SHARDS)
    (folder / "model-2.safetensors").unlink()
    message = refused(folder)
    assert "1 of 2 weight files are missing" in message
    assert "model-2.safetensors" in message


def test_truncated_shard(checkpoint):
    folder = checkpoint(SHARDS)
    path = folder / "model-1.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    message = refused(folder)
    assert "truncated" in message
    assert "tensor 'a'" in message


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "a\0.safetensors", "a\\x"]
)
def test_index_leads_out_of_its_folder(checkpoint, file):
    assert "outside its folder" in refused(rewrite_index(checkpoint(SHARDS), a=file))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "..", ""])
def test_index_names_other_files(checkpoint, file):
    assert "not safetensors" in refused(rewrite_index(checkpoint(SHARDS), a=file))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}', "\xff", "[" * 99999],
)
def test_malformed_index(checkpoint, text):
    folder = checkpoint(SHARDS)
    (folder / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    assert "index" in refused(folder)


NAMES = st.sampled_from(["a", "b", "model-1.safetensors", "model-2.safetensors"]) | st.text(max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=JSON | st.fixed_dictionaries({"weight_map": JSON | st.dictionaries(NAMES, NAMES)}), config=JSON)
def test_any_json_is_an_index_that_holds_or_is_refused(checkpoint, index, config):
    folder = checkpoint(SHARDS)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": config}}))
    try:
        store = WeightStore(folder)
    except InvalidModelError as error:
        str(error).encode()
    else:
        assert set(store.entries) <= {"a", "b"}
        assert len(store.block) == 2


@pytest.mark.parametrize("file", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_and_said_what_to_do(tmp_path, file):
    (tmp_path / file).write_bytes(b"cposix\nsystem\n")
    message = refused(tmp_path)
    assert "pickle" in message
    assert file in message
    assert "safe_serialization" in message


def test_pickles_beside_safetensors_are_not_looked_at(checkpoint):
    folder = checkpoint(SHARDS)
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n")
    assert len(WeightStore(folder).entries) == 2


def test_no_weights_no_folder_no_index(tmp_path, checkpoint):
    assert "holds no weights" in refused(tmp_path)
    assert "no such checkpoint folder" in refused(tmp_path / "absent")
    folder = checkpoint(SHARDS)
    (folder / "model.safetensors.index.json").unlink()
    assert "safetensors files without an index" in refused(folder)


def test_shard_that_is_no_file(checkpoint):
    folder = checkpoint(SHARDS)
    (folder / "model-1.safetensors").unlink()
    os.mkfifo(folder / "model-1.safetensors")
    assert "regular file" in refused(folder)


def test_unknown_tensor(checkpoint):
    with pytest.raises(InvalidModelError, match=r"no tensor 'aa'\n.*2 tensors, among them a"):
        WeightStore(checkpoint(SHARDS)).tensor("aa")


def test_file_that_shrinks_or_goes_after_it_was_opened(checkpoint):
    folder = checkpoint(SHARDS)
    store = WeightStore(folder)
    os.truncate(folder / "model-1.safetensors", 90)
    with pytest.raises(InvalidModelError, match="shorter since"):
        store.tensor("a")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(InvalidModelError, match=r"model-2\.safetensors, tensor b"):
        store.tensor("b")


def test_block_size_is_of_the_config(checkpoint):
    assert WeightStore(checkpoint(SHARDS)).block == (128, 128)
    assert WeightStore(checkpoint(SHARDS, {"quantization_config": None})).block == (128, 128)
    assert WeightStore(checkpoint(SHARDS, {"quantization_config": {"weight_block_size": [64, 32]}})).block == (64, 32)
    folder = checkpoint(SHARDS, {"quantization_config": {"weight_block_size": [0, 128]}})
    assert "weight_block_size" in refused(folder)


BIG = torch.arange(60 * 5000, dtype=torch.int32).view(60, 5000)


@pytest.mark.parametrize(
    "rows, columns, elements",
    [
        (range(60), range(5000), 60 * 5000),
        (range(7, 9), range(5000), 2 * 5000),
        (range(3, 50, 4), range(5000), 12 * 5000),
        (range(10), range(100, 200), 10 * 100),
        (range(10), range(1000, 5000), 9 * 5000 + 4000),  # 4,000 bytes to the next row: read over
        (range(5), range(0, 1000, 10), 5 * 991),
        (range(2, 2), range(5000), 0),
        (range(59, 60), range(4999, 5000), 1),
    ],
)
def test_a_box_reads_what_it_needs(checkpoint, rows, columns, elements):
    store = WeightStore(checkpoint({"model.safetensors": {"x": BIG}}))
    found = store.read_box(store.entry("x"), rows, columns)
    assert torch.equal(found, BIG[list(rows)][:, list(columns)])
    assert store.data_bytes_read == 4 * elements


def test_reading_past_an_entry_is_a_bug(checkpoint):
    store = WeightStore(checkpoint(SHARDS))
    with pytest.raises(IndexError):
        store.read_into(store.entry("a"), 4, torch.empty(6))


def test_threads_share_a_store_of_more_shards_than_descriptors(checkpoint):
    shards = {f"m{i}.safetensors": {f"t{i}": torch.full((1000,), i)} for i in range(12)}
    store = WeightStore(checkpoint(shards), descriptors=3)
    wrong = []

    def work(number):
        for step in range(60):
            i = (number + step * 5) % 12
            if not torch.equal(store.tensor(f"t{i}"), shards[f"m{i}.safetensors"][f"t{i}"]):
                wrong.append(i)

    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.data_bytes_read == 6 * 60 * 8000
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before
