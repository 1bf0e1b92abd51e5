"""NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss over classes in axis 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


@kernel("NegativeLogLikelihoodLoss", since=12)
@rounds_once
def negative_log_likelihood_loss(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """-x[n, target[n, d..], d..] * weight[target]; reduction none, sum, or mean (by the sum of weights).

    x: (N, C, D..) log-probabilities; target: (N, D..) class numbers; targets equal to ignore_index count nothing.
    Source: ONNX operator NegativeLogLikelihoodLoss.
    """
    # No class is negative: without an ignore_index the value -1 ignores nothing.
    skipped = -1 if ignore_index is None else ignore_index
    return F.nll_loss(x, target.long(), weight, ignore_index=skipped, reduction=reduction)


@kernel("SoftmaxCrossEntropyLoss", since=12)
@rounds_once
def softmax_cross_entropy_loss(
    scores: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """NegativeLogLikelihoodLoss of log_softmax(scores) over axis 1, and those log-probabilities."""
    log_prob = torch.log_softmax(scores, 1)
    loss: torch.Tensor = negative_log_likelihood_loss(
        log_prob, labels, weights, ignore_index=ignore_index, reduction=reduction
    )
    return loss, log_prob
