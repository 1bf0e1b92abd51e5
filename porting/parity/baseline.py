"""A measurement against the one that was stored when it was good.

A budget says what is good enough; a baseline says that nothing got worse. A drop of the SQNR beyond the tolerance is a
regression unless it stays above `NOISE_FLOOR_DB`, where two correct float32 computations differ anyway.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from porting.errors import UsageError
from porting.json_text import json_text
from porting.parity.result import SCHEMA_VERSION
from porting.parity.verdict import Check, Verdict

TOLERANCE_DB = 1.0
NOISE_FLOOR_DB = 100.0
"""Relative L2 1e-5, the limit for float32 rounding in the default budget."""

_IDENTITY = ("source", "backend", "surface", "scheme", "dtype", "numerics", "inputs", "samples")


def load(path: Path) -> dict[str, Any]:
    """A stored ``parity.json``. UsageError when it is missing, no JSON, or of another schema version."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = document["schema_version"]
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no baseline {path}", met="no such file", fix="--update-baseline writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no stored parity.json", met=str(error), where=path) from error
    if version != SCHEMA_VERSION:
        raise UsageError(f"{path} is of another schema version", required=SCHEMA_VERSION, met=version)
    return document


def store(parity: Mapping[str, Any], path: Path) -> None:
    """Write the baseline in one step: a reader sees the old one or the new one, never a part.

    UsageError where the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}", met=error.strerror) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json_text(parity))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}", met=error.strerror) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def compare(
    parity: Mapping[str, Any], baseline: Mapping[str, Any], *, tolerance_db: float = TOLERANCE_DB
) -> list[Check]:
    """One check an output and a layer of the baseline; a value that is gone fails, a new one is no regression.

    Raises UsageError when the two are not measurements of the same thing.
    """
    for key in _IDENTITY:
        if parity[key] != baseline.get(key):
            raise UsageError(
                f"the baseline is of another measurement: {key} differs",
                required=f"{key} {baseline.get(key)!r}",
                met=f"{key} {parity[key]!r}",
                fix="measure as the baseline was measured, or --update-baseline",
            )
    source = f"stored measurement, tolerance {tolerance_db:g} dB, noise floor {NOISE_FLOOR_DB:g} dB"
    now = dict(_values(parity))
    checks = []
    for subject, old in _values(baseline):
        new = now.get(subject)
        if new is None:
            checks.append(Check("baseline", subject, "presence", "fail", "a value to compare", "gone", subject, source))
            continue
        checks += _regressions(subject, old, new, tolerance_db, source)
    return checks


def _values(parity: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for output in parity["outputs"]:
        yield f"output {output['name']}", output
    for layer in parity["layers"]:
        if layer["isolated"] is not None:
            yield f"layer {layer['name']}", layer["isolated"]


def _regressions(
    subject: str, old: Mapping[str, Any], new: Mapping[str, Any], tolerance_db: float, source: str
) -> list[Check]:
    required = min(old["sqnr_db"] - tolerance_db, NOISE_FLOOR_DB)
    verdict: Verdict = "pass" if new["sqnr_db"] >= required else "fail"
    text = f">= {required:.6g}"
    checks = [Check("baseline", subject, "sqnr_db", verdict, text, new["sqnr_db"], subject, source)]
    for metric in ("nan_count", "inf_count", "mismatches"):
        before, after = old[metric] or 0, new[metric] or 0
        if after > before:
            checks.append(Check("baseline", subject, metric, "fail", f"<= {before}", after, subject, source))
    return checks
