"""What the facts say about calls of torch_mlu_ops, read for the stand-in: parameters, their order, dtypes, flags.

``torch_mlu_ops_facts.json`` is taken from the facts about Cambricon MLU590 as they are; ``signature`` is the order in
which public code passes the parameters, ``keyword`` those that it passes by name only, and ``operands`` says which
parameter the facts know by another name. Nothing here looks at the operator sets of the toolkit: a row that misreads
the facts is to be found out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from standin_checks import SignatureError, name_of, require

_FACTS: dict[str, Any] = json.loads((Path(__file__).parent / "torch_mlu_ops_facts.json").read_text(encoding="utf-8"))
# parameters that may be None although they have to be given
_MAY_BE_NONE = {
    "scaled_matmul": {"a_scale"},
    "group_gemm": {"expand_idx", "c", "alpha", "beta"},
    "smooth_quant_group_gemm": {"expand_idx", "c", "alpha", "beta"},
    "moe_combine_result": {"residual", "cusum_token_count"},
    "fused_rms_norm": {"residual", "beta", "bias"},
    "apply_rotary": {"position_ids", "cu_seqlens"},
    "flash_attention": {"out", "cu_seq_lens_q", "cu_seq_lens_kv", "alibi_slope", "attn_bias"},
}
_KINDS: dict[type, tuple[str, ...]] = {
    bool: (
        *("normalize", "is_gated", "dynamic_quant", "store_output_before_norm", "interleaved", "discrete"),
        *("dynamic_ntk", "is_causal", "return_lse"),
    ),
    int: (
        *("topk", "num_expert_group", "topk_group", "expert_num", "start_expert_id", "expert_size", "max_m"),
        *("max_seqlen", "max_seq_len_q", "max_seq_len_kv", "quant_bit_size", "window_size_left", "window_size_right"),
    ),
    float: ("eps", "route_scale", "softmax_scale"),
    str: ("act_mode", "quant_mode", "normed_by"),
    torch.dtype: ("dtype", "output_dtype", "out_dtype", "quant_type", "compute_dtype"),
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}


def bound(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, None for what is not given. SignatureError for what the signature has no place for or lacks,
    for another kind of value, and for a dtype that the facts do not list.
    """
    facts = _FACTS[function]
    signature = facts["signature"]
    places = [*signature["required"], *signature["optional"]]
    require(len(args) <= len(places), function, f"at most {len(places)} arguments by position, not {len(args)}")
    given = dict(zip(places, args, strict=False))
    for name, value in kwargs.items():
        require(name not in given, function, f"{name} is given twice")
        require(name in places or name in signature["keyword"], function, f"no parameter {name}")
        given[name] = value
    lacking = [n for n in signature["required"] if n not in given]
    lacking += [n for n in signature["required"] if n not in lacking and given[n] is None and n not in none(function)]
    require(not lacking, function, f"lacks {', '.join(lacking)}")
    operands = {entry["name"]: entry for entry in facts["inputs"]}
    for name, value in given.items():
        operand = operands.get(signature["operands"].get(name, name))
        if operand is not None and value is not None:
            _check_tensor(function, name, operand, value)
        elif name in _KIND and value is not None:
            _check_kind(function, name, value)
    return {**dict.fromkeys([*places, *signature["keyword"]]), **given}


def none(function: str) -> set[str]:
    """Required parameters that may be None."""
    return _MAY_BE_NONE.get(function, set())


def _check_tensor(function: str, name: str, operand: dict[str, Any], value: Any) -> None:
    require(isinstance(value, torch.Tensor), function, f"{name} is a tensor, not {type(value).__name__}")
    require("must be absent" not in operand.get("shape", ""), function, f"{name} must be absent")
    dtypes = {entry.split()[0] for entry in operand["dtypes"]}
    # int4 is two codes in an int8; "same as" another operand is checked where both are at hand.
    dtypes = {"int8" if entry.startswith("int4") else entry for entry in dtypes}
    loose = "same" in dtypes
    extended = "float32" if function in ("fused_rms_norm", "apply_rotary") else ""
    met = name_of(value.dtype)
    require(loose or met in dtypes or met == extended, function, f"{name} is {met}, allowed {sorted(dtypes)}")


def _check_kind(function: str, name: str, value: Any) -> None:
    kind = _KIND[name]
    accepted = isinstance(value, kind) or (kind is float and isinstance(value, int))
    accepted = accepted and (kind is bool or not isinstance(value, bool))
    require(accepted, function, f"{name} is {kind.__name__}, not {value!r}")
    if kind is str and isinstance(listed := _FACTS[function]["attributes"].get(name), list):
        require(value in listed, function, f"{name} is one of {listed}, not {value!r}")


def same_dtype(function: str, given: dict[str, Any], first: str, *others: str) -> None:
    """SignatureError unless the operands that are given have the dtype of the first."""
    for name in others:
        met = given[name]
        if met is not None and met.dtype != given[first].dtype:
            raise SignatureError(f"{function}: {name} is {name_of(met.dtype)}, {first} {name_of(given[first].dtype)}")


def output_dtype(function: str, wanted: torch.dtype) -> None:
    """SignatureError unless the facts list the dtype for the first result."""
    allowed = _FACTS[function]["outputs"][0]["dtypes"]
    require(name_of(wanted) in allowed, function, f"result in {name_of(wanted)}, allowed {allowed}")
