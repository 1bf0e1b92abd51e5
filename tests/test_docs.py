"""Every `porting` command in the README and the guides runs, and ends as the text says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENDS = {"check examples.encoder.model:factory --backend cambricon-mlu370": 4}
"""Commands that are shown to end otherwise than with 0."""


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?porting ", line)]
    return [" ".join(line.split()[1:]) for line in found]


def documented() -> list[tuple[Path, list[str]]]:
    return [(page, found) for page in PAGES if (found := commands(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page, lines", documented(), ids=lambda v: v.name if isinstance(v, Path) else "")
def test_the_commands_of_a_page_run_in_order(page: Path, lines: list[str], tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join(str(ROOT / p) for p in ("", "passes", "kernels"))
    for line in lines:
        result = subprocess.run(
            [sys.executable, "-m", "porting", *shlex.split(line)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == ENDS.get(line, 0), f"porting {line}\n{result.stdout}{result.stderr}"


def test_every_option_is_documented_by_its_help() -> None:
    parts = ("plan", "convert", "validate", "compare")
    names = ("port", "check", "verify", "simulate", "reference", "sensitivity", "explain")
    for name in (*names, *(f"checkpoint {part}" for part in parts)):
        command = [sys.executable, "-m", "porting", *name.split(), "--help"]
        path = os.pathsep.join(str(ROOT / p) for p in ("", "passes", "kernels"))
        text = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
        ).stdout
        for option in re.findall(r"^ +(?:-\w, )?(--[\w-]+)(.*)$", text, re.MULTILINE):
            assert option[1].strip(), f"{name} {option[0]} has no help"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
