"""Models to files: one weight file beside them, content-addressed, so that model and twin share every tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import onnx
import onnx_ir as ir

import porting
from porting.embedded_weights import blocks, require_readable, write_with_weights
from porting.weights.row_tensor import RowTensor
from porting_passes.quantize_dynamic import QUANTIZED_NUMBERS

WEIGHTS = "weights.bin"
WeightPlace = Literal["beside", "embed", "none"]

# A converter reads shapes, axes and scalars while it parses: they stay in the model file.
_SMALL = 1024
_ALIGNMENT = 64


class WeightFile:
    """Tensors appended to one file, each content once, aligned to 64 bytes. Those that are made by rows pass in blocks.

    A tensor that comes again is not read again. stored=False keeps the book without writing: the references of a model
    whose weights are left out. Those that are made by rows are then not read either, and each has a place of its own.
    """

    def __init__(self, folder: Path, *, stored: bool = True) -> None:
        self._folder = folder
        self._stored = stored
        self._stream: BinaryIO | None = None
        self._end = 0
        self._places: dict[Any, int] = {}
        self._known: dict[int, tuple[ir.TensorProtocol, ir.ExternalTensor]] = {}

    def add(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """The tensor as a reference into the file, written if its bytes are new."""
        if id(tensor) not in self._known:
            # The key is an address, so the tensor is kept alive beside its reference.
            self._known[id(tensor)] = (tensor, self._added(tensor))
        return self._known[id(tensor)][1]

    def _added(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
        key = self._write(tensor, offset)
        if self._places.setdefault(key, offset) == offset:
            self._end = offset + tensor.nbytes
        return ir.ExternalTensor(
            location=WEIGHTS,
            offset=self._places[key],
            length=tensor.nbytes,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=self._folder,
        )

    def _write(self, tensor: ir.TensorProtocol, offset: int) -> Any:
        """The key of the content. What is written at ``offset`` counts only if the content is new."""
        if not self._stored and isinstance(tensor, RowTensor):
            return id(tensor)
        digest = hashlib.sha256()
        if self._stored and self._stream is None:
            self._stream = (self._folder / WEIGHTS).open("wb")
        if self._stream is not None:
            self._stream.seek(self._end)
            self._stream.truncate()
            self._stream.write(b"\0" * (offset - self._end))
        for block in _blocks(tensor):
            digest.update(block)
            if self._stream is not None:
                self._stream.write(block)
        return digest.digest(), tensor.nbytes

    def close(self) -> None:
        """Flush and close; a file that holds nothing is not made."""
        if self._stream is not None:
            self._stream.truncate(self._end)
            self._stream.close()
            self._stream = None


def _blocks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    if isinstance(tensor, RowTensor):
        yield from blocks(tensor)
    else:
        yield tensor.tobytes()


def write_model(model: ir.Model, path: Path, weights: WeightFile | None) -> None:
    """Write ``model`` to ``path``: bytes depend on nothing but the model.

    weights=None embeds every tensor, a checkpoint's by blocks; a file that is then too large for protobuf is a
    UsageError.
    The exporter's own metadata is left out: it holds paths of the machine and is in provenance.jsonl.
    """
    originals: list[tuple[ir.Value, ir.TensorProtocol]] = []
    embedded: dict[str, RowTensor] = {}
    try:
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.dtype == ir.DataType.STRING:
                    continue
                originals.append((value, tensor))
                if weights is None and isinstance(tensor, RowTensor) and graph is model.graph:
                    embedded[str(value.name)] = tensor
                    value.const_value = _nowhere(tensor, str(value.name))
                else:
                    value.const_value = _placed(tensor, weights)
        if weights is None:
            require_readable(sum(tensor.nbytes for _, tensor in originals))
        proto = ir.to_proto(model)
    finally:
        for value, tensor in originals:
            value.const_value = tensor
    _strip(proto.graph)
    for function in proto.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            _strip_node(node)
    proto.ClearField("metadata_props")
    proto.ClearField("doc_string")
    proto.producer_name, proto.producer_version = "porting", porting.__version__
    proto.ir_version = onnx.helper.find_min_ir_version_for(
        [o for o in proto.opset_import if o.domain in ("", "ai.onnx", "ai.onnx.ml")], ignore_unknown=True
    )
    if proto.functions:
        proto.ir_version = max(proto.ir_version, 10 if any(f.overload for f in proto.functions) else 8)
    if not embedded:
        path.write_bytes(proto.SerializeToString(deterministic=True))
        return
    for tensor in proto.graph.initializer:
        if tensor.name in embedded:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    write_with_weights(proto, embedded, path)


def _nowhere(tensor: RowTensor, name: str) -> ir.ExternalTensor:
    """Name, type and shape of a tensor, which serialize without its contents."""
    return ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name)


def _placed(tensor: ir.TensorProtocol, weights: WeightFile | None) -> ir.TensorProtocol:
    """A tensor as the file is to hold it: a reference into the weight file, or its bytes."""
    if weights is not None and (tensor.nbytes > _SMALL or isinstance(tensor, RowTensor)):
        return weights.add(tensor)
    if isinstance(tensor, ir.ExternalTensor):  # the source's data file, which is not beside the new one
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return tensor


def _strip(graph: onnx.GraphProto) -> None:
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    graph.ClearField("quantization_annotation")
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key == QUANTIZED_NUMBERS]
    node.ClearField("metadata_props")
    for key, value in kept:
        node.metadata_props.add(key=key, value=value)
    node.ClearField("doc_string")
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _strip(attribute.g)
        for graph in attribute.graphs:
            _strip(graph)
