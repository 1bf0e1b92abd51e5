"""What port.json says can be relied on: the keys are there, of their types, and as they were written."""

import json
from pathlib import Path
from typing import Any

import pytest

from porting import manifest, schemas
from porting.errors import InvalidInputError

DIGEST = "sha256:" + "0" * 64


def record() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "source": {"path": "m.onnx", "kind": "onnx", "digest": DIGEST},
        "backend": "reference",
        "surface": "reference",
        "scheme": "none",
        "dtype": "float32",
        "opset": 17,
        "inputs": [{"name": "x", "dtype": "float", "shape": ["batch", 8]}],
        "outputs": [{"name": "y", "dtype": "float", "shape": [None, 8]}],
        "dims": {"batch": [1, 8]},
        "tools": {},
        "threads": {"intra_op": 1},
        "operators": {"before": {"Relu": 1}, "after": {"Relu": 1}},
        "passes": [],
        "rewrites": [],
        "unknowns_allowed": [],
        "kept_in_float": [],
        "not_in_graph": [],
        "calibration": None,
        "weights": "beside",
        "files": {"model.onnx": DIGEST},
        "consumer": "none known",
    }


def written(folder: Path) -> dict[str, Any]:
    manifest.write(folder, record())
    document: dict[str, Any] = json.loads((folder / "port.json").read_text())
    return document


def refusal(folder: Path, document: object) -> str:
    (folder / "port.json").write_text(json.dumps(document))
    with pytest.raises(InvalidInputError) as error:
        manifest.read(folder)
    return str(error.value)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    schemas.validate("port", written(tmp_path))
    assert manifest.read(tmp_path) == record()


@pytest.mark.parametrize("key", [*record(), "digest"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    document = written(tmp_path)
    del document[key]
    assert key in refusal(tmp_path, document)


@pytest.mark.parametrize(
    "key", [k for k in record() if k not in ("calibration", "weights")]
)  # these two have several types
def test_a_value_of_another_type_is_named(tmp_path: Path, key: str) -> None:
    assert key in refusal(tmp_path, {**written(tmp_path), key: 7.5})


@pytest.mark.parametrize(
    "edit",
    [{"scheme": "w8a8-static"}, {"dtype": "float16"}, {"dims": {}}, {"files": {}}, {"note": "mine"}],
    ids=lambda e: "".join(e),
)
def test_an_edit_is_noticed(tmp_path: Path, edit: dict[str, Any]) -> None:
    assert "is not as it was written" in refusal(tmp_path, {**written(tmp_path), **edit})


@pytest.mark.parametrize("document", [[], None, 3, "port"])
def test_a_document_that_is_no_object_is_refused(tmp_path: Path, document: object) -> None:
    assert "damaged" in refusal(tmp_path, document)
