from __future__ import annotations

import json
from pathlib import Path

import pytest

from porting import schemas
from porting.errors import UsageError
from porting.quantization.scheme_map import read_scheme_map


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "map.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        r'{"a\\.b": "none", "a\\..*": "w8a16"}',
        r'[{"pattern": "a\\.b", "scheme": "none"}, {"scheme": "w8a16", "pattern": "a\\..*"}]',
    ],
)
def test_the_first_pattern_that_matches_all_of_a_name_counts(tmp_path: Path, text: str) -> None:
    found = read_scheme_map(written(tmp_path, text))
    words = {name: None if (line := found.line(name)) is None else line.scheme for name in ("a.b", "a.bc", "xa.b", "a")}
    assert words == {"a.b": "none", "a.bc": "w8a16", "xa.b": None, "a": None}
    schemas.validate("scheme_map", json.loads(text))


def test_a_repeated_pattern_is_not_lost(tmp_path: Path) -> None:
    found = read_scheme_map(written(tmp_path, '{"a": "none", "a": "w8a8"}'))
    assert [line.scheme for line in found.lines] == ["none", "w8a8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("3", "not a scheme map"),
        ('["a"]', "not a scheme map"),
        ('[{"pattern": "a"}]', "not a scheme map"),
        ('{"a": 8}', "are text"),
        ('{"a": "w3a3"}', "no scheme 'w3a3'"),
        ('{"(": "none"}', "no regular expression"),
    ],
)
def test_what_is_no_scheme_map(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_scheme_map(written(tmp_path, text))
    assert caught.value.exit_code == 2
    assert "map.json" in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_scheme_map(tmp_path / "none.json")
