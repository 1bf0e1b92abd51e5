"""The protocol of runners: a command that takes a file of inputs and leaves a file of outputs.

CMD --inputs X.npz --outputs Y.npz: one array a graph input, by name, in; one a graph output out, and, where the runner
knows, ``placement.json`` beside it, which says where each node ran. Exit code 0 when Y.npz is whole.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from porting import samples
from porting.errors import RunnerError

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Runner:
    """A runner's command line. ``placement`` is what it last said of where nodes ran, None where it said nothing."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.placement: dict[str, Any] | None = None
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise RunnerError("the runner's command line cannot be split", met=str(error), where=command) from error
        if not self._words:
            raise RunnerError("the runner's command line is empty", fix="--runner 'porting run OUT --device npu:0'")

    def __call__(self, sample: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for one batch. RunnerError where the command fails or leaves no outputs."""
        with tempfile.TemporaryDirectory(prefix="porting-runner-") as folder:
            inputs, outputs = Path(folder, "X.npz"), Path(folder, "Y.npz")
            samples.save(sample, inputs)
            self._execute(["--inputs", str(inputs), "--outputs", str(outputs)])
            if not outputs.exists():
                raise RunnerError("the runner ended well and left no outputs", required="Y.npz", where=self.command)
            said = Path(folder, "placement.json")
            self.placement = json.loads(said.read_text(encoding="utf-8")) if said.exists() else None
            with np.load(outputs) as arrays:
                return {name: arrays[name] for name in arrays.files}

    def _execute(self, options: list[str]) -> None:
        try:
            done = subprocess.run([*self._words, *options], capture_output=True, text=True, check=False)
        except OSError as error:
            raise RunnerError("the runner cannot be started", met=error.strerror, where=self.command) from error
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.strip()][-8:]
            raise RunnerError(
                "the runner failed",
                required="exit code 0",
                met="\n           ".join([f"exit code {done.returncode}", *last]),
                where=self.command,
            )
