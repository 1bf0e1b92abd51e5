"""The stand-ins of vendors' modules on the path, for one test at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from porting.runner import vendor_calls

STAND_INS = Path(__file__).resolve().parents[2] / "standins"


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
def torch_npu(stand_ins: Path) -> ModuleType:
    """The stand-in of torch_npu."""
    import importlib

    return importlib.import_module("torch_npu")
