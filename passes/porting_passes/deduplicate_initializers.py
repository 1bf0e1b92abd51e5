"""Keep one of each group of equal weights."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Mapping, Set

import numpy as np
import onnx_ir as ir

from porting_passes.constants import stays_on_disk
from porting_passes.scopes import subgraphs
from porting_passes.splice import absorb

_Kind = tuple[ir.DataType, tuple[int, ...]]
_Key = tuple[_Kind, bytes]
_SAMPLES = 64


class DeduplicateInitializers(ir.passes.InPlacePass):
    """Initializers of the same dtype, shape and bytes become one: the first in order, outer graphs before inner ones.

    1. Equal bytes only: 0.0 and -0.0 differ, NaNs are equal when their bits are.
    2. A weight is read only when another one agrees with it in dtype and shape, and whole only when it also agrees in
       a few sampled elements. These are its key in an index, so the cost grows with the number of weights.
    3. Initializers that are graph inputs (defaults) or graph outputs stay. So do those above ``limit`` bytes, and
       weights that stay in a checkpoint.
    """

    def __init__(self, *, limit: int | None = None) -> None:
        super().__init__()
        self._limit = limit

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Merge in place."""
        kinds = collections.Counter(
            _kind(value.const_value)
            for graph in model.graphs()
            for value in graph.initializers.values()
            if value.const_value is not None and not stays_on_disk(value.const_value)
        )
        shared = frozenset(kind for kind, count in kinds.items() if count > 1)
        return ir.passes.PassResult(model, self._merge(model.graph, {}, shared))

    def _merge(self, graph: ir.Graph, outer: Mapping[_Key, list[ir.Value]], shared: Set[_Kind]) -> bool:
        """Merge the initializers of ``graph`` with earlier ones and with those visible from outer graphs."""
        visible = {key: list(values) for key, values in outer.items()}
        digests: dict[ir.Value, bytes] = {}
        modified = False
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or value.is_graph_output() or stays_on_disk(tensor):
                continue
            if tensor.dtype == ir.DataType.STRING or (self._limit is not None and tensor.nbytes > self._limit):
                continue
            kind = _kind(tensor)
            if kind not in shared:
                continue
            candidates = visible.setdefault((kind, _sample(tensor)), [])
            kept = next((other for other in candidates if _equal(other, value, digests)), None)
            if kept is None:
                candidates.append(value)
                continue
            absorb(kept, value, "deduplicate_initializers")
            value.replace_all_uses_with(kept)
            del graph.initializers[name]
            modified = True
        for node in graph:
            for body in subgraphs(node):
                modified |= self._merge(body, visible, shared)
        return modified


def _kind(tensor: ir.TensorProtocol) -> _Kind:
    return tensor.dtype, tuple(tensor.shape.numpy())


def _equal(a: ir.Value, b: ir.Value, digests: dict[ir.Value, bytes]) -> bool:
    first, second = a.const_value, b.const_value
    if first is None or second is None:
        return False
    if first is second:
        return True
    if isinstance(first, ir.ExternalTensor) and _place(first) == _place(second):
        return True
    return _digest(a, digests) == _digest(b, digests)


def _place(tensor: ir.TensorProtocol) -> tuple[object, ...] | None:
    return (tensor.path, tensor.offset, tensor.length) if isinstance(tensor, ir.ExternalTensor) else None


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """A few elements spread over the tensor: unequal weights nearly always differ here."""
    flat = tensor.numpy().reshape(-1)
    return flat[:: max(1, flat.size // _SAMPLES)].tobytes()


def _digest(value: ir.Value, digests: dict[ir.Value, bytes]) -> bytes:
    if value not in digests:
        tensor = value.const_value
        array = np.ascontiguousarray(tensor.numpy()) if tensor is not None else np.empty(0)
        digests[value] = hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
    return digests[value]
