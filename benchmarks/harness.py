"""Times contenders against each other, each in a process of its own.

A benchmark file defines `prepare(contender, case)`, which loads what is needed and returns the thing to time, and calls
`race` for each case. The contenders' processes live side by side but only one works at a time: they take turns, in an
order that alternates, so a slow minute of the machine hits all of them. Peak memory is each process's own
(VmHWM, which starts anew with a process), given also above what its imports alone took.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Notes = dict[str, Any]
Run = Callable[[], "Notes | Callable[[], Notes] | None"]
"""What is timed. It returns facts for the table, or what finds them out afterwards, off the clock."""

SHORTEST_TURN = 0.2
"""Seconds: what is shorter runs several times a turn, or the caches that the others left cold are all one sees."""
COLLECTED = 0.01
"""Seconds; collecting after each of shorter runs would take most of a turn."""
ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Result:
    """One contender on one case: median seconds of `runs` turns, peak memory in MiB, and what its run returned."""

    case: str
    contender: str
    seconds: float
    fastest: float
    runs: int
    peak_mib: float
    above_imports_mib: float
    notes: dict[str, Any]


def arguments(description: str | None, *, runs: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; add your own and call `parse_args`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contender (default 1)")
    parser.add_argument("--runs", type=int, default=runs, help=f"timed turns of every contender (default {runs})")
    return parser


def race(
    script: str, case: str, contenders: Sequence[str], *, runs: int, threads: int, limit: float = 120
) -> list[Result]:
    """Give each contender a turn to warm up, then `runs` timed ones; one that has used `limit` seconds stops early."""
    workers = {contender: _Worker(script, contender, case, threads) for contender in contenders}
    try:
        for worker in workers.values():
            worker.turn()
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        for number in range(runs):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                if sum(seconds[contender]) < limit:
                    seconds[contender].append(workers[contender].turn())
        return [
            Result(
                case,
                contender,
                seconds=statistics.median(times),
                fastest=min(times),
                runs=len(times),
                peak_mib=workers[contender].peak_mib,
                above_imports_mib=workers[contender].peak_mib - workers[contender].imported_mib,
                notes=workers[contender].notes(),
            )
            for contender, times in seconds.items()
        ]
    finally:
        for worker in workers.values():
            worker.stop()


class _Worker:
    """A process that prepares one contender, then runs it once for every line it reads."""

    def __init__(self, script: str, contender: str, case: str, threads: int) -> None:
        variables = dict(os.environ, OMP_NUM_THREADS=str(threads), PORTING_BENCHMARK_THREADS=str(threads))
        variables["PYTHONPATH"] = str(ROOT)  # for the examples; packages are the installed ones, native loops included
        self.name = f"{contender} on {case}"
        self.process = subprocess.Popen(
            [sys.executable, script, "--worker", contender, case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self.imported_mib: float = self._answer()["peak_mib"]
        self.peak_mib = self.imported_mib

    def turn(self) -> float:
        answer = self._ask("run")
        self.peak_mib = answer["peak_mib"]
        return float(answer["seconds"])

    def notes(self) -> Notes:
        return dict(self._ask("notes")["notes"])

    def _ask(self, request: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: {self.name} ended with exit code {self.process.wait()}")
        return json.loads(line)


def serve(imports: Callable[[str], None], prepare: Callable[[str, str, int], Run]) -> None:
    """Be a worker if this process was started as one (and do not come back).

    imports: loads the libraries of a contender. prepare(contender, case, threads): gives the thing to time.
    """
    if sys.argv[1:2] != ["--worker"]:
        return
    contender, case = sys.argv[2:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    imports(contender)
    answer(peak_mib=_peak_mib())
    run = prepare(contender, case, int(os.environ["PORTING_BENCHMARK_THREADS"]))
    found: Notes | Callable[[], Notes] | None = None
    for request in sys.stdin:
        if request.strip() == "notes":
            answer(notes=(found() if callable(found) else found) or {})
            continue
        spent: list[float] = []
        while sum(spent) < SHORTEST_TURN:
            found = None  # what it keeps alive is not part of the next turn, nor what only the collector can free
            if not spent or spent[-1] > COLLECTED:
                gc.collect()
            start = time.perf_counter()
            found = run()
            spent.append(time.perf_counter() - start)
        answer(seconds=statistics.median(spent), peak_mib=_peak_mib())
    sys.exit(0)


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def table(results: Sequence[Result], *, baseline: str) -> str:
    """The results as text; `ratio` is the median over that of the baseline contender in the same case."""
    against = {result.case: result.seconds for result in results if result.contender == baseline}
    head = ("case", "contender", "median", "fastest", "runs", f"ratio to {baseline}", "peak", "above imports", "notes")
    rows = [
        (
            result.case,
            result.contender,
            _duration(result.seconds),
            _duration(result.fastest),
            str(result.runs),
            f"{result.seconds / against[result.case]:.2f}" if result.case in against else "",
            f"{result.peak_mib:.0f} MiB",
            f"{result.above_imports_mib:.0f} MiB",
            ", ".join(f"{key} {value}" for key, value in result.notes.items()),
        )
        for result in results
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def write(path: Path | None, results: Sequence[Result], *, threads: int) -> None:
    """The results and what they were measured with as JSON, if a path is given."""
    if path is None:
        return
    from importlib.metadata import version

    libraries = ("torch", "onnx", "onnx-ir", "onnxruntime", "numpy")
    document = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {library: version(library) for library in libraries},
        "threads": threads,
        "results": [dataclasses.asdict(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
