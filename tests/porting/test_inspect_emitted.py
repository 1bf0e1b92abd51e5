"""An emitted file held against a surface that was made up for it."""

from pathlib import Path

import onnx_ir as ir
import pytest

from porting.backends import Surface
from porting.errors import IllegalModelError
from porting.inspect_emitted import require_accepted, violations
from porting_passes.operator_set import OperatorSet

FEW_ROWS = {
    "operator": "Relu",
    "domain": "",
    "opset": [8, 22],
    "implements": None,
    "inputs": [{"name": "X", "dtypes": ["float32"]}],
    "outputs": [{"name": "Y", "dtypes": ["float32"]}],
    "source": ["page 1"],
    "evidence": "doc",
    "constraints": [{"text": "at most 4 rows", "expression": "dim(X, 0) <= 4", "source": "page 4"}],
}
OPERATORS = OperatorSet.from_json(
    {
        "surface": "made up",
        "opset": 13,
        "unlisted": "illegal",
        "unlisted_reason": {"reason": "not said", "source": "page 0"},
        "rows": [FEW_ROWS],
    }
)
SURFACE = Surface("made up", "converter", OPERATORS, 13, ("none",), ("float32",))


def emitted(folder: Path, operator: str = "Relu", opset: int = 13) -> Path:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[n, 3] x) => (float[n, 3] y) {{ y = {operator}(x) }}'
    ir.save(ir.from_onnx_text(text), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(("dims", "word"), [({"n": (1, 4)}, None), ({"n": (1, 8)}, "is illegal"), ({}, "unknown")])
def test_a_limit_on_a_symbol_is_decided_over_its_range(tmp_path: Path, dims, word) -> None:
    found = violations(emitted(tmp_path), SURFACE, dims=dims)
    assert len(found) == (word is not None)
    assert all(word in line for line in found)


def test_what_was_let_through_is_no_violation(tmp_path: Path) -> None:
    require_accepted(emitted(tmp_path), SURFACE, frozenset({"Relu"}))
    with pytest.raises(IllegalModelError, match="unknown legality"):
        require_accepted(emitted(tmp_path), SURFACE)


def test_another_opset_and_an_unlisted_operator_are_violations(tmp_path: Path) -> None:
    found = violations(emitted(tmp_path, "Neg", 14), SURFACE)
    assert found[0] == "opset 14, not 13"
    assert "Neg" in found[1]
