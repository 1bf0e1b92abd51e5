"""The fusing passes, in the order in which they run."""

from __future__ import annotations

from porting_passes.fuse_conv_batch_norm import FuseConvBatchNorm
from porting_passes.rewrite import Accepts, RewritePass


def fusions(*, accepts: Accepts | None = None) -> list[RewritePass]:
    """Fresh passes that fuse into operators which the model's opset has and ``accepts`` takes."""
    return [FuseConvBatchNorm(accepts=accepts)]
