"""What a scheme makes of a linear layer, by its role and the runtime: ``schemes.json``."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from importlib.resources import files
from typing import Any, Literal

from porting.errors import UsageError
from porting.quantization.weight_spec import WeightSpec

Activation = Literal["int8_token", "float"]
NONE = "none"
ANY = "*"


@dataclasses.dataclass(frozen=True)
class SchemeRow:
    """One line: the first that fits scheme, runtime and role counts. ``*`` fits all.

    otherwise: instead of ``spec`` where its groups do not divide a row; None: there is no such case.
    """

    scheme: str
    runtime: str
    role: str
    spec: WeightSpec
    activation: Activation
    otherwise: WeightSpec | None
    source: str


@dataclasses.dataclass(frozen=True)
class Schemes:
    """The whole table. roles: (role, pattern), the first that matches counts. joined: leaf -> members of its matrix."""

    roles: tuple[tuple[str, re.Pattern[str]], ...]
    joined: dict[str, tuple[str, ...]]
    rows: tuple[SchemeRow, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every scheme, ``none`` first."""
        return (NONE, *dict.fromkeys(row.scheme for row in self.rows))

    def require(self, scheme: str, where: object = None) -> str:
        """The scheme itself; UsageError, with the known ones, when there is none of this name."""
        if scheme not in self.names:
            raise UsageError(f"no scheme {scheme!r}", required=" or ".join(self.names), met=scheme, where=where)
        return scheme

    def role(self, module: str) -> str:
        """What a linear layer is to its model: ``routed_expert``, ``shared_expert`` or ``linear``."""
        return next(role for role, pattern in self.roles if pattern.fullmatch(module))

    def row(self, scheme: str, runtime: str, role: str) -> SchemeRow:
        """The line for a layer. UsageError where a scheme is not known for the runtime."""
        self.require(scheme)
        for row in self.rows:
            if row.scheme == scheme and row.runtime in (runtime, ANY) and row.role in (role, ANY):
                return row
        known = [row.runtime for row in self.rows if row.scheme == scheme and row.role in (role, ANY)]
        raise UsageError(
            f"scheme {scheme} is not known for this runtime",
            required=" or ".join(known),
            met=runtime,
            where=f"layers of role {role}",
        )

    def matrix(self, module: str) -> str:
        """The name that layers share when runtimes multiply by them at once: all experts, gate and up, q, k and v."""
        parent, dot, leaf = re.sub(r"\bexperts\.\d+\.", "experts.*.", module).rpartition(".")
        return parent + dot + "+".join(self.joined.get(leaf, (leaf,)))


@functools.cache
def schemes() -> Schemes:
    """The table, read once."""
    document = json.loads(files(__package__).joinpath("schemes.json").read_text(encoding="utf-8"))
    return Schemes(
        tuple((row["role"], re.compile(row["pattern"])) for row in document["roles"]),
        {member: tuple(row["members"]) for row in document["joined"] for member in row["members"]},
        tuple(_row(row) for row in document["schemes"]),
    )


def _row(row: dict[str, Any]) -> SchemeRow:
    spec = WeightSpec(row["bits"], row["group"], row["search"])
    otherwise = None if row["otherwise"] is None else WeightSpec(**row["otherwise"])
    return SchemeRow(row["scheme"], row["runtime"], row["role"], spec, row["activation"], otherwise, row["source"])
