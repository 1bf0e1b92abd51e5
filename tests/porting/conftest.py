"""What several rooms need: vendors' stand-ins on the path, and the reader of the example's layout."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from porting.runner import vendor_calls

LAYOUT = Path(__file__).resolve().parents[2] / "examples" / "tiny_deepseek_v3" / "fp8_layout.py"
STAND_INS = Path(__file__).resolve().parents[1] / "standins"


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, importable. Afterwards nothing of it is left: transformers looks for a torch_npu of its own."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(STAND_INS))
    vendor_calls._module.cache_clear()
    yield STAND_INS
    vendor_calls._module.cache_clear()
    for name in set(sys.modules) - before:
        if str(STAND_INS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def vendor(stand_ins: Path) -> Callable[[str], ModuleType]:
    """vendor(name) -> the stand-in of a vendor's module."""
    return importlib.import_module


@pytest.fixture
def torch_npu(vendor: Callable[[str], ModuleType]) -> ModuleType:
    """The stand-in of torch_npu."""
    return vendor("torch_npu")


@pytest.fixture
def torch_mlu_ops(vendor: Callable[[str], ModuleType]) -> ModuleType:
    """The stand-in of torch_mlu_ops."""
    return vendor("torch_mlu_ops")


@pytest.fixture(scope="session")
def fp8_layout() -> ModuleType:
    """The example's own reader and writer of DeepSeek's layout, which share no code with ours."""
    spec = importlib.util.spec_from_file_location("fp8_layout", LAYOUT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
