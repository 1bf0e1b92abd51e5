"""A model file with a checkpoint's weights inside, written without ever holding one of them.

Protobuf's own writer wants the whole file in memory, several times. The format is simple enough to write around it: a
message is its fields one after the other, each a tag, a length and so many bytes, and all lengths are known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch

from porting.errors import UsageError
from porting.weights.row_tensor import STREAM, RowTensor

LIMIT = (1 << 31) - 1
"""Bytes that protobuf reads as one message."""
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def write_with_weights(proto: onnx.ModelProto, weights: Mapping[str, RowTensor], path: Path) -> None:
    """Write ``proto``; the main graph's initializers of these names get the contents of the views.

    proto: is taken apart. Raises UsageError, with nothing written, when the file would be larger than protobuf reads.
    """
    tensors = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    heads = [tensor.SerializeToString(deterministic=True) for tensor in tensors]
    views = [weights.get(tensor.name) for tensor in tensors]
    sizes = [
        len(head) + (0 if view is None else len(_field(_RAW_DATA, view.nbytes)) + view.nbytes)
        for head, view in zip(heads, views, strict=True)
    ]
    graph = proto.graph.SerializeToString(deterministic=True)
    length = len(graph) + sum(len(_field(_INITIALIZER, size)) + size for size in sizes)
    proto.ClearField("graph")
    model = proto.SerializeToString(deterministic=True)
    require_readable(len(model) + len(_field(_GRAPH, length)) + length)
    with path.open("wb") as file:
        file.write(model + _field(_GRAPH, length) + graph)
        for head, view, size in zip(heads, views, sizes, strict=True):
            file.write(_field(_INITIALIZER, size) + head)
            if view is not None:
                file.write(_field(_RAW_DATA, view.nbytes))
                for block in blocks(view):
                    file.write(block)


def require_readable(size: int) -> None:
    """Raise UsageError when a model file of so many bytes is more than protobuf reads."""
    if size > LIMIT:
        raise UsageError(
            "the weights do not fit inside the model file",
            required=f"at most {LIMIT} bytes, which is what protobuf reads",
            met=f"{size} bytes",
            fix="without --weights embed they are written beside it, to weights.bin",
        )


def blocks(view: RowTensor) -> Iterator[memoryview]:
    """The bytes of a weight, a few rows at a time."""
    for _, rows in view.blocks(STREAM):
        yield rows.view(-1).view(torch.uint8).numpy().data


def _field(number: int, length: int) -> bytes:
    """What stands before so many bytes of a field: its tag and its length, as varints."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that there are more."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
