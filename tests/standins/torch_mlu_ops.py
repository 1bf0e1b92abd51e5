"""Stands in for torch_mlu_ops on machines without an MLU: checks every call against the facts, computes with torch.

Checked are names, order and kinds of arguments, dtypes, and the shapes and limits that the facts state. The arithmetic
is that of the toolkit's kernels: this module finds calls that a device would refuse, not results that it would give.
"""

from __future__ import annotations

from typing import Any

import torch
from mlu_signatures import bound, output_dtype, same_dtype
from standin_checks import SignatureError, kernel, require

from porting_kernels.dtypes import by_torch

__all__ = ["SignatureError"]
STAND_IN = True
__version__ = "stand-in"
CALLS: list[str] = []
"""Names of the functions that were called, in order."""


def _taken(function: str, args: tuple[Any, ...], kwargs: dict[str, Any], *absent: str) -> dict[str, Any]:
    CALLS.append(function)
    given = bound(function, args, kwargs)
    for name in absent:
        require(given[name] is None, function, f"{name} is not computed here")
    return given


def _codes(function: str, packed: torch.Tensor, width: int, bits: int) -> torch.Tensor:
    """int8 codes of a weight (.., n, k), or of one with two codes a byte along k, the even one in the low nibble."""
    require(packed.shape[-1] * 8 // bits == width, function, f"b has k {packed.shape[-1] * 8 // bits}, a {width}")
    if bits == 8:
        return packed
    both = torch.stack((packed << 4, packed), -1).flatten(-2)
    return both >> 4


def _bits(function: str, given: dict[str, Any]) -> int:
    bits = 8 if given["quant_bit_size"] is None else given["quant_bit_size"]
    require(bits in (4, 8), function, f"quant_bit_size is 4 or 8, not {bits}")
    return int(bits)


def _plain_epilogue(function: str, given: dict[str, Any]) -> None:
    require(given["act_mode"] in (None, "none"), function, "no activation, here")


def scaled_quantize(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and a scale for each row."""
    function = "scaled_quantize"
    given = _taken(function, args, kwargs, "zero", "scale_ub")
    x, scale = given["input"], given["scale"]
    require(given["quant_mode"] in (None, "dynamic_per_token"), function, "quant_mode dynamic_per_token, here")
    require(x.stride(-1) == 1, function, "rows are contiguous")
    require(scale is None or scale.shape in ((1,), x.shape[-1:]), function, f"scale is (1,) or ({x.shape[-1]},)")
    codes, scales = kernel("DynamicQuantize", x, torch.ones(1, device=x.device) if scale is None else scale)
    return codes, scales


def moe_quantize(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and a scale for each row, without groups of tokens."""
    function = "moe_quantize"
    given = _taken(function, args, kwargs, "zero", "token_count", "gather_index", "output", "output_scale")
    x, smooth = given["x"], given["smooth"]
    require(x.dim() == 2, function, "x (t, c)")
    require(smooth.shape == x.shape[1:], function, f"smooth is ({x.shape[1]},), not {tuple(smooth.shape)}")
    require(given["dynamic_quant"] in (None, True), function, "dynamic_quant, here")
    codes, scales = kernel("DynamicQuantize", x, smooth)
    return codes, scales


def _int8_product(function: str, given: dict[str, Any], wanted: torch.dtype) -> torch.Tensor:
    a, b, a_scale, b_scale, bias = (given[n] for n in ("a", "b", "a_scale", "b_scale", "bias"))
    output_dtype(function, wanted)
    _plain_epilogue(function, given)
    require(a.dim() == b.dim() == 2 and a.shape[1] == b.shape[1], function, "a (m, k), b (n, k)")
    require(a.dtype == b.dtype == torch.int8, function, "a and b are int8")
    require(a_scale is not None and a_scale.shape == a.shape[:1], function, f"a_scale is ({a.shape[0]},)")
    require(b_scale.shape == b.shape[:1], function, f"b_scale is ({b.shape[0]},)")
    require(b_scale.dtype == torch.float32, function, "b_scale is float32")
    require(bias is None or bias.shape == b.shape[:1], function, f"bias is ({b.shape[0]},)")
    shift = torch.zeros(1, device=a.device) if bias is None else bias.float()
    return kernel("QuantizedMatMul", a, a_scale, b, b_scale, shift, to=by_torch(wanted).code)


def smooth_quant_matmul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """int8 products, scaled by row and channel."""
    given = _taken("smooth_quant_matmul", args, kwargs, "c", "output")
    return _int8_product("smooth_quant_matmul", given, given["dtype"])


def _float_product(function: str, given: dict[str, Any], scale: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    a, b, bias, bits = given["a"], given["b"], given["bias"], _bits(function, given)
    _plain_epilogue(function, given)
    require(a.dtype.is_floating_point and a.dim() == b.dim() == 2, function, "a (m, k) of floats, b (n, k)")
    codes = _codes(function, b, a.shape[1], bits)
    if scale.dim() == 1:
        require(scale.dtype == torch.float32, function, "scales of channels are float32")
    else:
        require(scale.dtype == a.dtype, function, "scales of groups have the type of a")
        group = a.shape[1] // scale.shape[1]
        require(group in sizes and group * scale.shape[1] == a.shape[1], function, f"groups of {group}, not of {sizes}")
    require(scale.shape[0] == b.shape[0], function, f"scale is ({b.shape[0]}, ..)")
    require(bias is None or bias.shape == b.shape[:1], function, f"bias is ({b.shape[0]},)")
    shift = torch.zeros(1, device=a.device) if bias is None else bias.float()
    return kernel("WeightOnlyMatMul", a, codes, scale.float(), shift, bits=bits)


def scaled_matmul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """int8 products, or products with the numbers that codes stand for."""
    function = "scaled_matmul"
    given = _taken(function, args, kwargs, "c")
    wanted = given["output_dtype"]
    output_dtype(function, wanted)
    if given["bias"] is not None:
        require(given["bias"].dtype == wanted, function, "bias has the type of the result")
    if given["a"].dtype == torch.int8:
        require(_bits(function, given) == 8, function, "int8 weights for int8 activations, here")
        return _int8_product(function, given, wanted)
    require(given["a_scale"] is None, function, "no a_scale for floats")
    require(wanted == given["a"].dtype, function, "the result has the type of a")
    return _float_product(function, given, given["b_scale"], (64, 128, 256, 512, 1024))


def weight_only_quant_matmul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Products with the numbers that codes stand for."""
    function = "weight_only_quant_matmul"
    given = _taken(function, args, kwargs, "c")
    return _float_product(function, given, given["scale"], (64, 128, 256, 512))


def _ends(function: str, given: dict[str, Any]) -> torch.Tensor:
    """int64, the end of each expert's rows."""
    a, b, counts = given["a"], given["b"], given["m_list"]
    require(a.dim() == 2 and b.dim() == 3, function, "a (m, k), b (e, n, k)")
    require(counts.shape == b.shape[:1], function, f"m_list is ({b.shape[0]},)")
    require(int(counts.sum()) == a.shape[0] and int(counts.min()) >= 0, function, f"m_list adds up to {a.shape[0]}")
    require(given["max_m"] is not None and given["max_m"] >= int(counts.max()), function, "max_m bounds m_list")
    return counts.long().cumsum(0)


def group_gemm(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Runs of rows times a weight of their own."""
    function = "group_gemm"
    given = _taken(function, args, kwargs, "expand_idx", "c", "alpha", "beta")
    a, b, bias, ends = given["a"], given["b"], given["bias"], _ends(function, given)
    same_dtype(function, given, "a", "b", "bias")
    require(a.shape[1] == b.shape[2], function, f"a has k {a.shape[1]}, b {b.shape[2]}")
    require(bias is None or bias.shape == b.shape[:2], function, f"bias is {tuple(b.shape[:2])}")
    shift = torch.zeros(b.shape[0], 1, dtype=a.dtype, device=a.device) if bias is None else bias
    return kernel("GroupedMatmul", a, b, ends, shift, transposed=1)


def smooth_quant_group_gemm(*args: Any, **kwargs: Any) -> torch.Tensor:
    """int8 products of runs of rows with int8 or int4 weights."""
    function = "smooth_quant_group_gemm"
    given = _taken(function, args, kwargs, "expand_idx", "c", "alpha", "beta", "d", "quant_flag", "bias")
    a, b, a_scale, b_scale, ends = *(given[n] for n in ("a", "b", "a_scale", "b_scale")), _ends(function, given)
    output_dtype(function, given["dtype"])
    require(a_scale.shape == a.shape[:1], function, f"a_scale is ({a.shape[0]},)")
    bits = 8 if b.shape[2] == a.shape[1] else 4
    codes = _codes(function, b, a.shape[1], bits)
    require(b_scale.shape[-2:] == b.shape[:2], function, f"b_scale is (.., {b.shape[0]}, {b.shape[1]})")
    if b_scale.dim() == 3:
        group = a.shape[1] // b_scale.shape[0]
        whole = group * b_scale.shape[0] == a.shape[1]
        require(whole and group in (128, 256, 512, 1024), function, f"groups of {group}")
        b_scale = b_scale.permute(1, 2, 0).contiguous()
    zeros = torch.zeros(b.shape[0], 1, device=a.device)
    code = by_torch(given["dtype"]).code
    return kernel("QuantizedGroupedMatmul", a, a_scale, codes, b_scale, ends, zeros, to=code, bits=bits)


def active(*args: Any, **kwargs: Any) -> torch.Tensor:
    """silu(first half) * second half."""
    function = "active"
    given = _taken(function, args, kwargs)
    require(given["act_mode"] == "silu" and given["is_gated"], function, "gated silu, here")
    return kernel("SwiGLU", given["input"])


def fused_rms_norm(*args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """The norm of a row, or of a sum and the sum."""
    function = "fused_rms_norm"
    given = _taken(function, args, kwargs, "beta", "bias", "quant_scale", "out")
    x, gamma, residual, eps = (given[n] for n in ("x", "gamma", "residual", "eps"))
    same_dtype(function, given, "x", "gamma", "residual")
    require(gamma.shape == x.shape[-1:], function, f"gamma is ({x.shape[-1]},)")
    require(residual is None or residual.shape == x.shape, function, "residual has the shape of x")
    if residual is None:
        normal = kernel("RMSNorm", x, gamma, epsilon=eps)
        return (normal, x) if given["store_output_before_norm"] else normal
    normal, total = kernel("AddRMSNorm", x, residual, gamma, epsilon=eps)
    return (normal, total) if given["store_output_before_norm"] else normal


def apply_rotary(*args: Any, **kwargs: Any) -> torch.Tensor:
    """x * cos + turned(x) * sin, written into x."""
    function = "apply_rotary"
    given = _taken(function, args, kwargs, "position_ids", "cu_seqlens")
    x, sin, cos = (given[n] for n in ("input", "sin_cache", "cos_cache"))
    same_dtype(function, given, "input", "sin_cache", "cos_cache")
    require(x.dim() == 4 and 2 <= x.shape[3] <= 256, function, "input (b, s, n, d), d from 2 to 256")
    require(x.shape[0] <= 10240, function, "at most 10240 sequences")
    require(not given["discrete"] and not given["dynamic_ntk"], function, "one table, rows in order, here")
    require(sin.shape == cos.shape and sin.dim() == 2, function, "sin and cos (l, r)")
    require(cos.shape[0] >= x.shape[1] == given["max_seqlen"], function, f"max_seqlen is {x.shape[1]}, tables as long")
    width = cos.shape[1]
    require(width % 2 == 0 and width <= x.shape[3], function, f"r is even and at most {x.shape[3]}")
    part = x[..., :width].float()
    pairs = cos.unflatten(1, (-1, 2)) if given["interleaved"] else cos.unflatten(1, (2, -1)).transpose(1, 2)
    require(bool((pairs[..., 0] == pairs[..., 1]).all()), function, "both elements of a pair turn by one angle")
    if given["interleaved"]:
        turned = torch.stack((-part[..., 1::2], part[..., 0::2]), -1).flatten(-2)
    else:
        turned = torch.cat((-part[..., width // 2 :], part[..., : width // 2]), -1)
    c, s = (table[: x.shape[1]].float().unsqueeze(1) for table in (cos, sin))
    x[..., :width] = (part * c + turned * s).to(x.dtype)
    return x


def flash_attention(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Attention over padded sequences."""
    function = "flash_attention"
    given = _taken(function, args, kwargs, "out", "cu_seq_lens_q", "cu_seq_lens_kv", "alibi_slope", "block_tables")
    q, k, v, bias = (given[n] for n in ("q", "k", "v", "attn_bias"))
    same_dtype(function, given, "q", "k", "v", "attn_bias")
    require(q.dim() == k.dim() == v.dim() == 4, function, "q, k and v (b, s, n, d)")
    require(q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3], function, "keys as wide as queries, a value a key")
    require(q.shape[0] == k.shape[0] and q.shape[2] % k.shape[2] == 0, function, "heads of k divide those of q")
    require(given["max_seq_len_q"] >= q.shape[1], function, f"max_seq_len_q is at least {q.shape[1]}")
    require(given["max_seq_len_kv"] >= k.shape[1], function, f"max_seq_len_kv is at least {k.shape[1]}")
    require(given["out_dtype"] == v.dtype, function, "out_dtype is that of v")
    shape = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    require(bias is None or bias.shape == shape, function, f"attn_bias is {shape}")
    heads = [t.transpose(1, 2).float() for t in (q, k, v)]
    repeat = q.shape[2] // k.shape[2]
    heads[1:] = [t.repeat_interleave(repeat, 1) for t in heads[1:]]
    scores = heads[0] @ heads[1].transpose(2, 3) * given["softmax_scale"]
    if bias is not None:
        scores = scores + bias.float()
    if given["is_causal"]:
        require(q.shape[1] == k.shape[1], function, "a causal mask of as many queries as keys")
        scores = scores.masked_fill(torch.ones(shape[2:], dtype=torch.bool, device=q.device).triu(1), -torch.inf)
    return (scores.softmax(-1) @ heads[2]).transpose(1, 2).to(v.dtype)


def _top_k(function: str, given: dict[str, Any], score: str, group_top: int, mask: float) -> tuple[torch.Tensor, ...]:
    x, bias, k = given["input"], given["score_bias"], given["topk"]
    groups, chosen = given["num_expert_group"] or 1, given["topk_group"] or 1
    require(x.is_contiguous(), function, "logits are contiguous")
    require(bias is None or bias.shape == x.shape[-1:], function, f"score_bias is ({x.shape[-1]},)")
    require(x.shape[-1] % groups == 0, function, f"{x.shape[-1]} experts in {groups} groups")
    require(1 <= chosen <= groups and k <= x.shape[-1] // groups * chosen, function, "the chosen groups hold topk")
    weights, ids = kernel(
        "GatingTopK",
        x,
        torch.zeros(1, device=x.device) if bias is None else bias,
        k=k,
        groups=groups,
        k_group=chosen,
        group_top=group_top,
        score=score,
        renormalize=int(bool(given["normalize"])),
        scale=given["route_scale"] or 1.0,
        mask_value=mask,
    )
    return weights, ids.int()


def moe_sigmoid_topk(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    """Weights and experts; with a bias a group counts its two best, and without its best."""
    given = _taken("moe_sigmoid_topk", args, kwargs, "reduce_weight", "expert_id")
    return _top_k("moe_sigmoid_topk", given, "sigmoid", 1 if given["score_bias"] is None else 2, -torch.inf)


def moe_softmax_topk(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    """Weights and experts; what is outside the chosen groups counts as 0."""
    given = _taken("moe_softmax_topk", args, kwargs, "mask", "reduce_weight", "expert_id")
    require(given["normed_by"] in (None, "topk_logit"), "moe_softmax_topk", "normed_by topk_logit, here")
    return _top_k("moe_softmax_topk", given, "softmax", 1, 0.0)


def moe_gen_idx(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    """Which token a row comes from, which row an entry went to, counts, and their sums."""
    function = "moe_gen_idx"
    given = _taken(function, args, kwargs)
    ids, experts = given["expert_id"], given["expert_num"]
    require(ids.dim() == 2, function, "expert_id (t, k)")
    flat = ids.flatten().long()
    require(bool(((flat >= 0) & (flat < experts)).all()), function, f"experts from 0 to {experts - 1}")
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=experts)
    sums = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return tuple(t.int() for t in (order // ids.shape[1], order.argsort(), counts, sums))


def moe_expand_input(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Rows by an index."""
    given = _taken("moe_expand_input", args, kwargs, "cusum_token_count")
    x, index = given["input"], given["gather_idx"]
    require(x.dim() == 2 and index.dim() == 1, "moe_expand_input", "input (t, c), gather_idx (t k,)")
    return x[index.long()]


def moe_combine_result(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The weighted sum of a token's rows."""
    function = "moe_combine_result"
    given = _taken(function, args, kwargs, "residual", "cusum_token_count", "bias", "output")
    x, weights, place = (given[n] for n in ("input", "reduce_weight", "gather_ids"))
    require(x.dim() == 2 and weights.dim() == 2 and place.dim() == 1, function, "input (t k, c), weights (t, k)")
    require(x.shape[0] == weights.numel() == place.numel(), function, f"{x.shape[0]} rows, weights and ids")
    order = place.long().argsort()
    require(bool((place.long()[order] == torch.arange(len(order), device=x.device)).all()), function, "each row once")
    return kernel("MoeCombine", x, order, weights)
