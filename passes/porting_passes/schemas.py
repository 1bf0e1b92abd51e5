"""Operator schemas in force at an opset version."""

from __future__ import annotations

import functools

import onnx

NEWEST_OPSET = onnx.defs.onnx_opset_version()


@functools.cache
def schema(domain: str, op_type: str, version: int, *, deprecated: bool = False) -> onnx.defs.OpSchema | None:
    """The schema in force at an opset version; None when the operator does not exist there or is not onnx's.

    A deprecated version counts as not existing unless ``deprecated`` asks for it.
    """
    try:
        found = onnx.defs.get_schema(op_type, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    return found if deprecated or not found.deprecated else None


def exists(domain: str, op_type: str, version: int) -> bool:
    """Whether the operator exists at an opset version. A domain that onnx does not define is taken on trust."""
    return domain not in ("", "ai.onnx") or schema(domain, op_type, version) is not None
