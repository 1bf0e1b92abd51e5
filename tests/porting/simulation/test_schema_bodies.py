"""Function bodies of ONNX's own schemas: which exist, and what they compute when no kernel stands before them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from porting.simulation import schema_bodies
from porting.simulation.interpreter import Interpreter
from porting_kernels import registry

BODIES = {
    "fixed": ("ThresholdedRelu", {"alpha": 0.5}),
    "typed": ("Celu", {"alpha": 0.7}),
    "attribute left out": ("LeakyRelu", {}),
    "many nodes": ("Softmax", {"axis": 0}),
}


def test_bodies_exist_from_their_opset_on() -> None:
    assert schema_bodies.has_body("", "Gelu", 20)
    assert not schema_bodies.has_body("", "Conv", 22)
    assert not schema_bodies.has_body("", "Softmax", 11)
    assert not schema_bodies.has_body("vendor", "Gelu", 20)
    assert schema_bodies.depends_on_types("", "Gelu", 20)
    assert not schema_bodies.depends_on_types("", "Mish", 22)


def test_defaults_of_attributes() -> None:
    assert schema_bodies.defaults("", "LeakyRelu", 16)["alpha"].as_float() == pytest.approx(0.01)
    assert schema_bodies.defaults("vendor", "LeakyRelu", 16) == {}


@pytest.mark.parametrize("op_type, attributes", BODIES.values(), ids=BODIES)
def test_a_body_stands_in_for_a_missing_kernel(
    op_type: str, attributes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = helper.make_node(op_type, ["x"], ["y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    found = registry.lookup

    def without(domain: str, name: str, version: int) -> registry.Kernel | None:
        return None if name == op_type else found(domain, name, version)

    monkeypatch.setattr(registry, "lookup", without)
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    result = Interpreter(ir.from_proto(model)).run({"x": torch.from_numpy(x)})["y"]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-5, atol=1e-6)  # the body rounds at each of its nodes
