"""The committed operator sets are exactly what the facts give."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FACTS = ROOT.parent / "shared" / "facts" / "ops"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_facts", ROOT / "tools" / "convert_facts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not FACTS.is_dir(), reason="the facts are not beside this checkout")
@pytest.mark.parametrize("surface", ["atc-onnx", "magicmind"])
def test_committed_data_is_what_the_facts_give(tool: ModuleType, surface: str) -> None:
    path = ROOT / "porting" / "backends" / tool.SURFACES[surface][1]
    assert path.read_text(encoding="utf-8") == tool.convert(FACTS, surface)


@pytest.mark.skipif(not FACTS.is_dir(), reason="the facts are not beside this checkout")
def test_check_mode_agrees(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([str(FACTS), "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_usage(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main([]) == 2
    assert "FACTS_FOLDER" in capsys.readouterr().err


FACT = {
    "name": "Thing", "onnx": "Gather", "kind": "onnx", "opset_range": [8, 18], "source": ["a.cpp"],
    "inputs": [
        {"name": "x", "dtypes": ["float32 (optional HF32)", "qint8", "float16"]},
        {"name": "indices", "dtypes": ["float16"]},
        {"name": "axis", "dtypes": ["int32"]},
    ],
    "outputs": [{"name": "y", "dtypes": ["any basic type"]}],
    "constraints": ["axis must be 0"],
}  # fmt: skip
OVERLAY = {
    "surface": "s", "opset": 18, "opset_range": [8, 18], "unlisted": "illegal", "unlisted_reason": {}, "rows": [],
    "refused_dtypes": {}, "limits": {"axis must be 0": 'attr("axis") == 0'}, "not_limits": {}, "operators": {},
}  # fmt: skip


def test_a_row_keeps_dtypes_only_where_the_operand_corresponds(tool: ModuleType) -> None:
    facts = {"chip": "c", "sources": [], "ops": [FACT]}
    (row,) = tool.Converter(facts, OVERLAY, "parser source").operator_set()["rows"]
    assert row["inputs"] == [{"name": "data", "dtypes": ["float32", "float16"]}, {"name": "indices"}]
    assert row["outputs"] == [{"name": "output"}]
    assert row["notes"] == ["indices: unconstrained, ONNX has no float16 here"]
    assert row["constraints"] == [{"text": "axis must be 0", "expression": 'attr("axis") == 0', "source": "a.cpp"}]


def test_a_text_that_no_overlay_explains_is_an_error(tool: ModuleType) -> None:
    facts = {"chip": "c", "sources": [], "ops": [{**FACT, "constraints": ["moon must be full"]}]}
    with pytest.raises(SystemExit, match="moon must be full"):
        tool.Converter(facts, OVERLAY, "parser source").operator_set()
