"""MLAAttention(q_nope, q_rope, latent, k_rope, kv_b, mask; scale, is_causal, absorbed) -> y: latent attention.

q_nope: float16, bfloat16 or float32 (B, H, S, N). q_rope: (B, H, S, R) and k_rope: (B, 1, T, R), turned already.
latent: (B, T, C), normalized. kv_b: (C, H (N + V)). mask: float, broadcasts to (B, H, S, T); zeros (1, 1, 1, 1) where
there is none: a function body cannot leave out an operand. y: (B, S, H V) of the dtype of q_nope; float32 inside,
rounded once. scale: float attribute. is_causal 0 or 1: query i sees the keys up to i + T - S. absorbed 0 or 1: in which
order the chip multiplies; the meaning is the same. A query that may see no key is not defined.

Operands 6 and 7 are reserved for the latent and the rotary keys of earlier positions, which are all that this attention
has to keep; until they exist, callers put them in front of latent and k_rope themselves, and a node that has them is
refused.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_kernels.mla_attention import refuse_reserved
from porting_passes.operators.function_text import int_attribute, parse

NAME = "MLAAttention"
DOMAIN = "porting"
SINCE = 15
TYPES = "T T T T T T -> T"


def check(node: ir.Node) -> None:
    """Raise UnsupportedOperatorError for a node with reserved operands."""
    refuse_reserved((i for i, value in enumerate(node.inputs) if value is not None), node.name or node.outputs[0].name)


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, in the expanded order."""
    return parse(
        f"""{NAME} <scale: float, is_causal: int = 0, absorbed: int = 0>
        (q_nope, q_rope, latent, k_rope, kv_b, mask) => (y) {{
        {int_attribute("is_causal", "causal_tensor")}
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        zero_scalar = Constant <value = int64 {{0}}> ()
        one_scalar = Constant <value = int64 {{1}}> ()
        end = Constant <value = int64[1] {{4611686018427387904}}> ()
        q_shape = Shape (q_nope)
        heads = Gather (q_shape, one)
        nope = Gather (q_shape, last)
        q_nope_wide = Cast <to = 1> (q_nope)
        q_rope_wide = Cast <to = 1> (q_rope)
        latent_wide = Cast <to = 1> (latent)
        k_rope_wide = Cast <to = 1> (k_rope)
        kv_b_wide = Cast <to = 1> (kv_b)
        mask_wide = Cast <to = 1> (mask)
        kv = MatMul (latent_wide, kv_b_wide)
        kv_shape = Concat <axis = 0> (zero, zero, heads, last)
        kv_heads = Reshape (kv, kv_shape)
        key_value = Transpose <perm = [0, 2, 1, 3]> (kv_heads)
        key = Slice (key_value, zero, nope, last)
        value = Slice (key_value, nope, end, last)
        key_turned = Transpose <perm = [0, 1, 3, 2]> (key)
        scores_nope = MatMul (q_nope_wide, key_turned)
        k_rope_turned = Transpose <perm = [0, 1, 3, 2]> (k_rope_wide)
        scores_rope = MatMul (q_rope_wide, k_rope_turned)
        scores = Add (scores_nope, scores_rope)
        factor = Constant <value_float: float = @scale> ()
        scaled = Mul (scores, factor)
        biased = Add (scaled, mask_wide)
        latent_shape = Shape (latent)
        keys = Gather (latent_shape, one_scalar)
        two_scalar = Squeeze (two, zero)
        queries = Gather (q_shape, two_scalar)
        key_row = Range (zero_scalar, keys, one_scalar)
        query_row = Range (zero_scalar, queries, one_scalar)
        before = Sub (keys, queries)
        sees_row = Add (query_row, before)
        sees = Unsqueeze (sees_row, last)
        past = LessOrEqual (key_row, sees)
        is_causal_bool = Cast <to = 9> (causal_tensor)
        everything = Not (is_causal_bool)
        allowed = Or (past, everything)
        never = Constant <value_float = -inf> ()
        limited = Where (allowed, biased, never)
        probabilities = Softmax <axis = -1> (limited)
        product = MatMul (probabilities, value)
        rows = Transpose <perm = [0, 2, 1, 3]> (product)
        y_shape = Concat <axis = 0> (zero, zero, last)
        flat = Reshape (rows, y_shape)
        y = CastLike (flat, q_nope)
        }}""",
        opset,
        DOMAIN,
    )
