"""Places from what torch's exporter leaves on nodes."""

import onnx_ir as ir
import pytest

from porting.frontends import origin
from porting_passes import provenance

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"


@pytest.mark.parametrize(
    ("scopes", "module"),
    {
        "['', 'stem.1', 'relu']": "stem.1",
        "['', 'relu']": None,
        "['_empty_nn_module_stack_from_metadata_hook', 'sym_size']": None,
    }.items(),
    ids=["a module", "the root", "torch's placeholder"],
)
def test_the_innermost_module_is_the_place(scopes: str, module: str | None) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> f (float[4] x) => (float[4] y) { y = Relu (x) }'
    )
    (node,) = model.graph
    node.metadata_props.update({SCOPES: scopes, CLASSES: "['Net', 'torch.nn.ReLU', 'aten.relu']"})
    origin.stamp(model)
    assert provenance.of(node.outputs[0]).module == module
