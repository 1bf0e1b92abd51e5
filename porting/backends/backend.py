"""A backend: a chip generation as a value, read from the data files of its package.

A backend's package holds ``backend.json``, ``numerics.json`` and one operator set for each surface, all described in
docs/operator-sets.md; its ``__init__.py`` offers ``BACKEND``, which the entry point names.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, Literal, get_args

from porting.backends.errors import (
    UnknownDtypeError,
    UnknownSchemeError,
    UnknownSurfaceError,
    UnknownToolkitError,
    did_you_mean,
    listed,
)
from porting.errors import BackendError
from porting_kernels.numerics import EXACT, Numerics
from porting_passes.operator_set import OperatorSet
from porting_passes.quantization_style import QuantizationStyle

Kind = Literal["converter", "python", "reference"]


@dataclasses.dataclass(frozen=True)
class NumericsLine:
    """One decision of the chip: a field of ``Numerics``, its value, where that is written, and how well it is known."""

    field: str
    value: Any
    source: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class NumericsTable:
    """How a backend computes, line by line, so that each line can be switched on alone."""

    lines: tuple[NumericsLine, ...] = ()

    def __post_init__(self) -> None:
        fields = [line.field for line in self.lines]
        if len(set(fields)) != len(fields):
            raise BackendError("a numerics table states a field twice", met=fields)
        known = {field.name for field in dataclasses.fields(Numerics)}
        if strangers := sorted(set(fields) - known):
            raise BackendError("a numerics table states unknown fields", required=listed(known), met=listed(strangers))
        self.numerics()

    def numerics(self, fields: Iterable[str] | None = None) -> Numerics:
        """The arithmetic of all lines, or of those for ``fields`` only, the rest being exact."""
        wanted = None if fields is None else set(fields)
        values = {line.field: line.value for line in self.lines if wanted is None or line.field in wanted}
        return dataclasses.replace(EXACT, **values)


@dataclasses.dataclass(frozen=True)
class Surface:
    """One interface that a port is written for.

    kind: ``converter`` takes an ONNX file without function bodies, ``python`` a vendor's Python calls, ``reference``
    runs here. opset: the one to export, None for the source's own. schemes, dtypes: what it takes, the default first.
    consumer: the exact next command, None where none is known. quantization: how static int8 is written, or None.
    """

    name: str
    kind: Kind
    operator_set: OperatorSet
    opset: int | None
    schemes: tuple[str, ...]
    dtypes: tuple[str, ...]
    consumer: str | None = None
    quantization: QuantizationStyle | None = None
    notes: tuple[str, ...] = ()

    def require_scheme(self, scheme: str) -> str:
        """The scheme itself; UnknownSchemeError when the surface does not take it."""
        if scheme in self.schemes:
            return scheme
        raise UnknownSchemeError(
            f"surface {self.name} has no scheme {scheme!r}",
            required=listed(self.schemes),
            met=scheme,
            fix=did_you_mean(scheme, self.schemes) or f"one of {listed(self.schemes)}",
        )

    def require_dtype(self, dtype: str) -> str:
        """The dtype itself; UnknownDtypeError when the surface does not compute in it."""
        if dtype in self.dtypes:
            return dtype
        raise UnknownDtypeError(
            f"surface {self.name} does not compute in {dtype!r}",
            required=listed(self.dtypes),
            met=dtype,
            fix=did_you_mean(dtype, self.dtypes) or f"one of {listed(self.dtypes)}",
        )


@dataclasses.dataclass(frozen=True)
class Backend:
    """A chip generation. surfaces: by name, the default first. toolkits: versions that ``NAME@TOOLKIT`` may name."""

    name: str
    description: str
    surfaces: Mapping[str, Surface]
    numerics: NumericsTable = dataclasses.field(default_factory=NumericsTable)
    toolkits: tuple[str, ...] = ()

    def surface(self, name: str | None = None, *, scheme: str | None = None, language_model: bool = False) -> Surface:
        """A surface by name; without one, the default. UnknownSurfaceError lists the known ones.

        The default is the first that takes the scheme; for a language model the first of kind ``python`` that does,
        where there is one, since its converters do not take the operators of language models.
        """
        if name is None:
            taking = [s for s in self.surfaces.values() if scheme is None or scheme in s.schemes]
            possible = taking or list(self.surfaces.values())
            preferred = [s for s in possible if language_model and s.kind == "python"]
            return next(iter(preferred or possible))
        if name in self.surfaces:
            return self.surfaces[name]
        raise UnknownSurfaceError(
            f"backend {self.name} has no surface {name!r}",
            required=listed(self.surfaces),
            met=name,
            fix=did_you_mean(name, self.surfaces) or f"one of {listed(self.surfaces)}",
        )

    def at(self, toolkit: str | None) -> Backend:
        """The backend as one toolkit version has it: rows of other versions fall away."""
        if toolkit is None:
            return self
        if toolkit not in self.toolkits:
            raise UnknownToolkitError(
                f"backend {self.name} has no toolkit {toolkit!r}",
                required=listed(self.toolkits),
                met=toolkit,
                fix=did_you_mean(toolkit, self.toolkits),
            )
        order = self.toolkits.index
        surfaces = {
            name: dataclasses.replace(surface, operator_set=surface.operator_set.between(toolkit, order))
            for name, surface in self.surfaces.items()
        }
        return dataclasses.replace(self, surfaces=surfaces)


def load_backend(package: str) -> Backend:
    """The backend that a package's data files describe. BackendError when they do not describe one."""
    folder = files(package)
    data = json.loads(folder.joinpath("backend.json").read_text(encoding="utf-8"))
    numerics = json.loads(folder.joinpath("numerics.json").read_text(encoding="utf-8"))
    surfaces = {}
    for name, entry in data["surfaces"].items():
        if entry["kind"] not in get_args(Kind):
            raise BackendError(f"surface {name} of {data['name']}: bad kind", met=entry["kind"])
        operator_set = OperatorSet.load(folder.joinpath(entry["operator_set"]))
        style = entry.get("quantization")
        surfaces[name] = Surface(
            name=name,
            kind=entry["kind"],
            operator_set=operator_set,
            opset=operator_set.opset,
            schemes=tuple(entry["schemes"]),
            dtypes=tuple(entry["dtypes"]),
            consumer=entry.get("consumer"),
            quantization=None if style is None else QuantizationStyle.from_json(style),
            notes=tuple(entry.get("notes", ())),
        )
    return Backend(
        name=data["name"],
        description=data["description"],
        surfaces=surfaces,
        numerics=NumericsTable(tuple(NumericsLine(**line) for line in numerics["lines"])),
        toolkits=tuple(data.get("toolkits", ())),
    )
