"""Products with cosines and sines of the position  ->  RotaryEmbedding of ONNX, or porting.RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import ints_of
from porting_passes.contract import EXACT, Contract, Example
from porting_passes.halves import halves, last_extent, sliced
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract("tolerance", 2e-6, "a fused product and sum round once", nonfinite=False)
_ANGLE = Contract("ulp", 1, "vectorized libraries compute the last elements of a row in another way")
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _equal_halves(trail: Trail, value: ir.Value | None) -> ir.Value:
    """What a Concat joins with itself along the last axis."""
    concat = trail.up(value, "Concat", shared=True)
    part = concat.inputs[0]
    trail.require(len(concat.inputs) == 2 and part is not None and concat.inputs[1] is part)
    assert part is not None
    trail.require(part.shape is not None and attribute(concat, "axis") in (-1, (rank(part) or 0) - 1))
    return part


def _match_elementwise(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """An operator that treats all elements alike, over equal halves."""
    operands = list(node.inputs)
    place = next((i for i, v in enumerate(operands) if trail.peek(v, "Concat") is not None), None)
    if place is None:
        trail.fail()
    whole = operands[place]
    part = operands[place] = _equal_halves(trail, whole)
    others = [v for i, v in enumerate(operands) if i != place]
    trail.require(all(number_of(other, whole) is not None for other in others))
    return {"node": node, "operands": operands, "shape": part.shape}


def _elementwise(op: Any, node: ir.Node, operands: list[ir.Value], shape: ir.Shape) -> ir.Value:
    part = getattr(op, node.op_type)(*operands, **node.attributes)
    part.shape, part.type = shape, node.outputs[0].type
    result: ir.Value = op.Concat(part, part, axis=-1)
    return result


def _match_slice(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """A Slice that takes one half of equal halves."""
    part = _equal_halves(trail, node.inputs[0])
    width = last_extent(part)
    if width is None:
        trail.fail()
    trail.require(sliced(node, 2 * width) in (range(width), range(width, 2 * width)))
    return {"part": part}


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the last node of a rotation up to x and the tables."""
    found = {"Add": _rotate_half, "Concat": _pairs_to_halves, "Reshape": _pairs}[node.op_type](trail, node)
    x, cos, sin = found["x"], found["cos"], found["sin"]
    trail.require(rank(x) == 4 and rank(cos) == 3 and has_dtype(x, *_DTYPES))
    width = last_extent(x)
    trail.require(width is not None and dims_of(cos) == dims_of(sin) and (last_extent(cos) or 0) * 2 == width)
    x_dims, table_dims = dims_of(x), dims_of(cos)
    assert x_dims is not None
    assert table_dims is not None
    trail.require(table_dims[0] in (1, x_dims[0]) and table_dims[1] is not None and table_dims[1] == x_dims[2])
    return found


def _table(trail: Trail, value: ir.Value | None) -> ir.Value | None:
    """The table above the axis of heads; both rotations of a layer read it."""
    unsqueeze = trail.up(value, "Unsqueeze", shared=True)
    trail.require(ints_of(unsqueeze.inputs[1]) in ([1], [-3]))
    return unsqueeze.inputs[0]


def _rotate_half(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """X * cos + Concat(-second half, first half) * sin."""
    for index in (0, 1):
        turned, straight = node.inputs[index], node.inputs[1 - index]
        product = trail.peek(turned, "Mul")
        if product is not None and any(trail.peek(value, "Concat") is not None for value in product.inputs):
            break
    else:
        trail.fail()
    concat, sin = trail.operand(trail.up(turned, "Mul"), "Concat")
    trail.require(len(concat.inputs) == 2 and attribute(concat, "axis") in (-1, 3))
    x, interleaved = halves(trail, concat.inputs[1], trail.up(concat.inputs[0], "Neg").inputs[0])
    scaled = trail.up(straight, "Mul")
    trail.require(not interleaved and x in scaled.inputs)
    cos = scaled.inputs[1 - scaled.inputs.index(x)]
    tables = [_equal_halves(trail, _table(trail, value)) for value in (cos, sin)]
    return {"x": x, "cos": tables[0], "sin": tables[1], "layout": "half"}


def _pairs_to_halves(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """Concat(a * cos - b * sin, b * cos + a * sin) of halves, or of even and odd elements."""
    trail.require(len(node.inputs) == 2 and attribute(node, "axis") in (-1, 3))
    found = _rotation(trail, *node.inputs)
    return found | {"layout": "interleaved_to_half" if found.pop("interleaved") else "half"}


def _pairs(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """The same of even and odd elements, side by side again."""
    columns = trail.up(node.inputs[0], "Concat")
    trail.require(len(columns.inputs) == 2 and attribute(columns, "axis") in (-1, 4))
    parts = [trail.up(value, "Unsqueeze") for value in columns.inputs]
    trail.require(all(ints_of(part.inputs[1]) in ([-1], [4]) for part in parts))
    found = _rotation(trail, *(part.inputs[0] for part in parts))
    trail.require(found.pop("interleaved") and dims_of(node.outputs[0]) == dims_of(found["x"]))
    return found | {"layout": "interleaved"}


def _rotation(trail: Trail, real: ir.Value | None, imaginary: ir.Value | None) -> dict[str, Any]:
    difference, total = trail.up(real, "Sub"), trail.up(imaginary, "Add")
    a_cos, b_sin = (trail.up(value, "Mul") for value in difference.inputs)
    products = [trail.up(value, "Mul") for value in total.inputs]
    for a, cos in (a_cos.inputs, a_cos.inputs[::-1]):
        for b, sin in (b_sin.inputs, b_sin.inputs[::-1]):
            if {frozenset(p.inputs) for p in products} == {frozenset((b, cos)), frozenset((a, sin))}:
                if trail.peek(cos, "Unsqueeze") is None or trail.peek(a, "Slice", "Split") is None:
                    continue
                x, interleaved = halves(trail, a, b)
                tables = {"cos": _table(trail, cos), "sin": _table(trail, sin)}
                return {"x": x, "interleaved": interleaved, **tables}
    trail.fail()


def _match_standard(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """What ONNX's own operator says: a table for each sequence, and not DeepSeek's order in transformers."""
    found = _match(trail, node)
    dims = [dims_of(found[name]) for name in ("x", "cos")]
    trail.require(dims[0] is not None and dims[1] is not None and dims[0][0] is not None and dims[0][0] == dims[1][0])
    trail.require(found["layout"] != "interleaved_to_half" and found["cos"].dtype == found["x"].dtype)
    return found


def _standard(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, layout: str) -> ir.Value:
    result: ir.Value = op.RotaryEmbedding(x, cos, sin, interleaved=int(layout == "interleaved"))
    return result


def _composite(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, layout: str) -> ir.Value:
    result: ir.Value = op.RotaryEmbedding(x, cos, sin, layout=layout, _domain="porting")
    return result


_ENDS = {
    "Add": """n = Neg(b) t = Concat<axis = -1>(n, a) l = Mul(x, c4) r = Mul(t, s4) y = Add(l, r)""",
    "Concat": """ac = Mul(a, c4) bs = Mul(b, s4) re = Sub(ac, bs) bc = Mul(b, c4) as = Mul(a, s4) im = Add(bc, as)
        y = Concat<axis = -1>(re, im)""",
}
_ENDS["Reshape"] = _ENDS["Concat"].replace("y = Concat<axis = -1>(re, im)", "") + (
    "ru = Unsqueeze(re, last) iu = Unsqueeze(im, last) k = Concat<axis = -1>(ru, iu) y = Reshape(k, shape)"
)
_PARTS = {
    "split": "a, b = Split<axis = 3, num_outputs = 2>(x)",
    "slices": "a = Slice(x, zero, two, three, one) b = Slice(x, two, end, three, one)",
    "pairs": "a = Slice(x, zero, end, three, two) b = Slice(x, one, end, three, two)",
}


def _example(
    name: str, parts: str, body: str, *, batch: int = 1, applies: bool = True, opset: int = 20, twice: bool = False
) -> Example:
    whole = "cw = Concat<axis = -1>(c, c) sw = Concat<axis = -1>(s, s)" if twice else ""
    tables = (
        "c4 = Unsqueeze(cw, one) s4 = Unsqueeze(sw, one)" if twice else "c4 = Unsqueeze(c, one) s4 = Unsqueeze(s, one)"
    )
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "last": np.array([-1], np.int64),
        "end": np.array([1 << 62], np.int64),
        "shape": np.array([2, 3, 5, 4], np.int64),
    }
    text = f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[2, 3, 5, 4] x, float[{batch}, 5, 2] c, float[{batch}, 5, 2] s) => (float[2, 3, 5, 4] y)
        <float[2, 3, 5, 2] a, float[2, 3, 5, 2] b> {{ {_PARTS[parts]} {whole} {tables} {body} }}"""
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used: dict[str, Any] = {key: value for key, value in constants.items() if key in words}
    return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:2], **used)


def _examples(standard: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    where: dict[str, Any] = {"batch": 2, "opset": 23} if standard else {}

    def make(rng: np.random.Generator) -> Iterable[Example]:
        mixed = _ENDS["Concat"].replace("Mul(a, s4)", "Mul(b, s4)")
        yield _example("Llama", "slices", _ENDS["Add"], twice=True, **where)
        yield _example("gpt-oss", "split", _ENDS["Concat"], **where)
        yield _example("pairs", "pairs", _ENDS["Reshape"], **where)
        yield _example("pairs to halves", "pairs", _ENDS["Concat"], applies=not standard, **where)
        yield _example("no rotation", "split", mixed, applies=False, **where)
        yield _example("one table", "split", _ENDS["Concat"], applies=not standard, opset=23 if standard else 20)
        if standard:
            yield _example("older opset", "split", _ENDS["Concat"], batch=2, applies=False, opset=22)

    return make


def _elementwise_examples(body: str) -> Callable[[np.random.Generator], Iterable[Example]]:
    def make(rng: np.random.Generator) -> Iterable[Example]:
        def one(name: str, joined: str, applies: bool) -> Example:
            text = f"""<ir_version: 10, opset_import: ["": 20]> g (float[2, 3] x, float[2, 3] z) => (float[2, 6] y)
                <float[2, 6] w> {{ w = Concat<axis = -1>({joined}) {body} }}"""
            weights: dict[str, Any] = {"f": np.array(1.5, np.float32)} if "f)" in body or "(f" in body else {}
            return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:1], **weights)

        yield one("equal halves", "x, x", True)
        yield one("other halves", "x, z", False)

    return make


def _slice_examples(rng: np.random.Generator) -> Iterable[Example]:
    for name, start, end, applies in (("first", 0, 3, True), ("second", 3, 1 << 62, True), ("middle", 1, 4, False)):
        text = """<ir_version: 10, opset_import: ["": 20]> g (float[2, 3] x) => (float[2, 3] y)
            <float[2, 6] w> { w = Concat<axis = -1>(x, x) v = Slice(w, a, b, one) y = Neg(v) }"""
        bounds: dict[str, Any] = {
            "a": np.array([start], np.int64),
            "b": np.array([end], np.int64),
            "one": np.array([1], np.int64),
        }
        yield Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:2], **bounds)


_SINKS = tuple(
    Search(
        f"sink_equal_halves_{op_type.lower()}",
        ("", op_type),
        _match_elementwise,
        _elementwise,
        contract,
        _elementwise_examples(body),
    )
    for op_type, contract, body in (
        ("Cos", _ANGLE, "y = Cos(w)"),
        ("Sin", _ANGLE, "y = Sin(w)"),
        ("Mul", EXACT, "y = Mul(f, w)"),
        ("Cast", EXACT, "v = Cast<to = 11>(w) y = Cast<to = 1>(v)"),
    )
)
_SLICE = Search("slice_equal_halves", ("", "Slice"), _match_slice, lambda op, part: part, EXACT, _slice_examples)
_ROOTS = ("Add", "Concat", "Reshape")


def _of_form(root: str, standard: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    """The examples that end in one operator."""
    ends = {"Add": ("Llama",), "Reshape": ("pairs",)}.get(
        root, ("gpt-oss", "pairs to halves", "no rotation", "one table", "older opset")
    )
    return lambda rng: [example for example in _examples(standard)(rng) if example.name in ends]


REWRITES = (
    *_SINKS,
    _SLICE,
    *(
        Search(
            f"fuse_rotary_embedding_{root.lower()}",
            ("", root),
            _match_standard,
            _standard,
            _CONTRACT,
            _of_form(root, True),
        )
        for root in _ROOTS
    ),
    *(
        Search(
            f"fuse_rotary_embedding_composite_{root.lower()}",
            ("", root),
            _match,
            _composite,
            _CONTRACT,
            _of_form(root, False),
        )
        for root in _ROOTS
    ),
)


class FuseRotaryEmbedding(RewritePass):
    """Rotary position embedding as one operator over tables of half the width.

    1. A table whose halves are one value (Concat(f, f)) is made of that value alone: the Concat sinks below Cos, Sin,
       a factor (YaRN's) and Cast, and a Slice of one half is the half.
    2. x * cos + Concat(-b, a) * sin (Llama), and Concat or pairwise stacking of a cos - b sin and b cos + a sin, for
       halves (gpt-oss) or even and odd elements (DeepSeek-V3 in transformers, which leaves the result in halves).
    3. ONNX's operator where the opset (23) and ``accepts`` take it and each sequence has a table; else, with
       ``composite``, porting.RotaryEmbedding, whose tables a batch may share.
    4. Tables that are not [batch or 1, sequence, half], another rank than 4, products that something else reads: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None, composite: bool = True) -> None:
        super().__init__(REWRITES if composite else REWRITES[: -len(_ROOTS)], accepts=accepts)
