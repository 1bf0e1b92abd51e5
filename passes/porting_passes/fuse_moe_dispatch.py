"""Sort the tokens of each expert together, gather and count them  ->  porting.MoeDispatch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import array_of, ints_of
from porting_passes.contract import EXACT, Example
from porting_passes.decompose_reduction import reduction_axes
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From a grouped product: up from its rows and from its offsets to one sort."""
    trail.stay()
    gather = trail.up(node.inputs[0], "Gather")
    trail.require(attribute(gather, "axis", 0) == 0 and rank(gather.inputs[0]) == 2)
    token = trail.up(gather.inputs[1], "Div")
    sort, ids, slots = _sort(trail, token.inputs[0])
    trail.require(token.inputs[0] is sort.outputs[1] and number_of(token.inputs[1], token.inputs[0]) == slots)
    ordered, ends, experts = counted(trail, node.inputs[2])
    trail.require(ordered is sort.outputs[0])
    if ends.dtype == ir.DataType.INT64:
        offsets = [ends]
    else:
        casts = [reader for reader, _ in ends.uses()]
        trail.require(all(c.op_type == "Cast" and attribute(c, "to") == ir.DataType.INT64 for c in casts))
        offsets = [trail.follow(cast) for cast in casts]
    trail.outputs = [gather.outputs[0], sort.outputs[1], *offsets]
    return {"x": gather.inputs[0], "ids": ids, "experts": experts, "copies": len(offsets)}


def _sort(trail: Trail, value: ir.Value | None) -> tuple[ir.Node, ir.Value, int]:
    """The sort of all entries of ids, the ids, and their number a token."""
    sort = trail.up(value, "TopK")
    flat, count = sort.inputs
    trail.require(attribute(sort, "largest", 1) == 0 and attribute(sort, "sorted", 1) == 1 and rank(flat) == 1)
    assert flat is not None
    length = None if flat.shape is None else flat.shape[0]
    if ints_of(count) != [length]:
        trail.require(trail.up(count, "Shape").inputs[0] is flat)
    ids = trail.up(flat, "Reshape").inputs[0]
    slots = None if ids is None or ids.shape is None or len(ids.shape) != 2 else ids.shape[1]
    if ids is None or not isinstance(slots, int) or ids.dtype != ir.DataType.INT64:
        trail.fail()
    return sort, ids, slots


def counted(trail: Trail, value: ir.Value | None) -> tuple[ir.Value, ir.Value, int]:
    """The expert of each row, the running sum of their counts, and the number of experts, above the offsets."""
    ends = trail.through(value, "Cast")
    total = trail.up(ends, "CumSum")
    trail.require(number_of(total.inputs[1]) in (0, -1) and rank(total.inputs[0]) == 1)
    trail.require(not attribute(total, "exclusive", 0) and not attribute(total, "reverse", 0))
    counts = trail.up(trail.through(total.inputs[0], "Cast"), "ReduceSum")
    trail.require(reduction_axes(counts, 2) == [0] and attribute(counts, "keepdims", 1) == 0)
    equal = trail.up(trail.through(counts.inputs[0], "Cast"), "Equal")
    column, every = equal.inputs if array_of(equal.inputs[1]) is not None else equal.inputs[::-1]
    numbers = array_of(every)
    trail.require(numbers is not None and numbers.ndim == 1 and (numbers == np.arange(numbers.size)).all())
    assert numbers is not None
    unsqueeze = trail.up(column, "Unsqueeze")
    trail.require(ints_of(unsqueeze.inputs[1]) in ([1], [-1]))
    ordered = unsqueeze.inputs[0]
    while (cast := trail.peek(ordered, "Cast")) is not None:
        trail.require(attribute(cast, "to") in _INTEGERS)
        ordered = trail.up(ordered, "Cast").inputs[0]
    if ordered is None:
        trail.fail()
    return ordered, ends, numbers.size


def _replacement(op: Any, x: ir.Value, ids: ir.Value, experts: int, copies: int) -> list[ir.Value]:
    rows, offsets, index = op.MoeDispatch(x, ids, experts=experts, _domain="porting", _outputs=3)
    return [rows, index, *[offsets] * copies]


CHAIN = """f = Reshape(ids, last) c = Shape<start = 0, end = 1>(f) v, i = TopK<axis = 0, largest = 0>(f, c)
    t = Div(i, k) r = Gather(x, t) a = Cast<to = 6>(v) b = Cast<to = 7>(a) u = Unsqueeze(b, one) e = Equal(u, every)
    n = Cast<to = 7>(e) m = ReduceSum<keepdims = 0>(n, zeros) h = Cast<to = 6>(m) s = CumSum(h, zero)
    o = Cast<to = 7>(s)"""
_VALUES = "int64[10] f, float[5, 4] y, int64[10] v, int64[10] i, float[10, 4] r, int64[10, 1] u, int32[3] s, int32[3] h"


def text(chain: str, end: str, outputs: str) -> str:
    """A sort of five tokens to three experts, and what follows."""
    return f"""<ir_version: 10, opset_import: ["": 20, "porting": 1]> g (float[5, 4] x, int64[5, 2] ids) =>
        ({outputs}) <{_VALUES}, float[10, 6] p, float[10, 6] q> {{ {chain} {end} }}"""


def constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The weights of the examples."""
    return {
        "w": rng.standard_normal((3, 4, 6)).astype(np.float32),
        "bias": rng.standard_normal((3, 6)).astype(np.float32),
        "none": np.zeros((3, 1), np.float32),
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.int64),
        "zeros": np.array([0], np.int64),
        "zero": np.array(0, np.int64),
        "k": np.array(2, np.int64),
        "every": np.arange(3),
    }


def example(rng: np.random.Generator, name: str, end: str, outputs: str, applies: bool, chain: str) -> Example:
    """The same with weights and ids."""
    weights = {key: value for key, value in constants(rng).items() if key not in ("bias", "none", "w") or key in end}
    ids = np.array([[0, 2], [2, 0], [2, 1], [1, 2], [0, 2]])
    return Example.from_text(
        name,
        text(chain, end, outputs),
        applies=applies,
        dtypes=(ir.DataType.FLOAT,),
        inputs={"ids": ids},
        **weights,
    )


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    rows = "float[10, 6] p, int64[10] j"
    end = "p = porting.GroupedMatmul(r, w, o, none) j = Identity(i)"
    twice = "p = porting.GroupedMatmul(r, w, o, none) l = Cast<to = 7>(s) j = Add(l, l)"
    yield example(rng, "one product", end, rows, True, CHAIN)
    yield example(rng, "offsets twice", twice, "float[10, 6] p, int64[3] j", True, CHAIN)
    yield example(rng, "experts read elsewhere", end.replace("(i)", "(v)"), rows, False, CHAIN)
    yield example(rng, "other tokens", end, rows, False, CHAIN.replace("Div(i, k)", "Mod(i, k)"))
    exclusive = CHAIN.replace("CumSum(", "CumSum<exclusive = 1>(")
    yield example(rng, "starts", "j = Add(o, o) p = Cast<to = 1>(r)", "float[10, 4] p, int64[3] j", False, exclusive)


REWRITES = (
    Search(
        "fuse_moe_dispatch",
        ("porting", "GroupedMatmul"),
        _match,
        _replacement,
        EXACT,
        _examples,
        several_outputs=True,
    ),
)


class FuseMoeDispatch(RewritePass):
    """Bring the tokens of each expert together by one operator.

    1. The ids of all tokens sorted, the tokens gathered in that order, the rows of each expert counted by comparison
       with every id and the counts summed up, where a grouped product takes both: MoeDispatch. Every cast of the
       offsets becomes its one result.
    2. Something else reads the sorted ids or the counts, or the rows of the offsets are those of another sort: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
