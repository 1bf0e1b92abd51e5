"""A random DeepSeek-V3 of two layers, made and exported once for all commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from porting import frontends
from porting.frontends.source import Source

FIELDS = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
TEXT = "def area(width, height):\n    return width * height\n"


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint ``tiny``, its text split into bytes, and ``text.txt`` to read."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("deepseek")
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(**FIELDS)
    model = transformers.DeepseekV3ForCausalLM(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.3, 0.3, buffer.numel()))
    model.save_pretrained(folder / "tiny")
    vocabulary = {text: i for i, text in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    words = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.save(str(folder / "tiny" / "tokenizer.json"))
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="session")
def deepseek_source(deepseek: Path) -> Source:
    """The checkpoint imported: the export takes most of the time, and once is enough."""
    return frontends.load(str(deepseek / "tiny"))
