"""ONNX files: read, refuse what is broken or unsafe, and know where every value comes from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from porting.errors import InvalidModelError
from porting.frontends import origin
from porting.frontends.onnx_structure import bodies, check_attributes, check_wiring
from porting.frontends.source import Arrays, Reference, Source
from porting_passes.infer_shapes import InferShapes, without_weights
from porting_passes.scopes import nodes

OLDEST_OPSET = 11
_CHUNK = 1 << 22
_DEFAULT = ("", "ai.onnx")


def load(path: Path) -> Source:
    """Read a model file and whatever external data it names.

    Raises InvalidModelError for a file that is truncated or no ONNX, external data outside the model's folder or
    shorter than the tensors in it, a cycle, a type or shape contradiction, an opset below 11, or NaN in a weight.
    """
    model = read_model(path)
    origin.stamp(model)
    return Source(
        text=str(path),
        kind="onnx",
        model=model,
        digest=_digest(path, model),
        open_reference=lambda: open_reference(path, model),
    )


def read_model(path: Path) -> ir.Model:
    """The file as a model, checked for structure, types, external data and weights."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InvalidModelError(
            f"{path} is not a whole ONNX file",
            required="an onnx.ModelProto",
            met=str(error).splitlines()[0] or "undecodable bytes",
            fix="export or copy it again",
        ) from error
    except OSError as error:
        raise InvalidModelError(f"cannot read {path}", met=error.strerror) from error
    if not proto.opset_import or not proto.HasField("graph"):
        raise InvalidModelError(
            f"{path} is not a whole ONNX file", required="a graph and its opset imports", met="neither or one of them"
        )
    _spell_default_domain(path, proto)
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, tensor)
    _check_structure(path, proto)
    model = _converted(path, proto)
    del proto
    ir.external_data.set_base_dir(model.graph, path.parent)
    _check_opset(path, model)
    check_weights(model)
    _forget_annotations(model)
    return model


def _spell_default_domain(path: Path, proto: onnx.ModelProto) -> None:
    """``ai.onnx`` becomes "", the other spelling of the same domain; a model that imports neither gets one.

    That is the one its functions import, else the oldest there is: it only speaks of nodes that a port may add.
    """
    versions: list[int] = []
    for owner in (proto, *proto.functions):
        for entry in owner.opset_import:
            if entry.domain in _DEFAULT:
                entry.domain = ""
        mine = sorted({entry.version for entry in owner.opset_import if entry.domain == ""}, reverse=True)
        if len(mine) > 1:
            raise InvalidModelError(
                f"{path} imports two opsets of the default domain",
                required="one of them",
                met=" and ".join(map(str, mine)),
                fix="export it again",
            )
        versions += mine
    for graph in _graphs(proto):
        for node in graph.node:
            if node.domain in _DEFAULT:
                node.domain = ""
    if all(entry.domain != "" for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("", max(versions, default=OLDEST_OPSET)))


def _forget_annotations(model: ir.Model) -> None:
    """Replace the types that the file gives to inner values by inferred ones; what cannot be inferred stays.

    An exporter's sample leaves numbers where the inputs have symbols: every shape computed from them would be wrong.
    """
    inner = [v for graph in model.graphs() for node in graph for v in node.outputs if not v.is_graph_output()]
    annotated = [(value, value.type, value.shape) for value in inner]
    for value in inner:
        value.type = value.shape = None
    InferShapes()(model)
    for value, known, shape in annotated:
        value.type = value.type or known
        if value.shape is None:
            value.shape = shape
        elif shape is not None and len(shape) == len(value.shape):
            dims = zip(value.shape, shape, strict=True)
            value.shape = ir.Shape([b if isinstance(a, ir.SymbolicDim) and a.value is None else a for a, b in dims])


def _converted(path: Path, proto: onnx.ModelProto) -> ir.Model:
    """The model in onnx_ir, able to be copied and written: damaged names, references and tensors show in doing so."""
    try:
        model: ir.Model = ir.from_proto(proto)
        _own_tensors(model)
        with without_weights(model):
            ir.to_proto(model.clone()).SerializeToString()
    except Exception as error:
        raise InvalidModelError(
            f"{path} is not a well-formed ONNX model",
            required="what onnx.checker.check_model accepts",
            met=_essence(str(error.__cause__ or error))[:200] or type(error).__name__,
            fix="export or copy it again",
        ) from error
    return model


def _own_tensors(model: ir.Model) -> None:
    """Take tensors out of the protobuf message: it keeps all its memory for as long as one tensor refers to it."""

    def own(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
        if not isinstance(tensor, ir.TensorProtoTensor) or tensor.dtype.bitwidth < 8:
            return tensor
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)

    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = own(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and attribute.value is not None:
                    node.attributes[name] = ir.Attr(name, attribute.type, own(attribute.value))


def check_weights(model: ir.Model) -> None:
    """Refuse NaN in any floating constant, initializers and attributes, naming all. Infinities are masks and stay."""
    bad = []
    for name, tensor in _constants(model):
        if not tensor.dtype.is_floating_point():
            continue
        array = tensor.numpy()
        if array.dtype.itemsize >= 2:
            count = int(np.count_nonzero(np.isnan(array.astype(np.float32, copy=False))))
            if count:
                bad.append(f"{name} ({count} of {array.size})")
    if bad:
        raise InvalidModelError(
            "NaN in weights", required="finite weights", met=", ".join(bad), fix="repair the checkpoint"
        )


def _constants(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every tensor of the model, subgraphs and functions included, with the name of its value or of its node."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
    for node, _ in nodes(model):
        name = node.name or next((v.name for v in node.outputs if v.name), node.op_type)
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield name, attribute.as_tensor()
            elif attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
                yield name, ir.tensor(np.asarray(attribute.value, np.float32).reshape(-1))


def open_reference(path: Path, model: ir.Model) -> Reference:
    """Stock onnxruntime on the file; where it refuses the model our interpreter, and then the name says so."""
    from porting import stock_runtime

    try:
        session = stock_runtime.open_session(path)
    except stock_runtime.RefusedError as refusal:
        return _interpreted(model, str(refusal))
    return Reference(stock_runtime.NAME, lambda inputs: stock_runtime.run(session, inputs))


def _interpreted(model: ir.Model, refusal: str) -> Reference:
    from porting.simulation.interpreter import Interpreter
    from porting_kernels import dtypes

    interpreter = Interpreter(model)
    codes = {str(v.name): v.dtype for v in model.graph.outputs}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        return {name: dtypes.to_numpy(t, codes[name]) for name, t in interpreter.run(inputs).items()}

    return Reference(f"our interpreter, not independent: onnxruntime refuses the source ({refusal})", run)


def _graphs(
    scope: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The scope, or a model's graph and functions, and every graph inside its nodes."""
    if isinstance(scope, onnx.ModelProto):
        for part in (scope.graph, *scope.functions):
            yield from _graphs(part)
        return
    yield scope
    for node in scope.node:
        for body in bodies(node):
            yield from _graphs(body)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for scope in _graphs(proto):
        if isinstance(scope, onnx.GraphProto):
            yield from scope.initializer
            for sparse in scope.sparse_initializer:
                yield sparse.values
                yield sparse.indices
        for node in scope.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _check_external(path: Path, tensor: onnx.TensorProto) -> None:
    entries = {e.key: e.value for e in tensor.external_data}
    where = f"tensor {tensor.name!r} of {path}"
    if not all(isinstance(text, str) for entry in entries.items() for text in entry):
        raise InvalidModelError(
            "external data is ill-described", required="text in UTF-8", met=str(entries), where=where
        )
    location = entries.get("location", "")
    folder = path.parent.resolve()
    target = (folder / location).resolve()
    if not location or os.path.isabs(location) or not target.is_relative_to(folder):
        raise InvalidModelError(
            "external data outside the model's folder is refused",
            required=f"a file below {folder}",
            met=location or "no location",
            where=where,
            fix="move the data beside the model and save it with relative locations",
        )
    if not target.is_file():
        met = "not a regular file" if target.exists() else "no such file"
        raise InvalidModelError("external data is missing", required=str(target), met=met, where=where)
    try:
        offset = int(entries.get("offset", 0))
        dtype = ir.DataType(tensor.data_type)
        need = int(np.prod(tensor.dims, dtype=np.int64)) * dtype.bitwidth
        length = int(entries.get("length", (need + 7) // 8))
    except (TypeError, ValueError) as error:
        raise InvalidModelError("external data is ill-described", met=str(error), where=where) from error
    have = target.stat().st_size
    if offset < 0 or length < 0 or length * 8 < need or offset + length > have:
        raise InvalidModelError(
            "external data is shorter than its tensor",
            required=f"{(need + 7) // 8} bytes from offset {offset}",
            met=f"length {length} in a file of {have} bytes",
            where=where,
            fix="copy the data file again",
        )


def _check_structure(path: Path, proto: onnx.ModelProto) -> None:
    for scope in _graphs(proto):
        _check_acyclic(path, scope)
    check_wiring(path, proto)
    check_attributes(path, proto)
    skeleton = _without_large_weights(proto)
    try:
        onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidModelError(
            f"{path} contradicts itself: a type or a shape cannot be right",
            met=_essence(str(error)),
            fix="run onnx.checker.check_model(path, full_check=True) on it",
        ) from error


def _essence(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:4])


def _without_large_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for inference: initializers above 4 KiB become declared inputs, so no protobuf limit is met."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto) if proto.ByteSize() < 1 << 20 else _copy_bare(proto, bare)
    return bare


def _copy_bare(proto: onnx.ModelProto, bare: onnx.ModelProto) -> None:
    bare.ir_version = max(proto.ir_version, 4)
    bare.opset_import.extend(proto.opset_import)
    bare.functions.extend(proto.functions)
    graph = bare.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    declared = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and len(tensor.raw_data) <= 4096:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _read(node: onnx.NodeProto) -> set[str]:
    """The names that a node waits for; those that its bodies capture are among them."""
    inside = {name for body in bodies(node) for inner in body.node for name in _read(inner)}
    return inside | {name for body in bodies(node) for name in (v.name for v in body.output)} | set(node.input)


def _check_acyclic(path: Path, graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Kahn's algorithm over names; what is left over lies on or behind a cycle."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    uses: dict[int, list[int]] = {}
    missing = [0] * len(graph.node)
    for i, node in enumerate(graph.node):
        for name in _read(node):
            if name in producer:
                uses.setdefault(producer[name], []).append(i)
                missing[i] += 1
    ready = [i for i, count in enumerate(missing) if count == 0]
    done = 0
    while ready:
        done += 1
        for user in uses.get(ready.pop(), ()):
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if done < len(graph.node):
        stuck = [str(n.name or n.output[0]) for i, n in enumerate(graph.node) if missing[i] > 0]
        raise InvalidModelError(
            f"{path} has a cycle",
            required="an acyclic graph",
            met=f"{len(stuck)} nodes wait for each other: {', '.join(stuck[:8])}{' ...' if len(stuck) > 8 else ''}",
        )


def _check_opset(path: Path, model: ir.Model) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is not None and not OLDEST_OPSET <= version <= newest:
        raise InvalidModelError(
            f"{path} has opset {version}",
            required=f"{OLDEST_OPSET} to {newest} (onnx {onnx.__version__})",
            met=version,
            fix="export again" if version < OLDEST_OPSET else "install a newer onnx",
        )


def _digest(path: Path, model: ir.Model) -> str:
    files = {path}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                files.add(Path(value.const_value.path))
    digest = hashlib.sha256()
    for file in [path, *sorted(files - {path})]:
        with open(file, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
