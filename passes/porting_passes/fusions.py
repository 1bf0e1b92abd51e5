"""The fusing passes, in the order in which they run."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.fuse_activation import FuseActivation
from porting_passes.fuse_attention import FuseAttention
from porting_passes.fuse_conv_batch_norm import FuseConvBatchNorm
from porting_passes.fuse_gelu import FuseGelu
from porting_passes.fuse_layer_norm import FuseLayerNorm
from porting_passes.fuse_matmul_add import FuseMatmulAdd
from porting_passes.fuse_pad_conv import FusePadConv
from porting_passes.fuse_rms_norm import FuseRmsNorm
from porting_passes.order_operands import OrderOperands
from porting_passes.rewrite import Accepts


def fusions(*, accepts: Accepts | None = None) -> list[ir.passes.InPlacePass]:
    """Fresh passes that fuse into operators which the model's opset has and ``accepts`` takes.

    Larger patterns come before those that would take a part of them: Gelu before activations, attention before Gemm.
    """
    return [
        OrderOperands(),
        FusePadConv(accepts=accepts),
        FuseConvBatchNorm(accepts=accepts),
        FuseLayerNorm(accepts=accepts),
        FuseRmsNorm(accepts=accepts),
        FuseGelu(accepts=accepts),
        FuseActivation(accepts=accepts),
        FuseAttention(accepts=accepts),
        FuseMatmulAdd(accepts=accepts),
    ]
