"""Operators and their executable meaning: (domain, type, since-version) -> torch function.

A kernel takes the operator's inputs by position (None for an absent optional input) and its attributes by keyword,
with the defaults of the operator's schema in its signature. It returns one tensor, a tuple for several outputs, or
a list for a sequence. Attribute values arrive as int, float, str, list or torch.Tensor. A kernel that needs more
declares a keyword parameter ``context``.

A kernel may come with a function that specializes it to operands that never change, such as weights. It takes what
the kernel takes, with None for every operand that is only known when the model runs, and returns a function of all
operands that gives the kernel's results, or None where there is nothing to gain.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from porting_kernels.numerics import EXACT, Numerics

Specialize = Callable[..., "Callable[..., Any] | None"]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a node knows beyond its operands: opset version of its domain, number of outputs it names, numerics.

    input_codes: ONNX element type of each operand, where the model says it. It tells an int4 operand from the int8
    that carries it.
    """

    version: int
    outputs: int = 1
    numerics: Numerics = EXACT
    input_codes: tuple[int | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One executable meaning, valid from opset ``since`` until the next registered one.

    specialize: makes a faster form for constant operands. streams: positions of operands that may also come as a
    :class:`porting_kernels.streamed.StreamedWeight`. in_place: the same operands, the result written over the
    first one; it takes no attributes. owns_result: what it returns shares memory with nothing else.
    """

    domain: str
    op_type: str
    since: int
    function: Callable[..., Any]
    takes_context: bool
    specialize: Specialize | None = None
    in_place: Callable[..., Any] | None = None
    owns_result: bool = False
    streams: tuple[int, ...] = ()


_KERNELS: dict[tuple[str, str], list[Kernel]] = {}


def kernel(
    op_type: str,
    *,
    domain: str = "",
    since: int = 1,
    specialize: Specialize | None = None,
    in_place: Callable[..., Any] | None = None,
    owns_result: bool = False,
    streams: tuple[int, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the meaning of an operator from opset ``since`` on; see :class:`Kernel`.

    A second registration of the same (domain, type, since) is a ValueError.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        versions = _KERNELS.setdefault((domain, op_type), [])
        if any(k.since == since for k in versions):
            raise ValueError(f"kernel {domain or 'ai.onnx'}::{op_type} since {since} is registered twice")
        takes_context = "context" in inspect.signature(function).parameters
        versions.append(
            Kernel(domain, op_type, since, function, takes_context, specialize, in_place, owns_result, streams)
        )
        versions.sort(key=lambda k: k.since)
        return function

    return register


@functools.cache
def _load() -> None:
    """Import every kernel file beside this one, once: the file list is the registry's table of contents."""
    import porting_kernels

    for module in pkgutil.iter_modules(porting_kernels.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"porting_kernels.{module.name}")


def lookup(domain: str, op_type: str, version: int) -> Kernel | None:
    """The kernel in force at an opset version, or None. ``ai.onnx`` and the empty domain are the same."""
    _load()
    found = None
    for candidate in _KERNELS.get(("" if domain == "ai.onnx" else domain, op_type), ()):
        if candidate.since <= version:
            found = candidate
    return found


def registered() -> list[Kernel]:
    """Every kernel, by domain, type and version."""
    _load()
    return [k for key in sorted(_KERNELS) for k in _KERNELS[key]]
