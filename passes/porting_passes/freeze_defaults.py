"""Tell weights from inputs in models of the old file form."""

from __future__ import annotations

import onnx_ir as ir

_FIRST_WITH_CONSTANT_INITIALIZERS = 4


class FreezeDefaults(ir.passes.InPlacePass):
    """Take initializers out of the graph inputs of a model with IR version 3 or older.

    1. IR version below 4: every initializer had to be listed as an input, so the listing says nothing; the listed
       ones are weights. They leave the inputs and the IR version becomes 4 (the order of real inputs stays).
    2. IR version 4 or newer: an input with an initializer is a default that the caller may override. Leave it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Freeze in place."""
        if model.ir_version >= _FIRST_WITH_CONSTANT_INITIALIZERS:
            return ir.passes.PassResult(model, False)
        for value in list(model.graph.inputs):
            if value.is_initializer():
                model.graph.inputs.remove(value)
        model.ir_version = _FIRST_WITH_CONSTANT_INITIALIZERS
        return ir.passes.PassResult(model, True)
