from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import onnx
import pytest
from click.testing import CliRunner

from porting import schemas
from porting.cli import cli

NAMES = (
    "backends",
    "budget",
    "check",
    "conversion",
    "conversion_plan",
    "evidence",
    "explanation",
    "keep_tables",
    "parity",
    "placement",
    "port",
    "provenance",
    "quantization",
    "scheme_map",
    "schemes",
    "sensitivity",
    "weight_errors",
)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object schema with named properties, with its place."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects(value, f"{path}/{index}")


def test_every_document_has_a_schema() -> None:
    assert schemas.names() == NAMES


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="provenance"):
        schemas.load("nothing")


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_valid_and_closed(name: str) -> None:
    schema = schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:porting:schema:{name}:1"
    found = dict(objects(schema))
    assert found
    for path, entry in found.items():
        assert entry["additionalProperties"] is False, path
        assert set(entry["required"]) <= set(entry["properties"]), path


def test_an_unknown_key_is_refused() -> None:
    line = {"value": "a", "sources": ["b"], "equal": True, "rules": [], "module": None, "class": None, "file": None}
    schemas.validate("provenance", {**line, "line": 3})
    for wrong in (line, {**line, "line": 0}, {**line, "line": 3, "note": ""}, {**line, "line": 3, "equal": "yes"}):
        with pytest.raises(jsonschema.ValidationError):
            schemas.validate("provenance", wrong)


@pytest.mark.parametrize(("operator", "exit_code", "verdict"), [("Relu", 0, "legal"), ("Loopy", 3, "illegal")])
def test_check_keeps_to_its_schema(tmp_path: Any, operator: str, exit_code: int, verdict: str) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(operator, ["x"], ["y"], name="only", domain="" if operator == "Relu" else "acme")
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [1, 4])], [value("y", 1, [1, 4])])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("acme", 1)]
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    result = CliRunner().invoke(cli, ["check", str(path), "--backend", "ascend-910b", "--json"], standalone_mode=False)
    assert result.exception is None
    assert result.return_value == exit_code
    document = json.loads(result.stdout)
    schemas.validate("check", document)
    assert document["verdict"] == verdict
    assert len(document["failures"]) == (verdict != "legal")
