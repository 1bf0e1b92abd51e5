"""GlobalAveragePool and GlobalMaxPool by reductions over the spatial axes, and by pools over the whole extent."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition, Run, case, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import rank, required

_IMAGE = case("image", Run((2, 3, 4, 5)))
_FLOAT = (ir.DataType.FLOAT,)
_MEAN = Contract("tolerance", 1e-6, "sums in another order", nonfinite=False)
_MAX = Contract("ulp", 1, "equal but for the sign of a zero; a maximum over NaN is not specified", nonfinite=False)


def _applies(node: ir.Node, opset: int) -> str | None:
    return "the rank of the input is unknown" if rank(node.inputs[0]) is None else None


def _kernel(node: ir.Node) -> list[int] | None:
    extents = (dims_of(required(node, 0)) or ())[2:]
    known = [d for d in extents if isinstance(d, int)]
    return known if known and len(known) == len(extents) else None


def _static(node: ir.Node, opset: int) -> str | None:
    return None if _kernel(node) else "a spatial extent is unknown"


def _average_by_mean(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.reduce("ReduceMean", x, range(2, b.rank_of(x)))]


def _max_by_reduction(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.reduce("ReduceMax", x, range(2, b.rank_of(x)))]


def _average_by_pool(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.AveragePool(required(node, 0), kernel_shape=_kernel(node))]


def _max_by_pool(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.MaxPool(required(node, 0), kernel_shape=_kernel(node))]


DECOMPOSITIONS = (
    Decomposition(
        "global_average_pool_by_mean",
        "GlobalAveragePool",
        _average_by_mean,
        _MEAN,
        examples("GlobalAveragePool", _IMAGE, dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "global_average_pool_by_pool",
        "GlobalAveragePool",
        _average_by_pool,
        _MEAN,
        examples("GlobalAveragePool", _IMAGE, dtypes=_FLOAT),
        _static,
    ),
    Decomposition(
        "global_max_pool_by_max",
        "GlobalMaxPool",
        _max_by_reduction,
        _MAX,
        examples("GlobalMaxPool", _IMAGE, dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "global_max_pool_by_pool",
        "GlobalMaxPool",
        _max_by_pool,
        _MAX,
        examples("GlobalMaxPool", _IMAGE, dtypes=_FLOAT),
        _static,
    ),
)
