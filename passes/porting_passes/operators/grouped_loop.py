"""The part that the bodies of grouped products share: a Loop over the experts that have rows."""

from __future__ import annotations

SCALES = """
        as_is = Constant <value = int64[3] {0, 0, -1}> ()
        scales = Reshape (w_scale, as_is)
        scales_shape = Shape (scales)
        groups = Gather (scales_shape, two)
        w_shape = Shape (w)
        n = Gather (w_shape, one)
        k = Gather (w_shape, two)"""
"""Nodes that run before the loop over integer weights w (E, N, K): scales (E, N, G) of w_scale (E, N) or (E, N, G), and
int64[1] n, k and groups."""


def loop_over_experts(before: str, part: str, empty: str) -> str:
    """Nodes that make ``y``, the results of all experts below one another.

    before: nodes that run once; they make ``n``, int64[1], the columns of y. part: nodes that make ``part``, the rows
    of one expert, from ``expert`` (int64 scalar), ``start`` and ``end`` (int64[1]), what is defined before, and the
    int64[1] constants zero, one, two and last (-1). empty: the expression of a y without rows from ``nothing``, float32
    (0, n): the sequence of results starts with it, so that it is never empty, and has y's dtype, which spares a copy.
    ONNX has no sequences of bfloat16, so that a bfloat16 body passes onnx.checker but not its inference of types.
    """
    return f"""
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        before_last = Slice (offsets, zero, last)
        starts = Concat <axis = 0> (zero, before_last)
        counts = Sub (offsets, starts)
        hit_row = NonZero (counts)
        hit = Squeeze (hit_row, zero)
        trips = Size (hit)
        {before}
        empty_shape = Concat <axis = 0> (zero, n)
        nothing = ConstantOfShape (empty_shape)
        empty = {empty}
        parts_before = SequenceConstruct (empty)
        always = Constant <value = bool {{1}}> ()
        parts = Loop (trips, always, parts_before) <body = run_of_rows (int64 i, bool go_on_before, parts_in) =>
            (go_on, parts_out) {{
            go_on = Identity (go_on_before)
            i_vector = Reshape (i, last)
            expert_vector = Gather (hit, i_vector)
            expert = Squeeze (expert_vector, zero)
            start = Gather (starts, expert_vector)
            end = Gather (offsets, expert_vector)
            {part}
            parts_out = SequenceInsert (parts_in, part)
        }}>
        y = ConcatFromSequence <axis = 0> (parts)"""
