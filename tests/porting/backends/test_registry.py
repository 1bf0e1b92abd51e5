"""Finding backends: cheap names, late loading, and errors that name what is wrong and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from porting import backends
from porting.backends import registry


class Plugin(SimpleNamespace):
    """An entry point of some other distribution."""

    def __init__(self, name: str, package: str, loads: Any) -> None:
        super().__init__(name=name, value=f"{package}:BACKEND", dist=SimpleNamespace(name=package, version="0.3"))
        self.loads = loads

    def load(self) -> Any:
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Plugin]]:
    found: list[Plugin] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    for cached in (registry._found, registry._load, registry.get):
        cached.cache_clear()
    yield found
    for cached in (registry._found, registry._load, registry.get):
        cached.cache_clear()


def backend(name: str) -> backends.Backend:
    return backends.Backend(name, "a test", {})


def test_own_backends_need_no_plugin(plugins: list[Plugin]) -> None:
    assert backends.names() == ["ascend-910b", "cambricon-mlu370", "cambricon-mlu590", "reference"]
    assert all(backends.get(name).name == name for name in backends.names())
    assert backends.broken() == []
    assert {entry.package for entry in backends.registered()} == {"porting"}


def test_the_table_of_own_backends_is_that_of_the_project_file() -> None:
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    project = Path(__file__).parents[3] / "pyproject.toml"
    stated = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["entry-points"][registry.GROUP]
    assert stated == registry.BUILT_IN


def test_the_own_entry_point_of_an_installed_package_is_no_duplicate(plugins: list[Plugin]) -> None:
    own = Plugin("reference", "porting", None)
    own.value = registry.BUILT_IN["reference"]
    plugins.append(own)
    assert backends.get("reference").name == "reference"
    assert len(backends.registered()) == 4


def test_names_import_nothing(plugins: list[Plugin]) -> None:
    plugins.append(Plugin("acme-npu", "acme", AssertionError("loaded")))
    assert backends.names() == ["acme-npu", "ascend-910b", "cambricon-mlu370", "cambricon-mlu590", "reference"]


def test_a_plugin_is_found(plugins: list[Plugin]) -> None:
    plugins.append(Plugin("acme-npu", "acme", backend("acme-npu")))
    assert backends.get("acme-npu").description == "a test"


def test_unknown_names_list_the_known_and_the_near(plugins: list[Plugin]) -> None:
    with pytest.raises(backends.UnknownBackendError) as caught:
        backends.get("ascend-910c")
    assert caught.value.exit_code == 2
    assert caught.value.required == "ascend-910b, cambricon-mlu370, cambricon-mlu590, reference"
    assert caught.value.fix == "did you mean 'ascend-910b'?"


def test_a_broken_plugin_stops_nothing_and_is_shown(plugins: list[Plugin]) -> None:
    plugins.append(Plugin("acme-npu", "acme", ImportError("libacme.so")))
    assert backends.get("reference").name == "reference"
    assert backends.broken() == [backends.Broken("acme-npu", "acme 0.3", "ImportError: libacme.so")]
    with pytest.raises(backends.UnknownBackendError, match="porting doctor") as unknown:
        backends.get("nothing-like-it")
    assert "acme-npu of acme 0.3 (ImportError: libacme.so)" in str(unknown.value.fix)
    with pytest.raises(backends.BrokenBackendError, match=r"libacme\.so") as caught:
        backends.get("acme-npu")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("loads", "error"),
    [("a text", "is str, not a porting.backends.Backend"), (None, "NoneType"), ("other", "calls itself 'other'")],
)
def test_a_plugin_that_offers_something_else_is_broken(plugins: list[Plugin], loads: Any, error: str) -> None:
    plugins.append(Plugin("acme-npu", "acme", backend("other") if loads == "other" else loads))
    assert error in backends.broken()[0].error


def test_a_name_of_two_distributions_is_an_error_naming_both(plugins: list[Plugin]) -> None:
    plugins += [Plugin("acme-npu", "acme", None), Plugin("acme-npu", "emca", None), Plugin("reference", "fake", None)]
    with pytest.raises(backends.DuplicateBackendError) as caught:
        backends.get("acme-npu")
    assert caught.value.met == "acme 0.3 and emca 0.3"
    with pytest.raises(backends.DuplicateBackendError, match=r"porting 0\.\d+\.\d+ and fake 0\.3"):
        backends.get("reference")
    assert [entry.name for entry in backends.broken()] == ["acme-npu", "reference"]


def test_toolkits() -> None:
    assert backends.split("ascend-910b@cann-8.3") == ("ascend-910b", "cann-8.3")
    assert backends.split("ascend-910b") == ("ascend-910b", None)
    assert backends.get("ascend-910b@cann-8.3").name == "ascend-910b"
    with pytest.raises(backends.UnknownToolkitError, match=r"cann-8\.3"):
        backends.get("ascend-910b@cann-0.1")
    with pytest.raises(backends.UnknownToolkitError, match="none"):
        backends.get("reference@1.0")


def test_looking_at_backends_imports_no_framework() -> None:
    code = (
        "import sys; from porting import backends; [backends.get(n) for n in backends.names()];"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
