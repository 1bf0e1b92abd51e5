"""The backend of this machine: everything is legal, nothing is approximate."""

from __future__ import annotations

import onnx_ir as ir

from porting import backends
from porting_kernels.numerics import EXACT
from porting_passes.legality import Legal, check


def test_everything_is_legal() -> None:
    surface = backends.get("reference").surface()
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT8E4M3FN), shape=ir.Shape(["n"]))
    for domain, op_type in (("", "Loop"), ("porting", "Quantize"), ("acme", "Anything")):
        assert check(ir.node(op_type, [x], domain=domain), surface.operator_set, 25) == Legal()
    assert surface.opset is None


def test_nothing_is_approximate() -> None:
    assert backends.get("reference").numerics.numerics() == EXACT
