"""An interrupt ends with 130 and one word, at whatever moment it comes; a closed pipe does too, without the word."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def run(*arguments: str, paths: tuple[Path, ...] = (), **how: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (*paths, ROOT, ROOT / "passes", ROOT / "kernels")))

    def default() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # A runner in the background may have it ignored.

    command = [sys.executable, "-m", "porting", *arguments]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, env={**os.environ, "PYTHONPATH": path}, text=True, check=False, stderr=subprocess.PIPE,
        timeout=120, preexec_fn=default, **how,
    )  # fmt: skip


@SIGNALS
def test_before_the_command_line_is_imported(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "click.py").write_text(f"import os, time\nos.kill(os.getpid(), {number.value})\ntime.sleep(60)\n")
    result = run("backends", paths=(tmp_path,))
    assert result.returncode == 130
    assert result.stderr == "interrupted\n"


@SIGNALS
def test_turned_into_another_error_by_what_was_running(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "deep.py").write_text(
        "import os\n"
        "def factory():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {number.value})\n"
        "    except KeyboardInterrupt:\n"
        "        raise RecursionError('maximum recursion depth exceeded') from None\n"
    )
    result = run("check", "deep:factory", "--backend", "reference", cwd=tmp_path)
    assert result.returncode == 130
    assert result.stderr == "interrupted\n"


@SIGNALS
def test_inside_code_that_is_run_from_text(tmp_path: Path, number: signal.Signals) -> None:
    """As dataclasses are made while modules are imported: Python then ends by the signal, whatever it was told."""
    (tmp_path / "deep.py").write_text(
        f"def factory():\n    exec('import os, time; os.kill(os.getpid(), {number.value}); time.sleep(60)')\n"
    )
    result = run("check", "deep:factory", "--backend", "reference", paths=(tmp_path,))
    assert result.returncode == 130
    assert result.stderr == "interrupted\n"


@SIGNALS
def test_swallowed_by_what_was_running(tmp_path: Path, number: signal.Signals) -> None:
    """As torch's tracing does, which logs any exception of some of its parts and goes on."""
    (tmp_path / "deep.py").write_text(
        "import os, time, torch\n"
        "def factory():\n"
        f"    try:\n        os.kill(os.getpid(), {number.value}); time.sleep(60)\n"
        "    except BaseException:\n        pass\n"
        "    return torch.nn.Linear(2, 2), (torch.ones(1, 2),)\n"
    )
    result = run("check", "deep:factory", "--backend", "reference", paths=(tmp_path,))
    assert result.returncode == 130
    assert result.stderr.endswith("interrupted\n")


@pytest.mark.parametrize("arguments", [("backends",), ("--help",)], ids=" ".join)
def test_a_closed_pipe_is_no_verdict(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    result = run(*arguments, stdout=write)
    os.close(write)
    assert result.returncode == 130
    assert result.stderr == ""


def test_a_module_that_calls_exit_while_it_runs_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\ndef factory():\n    sys.exit(0)\n")
    result = run("check", "leaves:factory", "--backend", "reference", cwd=tmp_path)
    assert result.returncode == 2
    assert "leaves.py:3" in result.stderr
