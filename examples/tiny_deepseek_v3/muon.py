"""Muon (Jordan et al., 2024): momentum, made orthogonal before it is applied."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

MOMENTUM, WEIGHT_DECAY = 0.95, 0.01


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """[..., n, k] -> nearly orthonormal rows or columns, by five Newton-Schulz steps (Muon's quintic) in bfloat16."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized, for weight matrices and stacks of them ([n, k] or [experts, n, k]).

    A group's `parts` is the number of matrices that lie joined along n in each of its parameters.
    """

    def __init__(self, groups: list[dict[str, Any]], rate: float, pool: ThreadPoolExecutor) -> None:
        super().__init__(groups, {"lr": rate, "parts": 1})
        self.pool = pool

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter from its gradient."""
        for group in self.param_groups:
            list(self.pool.map(lambda p, group=group: self._update(p, group["lr"], group["parts"]), group["params"]))

    @torch.no_grad()
    def _update(self, p: torch.nn.Parameter, rate: float, parts: int) -> None:
        if "momentum" not in self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        momentum = self.state[p]["momentum"]
        assert p.grad is not None
        momentum.lerp_(p.grad, 1 - MOMENTUM)
        direction = p.grad.lerp(momentum, MOMENTUM).unflatten(-2, (parts, -1))
        n, k = direction.shape[-2:]
        update = orthogonal(direction).reshape(p.shape)
        p.mul_(1 - WEIGHT_DECAY * rate).add_(update, alpha=-rate * max(1.0, n / k) ** 0.5)
