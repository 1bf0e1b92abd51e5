"""One form for equal models, before anything looks for patterns."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.deduplicate_initializers import DeduplicateInitializers
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.eliminate_identity import EliminateIdentity
from porting_passes.fold_constants import FoldConstants
from porting_passes.freeze_defaults import FreezeDefaults
from porting_passes.infer_shapes import InferShapes

MAX_ROUNDS = 8


class Canonicalize(ir.passes.InPlacePass):
    """Infer shapes, fold constants and remove what does nothing, round by round until nothing changes.

    Each round makes the graph smaller or better typed; models settle in two or three. Weights are deduplicated once,
    at the end, when dead ones are gone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Canonicalize in place."""
        modified = FreezeDefaults()(model).modified
        infer = True
        for _ in range(MAX_ROUNDS):
            if infer:
                InferShapes()(model)
            folded, *removed = (
                step(model).modified for step in (FoldConstants(), EliminateIdentity(), EliminateDeadCode())
            )
            if not (folded or any(removed)):
                break
            modified = True
            infer = folded  # New constants may settle shapes; a node less never does.
        modified |= DeduplicateInitializers()(model).modified
        return ir.passes.PassResult(model, modified)
