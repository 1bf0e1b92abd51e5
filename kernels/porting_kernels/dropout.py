"""Dropout: the identity at inference; in training mode elements are dropped by a seeded generator of torch."""

from __future__ import annotations

import torch

from porting_kernels.registry import kernel


@kernel("Dropout")
def dropout_at_inference(
    x: torch.Tensor,
    *,
    ratio: float = 0.5,
    is_test: int = 0,
    consumed_inputs: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dropout of opset 1 to 11, taken as inference: x, and a mask of ones (bool from opset 10 on)."""
    return x, torch.ones_like(x, dtype=torch.bool)


@kernel("Dropout", since=12)
def dropout(
    x: torch.Tensor,
    ratio: torch.Tensor | None = None,
    training_mode: torch.Tensor | None = None,
    *,
    seed: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x and a bool mask of what was kept; kept elements are divided by 1 - ratio in training mode."""
    share = 0.5 if ratio is None else float(ratio)
    if training_mode is None or not bool(training_mode) or share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    generator = torch.Generator()
    generator.manual_seed(0 if seed is None else seed)
    kept = torch.rand(x.shape, generator=generator) >= share
    return torch.where(kept, x / (1 - share), torch.zeros_like(x)), kept
