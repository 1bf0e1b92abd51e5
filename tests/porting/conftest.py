"""The stand-ins of vendors' modules on the path, for one test at a time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from porting.runner import vendor_calls

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
