"""Sigmoid, Mul, Mul over a gate and its data  ->  porting.SwiGLU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.halves import halves
from porting_passes.inference import dims_of
from porting_passes.join_weights import joinable, joined
from porting_passes.node_facts import attribute, operand
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract(
    "tolerance",
    4e-6,
    "another sigmoid, rounded once where gate and product rounded separately; a joined product adds up in other blocks",
    nonfinite=False,
)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_INFINITY = math.inf


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the product of the swish and its data: up to the two halves of one value, or to two products."""
    gate, data, alpha = _swish(trail, node)
    gate, limits = _clipped(trail, gate)
    trail.require(limits[0] == -_INFINITY)
    offset = 0.0
    if (add := trail.peek(data, "Add")) is not None:
        constants = [(number_of(v, add.inputs[1 - i]), add.inputs[1 - i]) for i, v in enumerate(add.inputs)]
        number, rest = next(((n, v) for n, v in constants if n is not None), (None, None))
        if number is not None:
            trail.up(data, "Add")
            offset, data = number, rest
    data, data_limits = _clipped(trail, data)
    trail.require(data_limits == (-limits[1], limits[1]) and has_dtype(gate, *_DTYPES))
    attributes = {"alpha": alpha, "limit": limits[1], "offset": offset}
    if trail.peek(gate, "MatMul", "Gemm") is None:
        x, interleaved = halves(trail, gate, data)
        return {"x": x, "products": (), "interleaved": int(interleaved), **attributes}
    products = (trail.up(gate, "MatMul", "Gemm"), trail.up(data, "MatMul", "Gemm"))
    _require_alike(trail, products)
    return {"x": products[0].inputs[0], "products": products, "interleaved": 0, **attributes}


def _swish(trail: Trail, node: ir.Node) -> tuple[ir.Value | None, ir.Value | None, float]:
    """gate, the other factor and alpha of gate * Sigmoid(alpha * gate) * other."""
    for index in (0, 1):
        swish = trail.peek(node.inputs[index], "Mul", "Swish")
        if swish is None:
            continue
        if swish.op_type == "Swish":
            trail.up(node.inputs[index], "Swish")
            return swish.inputs[0], node.inputs[1 - index], float(attribute(swish, "alpha", 1.0))
        for side in (0, 1):
            sigmoid = trail.peek(swish.inputs[side], "Sigmoid")
            gate = swish.inputs[1 - side]
            if sigmoid is None or gate is None:
                continue
            trail.up(node.inputs[index], "Mul")
            steep, alpha = trail.up(swish.inputs[side], "Sigmoid").inputs[0], 1.0
            if steep is not gate:
                factor = trail.up(steep, "Mul")
                trail.require(gate in factor.inputs)
                number = number_of(factor.inputs[1 - factor.inputs.index(gate)], gate)
                trail.require(number is not None)
                alpha = number or 0.0
            return gate, node.inputs[1 - index], alpha
    trail.fail()


def _clipped(trail: Trail, value: ir.Value | None) -> tuple[ir.Value | None, tuple[float, float]]:
    """What stands above a Clip with constant bounds, and these; open ends are infinite."""
    clip = trail.peek(value, "Clip", "Min")
    if clip is None:
        return value, (-_INFINITY, _INFINITY)
    trail.up(value, "Clip", "Min")
    ends = [-_INFINITY, _INFINITY]
    for end, index in ((0, 1), (1, 2)) if clip.op_type == "Clip" else ((1, 1),):
        bound = operand(clip, index)
        if bound is not None:
            number = number_of(trail.through(bound, "CastLike", shared=True), clip.inputs[0])
            trail.require(number is not None)
            ends[end] = number or 0.0
    return clip.inputs[0], (ends[0], ends[1])


def _require_alike(trail: Trail, products: tuple[ir.Node, ir.Node]) -> None:
    """One operand, and weights that can be put side by side and that nothing else needs."""
    gate, data = products
    weights = [product.inputs[1] for product in products]
    trail.require(gate.op_type == data.op_type and gate.inputs[0] is data.inputs[0] and joinable(weights))
    for product, weight in zip(products, weights, strict=True):
        trail.require(len(product.inputs) == 2 and weight is not None and len(weight.uses()) == 1)
        trail.require(weight is not None and weight.shape is not None and len(weight.shape) == 2)
        if product.op_type == "Gemm":
            trail.require(attribute(product, "alpha", 1.0) == 1 and not attribute(product, "transA", 0))
    trail.require(gate.op_type == "MatMul" or attribute(gate, "transB", 0) == attribute(data, "transB", 0))
    trail.require(weights[0] is not None and weights[1] is not None and weights[0].shape == weights[1].shape)


def _replacement(
    op: Any,
    x: ir.Value,
    products: tuple[ir.Node, ...],
    interleaved: int,
    alpha: float,
    limit: float,
    offset: float,
) -> ir.Value:
    if products:
        weights = [product.inputs[1] for product in products if product.inputs[1] is not None]
        transposed = attribute(products[0], "transB", 0)
        weight = op.constant(joined(weights, 0 if transposed else 1), f"{weights[0].name}/joined")
        if products[0].op_type == "MatMul":
            x = op.MatMul(x, weight)
        else:
            x = op.Gemm(x, weight, transB=transposed)
        dims = dims_of(products[0].outputs[0])
        x.type = products[0].outputs[0].type
        if dims is not None and isinstance(dims[-1], int):
            x.shape = ir.Shape([*dims[:-1], 2 * dims[-1]])
    result: ir.Value = op.SwiGLU(
        x,
        interleaved=interleaved or None,
        alpha=alpha if alpha != 1 else None,
        limit=limit if limit != _INFINITY else None,
        offset=offset or None,
        _domain="porting",
    )
    return result


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    weights: dict[str, np.ndarray] = {
        "u": rng.standard_normal((4, 6)).astype(np.float32),
        "v": rng.standard_normal((4, 6)).astype(np.float32),
        "ut": rng.standard_normal((6, 4)).astype(np.float32),
        "vt": rng.standard_normal((6, 4)).astype(np.float32),
        "steep": np.array(1.702, np.float32),
        "seven": np.array(1.5, np.float32),
        "low": np.array(-1.5, np.float32),
        "one": np.array(1, np.float32),
        "zeros": np.array([0], np.int64),
        "ones": np.array([1], np.int64),
        "twos": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "end": np.array([1 << 62], np.int64),
    }

    def example(name: str, body: str, x: str, y: str, more: str = "", applies: bool = True, opset: int = 20) -> Example:
        shapes = f"float[{y}] a, float[{y}] b, float[{y}] c, float[{y}] d"
        text = f"""<ir_version: 10, opset_import: ["": {opset}]> g (float[{x}] x) => (float[{y}] y{more})
            <{shapes}> {{ {body} }}"""
        words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
        used: dict[str, Any] = {key: value for key, value in weights.items() if key in words}
        return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:2], **used)

    gated = "s = Sigmoid(a) t = Mul(a, s) y = Mul(t, b)"
    split = "a, b = Split<axis = 2, num_outputs = 2>(x)"
    pairs = "a = Slice(x, zeros, end, twos, twos) b = Slice(x, ones, end, twos, twos)"
    parts = "a = Slice(x, zeros, three, twos, ones) b = Slice(x, three, end, twos, ones)"
    products = "a = MatMul(x, u) b = MatMul(x, v)"
    yield example("split", f"{split} {gated}", "2, 5, 6", "2, 5, 3")
    yield example("slices", f"{parts} {gated}", "2, 5, 6", "2, 5, 3")
    yield example("pairs", f"{pairs} s = Sigmoid(a) t = Mul(s, a) y = Mul(b, t)", "2, 5, 6", "2, 5, 3")
    capped = """c = Clip(a, , seven) m = Mul(c, steep) s = Sigmoid(m) t = Mul(c, s) k = CastLike(low, b)
        d = Clip(b, k, seven) o = Add(d, one) y = Mul(o, t)"""
    yield example("limits, alpha and offset", f"{pairs} {capped}", "2, 5, 6", "2, 5, 3")
    yield example("one limit", f"{pairs} {capped.replace('k, seven', 'k, one')}", "2, 5, 6", "2, 5, 3", "", False)
    yield example("two products", f"{products} {gated}", "2, 5, 4", "2, 5, 6")
    yield example("two Gemm", f"a = Gemm<transB = 1>(x, ut) b = Gemm<transB = 1>(x, vt) {gated}", "5, 4", "5, 6")
    yield example("Swish", f"{products} t = Swish(a) y = Mul(t, b)", "2, 5, 4", "2, 5, 6", opset=24)
    shared = ", float[2, 5, 6] n"
    yield example("product shared", f"{products} {gated} n = Neg(b)", "2, 5, 4", "2, 5, 6", shared, False)
    yield example("swapped halves", f"{split.replace('a, b', 'b, a')} {gated}", "2, 5, 6", "2, 5, 3", "", False)


REWRITES = (Search("fuse_swiglu", ("", "Mul"), _match, _replacement, _CONTRACT, _examples),)


class FuseSwiGLU(RewritePass):
    """gate * Sigmoid(gate) * data -> SwiGLU, whose one operand holds both.

    1. Gate and data are the halves of one value (Split, Slice), or its even and odd elements: fuse, with gpt-oss's
       factor in the sigmoid, limits and offset as attributes.
    2. They are products of one operand with two weights that nobody else needs: one product with both weights, which
       are joined without reading them.
    3. Limits that differ between gate and data, products with a bias, inner values that something else reads: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
