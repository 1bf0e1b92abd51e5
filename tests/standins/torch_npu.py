"""Stands in for torch_npu on machines without an Ascend: checks every call against the facts, computes with torch.

Checked are names and kinds of arguments, dtype combinations of the kernel definitions, layouts and the shapes and
limits that the facts state. The arithmetic is that of the toolkit's kernels: this module finds calls that a device
would refuse, not results that it would give.
"""

from __future__ import annotations

from typing import Any

import torch
from npu_signatures import FRACTAL_NZ, SignatureError, bound, format_of, name_of, output_dtypes, require
from standin_checks import kernel as _kernel

from porting_kernels.dtypes import by_torch

STAND_IN = True
__version__ = "stand-in"
CALLS: list[str] = []
"""Names of the functions that were called, in order."""


def _taken(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    CALLS.append(function)
    return bound(function, args, kwargs)


def npu_format_cast(tensor: torch.Tensor, acl_format: int) -> torch.Tensor:
    """A tensor in another layout: only its tag changes here. FRACTAL_NZ wants dense memory and neither k nor n of 1."""
    require(acl_format == FRACTAL_NZ, "npu_format_cast", f"format {acl_format} is not known here")
    require(tensor.is_contiguous(), "npu_format_cast", "the tensor is not dense")
    require(min(tensor.shape[-2:]) > 1, "npu_format_cast", "FRACTAL_NZ is not allowed where k or n is 1")
    tagged = tensor.clone()
    tagged.npu_format = acl_format  # type: ignore[attr-defined]
    return tagged


def npu_trans_quant_param(*args: Any, **kwargs: Any) -> torch.Tensor:
    """float32 scales -> int64 words."""
    from porting_kernels import fp19

    function = "npu_trans_quant_param"
    given = _taken(function, args, kwargs)
    require(name_of(given["scale"].dtype) == "float32", function, "scale is float32")
    require(given["scale"].dim() <= 2, function, "scale is (1,), (n,) or (1, n)")
    words = fp19.pack(given["scale"].cpu().numpy())
    return torch.from_numpy(words.view("int64")).to(given["scale"].device)


def npu_dynamic_quant(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and a scale for each row."""
    given = _taken("npu_dynamic_quant", args, kwargs)
    output_dtypes("npu_dynamic_quant", given)
    require(given["input"].dim() >= 2, "npu_dynamic_quant", "the input has rows")
    smooth = given["smooth_scales"]
    ones = torch.ones(1, device=given["input"].device)
    codes, scale = _kernel("DynamicQuantize", given["input"], ones if smooth is None else smooth.float())
    return codes, scale


def npu_quant_matmul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """int8 products, scaled in the vector unit (float scale) or in the fixpipe (64-bit words)."""
    function = "npu_quant_matmul"
    given = _taken(function, args, kwargs)
    x1, x2, scale, pertoken, bias = (given[n] for n in ("x1", "x2", "scale", "pertoken_scale", "bias"))
    wanted = given.get("output_dtype") or torch.int8
    allowed = output_dtypes(function, given)
    require(name_of(wanted) in allowed, function, f"output {name_of(wanted)}, allowed {sorted(allowed)}")
    require(2 <= x1.dim() <= 6 and x2.dim() == 2 and x1.shape[-1] == x2.shape[-2], function, "x1 (.., m, k), x2 (k, n)")
    require(
        scale.numel() in (1, x2.shape[-1]), function, f"scale has 1 or {x2.shape[-1]} elements, not {scale.numel()}"
    )
    if scale.dtype == torch.int64:
        from porting_kernels import fp19

        require(pertoken is None, function, "64-bit words go without pertoken_scale")
        require(wanted in (torch.float16, torch.int8), function, "64-bit words give float16 or int8")
        require(max(x1.shape[-1], x2.shape[-1]) <= 65535, function, "last dimensions of at most 65535")
        numbers, _ = fp19.unpack(scale.cpu().numpy())
        acc = torch.matmul(x1.double(), x2.double()).float()
        return (acc * torch.from_numpy(numbers).to(acc.device)).to(wanted)
    require(pertoken is not None, function, "pertoken_scale is missing")
    require(pertoken.shape == (x1.shape[-2],), function, f"pertoken_scale is ({x1.shape[-2]},)")
    require(bias is None or bias.shape == (x2.shape[-1],), function, f"bias is ({x2.shape[-1]},)")
    shift = torch.zeros(1, device=x1.device) if bias is None else bias.float()
    code = by_torch(wanted).code
    return _kernel("QuantizedMatMul", x1, pertoken, x2.t().contiguous(), scale.float(), shift, to=code)


def npu_weight_quant_batchmatmul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """x @ (w * scale)."""
    function = "npu_weight_quant_batchmatmul"
    given = _taken(function, args, kwargs)
    x, weight, scale = (given[n] for n in ("x", "weight", "antiquant_scale"))
    # The documentation has bfloat16 where the kernel definition of the facts has float16 only.
    require(x.dtype in (torch.float16, torch.bfloat16), function, "x is float16 or bfloat16")
    require(scale.dtype == x.dtype, function, f"antiquant_scale has the type of x, not {name_of(scale.dtype)}")
    require(weight.dtype == torch.int8, function, "weight is int8")
    require(x.dim() == 2 and weight.dim() == 2 and x.shape[1] == weight.shape[0], function, "x (m, k), weight (k, n)")
    require(scale.shape in ((1,), (weight.shape[1],)), function, f"antiquant_scale is ({weight.shape[1]},)")
    zero = torch.zeros(1, device=x.device)
    return _kernel("WeightOnlyMatMul", x, weight.t().contiguous(), scale.float(), zero)


def npu_grouped_matmul(*args: Any, **kwargs: Any) -> list[torch.Tensor]:
    """Runs of rows times a weight of their own, in the modes that the facts list."""
    function = "npu_grouped_matmul"
    given = _taken(function, args, kwargs)
    lists = [v for v in given.values() if isinstance(v, list) and v and isinstance(v[0], torch.Tensor)]
    require(all(len(v) == 1 for v in lists), function, "one tensor in each list here")
    x, weight = given["x"][0], given["weight"][0]
    group_list = given["group_list"]
    require(group_list is not None and group_list.dtype == torch.int64, function, "group_list is int64")
    kind = given.get("group_list_type", 0)
    require(kind in (0, 1), function, f"group_list_type {kind} is for int8 with pairs only")
    require(given.get("split_item", 0) in (2, 3), function, "one tensor of results wants split_item 2 or 3")
    require(given.get("group_type") == 0, function, "groups of rows want group_type 0")
    require(x.dim() == 2 and weight.dim() == 3, function, "x (m, k), weight (e, k, n)")
    experts = weight.shape[0]
    require(group_list.shape == (experts,) and experts <= 1024, function, f"group_list is ({experts},), at most 1024")
    ends = group_list.cumsum(0) if kind == 1 else group_list
    require(bool((ends.diff() >= 0).all()) and int(ends[-1]) == x.shape[0], function, "group_list covers the rows of x")
    packed = weight.dtype == torch.int32
    allowed = output_dtypes(function, given, int4=("weight",) if packed else ())
    wanted = given.get("output_dtype") or (torch.int8 if x.dtype == torch.int8 else x.dtype)
    require(name_of(wanted) in allowed, function, f"output {name_of(wanted)}, allowed {sorted(allowed)}")
    columns = weight.shape[2] * (8 if packed else 1)
    require(x.shape[1] == weight.shape[1], function, f"x has k {x.shape[1]}, weight {weight.shape[1]}")
    require(max(x.shape[1], columns) < 65536, function, "last dimensions below 65536")
    if x.dtype == torch.int8:
        return [_integer_groups(function, given, x, weight, ends, wanted, packed)]
    if weight.dtype == torch.int8:
        scale, offset = given["antiquant_scale"], given["antiquant_offset"]
        require(scale is not None and offset is not None, function, "antiquant_scale and antiquant_offset are missing")
        require(scale[0].shape == (experts, columns), function, f"antiquant_scale is ({experts}, {columns})")
        require(offset[0].shape == scale[0].shape, function, "antiquant_offset has the shape of antiquant_scale")
        require(not bool(offset[0].any()), function, "offsets are not computed here")
        none = torch.zeros(experts, 1, device=x.device)
        turned = weight.transpose(1, 2).contiguous()
        return [_kernel("WeightOnlyGroupedMatmul", x, turned, scale[0].float(), ends, none)]
    require(given["scale"] is None and given["per_token_scale"] is None, function, "float products have no scales")
    bias = given["bias"]
    require(bias is None or bias[0].shape == (experts, columns), function, f"bias is ({experts}, {columns})")
    shift = torch.zeros(experts, 1, device=x.device) if bias is None else bias[0]
    return [_kernel("GroupedMatmul", x, weight, ends, shift.to(x.dtype))]


def _integer_groups(
    function: str,
    given: dict[str, Any],
    x: torch.Tensor,
    weight: torch.Tensor,
    ends: torch.Tensor,
    wanted: torch.dtype,
    packed: bool,
) -> torch.Tensor:
    scale, pertoken = given["scale"], given["per_token_scale"]
    require(scale is not None and pertoken is not None, function, "scale and per_token_scale are missing")
    experts, code = weight.shape[0], by_torch(wanted).code
    require(pertoken[0].shape == (x.shape[0],), function, f"per_token_scale is ({x.shape[0]},)")
    none = torch.zeros(experts, 1, device=x.device)
    if not packed:
        require(scale[0].shape == (experts, weight.shape[2]), function, f"scale is ({experts}, {weight.shape[2]})")
        turned = weight.transpose(1, 2).contiguous()
        return _kernel("QuantizedGroupedMatmul", x, pertoken[0], turned, scale[0].float(), ends, none, to=code)
    columns = weight.shape[2] * 8
    require(given.get("group_list_type") == 1, function, "int4 weights want counts, group_list_type 1")
    require(given["bias"] is not None, function, "int4 weights want the bias 8 * sum(w * scale)")
    require(given["bias"][0].shape == (experts, columns), function, f"bias is ({experts}, {columns})")
    require(scale[0].dtype == torch.int64, function, "int4 weights want scales in 64-bit words")
    require(scale[0].shape == (experts, 1, columns), function, f"scale is ({experts}, 1, {columns})")
    require(x.shape[1] <= 18432, function, "k of at most 18432")
    require(bool((scale[0] >> 32 == 0).all()), function, "the high half of a scale's word is 0")
    numbers = scale[0].to(torch.int32).view(torch.float32).squeeze(1)
    shifts = torch.arange(0, 32, 4, device=x.device, dtype=torch.int32)
    nibbles = (weight.unsqueeze(-1) >> shifts) & 15
    codes = torch.where(nibbles > 7, nibbles - 16, nibbles).flatten(2).to(torch.int8).transpose(1, 2).contiguous()
    # The kernel's own arithmetic: a signed high nibble, a low one less 8, and the bias that makes up for the 8.
    high, low = torch.div(x.int(), 16, rounding_mode="floor"), (x.int() & 15) - 8
    sums = [
        _kernel("QuantizedGroupedMatmul", part.to(torch.int8), torch.ones_like(pertoken[0]), codes, numbers, ends, none)
        for part in (high, low)
    ]
    expert = torch.bucketize(torch.arange(x.shape[0], device=x.device), ends, right=True)
    return ((sums[0] * 16 + sums[1] + given["bias"][0][expert]) * pertoken[0].unsqueeze(1)).to(wanted)


def npu_rms_norm(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm and the reciprocal roots."""
    given = _taken("npu_rms_norm", args, kwargs)
    output_dtypes("npu_rms_norm", given)
    epsilon = given.get("epsilon", 1e-6)
    x = given["self"]
    require(given["gamma"].shape == x.shape[-1:], "npu_rms_norm", "gamma has the last extent of the input")
    rstd = (x.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return _kernel("RMSNorm", x, given["gamma"], epsilon=epsilon), rstd


def npu_add_rms_norm(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm of a sum, the reciprocal roots, the sum."""
    given = _taken("npu_add_rms_norm", args, kwargs)
    output_dtypes("npu_add_rms_norm", given)
    epsilon = given.get("epsilon", 1e-6)
    require(given["x1"].shape == given["x2"].shape, "npu_add_rms_norm", "x1 and x2 have one shape")
    y, total = _kernel("AddRMSNorm", given["x1"], given["x2"], given["gamma"], epsilon=epsilon)
    return y, (total.float().square().mean(-1, keepdim=True) + epsilon).rsqrt(), total


def npu_swiglu(*args: Any, **kwargs: Any) -> torch.Tensor:
    """silu(first half) * second half."""
    given = _taken("npu_swiglu", args, kwargs)
    output_dtypes("npu_swiglu", given)
    require(given.get("dim", -1) in (-1, given["self"].dim() - 1), "npu_swiglu", "the last axis, here")
    return _kernel("SwiGLU", given["self"])


def npu_rotary_mul(*args: Any, **kwargs: Any) -> torch.Tensor:
    """x * cos + rotated(x) * sin."""
    function = "npu_rotary_mul"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    x, r1, r2 = given["self"], given["r1"], given["r2"]
    mode = given.get("rotary_mode", "half")
    require(mode in ("half", "interleave"), function, f"rotary_mode {mode!r}")
    require(x.dim() == 4 and x.shape[-1] % 2 == 0 and x.shape[-1] < 896, function, "x (.., d), d even and below 896")
    for table in (r1, r2):
        fits = table.dim() == 4 and all(t in (1, s) for t, s in zip(table.shape, x.shape, strict=True))
        require(
            fits and table.shape[-1] == x.shape[-1], function, f"tables {tuple(table.shape)} for x {tuple(x.shape)}"
        )
    return _rotated(x, r1, r2, mode)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mode: str) -> torch.Tensor:
    wide = x.float()
    if mode == "half":
        a, b = wide.chunk(2, -1)
        turned = torch.cat((-b, a), -1)
    else:
        turned = torch.stack((-wide[..., 1::2], wide[..., 0::2]), -1).flatten(-2)
    return (wide * cos.float() + turned * sin.float()).to(x.dtype)


def npu_interleave_rope(*args: Any, **kwargs: Any) -> torch.Tensor:
    """Even and odd elements into halves, then the rotation of halves."""
    function = "npu_interleave_rope"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    x, cos, sin = given["x"], given["cos"], given["sin"]
    require(x.dim() == 4 and x.shape[-1] == 64, function, "x (b, n, s, 64)")
    require(
        cos.shape == sin.shape and cos.shape[1] == 1 and cos.shape[2] in (1, x.shape[2]), function, "cos (b, 1, s, 64)"
    )
    halves = torch.cat((x[..., 0::2], x[..., 1::2]), -1)
    return _rotated(halves, cos, sin, "half")


def npu_fused_infer_attention_score_v2(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over whole keys and values in layout BNSD."""
    function = "npu_fused_infer_attention_score_v2"
    given = _taken(function, args, kwargs)
    q, k, v, mask = (given[n] for n in ("query", "key", "value", "atten_mask"))
    mode = given.get("sparse_mode", 0)
    require(given.get("input_layout", "BSH") == "BNSD", function, "layout BNSD, here")
    require(
        q.dtype in (torch.float16, torch.bfloat16) and k.dtype == v.dtype == q.dtype, function, "float16 or bfloat16"
    )
    require(q.dim() == k.dim() == v.dim() == 4, function, "query, key and value (b, n, s, d)")
    require(q.shape[3] == k.shape[3] == v.shape[3] <= 512, function, "one head dimension of at most 512")
    require(given.get("num_query_heads", 1) == q.shape[1], function, f"num_query_heads is {q.shape[1]}")
    require((given.get("num_key_value_heads", 0) or q.shape[1]) == k.shape[1], function, "num_key_value_heads")
    scores = q.float() @ k.float().transpose(2, 3) * given.get("softmax_scale", 1.0)
    if mode == 3:
        require(mask is not None and mask.shape == (2048, 2048), function, "sparse_mode 3 wants a 2048 x 2048 mask")
        require(mask.dtype in (torch.bool, torch.int8, torch.uint8), function, "the mask is bool, int8 or uint8")
        require(bool(mask[0, 1]) and not bool(mask[1, 0]) and not bool(mask[0, 0]), function, "the mask is the future")
        rows, columns = scores.shape[2:]
        future = torch.ones(rows, columns, dtype=torch.bool, device=q.device).triu(columns - rows + 1)
        scores = scores.masked_fill(future, -torch.inf)
    else:
        require(mode == 0 and mask is None, function, f"sparse_mode {mode} with or without a mask is not known here")
    return (scores.softmax(-1) @ v.float()).to(q.dtype), scores.logsumexp(-1)


def npu_moe_gating_top_k(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, experts, and no scores."""
    function = "npu_moe_gating_top_k"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    x, bias, k = given["x"], given["bias"], given["k"]
    groups, chosen = given.get("group_count", 1), given.get("k_group", 1)
    require(x.dim() == 2 and x.shape[1] <= 2048, function, "x (t, e), e at most 2048")
    width, rest = divmod(x.shape[1], groups)
    require(rest == 0 and width > 2, function, f"groups of {width} experts, wanted more than 2")
    require(groups * (-(-width // 32) * 32) <= 2048, function, "groups aligned to 32 experts exceed 2048")
    require(1 <= chosen <= groups and k <= width * chosen, function, "the chosen groups hold k experts")
    require(given.get("renorm", 0) == 0, function, "renorm is 0")
    require(bias is None or bias.shape == x.shape[1:], function, f"bias is ({x.shape[1]},)")
    sigmoid = given.get("norm_type", 0) == 1
    weights, ids = _kernel(
        "GatingTopK",
        x,
        torch.zeros(1, device=x.device) if bias is None else bias,
        k=k,
        groups=groups,
        k_group=chosen,
        group_top=given.get("group_select_mode", 0) + 1,
        score="sigmoid" if sigmoid else "softmax",
        renormalize=int(sigmoid),
        scale=given.get("routed_scaling_factor", 1.0),
        epsilon=given.get("eps", 1e-20),
    )
    return weights.to(x.dtype), ids.int(), torch.empty(0, device=x.device)


def npu_moe_gating_top_k_softmax(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, experts, source rows."""
    function = "npu_moe_gating_top_k_softmax"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    x, k = given["x"], given.get("k", 1)
    require(k <= 1024, function, "k of at most 1024")
    require(given["finished"] is None, function, "finished is not computed here")
    weights, ids = _kernel("GatingTopK", x, torch.zeros(1, device=x.device), k=k)
    rows = torch.arange(x.shape[0] * k, dtype=torch.int32, device=x.device).reshape(k, -1).t()
    return weights.to(x.dtype), ids.int(), rows


def npu_moe_init_routing_v2(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows in the order of their experts, which entry each stands for, counts."""
    function = "npu_moe_init_routing_v2"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    x, ids = given["x"], given["expert_idx"]
    experts = given.get("expert_num", -1)
    require(x.dim() == 2 and ids.dim() == 2 and ids.shape[0] == x.shape[0], function, "x (t, h), expert_idx (t, k)")
    require(ids.dtype == torch.int32, function, "expert_idx is int32")
    require(given.get("active_num", -1) == ids.numel(), function, f"active_num is {ids.numel()}")
    require(given.get("quant_mode", 0) == -1, function, "quant_mode -1: nothing is quantized here")
    require(given.get("expert_tokens_num_flag") is True, function, "expert_tokens_num_flag is True")
    require(given.get("expert_tokens_num_type", 0) == 1, function, "expert_tokens_num_type 1, counts")
    require(list(given.get("active_expert_range", ())) == [0, experts], function, "all experts are active here")
    rows, ends, index = _kernel("MoeDispatch", x, ids.long(), experts=experts)
    if given.get("row_idx_type", 0) == 0:
        index = index.argsort()
    return rows, index.int(), ends.diff(prepend=ends.new_zeros(1)), torch.empty(0, device=x.device)


def npu_moe_finalize_routing(*args: Any, **kwargs: Any) -> torch.Tensor:
    """The weighted sum of a token's rows."""
    function = "npu_moe_finalize_routing"
    given = _taken(function, args, kwargs)
    output_dtypes(function, given)
    rows, scales, target = (given[n] for n in ("expanded_permuted_rows", "scales", "expanded_src_to_dst_row"))
    require(all(given[n] is None for n in ("skip1", "skip2", "bias")), function, "skips and bias are not computed here")
    require(rows.dim() == 2 and scales.dim() == 2 and target.shape == (rows.shape[0],), function, "rows (t k, h)")
    require(scales.numel() == rows.shape[0], function, f"scales of {rows.shape[0]} elements")
    mode = given.get("drop_pad_mode", 0)
    require(mode in (0, 2), function, f"drop_pad_mode {mode} drops rows")
    place = target.long() if mode == 2 else target.long().reshape(scales.shape[1], -1).t().flatten()
    return _kernel("MoeCombine", rows, place.argsort(), scales.float())


__all__ = ["SignatureError", "format_of"]
