"""Whole language models, exported from tiny configs: fused, they compute what they did, and what transformers does."""

from __future__ import annotations

import collections
import functools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from porting.frontends import checkpoint
from porting.frontends.checkpoint_graph import export, instantiate
from porting.simulation.interpreter import Interpreter
from porting.weights.store import WeightStore
from porting_passes.canonicalize import Canonicalize
from porting_passes.declared import DeclaredTensor, bind_declared, declare_weights
from porting_passes.infer_shapes import InferShapes
from porting_passes.language_model_fusions import language_model_fusions
from porting_passes.operators import add_bodies

BASE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
DEEPSEEK = BASE | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "first_k_dense_replace": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v3": ("DeepseekV3Config", DEEPSEEK),
    "deepseek_v3 plain": (
        "DeepseekV3Config",
        DEEPSEEK
        | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": False, "num_attention_heads": 2}
        | {"num_key_value_heads": 2},
    ),
    "deepseek_v3 yarn": ("DeepseekV3Config", DEEPSEEK | {"rope_parameters": YARN, "num_experts_per_tok": 2}),
    "llama": ("LlamaConfig", BASE),
    "mixtral": ("MixtralConfig", BASE | {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeConfig", BASE | EXPERTS | {"head_dim": 8, "norm_topk_prob": True}),
    "qwen2_moe": ("Qwen2MoeConfig", BASE | EXPERTS | {"shared_expert_intermediate_size": 40}),
    "gpt_oss": ("GptOssConfig", BASE | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "gemma": ("GemmaConfig", BASE | {"head_dim": 8}),
    "glm4_moe": (
        "Glm4MoeConfig",
        BASE
        | {"head_dim": 8, "moe_intermediate_size": 24, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
        | {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    ),
}
MOE = {"GatingTopK": 2, "MoeDispatch": 2, "GroupedMatmul": 4, "MoeCombine": 2}
HALF_MOE = {"GatingTopK": 1, "MoeDispatch": 1, "GroupedMatmul": 2, "MoeCombine": 1}
NORMS = {"AddRMSNorm": 3, "RotaryEmbedding": 4}
LATENT = NORMS | HALF_MOE | {"MLAAttention": 2, "SwiGLU": 3}

EXPECTED: dict[str, tuple[dict[str, int], int]] = {
    "deepseek_v3": (LATENT | {"RMSNorm": 6}, 76),
    "deepseek_v3 plain": (LATENT | {"RMSNorm": 4}, 72),
    "deepseek_v3 yarn": (LATENT | {"RMSNorm": 6}, 76),
    "llama": (NORMS | {"RMSNorm": 2, "SwiGLU": 2}, 95),
    "mixtral": (NORMS | MOE | {"RMSNorm": 2, "SwiGLU": 2}, 115),
    "qwen3_moe": (NORMS | MOE | {"RMSNorm": 6, "SwiGLU": 2}, 119),
    "qwen2_moe": (NORMS | MOE | {"RMSNorm": 2, "SwiGLU": 4}, 135),
    "gpt_oss": (NORMS | MOE | {"RMSNorm": 2, "SwiGLU": 2}, 156),
    "gemma": (NORMS | {"RMSNorm": 2}, 100),
    "glm4_moe": (NORMS | HALF_MOE | {"RMSNorm": 2, "SwiGLU": 3}, 121),
}
"""Composite operators by name, and all nodes at most, after fusing. SwiGLU: one a feed-forward layer."""

FAST = ("deepseek_v3", "mixtral")


def eager(config: Any) -> Any:
    """transformers' model with weights of a size at which routing is decided and logits differ from token to token."""
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.dim() > 1:
                tensor.normal_(std=0.15)
            elif tensor.dim() == 1 and "inv_freq" not in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return module


@functools.cache
def _exported(case: str) -> ir.Model:
    kind, fields = CONFIGS[case]
    return export(instantiate(getattr(transformers, kind)(**fields)))


def exported(case: str) -> tuple[Any, ir.Model]:
    """transformers' model and a graph of it, without weights; exporting takes seconds and is done once a config."""
    kind, fields = CONFIGS[case]
    return eager(getattr(transformers, kind)(**fields)), _exported(case).clone()


def give_weights(model: ir.Model, module: Any) -> None:
    weights = module.state_dict()
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.tensor(weights[name].numpy(), name=name)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def counts(model: ir.Model) -> dict[str, int]:
    return dict(collections.Counter(node.op_type for node in model.graph if node.domain == "porting"))


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in CONFIGS]
)
def test_fused_models_are_what_they_were(case) -> None:
    """Tolerance: the budget of a float32 port, sums in another order."""
    module, model = exported(case)
    give_weights(model, module)
    Canonicalize()(model)
    ids = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(1))
    unfused = Interpreter(model).run({"input_ids": ids})["logits"]
    for step in language_model_fusions():
        step(model)
    composites, nodes = EXPECTED[case]
    assert counts(model) == composites
    assert len(model.graph) <= nodes
    fused = Interpreter(model).run({"input_ids": ids})["logits"]
    assert relative(fused, unfused) < 2e-6
    with torch.no_grad():
        assert relative(fused, module(input_ids=ids).logits) < 1e-5
    for shape in ((1, 1), (3, 5)):
        ids = torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = module(input_ids=ids).logits
        assert relative(Interpreter(model).run({"input_ids": ids})["logits"], expected) < 1e-5
    assert [step(model).modified for step in language_model_fusions()] == [False] * len(language_model_fusions())


def test_a_fused_model_runs_in_stock_onnxruntime_by_its_bodies(run_onnxruntime, check_model) -> None:
    module, model = exported("deepseek_v3")
    give_weights(model, module)
    for step in (Canonicalize(), *language_model_fusions()):
        step(model)
    add_bodies(model)
    check_model(model)
    ids = np.random.default_rng(0).integers(0, 64, (2, 9))
    got = run_onnxruntime(model, {"input_ids": ids})["logits"]
    with torch.no_grad():
        expected = module(input_ids=torch.from_numpy(ids)).logits
    assert relative(torch.from_numpy(got), expected) < 1e-5


def test_a_model_without_weights_is_fused_alike_and_takes_them_afterwards() -> None:
    module, model = exported("deepseek_v3")
    declare_weights(model)
    for step in (Canonicalize(), *language_model_fusions()):
        step(model)
    assert counts(model) == EXPECTED["deepseek_v3"][0]
    assert len(model.graph) <= EXPECTED["deepseek_v3"][1]
    declared = [v for v in model.graph.initializers.values() if isinstance(v.const_value, DeclaredTensor)]
    assert {"model.layers.0.self_attn.o_proj.weight/transposed", "lm_head.weight/transposed"} <= {
        v.name for v in declared
    }
    weights = module.state_dict()
    bind_declared(model, lambda name: Held(weights[name], name))
    ids = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(input_ids=ids).logits
    assert relative(Interpreter(model).run({"input_ids": ids})["logits"], expected) < 1e-5


class Held(ir.Tensor):
    """A stored tensor that happens to be in memory."""

    def __init__(self, data: torch.Tensor, name: str | None = None) -> None:
        super().__init__(data.contiguous().numpy(), name=name)
        self.data = data

    def transposed(self) -> Held:
        return Held(self.data.transpose(-1, -2))

    def concatenated(self, views: list[Held], axis: int) -> Held:
        return Held(torch.cat([view.data for view in views], axis))


def test_a_checkpoint_is_fused_without_reading_a_weight(tmp_path) -> None:
    config = transformers.DeepseekV3Config(**DEEPSEEK)
    module = eager(config)
    module.save_pretrained(tmp_path)
    opened: list[WeightStore] = []
    original = checkpoint.WeightStore
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "WeightStore", lambda path: opened.append(original(path)) or opened[-1])
        model = checkpoint.load(tmp_path).model
    for step in (Canonicalize(), *language_model_fusions()):
        step(model)
    (store,) = opened
    assert store.data_bytes_read == 0
    assert counts(model) == EXPECTED["deepseek_v3"][0]
    assert len(model.graph) <= EXPECTED["deepseek_v3"][1]
    ids = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module(input_ids=ids).logits
    assert relative(Interpreter(model, memory=1 << 16).run({"input_ids": ids})["logits"], expected) < 1e-5
    assert store.data_bytes_read > 0


def stack_of(layers: int) -> ir.Model:
    """Normalized and gated layers with residuals, as an exporter writes them."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((6, 4)).astype(np.float32) for name in ("g", "u")}
    weights |= {"d": weights["g"].T.copy(), "w": np.ones(4, np.float32), "two": np.array(2, np.float32)}
    weights |= {"eps": np.array(1e-6, np.float32), "last": np.array([-1], np.int64)}
    tensors, body = [], []
    for i in range(layers):
        tensors += [ir.tensor(array, name=f"{name}{i}") for name, array in weights.items()]
        body.append(f"""q{i} = Pow(x{i}, two{i}) m{i} = ReduceMean(q{i}, last{i}) e{i} = Add(m{i}, eps{i})
            r{i} = Sqrt(e{i}) v{i} = Reciprocal(r{i}) n{i} = Mul(x{i}, v{i}) h{i} = Mul(w{i}, n{i})
            gt{i} = Transpose<perm = [1, 0]>(g{i}) a{i} = MatMul(h{i}, gt{i}) ut{i} = Transpose<perm = [1, 0]>(u{i})
            b{i} = MatMul(h{i}, ut{i}) s{i} = Sigmoid(a{i}) t{i} = Mul(a{i}, s{i}) k{i} = Mul(t{i}, b{i})
            dt{i} = Transpose<perm = [1, 0]>(d{i}) o{i} = MatMul(k{i}, dt{i}) x{i + 1} = Add(x{i}, o{i})""")
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[2, 3, 4] x0) => (float[2, 3, 4] x{layers}) {{ {" ".join(body)} }}"""
    model = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(model)
    return model


def test_work_grows_linearly(count_calls) -> None:
    def fuse(model: ir.Model) -> None:
        for step in language_model_fusions():
            step(model)

    fuse(stack_of(2))
    short, long = stack_of(15), stack_of(60)
    calls = [count_calls(lambda model=model: fuse(model)) for model in (short, long)]
    assert counts(long) == {"RMSNorm": 1, "AddRMSNorm": 59, "SwiGLU": 60}
    assert len(long.graph) == 4 * 60 + 1
    assert calls[1] < 4.2 * calls[0], calls
