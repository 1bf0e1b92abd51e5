"""Factories and exported programs: the graph, its bounds, the user's places, and what is said about broken ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from porting import frontends
from porting.errors import InvalidModelError, UsageError
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU())
        self.norm = torch.nn.LayerNorm(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))


MODULE = """
import torch
from net_for_test import Net

def good():
    return Net(), (torch.zeros(2, 4),), {"x": {0: torch.export.Dim("batch", min=1, max=8)}}

def unbounded():
    return Net(), (torch.zeros(2, 4),), {"x": {0: torch.export.Dim("batch")}}

def found_by_torch():
    return Net(), (torch.zeros(2, 4),), {"x": {0: torch.export.Dim.AUTO}}

def made_dynamic():
    return Net(), (torch.zeros(2, 4),), ({0: torch.export.Dim.DYNAMIC(max=8)},)

def wrong():
    return Net()

def raises():
    return torch.zeros(2) @ torch.zeros(3)

def exits():
    raise SystemExit(0)

def needs(size):
    return Net(), (torch.zeros(2, size),)

def unexportable():
    class Bad(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    return Bad(), (torch.zeros(2),)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    source = "import torch\n\n" + inspect.getsource(Net)
    (tmp_path / "net_for_test.py").write_text(source)
    (tmp_path / "factories_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("module")
def test_a_factory_names_its_dimensions_and_its_places() -> None:
    source = frontends.load("factories_for_test:good")
    assert source.dims == {"batch": (1, 8)}
    places = [provenance.of(v) for node in source.model.graph for v in node.outputs]
    assert {p.module for p in places} == {"body.0", "body.1", "norm"}
    assert {p.class_name for p in places} == {"Linear", "GELU", "LayerNorm"}
    assert {p.file for p in places} == {"net_for_test.py"}
    assert all(p.line for p in places)


@pytest.mark.usefixtures("module")
def test_a_dimension_without_limits_is_a_name_without_a_range() -> None:
    source = frontends.load("factories_for_test:unbounded")
    assert source.dims == {}
    (x,) = source.model.graph.inputs
    assert x.shape is not None
    assert str(x.shape[0]) == "batch"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name", ["found_by_torch", "made_dynamic"])
def test_a_dimension_that_torch_names_stays_symbolic(name: str) -> None:
    source = frontends.load(f"factories_for_test:{name}")
    assert source.dims == {}
    (x,) = source.model.graph.inputs
    assert x.shape is not None
    assert not isinstance(x.shape[0], int)


@pytest.mark.usefixtures("module")
def test_the_reference_is_the_module_and_the_import_equals_it() -> None:
    source = frontends.load("factories_for_test:good")
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    (name,) = [v.name for v in source.model.graph.outputs]
    expected = source.reference({"x": x})[str(name)]
    np.testing.assert_array_equal(expected, Net().eval()(torch.from_numpy(x)).detach().numpy())
    found = Interpreter(source.model).run({"x": x})[str(name)].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)  # one product of four terms, one norm


@pytest.mark.usefixtures("module")
def test_the_digest_does_not_change_from_export_to_export() -> None:
    digests = {frontends.load("factories_for_test:good").digest for _ in range(2)}
    assert len(digests) == 1


BROKEN = {
    "wrong": (UsageError, "returned Net"),
    "missing": (UsageError, "cannot import"),
    "raises": (UsageError, "factories_for_test:raises failed\n(.*\n)*.*RuntimeError: .*\n.*factories_for_test.py:21"),
    "exits": (UsageError, "factories_for_test:exits failed\n(.*\n)*.*SystemExit: 0\n.*factories_for_test.py:24"),
    "needs": (UsageError, r"factories_for_test:needs takes arguments\n(.*\n)*.*\(size\)"),
    "torch": (UsageError, "factories_for_test:torch is no function"),
    "unexportable": (InvalidModelError, "unexportable"),
}


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("name, expected", BROKEN.items(), ids=BROKEN)
def test_a_broken_factory_is_exit_2(name: str, expected: tuple[type[Exception], str]) -> None:
    with pytest.raises(expected[0], match=expected[1]) as error:
        frontends.load(f"factories_for_test:{name}")
    assert error.value.exit_code == 2  # type: ignore[attr-defined]


@pytest.mark.usefixtures("module")
def test_a_failed_export_says_what_failed_and_where_and_torch_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidModelError) as error:
        frontends.load("factories_for_test:unexportable")
    text = str(error.value)
    assert "data-dependent" in text
    assert "TorchExportError" not in text
    assert "factories_for_test.py:32" in text
    assert "try " in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "body, message",
    {"1 +": "SyntaxError", "import sys\nsys.exit(0)": "SystemExit: 0", "\n\n1 / 0": "ZeroDivisionError"}.items(),
)
def test_a_module_that_cannot_be_imported_is_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    name = f"broken_for_test_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        frontends.load(f"{name}:factory")
    assert f"{name}.py" in str(error.value)


def test_an_exported_program_is_read_back(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=2, max=6)
    program = torch.export.export(Net().eval(), (torch.zeros(3, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    source = frontends.load(str(tmp_path / "net.pt2"))
    assert list(source.dims.values()) == [(2, 6)]
    x = np.ones((2, 4), np.float32)
    (output,) = source.reference({"x": x}).values()
    np.testing.assert_allclose(output, Net().eval()(torch.from_numpy(x)).detach().numpy(), rtol=1e-6)


def test_an_exported_program_without_limits_is_read_back(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(Net().eval(), (torch.zeros(3, 4),), dynamic_shapes=shapes), tmp_path / "n.pt2"
    )
    assert frontends.load(str(tmp_path / "n.pt2")).dims == {}


def test_a_truncated_program_is_exit_2(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(3, 4),)), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InvalidModelError, match="not a whole exported program") as error:
        frontends.load(str(path))
    assert error.value.exit_code == 2


def test_a_module_that_raises_when_imported_is_exit_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_for_test.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="RuntimeError: no licence") as error:
        frontends.load("broken_for_test:make")
    assert error.value.exit_code == 2
