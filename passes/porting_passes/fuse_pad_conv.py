"""Pad with zeros, Conv  ->  Conv."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import ints_of
from porting_passes.contract import Contract, Example
from porting_passes.node_facts import attribute, operand, rank
from porting_passes.pattern_facts import number_of, producer
from porting_passes.rewrite import Accepts, Rewrite, RewritePass


def _pads(node: ir.Node, dims: int) -> list[int] | None:
    """Begins and ends of the spatial axes; None unless it pads these only, with constant zeros, by known amounts."""
    if attribute(node, "mode", "constant") != "constant":
        return None
    given, value = ints_of(operand(node, 1)), operand(node, 2)
    if given is None or (value is not None and number_of(value) != 0):
        return None
    axes = list(range(dims)) if operand(node, 3) is None else ints_of(operand(node, 3))
    if axes is None or len(given) != 2 * len(axes):
        return None
    begins, ends = [0] * dims, [0] * dims
    for index, axis in enumerate(axes):
        begins[axis], ends[axis] = given[index], given[index + len(axes)]
    if any(begins[:2] + ends[:2]) or min(begins + ends) < 0:
        return None
    return begins[2:] + ends[2:]


def _total(padded: ir.Value, y: ir.Value) -> list[int] | None:
    """The pads of the fused convolution."""
    conv, x = producer(y), producer(padded).inputs[0]
    dims = rank(x)
    if dims is None or dims < 3 or attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    before = _pads(producer(padded), dims)
    own = attribute(conv, "pads", [0] * (2 * (dims - 2)))
    return None if before is None else [a + b for a, b in zip(before, own, strict=True)]


def _condition(context: Any, padded: ir.Value, y: ir.Value, **_: Any) -> bool:
    return _total(padded, y) is not None


def _replacement(op: Any, x: ir.Value, w: ir.Value, padded: ir.Value, y: ir.Value, bias: Any = None) -> ir.Value:
    kept = {name: attr for name, attr in producer(y).attributes.items() if name not in ("pads", "auto_pad")}
    result: ir.Value = op.Conv(x, w, bias, pads=_total(padded, y), **kept)
    return result


def _pattern(op: Any, x: Any, w: Any) -> Any:
    return op.Conv(op.Pad(x, _allow_other_inputs=True, _outputs=["padded"]), w, _outputs=["y"])


def _pattern_with_bias(op: Any, x: Any, w: Any, bias: Any) -> Any:
    return op.Conv(op.Pad(x, _allow_other_inputs=True, _outputs=["padded"]), w, bias, _outputs=["y"])


def _examples(conv: str) -> Any:
    def text(pad: str, opset: int, shape: str = "[1, 3, 9, 8]", options: str = "") -> str:
        return f"""<ir_version: 10, opset_import: ["": {opset}]> g (float[1, 2, 6, 7] x) => (float{shape} y) {{
            p = {pad} y = Conv{options}({conv}) }}"""

    def make(rng: np.random.Generator) -> Iterable[Example]:
        weights = {"w": rng.standard_normal((3, 2, 1, 2)).astype(np.float32)}
        if "b" in conv:
            weights["b"] = rng.standard_normal(3).astype(np.float32)
        spatial = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 2], np.int64)}
        zero, one = ({"v": np.array(value, np.float32)} for value in (0, 1))
        last = {"pads": np.array([1, 2], np.int64), "axes": np.array([-2], np.int64), **zero}
        only = (ir.DataType.FLOAT,)
        yield Example.from_text("plain", text("Pad(x, pads)", 11), dtypes=only, **weights, **spatial)
        yield Example.from_text("value", text("Pad(x, pads, v)", 13), dtypes=only, **weights, **spatial, **zero)
        padded = text("Pad(x, pads, v, axes)", 18, "[1, 3, 10, 6]", "<pads = [1, 0, 0, 0]>")
        yield Example.from_text("axes", padded, dtypes=only, **weights, **last)
        filled = text("Pad(x, pads, v)", 13)
        yield Example.from_text("ones", filled, applies=False, dtypes=only, **weights, **spatial, **one)
        reflected = text('Pad<mode = "reflect">(x, pads)', 13)
        yield Example.from_text("reflected", reflected, applies=False, dtypes=only, **weights, **spatial)

    return make


_CONTRACT = Contract(
    "tolerance", 2e-6, "the same products, zeros included or not, summed in another order", nonfinite=False
)
REWRITES = (
    Rewrite("fuse_pad_conv", _pattern, _replacement, _CONTRACT, _examples("p, w"), _condition),
    Rewrite("fuse_pad_conv_bias", _pattern_with_bias, _replacement, _CONTRACT, _examples("p, w, b"), _condition),
)


class FusePadConv(RewritePass):
    """Let a convolution do the padding itself.

    1. Constant zeros on spatial axes only: add them to the pads of the convolution.
    2. Another mode or value, negative or computed pads, batch or channel axes, SAME padding in the convolution, or a
       padded value that something else reads: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
