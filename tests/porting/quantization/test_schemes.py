from __future__ import annotations

import json
from importlib.resources import files

import pytest

from porting import schemas
from porting.errors import UsageError
from porting.quantization.schemes import schemes
from porting.quantization.weight_spec import WeightSpec

INT8, INT4, INT4_GROUPS = WeightSpec(), WeightSpec(4, None, "mse"), WeightSpec(4, 128, "mse")


def test_the_table_keeps_to_its_schema() -> None:
    document = json.loads(files("porting.quantization").joinpath("schemes.json").read_text(encoding="utf-8"))
    schemas.validate("schemes", document)
    roles = {row["role"] for row in document["roles"]} | {"*"}
    assert {row["role"] for row in document["schemes"]} <= roles


@pytest.mark.parametrize(
    ("scheme", "runtime", "role", "spec", "activation"),
    [
        ("w8a8", "torch_npu", "linear", INT8, "int8_token"),
        ("w8a8", "torch_mlu_ops", "routed_expert", INT8, "int8_token"),
        ("w8a16", "torch_npu", "routed_expert", INT8, "float"),
        ("w4a8", "torch_npu", "routed_expert", INT4, "int8_token"),
        ("w4a8", "torch_mlu_ops", "routed_expert", INT4_GROUPS, "int8_token"),
        ("w4a8", "torch_npu", "linear", INT8, "int8_token"),
        ("w4a8", "torch_mlu_ops", "shared_expert", INT8, "int8_token"),
        ("w4a16-g128", "torch_npu", "linear", INT4_GROUPS, "float"),
    ],
)
def test_what_a_scheme_makes_of_a_layer(
    scheme: str, runtime: str, role: str, spec: WeightSpec, activation: str
) -> None:
    row = schemes().row(scheme, runtime, role)
    assert (row.spec, row.activation) == (spec, activation)


@pytest.mark.parametrize(
    ("module", "role"),
    [
        ("model.layers.3.mlp.experts.17.gate_proj", "routed_expert"),
        ("model.layers.3.mlp.experts.gate_up_proj", "routed_expert"),
        ("model.layers.3.mlp.shared_experts.up_proj", "shared_expert"),
        ("model.layers.3.mlp.shared_expert.up_proj", "shared_expert"),
        ("model.layers.0.mlp.gate_proj", "linear"),
        ("model.layers.0.self_attn.o_proj", "linear"),
    ],
)
def test_roles(module: str, role: str) -> None:
    assert schemes().role(module) == role


def test_matrices_that_runtimes_join() -> None:
    matrix = schemes().matrix
    assert (
        matrix("a.mlp.experts.3.gate_proj") == matrix("a.mlp.experts.4.up_proj") == "a.mlp.experts.*.gate_proj+up_proj"
    )
    assert matrix("a.mlp.experts.3.down_proj") != matrix("a.mlp.experts.3.up_proj")
    assert matrix("a.mlp.gate_proj") != matrix("b.mlp.gate_proj")
    assert matrix("a.mlp.shared_experts.gate_proj") != matrix("a.mlp.experts.0.gate_proj")
    assert matrix("q_proj") == matrix("v_proj")


def test_unknown_words_name_the_known_ones() -> None:
    with pytest.raises(UsageError, match="none or w8a8 or w8a16 or w4a8 or w4a16-g128") as caught:
        schemes().row("w2a2", "torch_npu", "linear")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="torch_npu or reference or torch_mlu_ops"):
        schemes().row("w4a8", "rknn", "routed_expert")
