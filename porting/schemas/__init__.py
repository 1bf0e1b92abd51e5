"""The published JSON Schemas (draft 2020-12) of what the toolkit writes and reads.

==============  ==========================================================================
parity          ``parity.json``
port            ``port.json``
provenance      one line of ``provenance.jsonl``
evidence        ``evidence/reference.json``
budget          a file for ``--budget``
check           ``porting check --json``
explanation     ``porting explain --json``
backends        ``porting backends --json``
placement       ``placement.json``
quantization    ``quantization.json``
sensitivity     ``porting sensitivity --json``
conversion      ``conversion.json``
conversion_plan ``porting checkpoint plan --json``
weight_errors   ``porting checkpoint compare --json``
schemes         ``porting/quantization/schemes.json``
keep_tables     ``porting/quantization/keep_tables.json``
scheme_map      a file for ``--scheme-map``
==============  ==========================================================================

Every document but a scheme map has ``schema_version``; a key that changes its meaning or disappears raises it, a new
key does not.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

_SUFFIX = ".schema.json"


@functools.cache
def names() -> tuple[str, ...]:
    """The documents that have a schema."""
    entries = importlib.resources.files(__package__).iterdir()
    return tuple(sorted(e.name.removesuffix(_SUFFIX) for e in entries if e.name.endswith(_SUFFIX)))


def load(name: str) -> dict[str, Any]:
    """The schema of one kind of document. Raises KeyError, with the known names, for any other."""
    if name not in names():
        raise KeyError(f"no schema {name!r}. Known: {', '.join(names())}")
    text = importlib.resources.files(__package__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def validate(name: str, document: Any) -> None:
    """Raise jsonschema.ValidationError when a document is not of its schema.

    Needs the ``jsonschema`` distribution, which only the tests depend on.
    """
    import jsonschema  # type: ignore[import-untyped]

    schema = load(name)
    validator = jsonschema.validators.validator_for(schema)
    validator(schema, format_checker=validator.FORMAT_CHECKER).validate(document)
