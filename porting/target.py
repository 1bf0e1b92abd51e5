"""What a model is ported to: backend, surface, scheme, dtype, shapes, and what may stay unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from porting import backends
from porting.backends import Backend, Surface

Dims = tuple[int | str | None, ...]


@dataclasses.dataclass(frozen=True)
class Target:
    """A resolved request.

    shapes: input name -> dimensions (None leaves one as it is). dims: symbol -> (low, high), both included.
    allow_unknown: operator types that may stay although their legality is unknown.
    """

    specification: str
    backend: Backend
    surface: Surface
    scheme: str = "none"
    dtype: str = "float32"
    shapes: Mapping[str, Dims] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    allow_unknown: frozenset[str] = frozenset()

    @classmethod
    def resolve(
        cls,
        backend: str,
        surface: str | None = None,
        *,
        scheme: str = "none",
        dtype: str | None = None,
        language_model: bool = False,
        **rest: object,
    ) -> Target:
        """From the words of the command line. Unknown names raise errors that list the known and the near ones.

        surface: without one, the backend's default for the scheme and the kind of model. dtype: without one, the
        surface's first.
        """
        found = backends.get(backend)
        chosen = found.surface(surface, scheme=scheme, language_model=language_model)
        chosen.require_scheme(scheme)
        dtype = chosen.require_dtype(chosen.dtypes[0] if dtype is None else dtype)
        return cls(backend, found, chosen, scheme, dtype, **rest)  # type: ignore[arg-type]

    @property
    def quantizes_by_ranges(self) -> bool:
        """Whether the scheme needs ranges of activations."""
        return self.scheme == "w8a8-static"

    @property
    def quantizes_by_row(self) -> bool:
        """Whether the scheme makes integers of weights, and of activations as the model runs if of them at all."""
        return self.scheme not in ("none", "w8a8-static")
