"""A mixture of experts as a graph of composite operators, through their bodies in stock onnxruntime."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from porting_passes.operators import add_bodies
from porting_passes.schemas import NEWEST_OPSET

GRAPH = """<ir_version: 10, opset_import: ["": {opset}, "porting": 1]> g (float[n, 16] x) => (float[n, 16] y) {{
    logits = MatMul (x, router)
    weights, ids = porting.GatingTopK <k = 3, groups = 4, k_group = 2, group_top = 2, score = "sigmoid",
        renormalize = 1, epsilon = 1e-20, scale = 2.5> (logits, correction)
    rows, offsets, index = porting.MoeDispatch <experts = 8> (x, ids)
    gate_up = porting.GroupedMatmul <transposed = 1> (rows, gate_up_proj, offsets, zeros)
    hidden = porting.SwiGLU (gate_up)
    down = porting.GroupedMatmul <transposed = 1> (hidden, down_proj, offsets, zeros)
    routed = porting.MoeCombine (down, index, weights)
    shared_gate_up = MatMul (x, shared_gate_up_proj)
    shared_hidden = porting.SwiGLU (shared_gate_up)
    shared = MatMul (shared_hidden, shared_down_proj)
    y = Add (routed, shared) }}"""


@pytest.mark.parametrize("opset", [17, 18, 20, 21, 23, NEWEST_OPSET])
def test_equals_the_block_of_deepseek_v3(opset):
    """Tolerance: a token's experts and the products of each add up in another order."""
    config = DeepseekV3Config(
        hidden_size=16,
        moe_intermediate_size=12,
        n_routed_experts=8,
        num_local_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
    )
    block = DeepseekV3MoE(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.normal_(std=0.3, generator=generator)
        x = torch.randn(11, 16, generator=generator)
        expected = block(x[None])[0]
    shared, experts = block.shared_experts, block.experts
    weights = {
        "router": block.gate.weight.t(),
        "correction": block.gate.e_score_correction_bias,
        "gate_up_proj": experts.gate_up_proj,
        "down_proj": experts.down_proj,
        "shared_gate_up_proj": torch.cat((shared.gate_proj.weight, shared.up_proj.weight)).t(),
        "shared_down_proj": shared.down_proj.weight.t(),
        "zeros": torch.zeros(8, 1),
    }
    tensors = [ir.tensor(w.detach().contiguous().numpy(), name=name) for name, w in weights.items()]
    model = ir.from_onnx_text(GRAPH.format(opset=opset), initializers=tensors)
    add_bodies(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    for tokens in (11, 1, 0):
        (y,) = session.run(None, {"x": x[:tokens].numpy()})
        np.testing.assert_allclose(y, expected[:tokens].numpy(), rtol=1e-5, atol=5e-6)
