"""ONNX's own backend node tests, run through the interpreter: ``python -m porting.simulation.node_tests``.

Each test ends as *passed*, *listed* (``node_tests.json`` says why it is not expected to pass), *failed*, or *stale*:
listed, but it passes, so the list is out of date.
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import functools
import importlib.resources
import json
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch

from porting.simulation.interpreter import Interpreter
from porting_kernels import dtypes, registry

_BFLOAT16_RTOL = 2**-6
"""Two bfloat16 ULPs, as ONNX's own test runner allows: the tests' tolerances are below what bfloat16 resolves."""

_FLOAT16_RTOL = 2**-9
"""Two float16 ULPs: an operator's body rounds after each of its steps, ours once at the end."""

Status = Literal["passed", "listed", "failed", "stale"]


@dataclasses.dataclass(frozen=True)
class Listing:
    """Why the tests of a name pattern are not expected to pass. kind: ``string``, ``training``, ``ml`` or ``other``."""

    pattern: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one test. detail: what went wrong, or why it is listed."""

    name: str
    status: Status
    detail: str = ""
    kind: str = ""


@functools.cache
def listings() -> tuple[Listing, ...]:
    """The committed list, in order; the first pattern that fits a test's name counts."""
    text = importlib.resources.files("porting.simulation").joinpath("node_tests.json").read_text("utf-8")
    return tuple(Listing(**row) for row in json.loads(text)["listed"])


def collect() -> list[Any]:
    """All node test cases of the installed onnx package."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # The cases are computed while they are collected, edge values included.
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def difference(case: Any) -> str | None:
    """Run one case; None if all its outputs are as expected, else what is different or what was raised."""
    try:
        interpreter = Interpreter(ir.from_proto(case.model))
        for given, expected in case.data_sets:
            names = [value.name for value in interpreter.inputs]
            inputs = {str(name): _array(value) for name, value in zip(names, given, strict=False)}
            outputs = interpreter.run(inputs)
            for value, want in zip(interpreter.outputs, expected, strict=True):
                found = _compare(outputs[str(value.name)], _array(want), value.dtype, case.rtol, case.atol)
                if found:
                    return f"output {value.name!r}: {found}"
    except Exception as error:  # whatever a kernel raises is the outcome of its test
        return f"{type(error).__name__}: {error}"
    return None


def run(cases: Iterable[Any]) -> list[Outcome]:
    """The outcome of every case, in order."""
    registry.registered()  # a kernel file that does not import is one error here, not one in every case
    return [_outcome(case) for case in cases]


def _outcome(case: Any) -> Outcome:
    detail = difference(case)
    listing = next((row for row in listings() if fnmatch.fnmatchcase(case.name, row.pattern)), None)
    if listing is None:
        return Outcome(case.name, "passed" if detail is None else "failed", detail or "")
    return Outcome(case.name, "stale" if detail is None else "listed", listing.reason, listing.kind)


def _array(value: Any) -> Any:
    if isinstance(value, list):
        return [_array(item) for item in value]
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _compare(found: Any, want: Any, code: int | None, rtol: float, atol: float) -> str | None:
    if want is None or isinstance(want, list):
        if not isinstance(found, type(want)) or (
            isinstance(found, list) and isinstance(want, list) and len(found) != len(want)
        ):
            return f"expected {dtypes.describe(want)}, got {dtypes.describe(found)}"
        pairs = zip(found or (), want or (), strict=True)
        differences = (_compare(f, w, code, rtol, atol) for f, w in pairs)
        return next((text for text in differences if text), None)
    if not isinstance(found, torch.Tensor):
        return f"expected a tensor, got {dtypes.describe(found)}"
    got, want = dtypes.to_numpy(found, code), np.asarray(want)
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"expected {dtypes.describe(want)}, got {dtypes.describe(got)}"
    if not dtypes.by_numpy(want.dtype).is_float and want.dtype.kind != "c":
        return None if np.array_equal(got, want) else f"{np.count_nonzero(got != want)} of {want.size} elements differ"
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, _BFLOAT16_RTOL)
    if want.dtype == np.float16:
        rtol = max(rtol, _FLOAT16_RTOL)
    if want.dtype.itemsize < 4:
        got, want = got.astype(np.float32), want.astype(np.float32)
    try:
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, verbose=False)
    except AssertionError as error:
        return " ".join(str(error).split())
    return None


def main() -> int:
    """Print the totals and each failed or stale test; 0 if there is none."""
    torch.set_num_threads(1)
    outcomes = run(collect())
    counts = collections.Counter(outcome.status for outcome in outcomes)
    for outcome in outcomes:
        if outcome.status in ("failed", "stale"):
            print(f"{outcome.status} {outcome.name}: {' '.join(outcome.detail.split())}")
    for (kind, reason), count in sorted(
        collections.Counter((o.kind, o.detail) for o in outcomes if o.status == "listed").items()
    ):
        print(f"listed {count:4} {kind}: {reason}")
    print(
        f"{len(outcomes)} node tests: {counts['passed']} passed, {counts['listed']} listed with a reason, "
        f"{counts['failed']} failed, {counts['stale']} listed although they pass"
    )
    return 1 if counts["failed"] or counts["stale"] else 0


if __name__ == "__main__":
    sys.exit(main())
