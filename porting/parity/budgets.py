"""The limits that make a verdict, each with the place it comes from.

``budgets.json`` beside this file holds the defaults; a user's file of the same form goes before them. A line says::

    {"question": "outputs", "scheme": "w8a8-static", "dtype": "*", "name": "*",
     "metric": "sqnr_db", "min": 20, "source": "where the number comes from"}

``scheme``, ``dtype`` and ``name`` default to ``*``; ``name`` is a shell pattern over the names of outputs or layers.
For one value and metric the user's lines win over the defaults, and then the line that is more specific in name,
scheme and dtype, in this order. ``min`` or ``max`` is fixed by the metric.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from porting.errors import UsageError

Question = Literal["reference", "fidelity", "outputs", "isolated", "routing"]
SCHEMA_VERSION = 1

# metric -> the side that a limit on it takes
METRICS: Mapping[str, Literal["min", "max"]] = {
    "cosine": "min",
    "sqnr_db": "min",
    "rel_l2": "max",
    "channel_rel_l2": "max",
    "row_rel_l2": "max",
    "max_abs": "max",
    "max_ulp": "max",
    "nonfinite_count": "max",
    "mismatch_fraction": "max",
    "code_mismatch_fraction": "max",
    "far_code_fraction": "max",
    "tie_distance": "max",
    "tie_fraction": "max",
    "kl_mean": "max",
    "kl_p99": "max",
    "kl_max": "max",
    "top1_agreement": "min",
    "perplexity_ratio": "max",
    "near_tie_fraction": "max",
    "fault_fraction": "max",
}
_REQUIRED = ("question", "metric")
_OPTIONAL = ("scheme", "dtype", "name", "min", "max", "source")


@dataclasses.dataclass(frozen=True)
class Limit:
    """One line. bound: at least (``min`` metrics) or at most (``max`` metrics)."""

    question: Question
    metric: str
    bound: float
    source: str
    scheme: str = "*"
    dtype: str = "*"
    name: str = "*"
    user: bool = False

    @property
    def required(self) -> str:
        """The limit as text, ``>= 20``."""
        return f"{'>=' if METRICS[self.metric] == 'min' else '<='} {self.bound:g}"

    def holds(self, met: float) -> bool:
        """Whether a measured value keeps the limit; NaN never does."""
        return met >= self.bound if METRICS[self.metric] == "min" else met <= self.bound

    def to_json(self) -> dict[str, Any]:
        """The line as it stands in a budget file."""
        return {
            "question": self.question,
            "scheme": self.scheme,
            "dtype": self.dtype,
            "name": self.name,
            "metric": self.metric,
            METRICS[self.metric]: self.bound,
            "source": self.source,
        }


@dataclasses.dataclass(frozen=True)
class Budget:
    """The limits in force. file: the user's file, or None."""

    limits: tuple[Limit, ...]
    file: str | None = None

    def of(self, question: Question, *, scheme: str, dtype: str, name: str) -> list[Limit]:
        """The limits on one value, one a metric, in the order of ``METRICS``."""
        best: dict[str, Limit] = {}
        for limit in self.limits:
            fits = limit.question == question and limit.scheme in ("*", scheme) and limit.dtype in ("*", dtype)
            if fits and fnmatch.fnmatchcase(name, limit.name):
                current = best.get(limit.metric)
                if current is None or _rank(limit) >= _rank(current):
                    best[limit.metric] = limit
        return [best[metric] for metric in METRICS if metric in best]

    def bound(self, question: Question, metric: str, *, scheme: str, dtype: str, default: float) -> float:
        """The bound of one metric for values of any name."""
        found = {limit.metric: limit.bound for limit in self.of(question, scheme=scheme, dtype=dtype, name="")}
        return found.get(metric, default)

    def to_json(self, *, scheme: str, dtype: str) -> dict[str, Any]:
        """The ``budget`` entry of ``parity.json``: the lines that speak of this scheme and dtype."""
        lines = [m for m in self.limits if m.scheme in ("*", scheme) and m.dtype in ("*", dtype)]
        return {"file": self.file, "limits": [{**line.to_json(), "user": line.user} for line in lines]}


def _rank(limit: Limit) -> tuple[bool, bool, bool, bool]:
    return limit.user, limit.name != "*", limit.scheme != "*", limit.dtype != "*"


def default_budget() -> Budget:
    """The limits that ship with the toolkit."""
    text = importlib.resources.files(__package__).joinpath("budgets.json").read_text(encoding="utf-8")
    return Budget(_limits(json.loads(text), "budgets.json", user=False))


def load_budget(path: Path | None) -> Budget:
    """The defaults, with the lines of a user's file before them.

    Raises UsageError, naming key and file, for unknown keys, bad types, or a limit on the wrong side of its metric.
    """
    default = default_budget()
    if path is None:
        return default
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read budget file {path}", met=error.strerror) from error
    except ValueError as error:
        raise UsageError(f"budget file {path} is not JSON", met=str(error)) from error
    return Budget((*default.limits, *_limits(document, str(path), user=True)), file=path.name)


def _limits(document: Any, file: str, *, user: bool) -> tuple[Limit, ...]:
    if not isinstance(document, dict):
        raise _bad(file, "the file", "an object with schema_version and limits", type(document).__name__)
    _check_keys(document, ("schema_version", "limits"), (), file, "the file")
    if document["schema_version"] != SCHEMA_VERSION:
        raise _bad(file, "schema_version", str(SCHEMA_VERSION), document["schema_version"])
    if not isinstance(document["limits"], list):
        raise _bad(file, "limits", "a list", type(document["limits"]).__name__)
    return tuple(_limit(entry, file, f"limits[{i}]", user=user) for i, entry in enumerate(document["limits"]))


def _limit(entry: Any, file: str, where: str, *, user: bool) -> Limit:
    if not isinstance(entry, dict):
        raise _bad(file, where, "an object", type(entry).__name__)
    _check_keys(entry, _REQUIRED, _OPTIONAL, file, where)
    for key in ("question", "metric", "scheme", "dtype", "name", "source"):
        if not isinstance(entry.get(key, ""), str):
            raise _bad(file, f"{where}.{key}", "a text", entry[key])
    if entry["question"] not in get_args(Question):
        raise _bad(file, f"{where}.question", " | ".join(get_args(Question)), entry["question"])
    if entry["metric"] not in METRICS:
        raise _bad(file, f"{where}.metric", " | ".join(METRICS), entry["metric"])
    side = METRICS[entry["metric"]]
    given = sorted({"min", "max"} & set(entry))
    if given != [side]:
        raise _bad(file, where, f"{side!r} for {entry['metric']}", " and ".join(given) or "no limit")
    bound = entry[side]
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise _bad(file, f"{where}.{side}", "a finite number", bound)
    return Limit(
        question=entry["question"],
        metric=entry["metric"],
        bound=float(bound),
        source=entry.get("source", f"the user's budget, {file}"),
        scheme=entry.get("scheme", "*"),
        dtype=entry.get("dtype", "*"),
        name=entry.get("name", "*"),
        user=user,
    )


def _check_keys(
    entry: Mapping[str, Any], required: Sequence[str], optional: Sequence[str], file: str, where: str
) -> None:
    for key in entry:
        if key not in required and key not in optional:
            raise _bad(file, where, "only " + ", ".join((*required, *optional)), f"unknown key {key!r}")
    for key in required:
        if key not in entry:
            raise _bad(file, where, f"key {key!r}", "it is missing")


def _bad(file: str, where: str, required: str, met: object) -> UsageError:
    return UsageError(f"budget file {file}: {where} is not valid", required=required, met=met, where=file)
