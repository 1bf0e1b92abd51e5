"""GatingTopK(logits, bias; k, ...) -> (weights, ids): the k experts of each token, from the best groups of experts.

logits: float16, bfloat16 or float32 (N, E). bias: float (E,) or (1,), added for the selection only; zeros where there
is none: a function body cannot leave out an operand. weights: float32 (N, k). ids: int64 (N, k), by descending biased
score, the lower id first among equals.

Attributes, with defaults: k; groups 1; k_group 1, how many groups stay; group_top 1, how many of its best scores add up
to a group's score; score "softmax" | "sigmoid"; after_top_k 0, 1 where the logits select and only the selected ones are
scored; renormalize 0; scale 1; epsilon 0, added to the sum by which renormalize divides; mask_value -inf,
what the biased score of an expert outside the best groups counts as. The kernel says who uses which.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import attribute_is, block_of, int_attribute, parse, row_blocks

NAME = "GatingTopK"
DOMAIN = "porting"
SINCE = 13
TYPES = "F F -> F I"


def _scored(x: str, y: str) -> str:
    """Nodes that make ``y``, the scores of the logits ``x``.

    The sigmoid is spelled with Exp, because onnxruntime's own is off by 1e-4 of its value at -8, by all of it at -18.
    """
    return f"""
        {x}_softmax = Softmax <axis = -1> ({x})
        {x}_minus = Neg ({x})
        {x}_power = Exp ({x}_minus)
        {x}_one = Constant <value = float {{1.0}}> ()
        {x}_divisor = Add ({x}_power, {x}_one)
        {x}_sigmoid = Div ({x}_one, {x}_divisor)
        {y} = Where (is_sigmoid, {x}_sigmoid, {x}_softmax)"""


_BLOCK = 1 << 14
"""Logits in float32 at a time: the dozen values of each that are between them and the result stay in a cache."""


def _parameters() -> str:
    """Nodes that make numbers of the attributes."""
    return f"""
        {int_attribute("k", "k_tensor")}
        {int_attribute("groups", "groups_tensor")}
        {int_attribute("k_group", "k_group_tensor")}
        {int_attribute("group_top", "group_top_tensor")}
        {attribute_is("score", "sigmoid", "is_sigmoid")}
        {int_attribute("after_top_k", "after_tensor")}
        is_after = Cast <to = 9> (after_tensor)
        {int_attribute("renormalize", "renormalize_tensor")}
        is_renormalized = Cast <to = 9> (renormalize_tensor)
        mask = Constant <value_float: float = @mask_value> ()
        small = Constant <value_float: float = @epsilon> ()
        factor = Constant <value_float: float = @scale> ()
        last = Constant <value = int64[1] {{-1}}> ()
        first_axis = Constant <value = int64[1] {{0}}> ()
        second_axis = Constant <value = int64[1] {{1}}> ()
        bias_wide = Cast <to = 1> (bias)"""


def _of_rows(wide: str, weights: str, ids: str) -> str:
    """Nodes that make ``weights`` and ``ids`` of logits in float32.

    Both scores are computed and one is kept: a block of values is cheap.
    """
    return f"""
        {_scored(wide, "all_scores")}
        scores = Where (is_after, {wide}, all_scores)
        biased = Add (scores, bias_wide)
        shape = Shape ({wide})
        tokens = Gather (shape, first_axis)
        experts = Gather (shape, second_axis)
        group_width = Div (experts, groups_tensor)
        grouped_shape = Concat <axis = 0> (tokens, groups_tensor, group_width)
        grouped = Reshape (biased, grouped_shape)
        group_best, group_best_ids = TopK <axis = -1> (grouped, group_top_tensor)
        group_scores = ReduceSum <keepdims = 0> (group_best, last)
        best_scores, best = TopK <axis = -1> (group_scores, k_group_tensor)
        best_shape = Shape (best)
        inside = ConstantOfShape <value = bool[1] {{1}}> (best_shape)
        groups_shape = Shape (group_scores)
        nowhere = ConstantOfShape <value = bool[1] {{0}}> (groups_shape)
        stays = ScatterElements <axis = 1> (nowhere, best, inside)
        stays_column = Unsqueeze (stays, last)
        masked_groups = Where (stays_column, grouped, mask)
        masked = Reshape (masked_groups, shape)

        selected, {ids} = TopK <axis = -1> (masked, k_tensor)
        raw = GatherElements <axis = 1> (scores, {ids})
        {_scored("raw", "late")}
        unscaled = Where (is_after, late, raw)
        total = ReduceSum <keepdims = 1> (unscaled, last)
        divisor = Add (total, small)
        quotient = Div (unscaled, divisor)
        normalized = Where (is_renormalized, quotient, unscaled)
        {weights} = Mul (normalized, factor)"""


_HEAD = f"""{NAME} <k, groups: int = 1, k_group: int = 1, group_top: int = 1, score: string = "softmax",
    after_top_k: int = 0, renormalize: int = 0, scale: float = 1.0, epsilon: float = 0.0, mask_value: float = -inf>
    (logits, bias) => (weights, ids)"""


def flat_body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, over all rows at once: what the legalizer puts in its place. N may be 0."""
    return parse(
        f"{_HEAD} {{ {_parameters()} wide = Cast <to = 1> (logits) {_of_rows('wide', 'weights', 'ids')} }}",
        opset,
        DOMAIN,
    )


def body(opset: int) -> ir.Function:
    """The same by blocks of rows: memory is that of logits, of results and of one copy of these. N may be 0.

    A Scan has to know the rank of what it collects, which ONNX infers through a Reshape from opset 14: before, the body
    takes all rows at once.
    """
    if opset < 14:
        return flat_body(opset)
    return parse(
        f"""{_HEAD} {{
        {_parameters()}
        logits_shape = Shape (logits)
        rows = Gather (logits_shape, first_axis)
        width = Gather (logits_shape, second_axis)
        {row_blocks("rows", "width", _BLOCK)}
        weight_blocks, id_blocks = Scan <num_scan_inputs = 1, body = block_of_rows (int64 start) =>
            (part_weights, part_ids) {{
            {block_of("logits", "wide")}
            {_of_rows("wide", "part_weights", "part_ids")}
        }}> (starts)
        padded_shape = Concat <axis = 0> (last, k_tensor)
        padded_weights = Reshape (weight_blocks, padded_shape)
        padded_ids = Reshape (id_blocks, padded_shape)
        weights = Slice (padded_weights, first_axis, rows, first_axis)
        ids = Slice (padded_ids, first_axis, rows, first_axis)
        }}""",
        opset,
        DOMAIN,
    )
