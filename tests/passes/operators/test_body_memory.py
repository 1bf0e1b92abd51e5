"""The bodies around experts take at most twice their inputs and outputs: no weights gathered by row, nothing dense.

In float32. Element-wise bodies, whose operands are small beside weights, hold a few values an element: 2.3 times for
SwiGLU, 5 for GatingTopK.
"""

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.operators import add_bodies

MEASURE = """
import sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts anew
before = status("VmRSS")
feeds = dict(np.load(sys.argv[2]))
outputs = session.run(None, feeds)
operands = sum(array.nbytes for array in (*feeds.values(), *outputs))
print((status("VmHWM") - before) / operands)
"""
TOKENS, SLOTS, EXPERTS, H, N = 1024, 8, 16, 512, 768


def _operands(name: str) -> tuple[list[np.ndarray], dict, int]:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((TOKENS, EXPERTS)), axis=1)[:, :SLOTS]
    rows = rng.standard_normal((TOKENS * SLOTS, H), np.float32)
    match name:
        case "MoeDispatch":
            return [rows, np.concatenate([ids] * SLOTS)], {"experts": EXPERTS}, 3
        case "GroupedMatmul":
            offsets = np.cumsum(np.bincount(ids.flatten(), minlength=EXPERTS))
            w = rng.standard_normal((EXPERTS, N, H), np.float32)
            return [rows, w, offsets, np.zeros((EXPERTS, 1), np.float32)], {"transposed": 1}, 1
        case "MoeCombine":
            return [rows, rng.permutation(len(rows)), rng.random(ids.shape, np.float32)], {}, 1
        case _:
            return [rows, np.ones(H, np.float32)], {}, 1


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", ["GroupedMatmul", "MoeDispatch", "MoeCombine", "RMSNorm"])
def test_peak_is_at_most_twice_inputs_and_outputs(name, tmp_path):
    operands, attributes, outputs = _operands(name)
    values = [
        ir.Value(name=f"i{k}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)), shape=ir.Shape(a.shape))
        for k, a in enumerate(operands)
    ]
    node = ir.node(name, values, attributes, domain="porting", num_outputs=outputs)
    for k, value in enumerate(node.outputs):
        value.name, value.type = f"y{k}", ir.TensorType(ir.DataType.INT64 if k else ir.DataType.FLOAT)
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    add_bodies(model)
    ir.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", **{f"i{k}": a for k, a in enumerate(operands)})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model.onnx"), str(tmp_path / "x.npz")]
    ratio = float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert 0.9 < ratio < 2
