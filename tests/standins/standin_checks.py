"""What the stand-ins of vendors' modules have in common: the error of a refused call, and the toolkit's kernels."""

from __future__ import annotations

from typing import Any

import torch

from porting_kernels import registry


class SignatureError(Exception):
    """A call that the vendor's function would refuse."""


def require(condition: bool, function: str, what: str) -> None:
    """SignatureError unless a condition holds."""
    if not condition:
        raise SignatureError(f"{function}: {what}")


def name_of(dtype: torch.dtype) -> str:
    """``torch.bfloat16`` -> ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


def kernel(name: str, *operands: Any, **attributes: Any) -> Any:
    """What a composite operator gives for operands and attributes."""
    found = registry.lookup("porting", name, 20)
    assert found is not None
    if found.takes_context:
        attributes["context"] = registry.Context(20)
    return found.function(*operands, **attributes)
