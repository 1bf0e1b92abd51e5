"""The fusing passes for language models as exporters write them, in the order in which they run."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.absorb_weight_transpose import AbsorbWeightTranspose
from porting_passes.complete_grouped_matmul import CompleteGroupedMatmul
from porting_passes.deduplicate_initializers import DeduplicateInitializers
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.fuse_add_rms_norm import FuseAddRmsNorm
from porting_passes.fuse_gating_top_k import FuseGatingTopK
from porting_passes.fuse_grouped_matmul_bias import FuseGroupedMatmulBias
from porting_passes.fuse_mla_attention import FuseMLAAttention
from porting_passes.fuse_moe_combine import FuseMoeCombine
from porting_passes.fuse_moe_dispatch import FuseMoeDispatch
from porting_passes.fuse_rms_norm import FuseRmsNorm
from porting_passes.fuse_rotary_embedding import FuseRotaryEmbedding
from porting_passes.fuse_swiglu import FuseSwiGLU
from porting_passes.rewrite import Accepts


def language_model_fusions(*, accepts: Accepts | None = None) -> list[ir.passes.InPlacePass]:
    """Fresh passes that fuse a canonical graph to the grain that chips have: composite operators of domain ``porting``.

    accepts: which operators the target takes, composite ones included; None for all. Where the opset has ONNX's own
    operator for something, and it is accepted, that one is used.

    Order: the bias of experts comes before the dispatch, whose sorted ids it reads; the dispatch before the combine,
    which returns to its order; rotations before the attention around them, though neither needs the other. Dead code
    goes in between, since a dead reader of an inner value keeps a fusion from happening.
    """
    return [
        AbsorbWeightTranspose(),
        FuseRmsNorm(accepts=accepts, composite=True),
        FuseAddRmsNorm(accepts=accepts),
        FuseRotaryEmbedding(accepts=accepts),
        FuseGatingTopK(accepts=accepts),
        FuseGroupedMatmulBias(accepts=accepts),
        FuseMoeDispatch(accepts=accepts),
        FuseSwiGLU(accepts=accepts),
        EliminateDeadCode(),
        FuseMoeCombine(accepts=accepts),
        FuseMLAAttention(accepts=accepts),
        CompleteGroupedMatmul(),
        EliminateDeadCode(),
        DeduplicateInitializers(),
    ]
