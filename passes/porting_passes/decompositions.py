"""The table of all decompositions, by operator."""

from __future__ import annotations

from collections.abc import Mapping

from porting_passes import (
    decompose_arithmetic,
    decompose_attention,
    decompose_clip,
    decompose_comparison,
    decompose_constant,
    decompose_conv,
    decompose_cumsum,
    decompose_einsum,
    decompose_erf,
    decompose_expand,
    decompose_extremum,
    decompose_gelu,
    decompose_global_pool,
    decompose_group_norm,
    decompose_layer_norm,
    decompose_matmul,
    decompose_mla_attention,
    decompose_pool,
    decompose_quantize_linear,
    decompose_rearrangement,
    decompose_rectifier,
    decompose_reduction,
    decompose_rotary_embedding,
    decompose_softmax,
    decompose_swish,
    decompose_variadic,
)
from porting_passes.decomposition import Decomposition

DECOMPOSITIONS: tuple[Decomposition, ...] = (
    *decompose_arithmetic.DECOMPOSITIONS,
    *decompose_attention.DECOMPOSITIONS,
    *decompose_clip.DECOMPOSITIONS,
    *decompose_comparison.DECOMPOSITIONS,
    *decompose_constant.DECOMPOSITIONS,
    *decompose_conv.DECOMPOSITIONS,
    *decompose_cumsum.DECOMPOSITIONS,
    *decompose_einsum.DECOMPOSITIONS,
    *decompose_erf.DECOMPOSITIONS,
    *decompose_expand.DECOMPOSITIONS,
    *decompose_extremum.DECOMPOSITIONS,
    *decompose_gelu.DECOMPOSITIONS,
    *decompose_global_pool.DECOMPOSITIONS,
    *decompose_group_norm.DECOMPOSITIONS,
    *decompose_layer_norm.DECOMPOSITIONS,
    *decompose_matmul.DECOMPOSITIONS,
    *decompose_mla_attention.DECOMPOSITIONS,
    *decompose_pool.DECOMPOSITIONS,
    *decompose_quantize_linear.DECOMPOSITIONS,
    *decompose_rearrangement.DECOMPOSITIONS,
    *decompose_rectifier.DECOMPOSITIONS,
    *decompose_reduction.DECOMPOSITIONS,
    *decompose_rotary_embedding.DECOMPOSITIONS,
    *decompose_softmax.DECOMPOSITIONS,
    *decompose_swish.DECOMPOSITIONS,
    *decompose_variadic.DECOMPOSITIONS,
)


def by_operator(
    decompositions: tuple[Decomposition, ...] = DECOMPOSITIONS,
) -> Mapping[tuple[str, str], list[Decomposition]]:
    """Decompositions by (domain, operator), in the order of the table. Two of the same name are a ValueError."""
    table: dict[tuple[str, str], list[Decomposition]] = {}
    names: set[str] = set()
    for one in decompositions:
        if one.name in names:
            raise ValueError(f"two decompositions are named {one.name}")
        names.add(one.name)
        table.setdefault((one.domain, one.op_type), []).append(one)
    return table
