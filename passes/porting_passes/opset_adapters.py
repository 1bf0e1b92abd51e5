"""What changed in an operator from one opset to the next, and how a node crosses that change, up and down.

Only changes of form or meaning stand here. Everything else that differs between two versions of a schema is a wider
list of types or a new attribute whose default is the old meaning; :mod:`convert_opset` verifies that on the node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.inference import constant_tensor, dims_of
from porting_passes.node_facts import attribute, operand, rank, required, static_dims, used

Build = Callable[[Builder, ir.Node], list[ir.Value | None] | None]
"""(builder at the version after the change, node) -> new outputs; None leaves the node as it is.
Raises BuildError where the node cannot cross."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A change that opset ``version`` made to an operator. up, down: None where the node crosses as it is."""

    op_type: str
    version: int
    up: Build | None
    down: Build | None


def _kept(node: ir.Node, *without: str) -> dict[str, ir.Attr]:
    return {name: a for name, a in node.attributes.items() if name not in without}


def _axes_to_input(op_type: str, name: str = "axes", at: int = 1) -> Build:
    def up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
        axes = attribute(node, name)
        inputs = list(node.inputs[:at])
        if axes is not None:
            inputs += [None] * (at - len(inputs)) + [b.constant(list(axes), ir.DataType.INT64)]
        return list(b.emit(op_type, inputs, dict(_kept(node, name)), outputs=len(node.outputs)))

    return up


def _axes_to_attribute(op_type: str, name: str = "axes", at: int = 1) -> Build:
    def down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
        attributes = dict(_kept(node, "noop_with_empty_axes", "num_outputs"))
        value = operand(node, at)
        if value is not None:
            tensor = constant_tensor(value)
            if tensor is None:
                raise BuildError(f"{name} is computed at run time; before it was an attribute")
            axes = [int(i) for i in tensor.numpy().reshape(-1)]
            if axes:
                attributes[name] = ir.AttrInt64s(name, axes)
            value = value if axes else None
        if value is None and attribute(node, "noop_with_empty_axes", 0):
            raise BuildError("noop_with_empty_axes without axes has no older form")
        return list(b.emit(op_type, node.inputs[:at], attributes, outputs=len(node.outputs)))

    return down


def _split_up(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    if operand(node, 1) is not None:
        return None
    count = ir.AttrInt64("num_outputs", len(node.outputs))
    return list(b.emit("Split", node.inputs, {**_kept(node), "num_outputs": count}, outputs=len(node.outputs)))


def _split_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """num_outputs splits evenly, the last part taking what is left; before there is only an equal split or sizes."""
    if operand(node, 1) is not None:
        return None
    x = required(node, 0)
    dims, axis = dims_of(x), attribute(node, "axis", 0)
    extent = None if dims is None else dims[axis]
    count = len(node.outputs)
    inputs: list[ir.Value | None] = [x]
    if isinstance(extent, int) and extent % count:
        part = -(-extent // count)
        inputs.append(b.constant([part] * (count - 1) + [extent - part * (count - 1)], ir.DataType.INT64))
    elif not isinstance(extent, int):
        raise BuildError("num_outputs over an extent that is not known has no older form")
    return list(b.emit("Split", inputs, dict(_kept(node, "num_outputs")), outputs=count))


def _softmax_up(op_type: str) -> Build:
    def up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
        """Before 13 the axes from ``axis`` on were flattened into one."""
        x, axis, size = required(node, 0), attribute(node, "axis", 1), rank(required(node, 0))
        if axis == -1 or (size is not None and axis == size - 1):
            return [b.emit(op_type, [x], {"axis": -1})[0]]
        flat = b.emit("Flatten", [x], {"axis": axis})[0]
        return [b.Reshape(b.emit(op_type, [flat], {"axis": -1})[0], b.Shape(x))]

    return up


def _softmax_down(op_type: str) -> Build:
    def down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
        x, axis, size = required(node, 0), attribute(node, "axis", -1), rank(required(node, 0))
        if axis == -1 or (size is not None and axis == size - 1):
            return [b.emit(op_type, [x], {"axis": axis})[0]]
        if size is None:
            raise BuildError("the rank is not known")
        axis %= size
        order = [i for i in range(size) if i != axis] + [axis]
        moved = b.emit(op_type, [b.Transpose(x, perm=order)], {"axis": size - 1})[0]
        return [b.Transpose(moved, perm=[order.index(i) for i in range(size)])]

    return down


def _batch_norm_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    if attribute(node, "training_mode", 0):
        raise BuildError("training_mode 1 has no older form")
    y = b.emit("BatchNormalization", node.inputs, dict(_kept(node, "training_mode")))[0]
    return [y, *[None] * (len(node.outputs) - 1)]


def _batch_norm_up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    if any(used(v) for v in node.outputs[1:]):
        raise BuildError("statistics of training are read")
    y = b.emit("BatchNormalization", node.inputs, dict(_kept(node)))[0]
    return [y, *[None] * (len(node.outputs) - 1)]


def _dropout_up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    ratio = b.constant(attribute(node, "ratio", 0.5), ir.DataType.FLOAT)
    return list(b.emit("Dropout", [required(node, 0), ratio], {}, outputs=len(node.outputs)))


def _dropout_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    training = operand(node, 2)
    tensor = None if training is None else constant_tensor(training)
    if training is not None and (tensor is None or bool(tensor.numpy())):
        raise BuildError("training_mode may be true")
    return list(b.emit("Dropout", node.inputs[:1], {}, outputs=len(node.outputs)))


def _pad_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    axes, pads, size = operand(node, 3), constant_tensor(operand(node, 1)), rank(operand(node, 0))
    if axes is None:
        return None
    chosen = constant_tensor(axes)
    if chosen is None or pads is None or size is None:
        raise BuildError("axes or pads computed at run time have no older form")
    full = np.zeros((2, size), np.int64)
    full[:, [int(a) % size for a in chosen.numpy()]] = pads.numpy().reshape(2, -1)
    inputs = [node.inputs[0], b.constant(full.reshape(-1), ir.DataType.INT64), operand(node, 2)]
    return [b.emit("Pad", inputs, dict(_kept(node)))[0]]


def _refuse(name: str, *values: str) -> Build:
    """The node crosses unless the attribute has one of these values, which mean nothing on the other side."""

    def cross(b: Builder, node: ir.Node) -> None:
        if attribute(node, name) in values:
            raise BuildError(f"{name} {attribute(node, name)!r} does not exist there")

    return cross


def _renamed(op_type: str, name: str, values: dict[str, str]) -> Build:
    def cross(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
        value = attribute(node, name)
        if value not in values:
            return None
        return list(b.emit(op_type, node.inputs, {**_kept(node), name: ir.AttrString(name, values[value])}))

    return cross


def _reshape_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    if attribute(node, "allowzero", 0):
        shape = constant_tensor(operand(node, 1))
        if shape is None or 0 in shape.numpy():
            raise BuildError("allowzero 1 has no older form")
    return [b.emit("Reshape", node.inputs, {})[0]]


def _shape_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    """start and end are those of a Slice of the shape."""
    start, end = attribute(node, "start", 0), attribute(node, "end")
    shape = b.emit("Shape", node.inputs, {})[0]
    if start == 0 and end is None:
        return [shape]
    bounds = [
        b.constant([bound], ir.DataType.INT64) for bound in (start, np.iinfo(np.int64).max if end is None else end)
    ]
    return [b.emit("Slice", [shape, *bounds], {})[0]]


def _resize_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """Before 18 scales and sizes speak of every axis."""
    axes = attribute(node, "axes")
    if axes is None:
        return None
    x, size = required(node, 0), rank(required(node, 0))
    dims = static_dims(x)
    if size is None or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise BuildError("axes without a known rank, or with an aspect ratio to keep, have no older form")
    at = [int(axis) % size for axis in axes]
    plain: list[np.ndarray | None] = [
        np.repeat([[0.0], [1.0]], size, axis=1),
        np.ones((1, size)),
        None if dims is None else np.array([dims]),
    ]
    inputs: list[ir.Value | None] = [x]
    for index, full in enumerate(plain, start=1):
        value = operand(node, index)
        if value is not None and static_dims(value) != (0,):
            tensor = constant_tensor(value)
            if tensor is None or full is None:
                raise BuildError("axes with values computed at run time, or with unknown extents, have no older form")
            full[:, at] = tensor.numpy().reshape(len(full), -1)
            value = b.constant(full.reshape(-1), tensor.dtype)
        inputs.append(value)
    return [b.emit("Resize", inputs, dict(_kept(node, "axes", "keep_aspect_ratio_policy")))[0]]


def _resize_to_11(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    """roi and scales became optional at 13; before, an empty tensor says that they are absent."""
    inputs = [*node.inputs, *[None] * (4 - len(node.inputs))]
    for index in (1, 2):
        if inputs[index] is None:
            inputs[index] = b.constant(np.zeros(0), ir.DataType.FLOAT)
    return [b.emit("Resize", inputs, dict(_kept(node)))[0]]


def _resize_up(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """tf_half_pixel_for_nn is gone at 13; an empty scales beside sizes is refused from 18 on."""
    if attribute(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise BuildError("coordinate_transformation_mode 'tf_half_pixel_for_nn' is gone")
    inputs = [None if v is not None and static_dims(v) == (0,) else v for v in node.inputs]
    return [b.emit("Resize", inputs, dict(_kept(node)))[0]]


def _roi_align_up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    mode = ir.AttrString("coordinate_transformation_mode", "output_half_pixel")
    return [b.emit("RoiAlign", node.inputs, {**_kept(node), mode.name: mode})[0]]


def _roi_align_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        raise BuildError("only coordinate_transformation_mode 'output_half_pixel' has an older form")
    return [b.emit("RoiAlign", node.inputs, dict(_kept(node, "coordinate_transformation_mode")))[0]]


def _group_norm_up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    """Before 21 scale and bias had one element a group."""
    dims = dims_of(required(node, 0))
    channels, groups = (dims or (None, None))[1], attribute(node, "num_groups")
    if not isinstance(channels, int):
        raise BuildError("the number of channels is not known")
    index = b.constant(np.repeat(np.arange(groups), channels // groups), ir.DataType.INT64)
    spread = [b.emit("Gather", [required(node, i), index], {"axis": 0})[0] for i in (1, 2)]
    return [b.emit("GroupNormalization", [node.inputs[0], *spread], dict(_kept(node)))[0]]


def _grid_sample_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    if rank(required(node, 0)) != 4:
        raise BuildError("only images (rank 4) have an older form")
    return _renamed("GridSample", "mode", {"linear": "bilinear", "cubic": "bicubic"})(b, node)


def _quantize_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """Before 21 only the zero point says what type comes out."""
    chosen = attribute(node, "output_dtype", 0)
    if not chosen:
        return None
    scale, zero = required(node, 1), operand(node, 2)
    if zero is None:
        dims = static_dims(scale)
        if dims is None:
            raise BuildError("output_dtype beside scales of unknown shape has no older form")
        zero = b.constant(np.zeros(dims), ir.DataType(chosen))
    return [b.emit("QuantizeLinear", [required(node, 0), scale, zero], dict(_kept(node, "output_dtype")))[0]]


def _dequantize_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """Before 23 only the scale says what type comes out."""
    chosen, scale = attribute(node, "output_dtype", 0), required(node, 1)
    if chosen and scale.dtype != chosen:
        raise BuildError("an output of another dtype than the scale has no older form")
    return [b.emit("DequantizeLinear", node.inputs, dict(_kept(node, "output_dtype")))[0]]


def _one_scale(op_type: str) -> Build:
    def down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
        """Before 13 there was one scale for the whole tensor."""
        if rank(required(node, 1)) != 0:
            raise BuildError("scales along an axis have no older form")
        return [b.emit(op_type, node.inputs, dict(_kept(node, "axis")))[0]]

    return down


def _constant_down(b: Builder, node: ir.Node) -> list[ir.Value | None] | None:
    """Before 12 a Constant held tensors only."""
    if "value" in node.attributes or "sparse_value" in node.attributes:
        return None
    tensor = constant_tensor(node.outputs[0])
    if tensor is None:
        raise BuildError("its value is not known")
    return [b.emit("Constant", [], {"value": ir.AttrTensor("value", tensor)})[0]]


def _dft_up(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    axis = b.constant(attribute(node, "axis", 1), ir.DataType.INT64)
    return [b.emit("DFT", [required(node, 0), operand(node, 1), axis], dict(_kept(node, "axis")))[0]]


def _dft_down(b: Builder, node: ir.Node) -> list[ir.Value | None]:
    """The default was axis 1; from 20 on it is the last axis before the one of complex parts."""
    value, size = operand(node, 2), rank(required(node, 0))
    tensor = None if value is None else constant_tensor(value)
    if size is None or (value is not None and tensor is None):
        raise BuildError("an axis or a rank known only at run time has no older form")
    axis = -2 if tensor is None else int(tensor.numpy())
    attributes = {**_kept(node), "axis": ir.AttrInt64("axis", axis % size)}
    return [b.emit("DFT", node.inputs[:2], dict(attributes))[0]]


def _refuse_all(text: str) -> Build:
    def cross(b: Builder, node: ir.Node) -> None:
        raise BuildError(text)

    return cross


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_no_group_norm = _refuse_all("scale and bias of one element a channel have no older form")

CHANGES: tuple[Change, ...] = (
    *(Change(op, 13, _axes_to_input(op), _axes_to_attribute(op)) for op in ("Squeeze", "Unsqueeze", "ReduceSum")),
    *(Change(op, 18, _axes_to_input(op), _axes_to_attribute(op)) for op in _REDUCTIONS),
    Change("Split", 13, _axes_to_input("Split", "split"), _axes_to_attribute("Split", "split")),
    Change("Split", 18, _split_up, _split_down),
    *(Change(op, 13, _softmax_up(op), _softmax_down(op)) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    Change("BatchNormalization", 14, _batch_norm_up, _batch_norm_down),
    Change("Dropout", 12, _dropout_up, _dropout_down),
    Change("Pad", 18, None, _pad_down),
    Change("Pad", 19, None, _refuse("mode", "wrap")),
    Change("Reshape", 14, None, _reshape_down),
    Change("Shape", 15, None, _shape_down),
    Change("Resize", 13, _resize_up, _resize_to_11),
    Change("Resize", 18, _resize_up, _resize_down),
    Change("Resize", 19, None, _refuse("coordinate_transformation_mode", "half_pixel_symmetric")),
    Change("RoiAlign", 16, _roi_align_up, _roi_align_down),
    Change("ScatterElements", 18, None, _refuse("reduction", "max", "min")),
    Change("ScatterND", 18, None, _refuse("reduction", "max", "min")),
    Change("GridSample", 20, _renamed("GridSample", "mode", _GRID_MODES), _grid_sample_down),
    Change("GroupNormalization", 21, _group_norm_up, _no_group_norm),
    Change("DFT", 20, _dft_up, _dft_down),
    Change("Constant", 12, None, _constant_down),
    Change("QuantizeLinear", 13, None, _one_scale("QuantizeLinear")),
    Change("QuantizeLinear", 21, None, _quantize_down),
    Change("DequantizeLinear", 13, None, _one_scale("DequantizeLinear")),
    Change("DequantizeLinear", 23, None, _dequantize_down),
)
