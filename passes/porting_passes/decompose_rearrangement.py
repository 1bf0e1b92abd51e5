"""DepthToSpace, SpaceToDepth, Flatten, Squeeze and Unsqueeze by Reshape and Transpose; Split by Slice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.contract import EXACT
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import Dims, dims_of
from porting_passes.node_facts import attribute, operand, rank, required, reshape_target, small_constant

_FLOAT = (ir.DataType.FLOAT,)


def _blocks(node: ir.Node, opset: int) -> str | None:
    dims = dims_of(required(node, 0))
    if dims is None or len(dims) != 4 or not all(isinstance(d, int) for d in dims[1:]):
        return "channels, height and width are not all known"
    return None


def _chw(node: ir.Node) -> tuple[int, int, int, int]:
    dims = dims_of(required(node, 0)) or ()
    channels, height, width = (d for d in dims[1:] if isinstance(d, int))
    return channels, height, width, attribute(node, "blocksize")


def _depth_to_space(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    c, h, w, s = _chw(node)
    if attribute(node, "mode", "DCR") == "DCR":
        shape, perm = [0, s, s, c // (s * s), h, w], [0, 3, 4, 1, 5, 2]
    else:
        shape, perm = [0, c // (s * s), s, s, h, w], [0, 1, 4, 2, 5, 3]
    parts = b.transpose(b.reshape(required(node, 0), shape), perm)
    return [b.reshape(parts, [0, c // (s * s), h * s, w * s])]


def _space_to_depth(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    c, h, w, s = _chw(node)
    perm = [0, 3, 5, 1, 2, 4] if attribute(node, "mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    parts = b.transpose(b.reshape(required(node, 0), [0, c, h // s, s, w // s, s]), perm)
    return [b.reshape(parts, [0, c * s * s, h // s, w // s])]


def _flat_dims(node: ir.Node) -> Dims | None:
    dims = dims_of(required(node, 0))
    if dims is None:
        return None
    axis = attribute(node, "axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return (_product(dims[:axis]), _product(dims[axis:]))


def _product(dims: Dims) -> int | str | None:
    if len(dims) == 1:
        return dims[0]
    known = [d for d in dims if isinstance(d, int)]
    return int(np.prod(known, dtype=np.int64)) if len(known) == len(dims) else None


def _flatten(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.reshape(required(node, 0), _target(node, _flat_dims(node)))]


def _target(node: ir.Node, dims: Dims | None) -> list[int]:
    target = "the rank of the input is unknown" if dims is None else reshape_target(required(node, 0), dims)
    if isinstance(target, str):
        raise BuildError(target)
    return target


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of a Squeeze or Unsqueeze in either form; None when there are none or they are not constant."""
    axes = attribute(node, "axes")
    if axes is None:
        given = small_constant(operand(node, 1))
        axes = None if given is None else given.reshape(-1).tolist()
    return None if axes is None else list(axes)


def _squeezed_dims(node: ir.Node) -> Dims | None:
    dims = dims_of(required(node, 0))
    if dims is None:
        return None
    axes = axes_of(node)
    if axes is None:
        if operand(node, 1) is not None or not all(isinstance(d, int) for d in dims):
            return None
        return tuple(d for d in dims if d != 1)
    gone = {axis % len(dims) for axis in axes}
    return tuple(d for index, d in enumerate(dims) if index not in gone)


def _unsqueezed_dims(node: ir.Node) -> Dims | None:
    dims, axes = dims_of(required(node, 0)), axes_of(node)
    if dims is None or axes is None:
        return None
    total = len(dims) + len(axes)
    new, rest = {axis % total for axis in axes}, iter(dims)
    return tuple(1 if index in new else next(rest) for index in range(total))


def _squeeze(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.reshape(required(node, 0), _target(node, _squeezed_dims(node)))]


def _unsqueeze(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.reshape(required(node, 0), _target(node, _unsqueezed_dims(node)))]


def _sizes(node: ir.Node) -> list[int] | str:
    """The extents of the parts of a Split, or why they are unknown."""
    sizes, given = attribute(node, "split"), operand(node, 1)
    if sizes is not None:
        return list(sizes)
    if given is not None:
        constant = small_constant(given)
        return "the sizes are not a constant" if constant is None else constant.tolist()
    dims = dims_of(required(node, 0))
    extent = None if dims is None else dims[attribute(node, "axis", 0)]
    if not isinstance(extent, int):
        return "the extent that is split is unknown"
    parts = len(node.outputs)
    size = -(-extent // parts)
    return [max(min(size, extent - size * index), 0) for index in range(parts)]


def _split_applies(node: ir.Node, opset: int) -> str | None:
    sizes = _sizes(node)
    return sizes if isinstance(sizes, str) else None


def _split(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    sizes, axis = _sizes(node), attribute(node, "axis", 0)
    assert not isinstance(sizes, str), sizes
    if axis < 0 and rank(node.inputs[0]) is not None:
        axis += b.rank_of(required(node, 0))
    starts = np.cumsum([0, *sizes]).tolist()
    return [b.slice(required(node, 0), axis, low, high) for low, high in itertools.pairwise(starts)]


_SIZES = np.array([1, 4], np.int64)

DECOMPOSITIONS = (
    Decomposition(
        "depth_to_space_by_transpose",
        "DepthToSpace",
        _depth_to_space,
        EXACT,
        examples(
            "DepthToSpace",
            case("depth first", Run((2, 8, 2, 3)), blocksize=2),
            case("column first", Run((2, 8, 2, 3)), blocksize=2, mode="CRD"),
            dtypes=_FLOAT,
        ),
        _blocks,
    ),
    Decomposition(
        "space_to_depth_by_transpose",
        "SpaceToDepth",
        _space_to_depth,
        EXACT,
        examples(
            "SpaceToDepth",
            case("depth first", Run((2, 3, 4, 6)), blocksize=2),
            Case("column first", (Run((2, 3, 4, 6)),), {"blocksize": 2, "mode": "CRD"}, opsets=(28,)),
            dtypes=_FLOAT,
        ),
        _blocks,
    ),
    Decomposition(
        "flatten_by_reshape",
        "Flatten",
        _flatten,
        EXACT,
        examples(
            "Flatten",
            case("default", Run((2, 3, 4))),
            case("all", Run((2, 3, 4)), axis=0),
            case("last", Run((2, 3, 4)), axis=-1),
            dtypes=_FLOAT,
        ),
    ),
    Decomposition(
        "squeeze_by_reshape",
        "Squeeze",
        _squeeze,
        EXACT,
        examples(
            "Squeeze",
            Case("attribute", (Run((2, 1, 4, 1)),), {"axes": [-1]}, opsets=(11,)),
            case("input", Run((2, 1, 4, 1)), np.array([1], np.int64)),
            case("every", Run((2, 1, 4, 1))),
            dtypes=_FLOAT,
        ),
    ),
    Decomposition(
        "unsqueeze_by_reshape",
        "Unsqueeze",
        _unsqueeze,
        EXACT,
        examples(
            "Unsqueeze",
            Case("attribute", (Run((2, 4)),), {"axes": [0, 3]}, opsets=(11,)),
            case("input", Run((2, 4)), np.array([-1, 1], np.int64)),
            case("scalar axis", Run((2, 4)), np.array(1, np.int64)),
            dtypes=_FLOAT,
        ),
    ),
    Decomposition(
        "split_by_slice",
        "Split",
        _split,
        EXACT,
        examples(
            "Split",
            Case("attribute", (Run((3, 5)),), {"axis": 1, "split": [1, 4]}, outputs=2, opsets=(11,)),
            Case("input", (Run((3, 5)), _SIZES), {"axis": -1}, outputs=2, opsets=(13, 18)),
            Case("equal parts", (Run((4, 5)),), outputs=2, opsets=(11, 13)),
            Case("count", (Run((5, 2)),), {"num_outputs": 2}, outputs=2),
            dtypes=_FLOAT,
        ),
        _split_applies,
    ),
)
