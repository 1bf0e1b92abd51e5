"""Does a runner compute the port? Its outputs against the simulation with exact numerics, under the fidelity limits."""

from __future__ import annotations

import dataclasses

from porting.errors import RunnerError
from porting.parity.budgets import Budget
from porting.parity.metrics import Accumulator
from porting.parity.result import Parity
from porting.parity.sampling import SampleSet
from porting.parity.verdict import Check, Judge, overall
from porting.port_folder import PortFolder
from porting.runner.protocol import Runner
from porting.simulation.interpreter import Interpreter
from porting_kernels import dtypes


def runner_checks(runner: Runner, port: PortFolder, samples: SampleSet, budget: Budget) -> list[Check]:
    """A check for each output and limit. RunnerError where the runner fails or names other outputs."""
    interpreter = Interpreter(port.executable)
    sums: dict[str, Accumulator] = {}
    for sample in samples:
        met = runner(sample)
        expected = interpreter.run(sample)
        if set(met) != set(expected):
            raise RunnerError("the runner gives other outputs", required=sorted(expected), met=sorted(met))
        for name, tensor in expected.items():
            sums.setdefault(name, Accumulator()).update(
                tensor, dtypes.to_torch(met[name]).to(tensor.dtype), where=f"output {name}"
            )
    judge = Judge(budget, scheme=port.manifest["scheme"], dtype=port.manifest["dtype"])
    where = f"runner {runner.command!r} against the simulation with exact numerics"
    return judge.values("fidelity", {name: total.metrics() for name, total in sums.items()}, where)


def with_checks(parity: Parity, checks: list[Check]) -> Parity:
    """The measurement with further checks, and the verdict that they leave it."""
    every = [*parity.checks, *checks]
    verdict, reasons = overall(every, inputs=parity.inputs, samples=parity.samples)
    return dataclasses.replace(parity, checks=every, verdict=verdict, reasons=reasons)
