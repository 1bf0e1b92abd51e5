"""The fusing passes, in the order in which they run."""

from __future__ import annotations

from porting_passes.fuse_activation import FuseActivation
from porting_passes.fuse_conv_batch_norm import FuseConvBatchNorm
from porting_passes.fuse_gelu import FuseGelu
from porting_passes.fuse_layer_norm import FuseLayerNorm
from porting_passes.fuse_matmul_add import FuseMatMulAdd
from porting_passes.fuse_pad_conv import FusePadConv
from porting_passes.fuse_rms_norm import FuseRmsNorm
from porting_passes.rewrite import Accepts, RewritePass


def fusions(*, accepts: Accepts | None = None) -> list[RewritePass]:
    """Fresh passes that fuse into operators which the model's opset has and ``accepts`` takes."""
    return [
        FusePadConv(accepts=accepts),
        FuseConvBatchNorm(accepts=accepts),
        FuseMatMulAdd(accepts=accepts),
        FuseLayerNorm(accepts=accepts),
        FuseRmsNorm(accepts=accepts),
        FuseGelu(accepts=accepts),
        FuseActivation(accepts=accepts),
    ]
