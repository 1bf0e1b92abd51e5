"""What is installed: three import names, the data, and a package that works without the native module."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder: Path, **environment: str) -> zipfile.ZipFile:
    source = folder / "source"
    kept = ("porting", "passes", "kernels", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE")
    for name in kept:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            source.mkdir(exist_ok=True, parents=True)
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder / "dist"), str(source)]
    subprocess.run(command, check=True, env={**os.environ, **environment}, timeout=300)
    (wheel,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel)


@pytest.mark.slow
@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
def test_the_wheel_has_exactly_our_names_and_all_data(tmp_path: Path, native: bool) -> None:
    with build(tmp_path, **({} if native else {"PORTING_NO_NATIVE": "1"})) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names if not re.match(r"porting-[^/]*\.dist-info/", name)}
    assert tops == {"porting", "porting_kernels", "porting_passes"}
    assert any(re.fullmatch(r"porting_kernels/_native.*\.so", n) for n in names) is native
    for needed in (
        "porting/backends/ascend_910b/atc-onnx.json",
        "porting/backends/cambricon_mlu370/magicmind.json",
        "porting/backends/cambricon_mlu590/torch_mlu_ops/surface.json",
        "porting/parity/budgets.json",
        "porting/parity/report/page.html",
        "porting/schemas/port.schema.json",
        "porting/py.typed",
        "porting_passes/py.typed",
        "porting_kernels/py.typed",
    ):
        assert needed in names, needed
    assert not [n for n in names if n.endswith((".cpp", ".h", ".pyc"))]


def test_no_package_stands_in_the_folders_that_belong_to_others() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "passes" / "__init__.py").exists()
    pattern = re.compile(r"^\s*(?:import|from)\s+(?:kernels|passes)\b", re.MULTILINE)
    for folder in ("porting", "passes", "kernels", "tests", "examples", "benchmarks", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_imports_go_down_the_floors_only() -> None:
    floor = {"porting_kernels": 1, "porting_passes": 2, "porting": 3}
    for folder, own in (("kernels/porting_kernels", 1), ("passes/porting_passes", 2)):
        for path in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"^\s*(?:import|from)\s+(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
                assert floor.get(name, 0) <= own, f"{path} imports {name}"


def test_without_the_native_module_a_port_is_the_same(tmp_path: Path) -> None:
    """Same files, byte for byte: the native loops and their torch forms agree."""
    cnn = ROOT / "examples" / "cnn"
    path = os.pathsep.join(str(ROOT / p) for p in ("", "passes", "kernels"))
    for native in ("0", "1"):
        command = [
            sys.executable, "-m", "porting", "port", str(cnn / "model.onnx"), "--backend", "ascend-910b",
            "--scheme", "w8a8-static", "--calibration-method", "entropy",
            "--dim", "batch=8", "--calibrate", str(cnn / "calibration.npz"),
            "-o", str(tmp_path / native),
        ]  # fmt: skip
        environment = {**os.environ, "PORTING_NATIVE": native, "PYTHONPATH": path}
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    for file in (tmp_path / "0").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "1" / file.relative_to(tmp_path / "0")).read_bytes(), file
