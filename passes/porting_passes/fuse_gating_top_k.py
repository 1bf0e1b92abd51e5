"""Router logits to the weights and ids of the chosen experts  ->  porting.GatingTopK."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import array_of, ints_of
from porting_passes.contract import Contract, Example
from porting_passes.decompose_reduction import reduction_axes
from porting_passes.node_facts import attribute, rank, static_dims
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract(
    "tolerance",
    2e-6,
    "the scores come from another sigmoid or softmax, so that experts whose scores are equal but for rounding may swap",
    nonfinite=False,
)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the selection of the experts: up to the logits, down to the weights."""
    k = _count(trail, node)
    values, ids = node.outputs
    trail.require(rank(node.inputs[0]) == 2)
    found: dict[str, Any] = {"k": k, "bias": None}
    if values.uses():
        weights = values
        after = trail.down(values, "Softmax")
        if after is not None:
            trail.require(attribute(after, "axis", -1) in (-1, 1))
            weights = trail.follow(after)
            found |= {"logits": node.inputs[0], "score": "softmax", "after_top_k": 1}
        else:
            found |= _scores(trail, node.inputs[0])
    else:
        readers = {reader for reader, _ in ids.uses() if reader.op_type == "GatherElements"}
        trail.require(len(readers) == 1)
        (gather,) = readers
        trail.require(gather.inputs[1] is ids and attribute(gather, "axis", 0) in (-1, 1))
        biased, limits = _within_groups(trail, node.inputs[0], k)
        scores = gather.inputs[0]
        if biased is not scores:
            add = trail.up(biased, "Add")
            trail.require(scores in add.inputs)
            found["bias"] = add.inputs[1 - add.inputs.index(scores)]
        found |= limits | _scores(trail, scores)
        weights = trail.follow(gather)
    weights, scaling = _normalized(trail, weights)
    logits = found["logits"]
    trail.require(has_dtype(logits, *_DTYPES) and has_dtype(weights, ir.DataType.FLOAT) and rank(logits) == 2)
    bias_dims = static_dims(found["bias"]) if found["bias"] is not None else None
    trail.require(found["bias"] is None or (bias_dims is not None and len(bias_dims) == 1))
    trail.outputs = [weights, ids]
    return found | scaling


def _count(trail: Trail, node: ir.Node) -> int:
    """k of a TopK of the largest along the last axis, in order."""
    dims, k = rank(node.inputs[0]), ints_of(node.inputs[1])
    trail.require(dims is not None and k is not None and attribute(node, "axis", -1) in (-1, (dims or 0) - 1))
    trail.require(attribute(node, "largest", 1) == 1 and attribute(node, "sorted", 1) == 1)
    assert k is not None
    return k[0]


def _scores(trail: Trail, value: ir.Value | None) -> dict[str, Any]:
    node = trail.up(value, "Sigmoid", "Softmax")
    trail.require(node.op_type == "Sigmoid" or attribute(node, "axis", -1) in (-1, 1))
    logits = node.inputs[0]
    cast = trail.peek(logits, "Cast")
    if cast is not None and attribute(cast, "to") == ir.DataType.FLOAT and has_dtype(cast.inputs[0], *_DTYPES):
        logits = trail.up(logits, "Cast", shared=True).inputs[0]
    return {"logits": logits, "score": node.op_type.lower()}


def _within_groups(trail: Trail, value: ir.Value | None, k: int) -> tuple[ir.Value | None, dict[str, Any]]:
    """The biased scores, and the groups that a mask over them leaves."""
    where = trail.peek(value, "Where")
    if where is None:
        return value, {}
    trail.up(value, "Where")
    condition, inside, outside = where.inputs
    if trail.peek(condition, "Not") is not None:
        condition = trail.up(condition, "Not").inputs[0]
        inside, outside = outside, inside
    number = number_of(outside, inside)
    trail.require(number is not None and inside is not None)
    expanded = trail.up(trail.through(condition, "Cast"), "Reshape")
    column = trail.up(trail.through(expanded.inputs[0], "Expand"), "Unsqueeze")
    trail.require(ints_of(column.inputs[1]) in ([-1], [2]))
    scatter = trail.up(column.inputs[0], "ScatterElements")
    trail.require(attribute(scatter, "axis", 0) in (-1, 1) and attribute(scatter, "reduction", "none") == "none")
    data, chosen, ones = scatter.inputs
    trail.require(_filled(trail, data) == 0 and _filled(trail, ones) == 1)
    best = trail.up(chosen, "TopK")
    trail.require(chosen is best.outputs[1] and not best.outputs[0].uses())
    total = trail.up(best.inputs[0], "ReduceSum", "ReduceMax")
    trail.require(reduction_axes(total, 3) == [2] and attribute(total, "keepdims", 1) == 0)
    top, grouped = 1, total.inputs[0]
    if total.op_type == "ReduceSum":
        inner = trail.up(grouped, "TopK")
        trail.require(grouped is inner.outputs[0] and not inner.outputs[1].uses())
        top, grouped = _count(trail, inner), inner.inputs[0]
    reshape = trail.up(grouped, "Reshape")
    dims, experts = reshape.outputs[0].shape, None if inside is None or inside.shape is None else inside.shape[-1]
    trail.require(reshape.inputs[0] is inside and dims is not None and len(dims) == 3 and isinstance(experts, int))
    assert dims is not None
    assert isinstance(experts, int)
    trail.require(isinstance(dims[1], int) and isinstance(dims[2], int) and dims[1] * dims[2] == experts)
    groups = dims[1]
    assert isinstance(groups, int)
    trail.require(k <= _count(trail, best) * (experts // groups))
    limits = {"groups": groups, "k_group": _count(trail, best), "group_top": top, "mask_value": number}
    return inside, limits


def _filled(trail: Trail, value: ir.Value | None) -> float | None:
    """The number that a tensor is filled with: a ConstantOfShape, an Expand, or a constant."""
    node = trail.peek(value, "ConstantOfShape", "Expand")
    if node is None:
        array = array_of(value)
        return float(array.flat[0]) if array is not None and array.size and (array == array.flat[0]).all() else None
    trail.up(value, "ConstantOfShape", "Expand", shared=True)
    trail.through(node.inputs[-1], "Shape", shared=True)
    if node.op_type == "Expand":
        return number_of(node.inputs[0])
    tensor = attribute(node, "value")
    return 0.0 if tensor is None else float(tensor.numpy().flat[0])


def _normalized(trail: Trail, weights: ir.Value) -> tuple[ir.Value, dict[str, Any]]:
    """The weights after a division by their sum and a product with a number, where these follow."""
    found: dict[str, Any] = {}
    readers = {node.op_type: node for node, _ in weights.uses()}
    if set(readers) == {"ReduceSum", "Div"} and len(weights.uses()) == 2:
        total, quotient = readers["ReduceSum"], readers["Div"]
        trail.require(reduction_axes(total, 2) == [1] and attribute(total, "keepdims", 1) == 1)
        divisor = trail.follow(total)
        if (add := trail.down(divisor, "Add")) is not None:
            other = add.inputs[1 - add.inputs.index(divisor)]
            found["epsilon"] = number_of(other, divisor)
            trail.require(found["epsilon"] is not None)
            divisor = trail.follow(add)
        trail.require(quotient.inputs[0] is weights and quotient.inputs[1] is divisor)
        weights = trail.follow(quotient)
        found["renormalize"] = 1
    if (scaled := trail.down(weights, "Mul")) is not None:
        factor = number_of(scaled.inputs[1 - scaled.inputs.index(weights)], weights)
        if factor is not None:
            weights = trail.follow(scaled)
            found["scale"] = factor
    return weights, found


def _replacement(op: Any, logits: ir.Value, bias: ir.Value | None, **attributes: Any) -> Any:
    if bias is None:
        bias = op.constant(np.zeros(1, np.float32), "no_bias")
    return op.GatingTopK(logits, bias, **attributes, _domain="porting", _outputs=2)


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    def one(name: str, body: str, *, applies: bool = True, more: str = "", **weights: np.ndarray) -> Example:
        text = f"""<ir_version: 10, opset_import: ["": 20]> g (float[7, 8] l) => (float[7, 3] w, int64[7, 3] i{more})
            <float[7, 8] s, float[7, 8] b, float[7, 3] v, float[7, 3] x, float[7, 3] g,
            float[7, 4, 2] r, float[7, 4] rs, float[7, 4, 2] rv, float[7, 8] m, float[7, 4, 1] u> {{ {body} }}"""
        # Scores apart by more than rounding: which of two near equals comes first is not part of the contract.
        logits = np.linspace(-3, 3, 56, dtype=np.float32)[rng.permutation(56)].reshape(7, 8)
        used = {key: value for key, value in (constants | weights).items() if f" {key}" in body or f"({key}" in body}
        return Example.from_text(name, text, applies=applies, dtypes=(ir.DataType.FLOAT,), inputs={"l": logits}, **used)

    constants: dict[str, np.ndarray] = {
        "k3": np.array([3], np.int64),
        "k2": np.array([2], np.int64),
        "last": np.array([-1], np.int64),
        "e": np.array(1e-20, np.float32),
        "f": np.array(2.5, np.float32),
        "bias": (rng.permutation(8) / 10).astype(np.float32),
        "to_groups": np.array([-1, 4, 2], np.int64),
        "to_experts": np.array([0, 8], np.int64),
        "wide": np.array([1, 1, 2], np.int64),
        "low": np.array(-np.inf, np.float32),
        "zero": np.array(0, np.float32),
    }
    renormalized = "t = ReduceSum<keepdims = 1>(v, last) w = Div(v, t)"
    groups = """r = Reshape(b, to_groups) rv, ri = TopK<axis = 2>(r, k2) rs = ReduceSum<keepdims = 0>(rv, last)
        bv, bi = TopK<axis = 1>(rs, k2) n = Shape(rs) z = ConstantOfShape<value = float[1] {0}>(n) p = Shape(bi)
        o = ConstantOfShape<value = float[1] {1}>(p) c = ScatterElements<axis = 1>(z, bi, o) u = Unsqueeze(c, last)
        h = Expand(u, wide) a = Reshape(h, to_experts) d = Cast<to = 9>(a) q = Not(d)"""
    scored = "g = GatherElements<axis = 1>(s, i) t = ReduceSum<keepdims = 1>(g, last) y = Add(t, e) x = Div(g, y)"
    deepseek = f"s = Sigmoid(l) b = Add(s, bias) {groups} m = Where(q, MASK, b) mv, i = TopK<axis = 1>(m, k3) {scored}"
    yield one("softmax", "s = Softmax<axis = -1>(l) v, i = TopK<axis = 1>(s, k3) w = Identity(v)")
    yield one("softmax, renormalized", f"s = Softmax<axis = -1>(l) v, i = TopK<axis = 1>(s, k3) {renormalized}")
    yield one("softmax after", "v, i = TopK<axis = 1>(l, k3) w = Softmax<axis = 1>(v)")
    yield one("sigmoid in groups", deepseek.replace("MASK", "low") + " w = Mul(x, f)")
    yield one("outside counts as 0", deepseek.replace("MASK", "zero") + " w = Mul(f, x)")
    bare = "s = Sigmoid(l) b = Add(bias, s) bv, i = TopK<axis = 1>(b, k3) w = GatherElements<axis = 1>(s, i)"
    yield one("no groups", bare)
    yield one("scores read elsewhere", bare + " n = Neg(s)", applies=False, more=", float[7, 8] n")
    yield one("smallest", "s = Softmax(l) v, i = TopK<axis = 1, largest = 0>(s, k3) w = Identity(v)", applies=False)
    yield one("logits as they are", "v, i = TopK<axis = 1>(l, k3) w = Neg(v)", applies=False)


REWRITES = (
    Search("fuse_gating_top_k", ("", "TopK"), _match, _replacement, _CONTRACT, _examples, several_outputs=True),
)


class FuseGatingTopK(RewritePass):
    """Router logits -> the k experts of each token and their weights, as one operator.

    1. Softmax, TopK (Qwen2-MoE, Qwen3-MoE, Mixtral): score softmax.
    2. TopK, Softmax (gpt-oss): the same after the selection.
    3. Sigmoid, bias, TopK, and the unbiased scores gathered (GLM-4-MoE); with a mask that leaves the k_group groups of
       the largest sums of their group_top best scores, or of the largest maximum (DeepSeek-V3). What the mask writes
       becomes mask_value: -inf in transformers 5 and in DeepSeek's own code, 0 in transformers 4.
    4. A division by the sum of the weights, with or without an epsilon, and a product with a number are taken along.
    5. Scores that something else reads, weights that are not float32, logits of another rank than 2: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
