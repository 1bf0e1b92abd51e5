"""Operator sets: reading rows, refusing data that contradicts itself, finding rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from porting_passes.constraints import ConstraintError
from porting_passes.operator_set import FollowRow, OperatorSet, OperatorSetError, qualified

SET: dict[str, Any] = {
    "surface": "test",
    "opset": 18,
    "unlisted": "illegal",
    "unlisted_reason": {"reason": "a plug-in", "source": "table"},
    "refused": {"Loop": {"reason": "no plug-in", "source": "table"}},
    "rows": [
        {
            "operator": "Conv",
            "domain": "",
            "opset": [8, 18],
            "inputs": [{"name": "X", "dtypes": ["float16"]}, {"name": "W"}, {"name": "B", "optional": True}],
            "outputs": [{"name": "Y"}],
            "constraints": [
                {"text": "2-D", "expression": "rank(X) == 4", "source": "doc"},
                {"text": "only on Tuesdays", "expression": None, "source": "doc"},
            ],
            "source": ["doc"],
            "evidence": "doc",
        },
        {
            "operator": "VendorConv",
            "domain": "vendor",
            "opset": [11, 18],
            "form": "int8",
            "implements": "porting.IntegerConv",
            "inputs": [{"name": "x", "dtypes": ["int8"]}],
            "outputs": None,
            "attributes": {"mode": {"type": "int", "from": "dtype", "values": [[1, 0], [10, 1]]}},
            "follow": {"operator": "Add", "operand": 2},
            "since": "b",
            "source": ["doc"],
            "evidence": "measured",
        },
    ],
}


def broken(path: list[Any], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(SET)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


def test_rows_are_found_by_operator_and_by_what_they_implement(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(json.dumps(SET), encoding="utf-8")
    operator_set = OperatorSet.load(tmp_path / "set.json")
    assert [row.name for row in operator_set.find("ai.onnx", "Conv")] == ["Conv"]
    assert [row.name for row in operator_set.find("porting", "IntegerConv")] == ["vendor.VendorConv (int8)"]
    assert [row.name for row in operator_set.implementing("porting.IntegerConv")] == ["vendor.VendorConv (int8)"]
    assert operator_set.find("", "Relu") == ()
    assert operator_set.operator_count == 2
    assert operator_set.features("", "Conv") == {"rank"}


def test_attribute_codes_and_following_node() -> None:
    row = OperatorSet.from_json(SET).rows[1]
    assert row.follow == FollowRow("Add", 2)
    assert row.attributes[0].convert(10) == 1
    with pytest.raises(OperatorSetError, match="no code for 16"):
        row.attributes[0].convert(16)


@pytest.mark.parametrize(
    ("domain", "op_type", "version", "accepted"),
    [("", "Conv", 18, True), ("", "Conv", 19, False), ("", "Relu", 18, False), ("porting", "IntegerConv", 11, True)],
)
def test_accepts(domain: str, op_type: str, version: int, accepted: bool) -> None:
    assert OperatorSet.from_json(SET).accepts(domain, op_type, version) is accepted


def test_an_open_set_accepts_what_it_does_not_refuse() -> None:
    operator_set = OperatorSet.from_json(broken(["unlisted"], "legal"))
    assert operator_set.accepts("", "Relu", 18)
    assert not operator_set.accepts("", "Loop", 18)


def test_limits_known_as_text_only_are_listed() -> None:
    assert [(row.name, limit.text) for row, limit in OperatorSet.from_json(SET).unexpressed()] == [
        ("Conv", "only on Tuesdays")
    ]


def test_toolkit_versions_select_rows() -> None:
    operator_set = OperatorSet.from_json(SET)
    assert len(operator_set.between("a", "abc".index).rows) == 1
    assert operator_set.between("c", "abc".index) is operator_set


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["unlisted"], "maybe"),
        (["rows", 0, "evidence"], "hearsay"),
        (["rows", 0, "source"], []),
        (["rows", 0, "operator"], "Loop"),
        (["rows", 0, "constraints", 0, "verdict"], "legal"),
        (["rows", 0, "constraints", 0, "expression"], "rank(Z) == 4"),
        (["rows", 0, "combinations"], [["float16", "float16"]]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_data_that_contradicts_itself_is_refused(path: list[Any], value: Any) -> None:
    with pytest.raises(OperatorSetError):
        OperatorSet.from_json(broken(path, value))


def test_a_limit_outside_the_language_is_refused() -> None:
    with pytest.raises(ConstraintError):
        OperatorSet.from_json(broken(["rows", 0, "constraints", 0, "expression"], "X.shape"))


def test_qualified_names() -> None:
    assert [qualified(d, "Conv") for d in ("", "ai.onnx", "porting")] == ["Conv", "Conv", "porting.Conv"]
