"""GatingTopK(logits, bias; k, ...) -> (weights, ids): the k experts of each token, from the best groups of experts.

logits: float16, bfloat16 or float32 (N, E). bias: float (E,) or (1,), added for the selection only; zeros where there
is none: a function body cannot leave out an operand. weights: float32 (N, k). ids: int64 (N, k), by descending biased
score, the lower id first among equals.

Attributes, with defaults: k; groups 1; k_group 1, how many groups stay; group_top 1, how many of its best scores add up
to a group's score; score "softmax" | "sigmoid" | "softmax_after" (the logits select, the weights are the softmax of
the selected logits); renormalize 0; scale 1; epsilon 0, added to the sum by which renormalize divides; mask_value -inf,
what the biased score of an expert outside the best groups counts as. The kernel says who uses which.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse, string_attribute

NAME = "GatingTopK"
DOMAIN = "porting"
SINCE = 13


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. N may be 0.

    All three scores are computed and one is kept: N * E values are cheap, and there is no control flow.
    The sigmoid is spelled with Exp, because onnxruntime's own is off by 1e-4 of its value at -8, by all of it at -18.
    """
    return parse(
        f"""{NAME} <k, groups: int = 1, k_group: int = 1, group_top: int = 1, score: string = "softmax",
        renormalize: int = 0, scale: float = 1.0, epsilon: float = 0.0, mask_value: float = -inf>
        (logits, bias) => (weights, ids) {{
        {int_attribute("k", "k_tensor")}
        {int_attribute("groups", "groups_tensor")}
        {int_attribute("k_group", "k_group_tensor")}
        {int_attribute("group_top", "group_top_tensor")}
        {string_attribute("score", ("softmax", "sigmoid", "softmax_after"), ("is_softmax", "is_sigmoid", "is_after"))}
        wide = Cast <to = 1> (logits)
        softmax = Softmax <axis = -1> (wide)
        falling = Neg (wide)
        power = Exp (falling)
        one = Constant <value = float {{1.0}}> ()
        divisor_of_one = Add (power, one)
        sigmoid = Div (one, divisor_of_one)
        softmax_or_wide = Where (is_softmax, softmax, wide)
        scores = Where (is_sigmoid, sigmoid, softmax_or_wide)
        bias_wide = Cast <to = 1> (bias)
        biased = Add (scores, bias_wide)

        last = Constant <value = int64[1] {{-1}}> ()
        shape = Shape (logits)
        first_axis = Constant <value = int64[1] {{0}}> ()
        second_axis = Constant <value = int64[1] {{1}}> ()
        tokens = Gather (shape, first_axis)
        experts = Gather (shape, second_axis)
        width = Div (experts, groups_tensor)
        grouped_shape = Concat <axis = 0> (tokens, groups_tensor, width)
        grouped = Reshape (biased, grouped_shape)
        group_best, group_best_ids = TopK <axis = -1> (grouped, group_top_tensor)
        group_scores = ReduceSum <keepdims = 0> (group_best, last)
        best_scores, best = TopK <axis = -1> (group_scores, k_group_tensor)
        best_shape = Shape (best)
        inside = ConstantOfShape <value = bool[1] {{1}}> (best_shape)
        groups_shape = Shape (group_scores)
        nowhere = ConstantOfShape <value = bool[1] {{0}}> (groups_shape)
        stays = ScatterElements <axis = -1> (nowhere, best, inside)
        stays_column = Unsqueeze (stays, last)
        mask = Constant <value_float: float = @mask_value> ()
        masked_groups = Where (stays_column, grouped, mask)
        masked = Reshape (masked_groups, shape)

        selected, ids = TopK <axis = -1> (masked, k_tensor)
        raw = GatherElements <axis = -1> (scores, ids)
        raw_softmax = Softmax <axis = -1> (raw)
        unscaled = Where (is_after, raw_softmax, raw)
        total = ReduceSum <keepdims = 1> (unscaled, last)
        small = Constant <value_float: float = @epsilon> ()
        divisor = Add (total, small)
        quotient = Div (unscaled, divisor)
        {int_attribute("renormalize", "renormalize_tensor")}
        is_renormalized = Cast <to = 9> (renormalize_tensor)
        normalized = Where (is_renormalized, quotient, unscaled)
        factor = Constant <value_float: float = @scale> ()
        weights = Mul (normalized, factor)
        }}""",
        opset,
        DOMAIN,
    )
