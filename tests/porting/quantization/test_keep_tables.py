from __future__ import annotations

import json
from importlib.resources import files

import pytest

from porting import schemas
from porting.quantization.keep_tables import kept, table

LAYER = "model.layers.7."
EVERYWHERE = [
    "lm_head",
    "model.embed_tokens",
    "model.norm",
    f"{LAYER}input_layernorm",
    f"{LAYER}self_attn.q_a_layernorm",
    f"{LAYER}self_attn.kv_b_proj",
    f"{LAYER}mlp.gate",
    "model.layers.61.eh_proj",
    "model.layers.61.enorm",
    "model.layers.61.shared_head.head",
    "model.layers.61.shared_head.norm",
]
QUANTIZED = [
    f"{LAYER}self_attn.q_b_proj",
    f"{LAYER}self_attn.o_proj",
    f"{LAYER}mlp.gate_proj",
    f"{LAYER}mlp.up_proj",
    f"{LAYER}mlp.experts.0.gate_proj",
    f"{LAYER}mlp.shared_experts.gate_proj",
]
LATENT = [f"{LAYER}self_attn.q_a_proj", f"{LAYER}self_attn.kv_a_proj_with_mqa"]
INDEXER = [f"{LAYER}self_attn.indexer.{name}" for name in ("wq_b", "wk", "weights_proj", "k_norm")]


def test_the_table_keeps_to_its_schema() -> None:
    schemas.validate(
        "keep_tables", json.loads(files("porting.quantization").joinpath("keep_tables.json").read_text("utf-8"))
    )


@pytest.mark.parametrize("runtime", ["torch_npu", "torch_mlu_ops"])
@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v32", "qwen3_moe"])
def test_what_stays_everywhere_and_what_nowhere(family: str, runtime: str) -> None:
    assert [name for name in EVERYWHERE if kept(name, family, runtime) is None] == []
    assert [name for name in QUANTIZED if kept(name, family, runtime) is not None] == []


@pytest.mark.parametrize(
    ("family", "runtime", "stays"),
    [
        ("deepseek_v3", "torch_npu", False),
        ("deepseek_v3", "torch_mlu_ops", True),
        ("deepseek_v32", "torch_npu", True),
        ("deepseek_v32", "torch_mlu_ops", True),
    ],
)
def test_the_projections_into_latent_space(family: str, runtime: str, stays: bool) -> None:
    assert [kept(name, family, runtime) is not None for name in LATENT] == [stays, stays]


@pytest.mark.parametrize("runtime", ["torch_npu", "torch_mlu_ops"])
def test_the_indexer_stays(runtime: str) -> None:
    assert [name for name in INDEXER if kept(name, "deepseek_v32", runtime) is None] == []


def test_the_router_is_not_the_gate_projection() -> None:
    assert kept("model.layers.3.mlp.gate", "deepseek_v3", "torch_npu") is not None
    for name in ("model.layers.0.mlp.gate_proj", "model.layers.3.mlp.experts.4.gate_proj", "x.mlp.gate_up_proj"):
        assert kept(name, "deepseek_v3", "torch_npu") is None


def test_every_line_is_used_and_says_why() -> None:
    names = {*EVERYWHERE, *LATENT, *INDEXER, "a.shared_expert_gate"}
    used = set()
    for family in ("deepseek_v3", "deepseek_v32"):
        for runtime in ("torch_npu", "torch_mlu_ops"):
            used |= {kept(name, family, runtime) for name in names}
            assert all(row.reason and row.source for row in table(family, runtime))
    rows = {
        row
        for family in ("deepseek_v3", "deepseek_v32")
        for rt in ("torch_npu", "torch_mlu_ops")
        for row in table(family, rt)
    }
    assert rows <= used
