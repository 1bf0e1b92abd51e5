"""Bodies take at most twice their inputs and outputs: no weights gathered by row, nothing dense, rows by blocks.

Beyond that: half-precision normalizations hold the whole operand in float32, which is twice its size; the rotary
embedding holds both layouts; latent attention in its expanded order holds its scores and the keys and values of all
heads, which is what the absorbed order of a chip avoids.
"""

import subprocess
import sys
from pathlib import Path

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
HEADS, LENGTH, NOPE, ROPE, LATENT = 8, 512, 128, 64, 512


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
        case "SwiGLU":
            return [rng.standard_normal((TOKENS * SLOTS, 2 * N), np.float32)], {"limit": 7.0}, 1
        case "SwiGLU of one batch":
            return [rng.standard_normal((1, TOKENS * SLOTS, 2 * N), np.float32)], {"interleaved": 1}, 1
        case "GatingTopK":
            logits, bias = rng.standard_normal((TOKENS * 16, 256), np.float32), rng.standard_normal(256, np.float32)
            return [logits, bias], {"k": 8, "groups": 8, "k_group": 4, "group_top": 2, "score": "sigmoid"}, 2
        case "AddRMSNorm":
            return [rows, rows[::-1].copy(), np.ones(H, np.float32)], {}, 2
        case "RotaryEmbedding":
            table = rng.standard_normal((1, TOKENS, 64), np.float32)
            return [rng.standard_normal((1, 32, TOKENS, 128), np.float32), table, table], {}, 1
        case "MLAAttention":
            shapes = [(1, HEADS, LENGTH, NOPE), (1, HEADS, LENGTH, ROPE), (1, LENGTH, LATENT), (1, 1, LENGTH, ROPE)]
            shapes += [(LATENT, HEADS * 2 * NOPE), (1, 1, 1, 1)]
            return [rng.standard_normal(shape, np.float32) for shape in shapes], {"scale": 0.1, "is_causal": 1}, 1
        case _:
            return [rows, np.ones(H, np.float32)], {}, 1


def _output_type(name: str, index: int, dtype: type) -> ir.DataType:
    if name == "GatingTopK":
        return (ir.DataType.FLOAT, ir.DataType.INT64)[index]
    return ir.DataType.INT64 if index and name == "MoeDispatch" else ir.DataType.from_numpy(np.dtype(dtype))


def _ratio(name: str, dtype: type, tmp_path: Path, opset: int = 20) -> float:
    """Peak memory of one run over the bytes of inputs and outputs."""
    operands, attributes, outputs = _operands(name)
    operands = [a.astype(dtype) if a.dtype == np.float32 else a for a in operands]
    values = [
        ir.Value(name=f"i{k}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)), shape=ir.Shape(a.shape))
        for k, a in enumerate(operands)
    ]
    node = ir.node(name.split()[0], values, attributes, domain="porting", num_outputs=outputs)
    for k, value in enumerate(node.outputs):
        value.name, value.type = (
            f"y{k}",
            ir.TensorType(_output_type(name, k, dtype)),
        )
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": opset}, name="g")
    model = ir.Model(graph, ir_version=10)
    add_bodies(model)
    ir.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", **{f"i{k}": a for k, a in enumerate(operands)})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model.onnx"), str(tmp_path / "x.npz")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("GroupedMatmul", np.float32),
        ("GroupedMatmul", np.float16),
        ("MoeDispatch", np.float32),
        ("MoeCombine", np.float32),
        ("RMSNorm", np.float32),
        ("AddRMSNorm", np.float32),
        ("SwiGLU", np.float32),
        ("SwiGLU", np.float16),
        ("SwiGLU of one batch", np.float16),
        ("GatingTopK", np.float32),
        ("GatingTopK", np.float16),
    ],
)
def test_peak_is_at_most_twice_inputs_and_outputs(name, dtype, tmp_path):
    assert 0.9 < _ratio(name, dtype, tmp_path) < 2


@pytest.mark.parametrize(
    "name, dtype, most",
    [
        ("RMSNorm", np.float16, 3),
        ("AddRMSNorm", np.float16, 3),
        ("RotaryEmbedding", np.float32, 3.5),
        ("RotaryEmbedding", np.float16, 6),
    ],
)
def test_peak_of_what_needs_more(name, dtype, most, tmp_path):
    assert 0.9 < _ratio(name, dtype, tmp_path) < most


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_latent_attention_takes_its_scores_and_expanded_keys_besides(dtype, tmp_path):
    """Besides twice the operands: four matrices of scores and two copies of keys and values, in float32."""
    operands, _, _ = _operands("MLAAttention")
    held = (sum(a.size for a in operands) + LENGTH * HEADS * NOPE) * np.dtype(dtype).itemsize
    inherent = 4 * (4 * HEADS * LENGTH**2 + 2 * LENGTH * HEADS * 2 * NOPE)
    assert 0.9 < _ratio("MLAAttention", dtype, tmp_path) < 2 + inherent / held
