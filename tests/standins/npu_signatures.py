"""What the facts say about calls of torch_npu, read for the stand-in: signatures, dtype combinations, layouts.

``torch_npu_facts.json`` is taken from the facts about Ascend 910B as they are. Nothing here looks at the operator sets
of the toolkit: a row that misreads the facts is to be found out.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from standin_checks import SignatureError, name_of, require

__all__ = ["FRACTAL_NZ", "SignatureError", "bound", "format_of", "name_of", "output_dtypes", "require"]

FRACTAL_NZ = 29
_FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "torch_npu_facts.json").read_text(encoding="utf-8"))
# torch parameter -> operand of the kernel definition, where the facts name the two differently
_ALIASES = {
    "npu_rms_norm": {"self": "x"},
    "npu_swiglu": {"self": "x"},
    "npu_dynamic_quant": {"input": "x"},
    "npu_rotary_mul": {"self": "x", "r1": "cos", "r2": "sin"},
    "npu_moe_finalize_routing": {
        "expanded_permuted_rows": "expanded_x",
        "expanded_src_to_dst_row": "expanded_row_idx",
        "skip1": "x1",
        "skip2": "x2",
        "export_for_source_row": "expert_idx",
    },
}
# attributes that come by position, between or behind the tensors; the facts list them apart from the tensors
_POSITIONAL = {
    "npu_moe_gating_top_k": ("x", "k"),
    "npu_moe_gating_top_k_softmax": ("x", "finished", "k"),
    "npu_rms_norm": ("self", "gamma", "epsilon"),
    "npu_swiglu": ("self", "dim"),
    "npu_moe_finalize_routing": (
        "expanded_permuted_rows",
        "skip1",
        "skip2",
        "bias",
        "scales",
        "expanded_src_to_dst_row",
        "export_for_source_row",
        "drop_pad_mode",
    ),
}
# tensors that may be None and have to be given all the same
_MUST_BE_SAID = {"npu_moe_finalize_routing": ("skip1", "skip2", "bias", "scales", "export_for_source_row")}


def format_of(tensor: torch.Tensor) -> str:
    """The layout that npu_format_cast gave a tensor."""
    return "FRACTAL_NZ" if getattr(tensor, "npu_format", 2) == FRACTAL_NZ else "ND"


def bound(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name. SignatureError for what the signature has no place for, lacks, or takes in another form."""
    facts = _FACTS[function]
    tensors = {entry["name"]: entry for entry in facts["torch_signature"]["tensors"]}
    required = [n for n, entry in tensors.items() if not entry["optional"]]
    places = _POSITIONAL.get(function, tuple(required))
    if len(args) > len(places):
        raise SignatureError(f"{function} takes {len(places)} arguments by position, not {len(args)}")
    given = dict(zip(places, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise SignatureError(f"{function} got {name} twice")
        if name not in tensors and name not in facts["attributes"]:
            raise SignatureError(f"{function} has no parameter {name}")
        given[name] = value
    lacking = [n for n in required if given.get(n) is None]
    lacking += [n for n in _MUST_BE_SAID.get(function, ()) if n not in given]
    lacking += [n for n, a in facts["attributes"].items() if a["default"] is None and n not in given]
    if lacking:
        raise SignatureError(f"{function} lacks {', '.join(lacking)}")
    for name, value in given.items():
        if name in tensors and value is not None:
            _check_form(function, name, tensors[name]["list"], value)
        elif name in facts["attributes"]:
            _check_attribute(function, name, facts["attributes"][name]["type"], value)
    return {**dict.fromkeys(tensors), **given}


def _check_form(function: str, name: str, listed: bool, value: Any) -> None:
    if listed:
        if not isinstance(value, list) or not all(isinstance(item, torch.Tensor) for item in value):
            raise SignatureError(f"{function}: {name} is a list of tensors")
    elif not isinstance(value, torch.Tensor):
        raise SignatureError(f"{function}: {name} is a tensor, not {type(value).__name__}")


def _check_attribute(function: str, name: str, kind: str, value: Any) -> None:
    if value is None and kind.endswith("?"):
        return
    plain = kind.rstrip("?").split("[")[0]
    accepted: tuple[type, ...] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}.get(plain, ())
    if name.endswith("dtype") or name == "dst_type":
        accepted = (torch.dtype,)
    items = value if "[" in kind and isinstance(value, (list, tuple)) else [value]
    if accepted and not all(isinstance(item, accepted) for item in items):
        raise SignatureError(f"{function}: {name} is {kind}, not {value!r}")
    if plain == "int" and accepted == (int,) and any(isinstance(item, bool) for item in items):
        raise SignatureError(f"{function}: {name} is {kind}, not {value!r}")


@functools.cache
def _combinations(function: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    table = _FACTS[function]["dtype_combos"]
    return tuple(table["order"]), tuple(tuple(row.split(",")) for row in table["rows"])


def output_dtypes(function: str, given: dict[str, Any], int4: tuple[str, ...] = ()) -> set[str]:
    """The dtypes that the first result can have. SignatureError where no combination has the operands' dtypes.

    int4: operands whose int32 words hold eight codes each. A word of 64 bits is int64 here and uint64 there.
    """
    order, rows = _combinations(function)
    aliases = _ALIASES.get(function, {})
    met: dict[str, set[str]] = {}
    for name, value in given.items():
        tensor = value[0] if isinstance(value, list) and value else value
        operand = aliases.get(name, name)
        if not isinstance(tensor, torch.Tensor) or operand not in order:
            continue
        dtype = "int4" if name in int4 else name_of(tensor.dtype)
        names = {dtype, "uint64"} if dtype == "int64" else {dtype}
        met[operand] = {n if format_of(tensor) == "ND" else f"{n}@FRACTAL_NZ" for n in names}
    inputs = len(order) - len(_FACTS[function]["outputs"])
    found = {
        row[inputs]
        for row in rows
        if all(row[order.index(name)] in dtypes for name, dtypes in met.items() if order.index(name) < inputs)
    }
    if not found:
        shown = ", ".join(f"{name} {'/'.join(sorted(dtypes))}" for name, dtypes in met.items())
        raise SignatureError(f"{function} has no combination of {shown}")
    return found
