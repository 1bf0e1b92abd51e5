"""Graphs of the shape of well-known networks, with random weights: what the other benchmarks run.

python benchmarks/graphs.py FOLDER   writes every one of them, with inputs, to look at.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
ROOT = Path(__file__).resolve().parents[1]


class Writer:
    """Appends nodes and initializers to a graph; every method returns the name of the value it made."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        """An initializer with these values."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, inputs: int) -> str:
        """Normal with variance 2 / inputs: activations keep their size through ReLUs."""
        values = self.random.standard_normal(shape, dtype=np.float32)
        return self.constant(values * np.float32((2 / inputs) ** 0.5))

    def around(self, centre: float, count: int) -> str:
        """A vector of values near `centre`: biases, and the parameters of normalizations."""
        return self.constant((centre + 0.1 * self.random.standard_normal(count)).astype(np.float32))

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A node with one output."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector, as shapes are."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.float32(value))

    def convolution(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        """Conv without bias and the BatchNormalization after it."""
        weight = self.weight(outputs, inputs // groups, kernel, kernel, inputs=inputs // groups * kernel**2)
        pads, kernels, strides = [kernel // 2] * 4, [kernel] * 2, [stride] * 2
        y = self.node("Conv", x, weight, kernel_shape=kernels, pads=pads, strides=strides, group=groups)
        statistics = self.around(0, outputs), self.around(0, outputs), self.around(1, outputs)
        return self.node("BatchNormalization", y, self.around(1, outputs), *statistics)

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """MatMul and the Add of its bias."""
        return self.node(
            "Add", self.node("MatMul", x, self.weight(inputs, outputs, inputs=2 * inputs)), self.around(0, outputs)
        )

    def classifier(self, x: str, inputs: int) -> str:
        """Global average pooling and a Gemm to 1000 classes."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node("Gemm", x, self.weight(1000, inputs, inputs=inputs), self.around(0, 1000), transB=1)

    def model(
        self, input_shape: Sequence[int | str], output: str, output_shape: Sequence[int | str]
    ) -> onnx.ModelProto:
        """The model with one input `x` and one output, both float32."""
        graph = helper.make_graph(
            self.nodes,
            "benchmark",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def resnet50() -> onnx.ModelProto:
    """53 convolutions in bottlenecks of 3, 4, 6, 3; 224x224, 25.6 million parameters."""
    w = Writer()
    x = w.node("Relu", w.convolution("x", 3, 64, 7, stride=2))
    x = w.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = w.node("Relu", w.convolution(x, inputs, width, 1))
            y = w.node("Relu", w.convolution(y, width, width, 3, stride))
            y = w.convolution(y, width, 4 * width, 1)
            shortcut = x if block else w.convolution(x, inputs, 4 * width, 1, stride)
            x, inputs = w.node("Relu", w.node("Add", y, shortcut)), 4 * width
    return w.model([1, 3, 224, 224], w.classifier(x, inputs), [1, 1000])


def mobilenet_v2() -> onnx.ModelProto:
    """17 inverted residuals with depthwise convolutions and ReLU6; 224x224, 3.5 million parameters."""
    w = Writer()
    limits = w.scalar(0), w.scalar(6)
    x, inputs = w.node("Clip", w.convolution("x", 3, 32, 3, stride=2), *limits), 32
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, repeats, first_stride in rows:
        for repeat in range(repeats):
            stride, width = (1 if repeat else first_stride), inputs * expansion
            y = x if expansion == 1 else w.node("Clip", w.convolution(x, inputs, width, 1), *limits)
            y = w.node("Clip", w.convolution(y, width, width, 3, stride, groups=width), *limits)
            y = w.convolution(y, width, outputs, 1)
            x = w.node("Add", x, y) if stride == 1 and inputs == outputs else y
            inputs = outputs
    x = w.node("Clip", w.convolution(x, inputs, 1280, 1), *limits)
    return w.model([1, 3, 224, 224], w.classifier(x, 1280), [1, 1000])


def encoder(layers: int = 6, width: int = 512, heads: int = 8, sequence: int = 128) -> onnx.ModelProto:
    """Pre-norm transformer layers as exporters write them: LayerNormalization, GELU as five nodes with Erf."""
    w = Writer()
    x = "x"
    for _ in range(layers):
        x = w.node(
            "Add",
            x,
            _attention(w, w.node("LayerNormalization", x, w.around(1, width), w.around(0, width)), width, heads),
        )
        y = w.linear(w.node("LayerNormalization", x, w.around(1, width), w.around(0, width)), width, 4 * width)
        x = w.node("Add", x, w.linear(_gelu(w, y), 4 * width, width))
    return w.model(["batch", sequence, width], x, ["batch", sequence, width])


def _attention(w: Writer, x: str, width: int, heads: int) -> str:
    def head(perm: list[int]) -> str:
        return w.node("Transpose", w.node("Reshape", w.linear(x, width, width), split), perm=perm)

    split = w.ints(0, 0, heads, width // heads)
    query, key, value = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
    scores = w.node("Div", w.node("MatMul", query, key), w.scalar((width / heads) ** 0.5))
    mixed = w.node("Transpose", w.node("MatMul", w.node("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
    return w.linear(w.node("Reshape", mixed, w.ints(0, 0, width)), width, width)


def _gelu(w: Writer, x: str) -> str:
    error_function = w.node("Erf", w.node("Div", x, w.scalar(2**0.5)))
    return w.node("Mul", w.node("Mul", x, w.node("Add", error_function, w.scalar(1))), w.scalar(0.5))


def long_chain(nodes: int) -> onnx.ModelProto:
    """About so many nodes of what exporters leave behind, in equal blocks of 38: for passes, not for running.

    A block holds an attention layer, a linear layer, GELU, Swish and an RMS norm, of width 8, and one Identity.
    """
    width = 8
    w = Writer()
    x = "x"
    while len(w.nodes) < nodes:
        square = w.node("Pow", x, w.scalar(2))
        mean = w.node("ReduceMean", square, axes=[-1], keepdims=1)
        root = w.node("Sqrt", w.node("Add", mean, w.scalar(1e-6)))
        normal = w.node("Mul", w.node("Div", x, root), w.around(1, width))
        y = w.node("Add", x, _attention(w, normal, width, 2))
        y = w.node("Identity", _gelu(w, w.linear(y, width, width)))
        x = w.node("Add", x, w.node("Mul", y, w.node("Sigmoid", y)))
    return w.model(["batch", 4, width], x, ["batch", 4, width])


NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "encoder": encoder,
}


def path(name: str) -> Path:
    """The file of a network, written below build/ when this file has changed since."""
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    file = ROOT / "build" / "benchmarks" / digest / f"{name}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(NETWORKS[name](), file)
    return file


def inputs(model: onnx.ModelProto, *, seed: int = 0, batch: int = 1) -> dict[str, np.ndarray]:
    """Normal random inputs by name; a symbolic dimension becomes `batch`."""
    random = np.random.default_rng(seed)
    given = {}
    for value in model.graph.input:
        shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
        given[value.name] = random.standard_normal(shape, dtype=np.float32)
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("destination", metavar="FOLDER", type=Path)
    folder = parser.parse_args().destination
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in NETWORKS.items():
        model = build()
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, folder / f"{name}.onnx")
        np.savez(folder / f"{name}.npz", **inputs(model))
        parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
        print(f"{name}: {len(model.graph.node)} nodes, {parameters / 1e6:.1f} million parameters")


if __name__ == "__main__":
    main()
