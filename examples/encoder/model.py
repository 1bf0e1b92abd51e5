"""A small transformer encoder that sorts: up to 16 tokens in, the same tokens in ascending order out.

A sorted position depends on every other token, so attention has to do the work; padding makes the mask matter.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

PAD = 0
VOCABULARY = 64
LENGTH = 16
WIDTH = 64
HEADS = 4
LAYERS = 3
MAX_BATCH = 64
WEIGHTS = Path(__file__).with_name("weights.safetensors")


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Map x [batch, sequence, width] to the same shape; visible [batch, 1, 1, sequence] bool masks the keys."""
        batch, sequence, _ = x.shape
        projected = self.query_key_value(x).view(batch, sequence, 3, HEADS, WIDTH // HEADS)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.output(mixed.transpose(1, 2).reshape(batch, sequence, WIDTH))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Map x [batch, sequence, width] to the same shape; visible [batch, 1, 1, sequence] bool masks the keys."""
        x = x + self.attention(self.attention_norm(x), visible)
        return x + self.mlp(self.mlp_norm(x))


class SortingEncoder(nn.Module):
    """The whole network: token lists in, for every position the logits of the token that belongs there out."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids [batch, sequence <= 16] int64, padded at the end with 0, to logits [batch, sequence, 64] float32."""
        visible = (ids != PAD)[:, None, None, :]
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, visible)
        return self.head(self.norm(x))


def trained() -> SortingEncoder:
    """The encoder in eval mode with the committed weights."""
    model = SortingEncoder()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def example_ids() -> torch.Tensor:
    """Two rows of tokens, the second one padded: what torch.export needs to see of the input."""
    return torch.tensor([[*range(LENGTH, 0, -1)], [*range(1, LENGTH - 3), PAD, PAD, PAD, PAD]])


def factory() -> tuple[SortingEncoder, tuple[torch.Tensor], dict[str, object]]:
    """(module, example inputs, dynamic shapes) as torch.export takes them: the batch is dynamic, the sequence is 16."""
    return trained(), (example_ids(),), {"ids": {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}}


def factory_any_length() -> tuple[SortingEncoder, tuple[torch.Tensor], dict[str, object]]:
    """Like `factory`, with a dynamic sequence of 2 to 16 tokens as well."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    sequence = torch.export.Dim("sequence", min=2, max=LENGTH)
    return trained(), (example_ids(),), {"ids": {0: batch, 1: sequence}}
