from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from porting.errors import UsageError
from porting.quantization.plan import QuantizationPlan, module_of, plan_quantization
from porting.quantization.scheme_map import MapLine, SchemeMap
from porting.quantization.weight_spec import WeightSpec
from porting.weights.store import WeightStore

INT8, INT4 = WeightSpec(), WeightSpec(4, None, "mse")
L0, L3 = "model.layers.0.", "model.layers.3."
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (512, 256),
    f"{L0}input_layernorm.weight": (256,),
    f"{L0}self_attn.q_a_proj.weight": (160, 256),
    f"{L0}self_attn.q_a_proj.weight_scale_inv": (2, 2),
    f"{L0}self_attn.kv_a_proj_with_mqa.weight": (112, 256),
    f"{L0}self_attn.kv_b_proj.weight": (512, 96),
    f"{L0}mlp.gate_proj.weight": (640, 256),
    f"{L0}mlp.up_proj.weight": (640, 256),
    f"{L0}mlp.down_proj.weight": (256, 640),
    f"{L3}mlp.gate.weight": (16, 256),
    f"{L3}mlp.gate.e_score_correction_bias": (16,),
    **{f"{L3}mlp.experts.{e}.{p}_proj.weight": (96, 256) for e in range(2) for p in ("gate", "up")},
    **{f"{L3}mlp.experts.{e}.down_proj.weight": (256, 96) for e in range(2)},
    f"{L3}mlp.shared_experts.gate_proj.weight": (96, 256),
    "lm_head.weight": (512, 256),
}


def plan(scheme: str = "w8a8", runtime: str = "torch_npu", lines: Any = (), tensors: Any = SHAPES) -> QuantizationPlan:
    scheme_map = SchemeMap(tuple(MapLine(re.compile(pattern), word) for pattern, word in lines), "map.json")
    return plan_quantization(tensors, scheme=scheme, runtime=runtime, family="deepseek_v3", scheme_map=scheme_map)


def test_weights_get_decisions_and_nothing_else_does() -> None:
    found = plan()
    assert set(SHAPES) - set(found) == {
        f"{L0}self_attn.q_a_proj.weight_scale_inv",
        f"{L3}mlp.gate.e_score_correction_bias",
    }
    assert {name for name, decision in found.items() if decision.keep} == {
        "model.embed_tokens.weight",
        f"{L0}input_layernorm.weight",
        f"{L0}self_attn.kv_b_proj.weight",
        f"{L3}mlp.gate.weight",
        "lm_head.weight",
    }
    assert {(d.spec, d.activation) for d in found.values() if not d.keep} == {(INT8, "int8_token")}
    assert all(d.reason and d.source for d in found.values())
    assert dict(plan(tensors=list(SHAPES))) == dict(found), "names are enough where shapes decide nothing"


def test_experts_alone_are_int4_in_w4a8() -> None:
    found = plan("w4a8")
    assert {name for name, d in found.items() if d.spec == INT4} == {name for name in SHAPES if ".experts." in name}
    assert found[f"{L3}mlp.shared_experts.gate_proj.weight"].spec == INT8


def test_groups_that_do_not_divide_a_row_take_the_alternative() -> None:
    found = plan("w4a8", "torch_mlu_ops")
    assert found[f"{L3}mlp.experts.0.gate_proj.weight"].spec == WeightSpec(4, 128, "mse")
    down = found[f"{L3}mlp.experts.0.down_proj.weight"]
    assert down.spec == INT8
    assert "do not divide 96 columns" in down.reason


def test_scheme_none_keeps_all() -> None:
    assert all(decision.keep for decision in plan("none").values())


def test_the_map_goes_before_the_scheme_and_before_lines_that_are_not_fixed() -> None:
    lines = [("lm_head", "w8a16"), (r"model\.layers\.0\.mlp\..*", "none"), (r"model\.layers\.0\..*", "w8a16")]
    found = plan(lines=lines)
    assert (found["lm_head.weight"].spec, found["lm_head.weight"].activation) == (INT8, "float")
    assert found[f"{L0}mlp.up_proj.weight"].keep
    assert found[f"{L0}mlp.up_proj.weight"].source == "map.json"
    assert found[f"{L0}self_attn.q_a_proj.weight"].activation == "float"
    assert found[f"{L0}self_attn.kv_b_proj.weight"].keep, "a fixed line"
    assert found[f"{L3}mlp.experts.0.up_proj.weight"].activation == "int8_token"


def test_a_pattern_without_a_match_is_an_error() -> None:
    for pattern in (r"model\.layers\.9\..*", "lm_hea", "head", f"{L0}mlp.gate_proj.weight"):
        with pytest.raises(UsageError, match="matches no module") as caught:
            plan(lines=[(".*", "w8a8"), (pattern, "none")])
        assert caught.value.exit_code == 2
        assert pattern in str(caught.value)


def test_a_pattern_that_can_change_nothing_is_an_error_and_says_why() -> None:
    with pytest.raises(UsageError, match="absorbed into latent attention"):
        plan(lines=[(r".*\.kv_b_proj", "w8a8")])
    assert plan(lines=[(r".*\.kv_b_proj", "none")])[f"{L0}self_attn.kv_b_proj.weight"].keep


@pytest.mark.parametrize(
    ("pattern", "one", "other"),
    [
        (r".*\.mlp\.gate_proj", f"{L0}mlp.gate_proj", f"{L0}mlp.up_proj"),
        (r".*experts\.0\..*", f"{L3}mlp.experts.0.gate_proj", f"{L3}mlp.experts.1.gate_proj"),
        (r".*\.q_a_proj", f"{L0}self_attn.q_a_proj", f"{L0}self_attn.kv_a_proj_with_mqa"),
    ],
)
def test_weights_that_runtimes_join_agree(pattern: str, one: str, other: str) -> None:
    with pytest.raises(UsageError, match="quantized differently") as caught:
        plan(lines=[(pattern, "none")])
    assert one in str(caught.value)
    assert other in str(caught.value)


def test_a_matrix_of_several_stored_tensors_has_one_decision() -> None:
    found = plan(lines=[(r".*\.down_proj", "none")])
    gate, down = f"{L3}mlp.experts.0.gate_proj.weight", f"{L3}mlp.experts.0.down_proj.weight"
    assert found.decision([gate, gate.replace("gate", "up"), f"{gate}_scale_inv"]) == found[gate]
    assert found.decision(["something.else"]) is None
    with pytest.raises(UsageError, match="quantized differently") as caught:
        found.decision([gate, down])
    assert gate in str(caught.value)
    assert down in str(caught.value)


EXAMPLES = Path(__file__).parents[3] / "examples"
ALWAYS = {"norm", "input_layernorm", "post_attention_layernorm", "q_a_layernorm", "kv_a_layernorm", "k_norm"}
ALWAYS |= {"embed_tokens", "lm_head", "gate", "kv_b_proj"}
LATENT, INDEXER = {"q_a_proj", "kv_a_proj_with_mqa"}, {"wq_b", "wk", "weights_proj"}


@pytest.mark.parametrize(
    ("family", "runtime", "more"),
    [
        ("deepseek_v3", "torch_npu", set()),
        ("deepseek_v3", "torch_mlu_ops", LATENT),
        ("deepseek_v32", "torch_npu", LATENT | INDEXER),
        ("deepseek_v32", "torch_mlu_ops", LATENT | INDEXER),
    ],
)
def test_what_stays_of_the_examples(family: str, runtime: str, more: set[str]) -> None:
    store = WeightStore(EXAMPLES / f"tiny_{family}")
    shapes = {name: entry.shape for name, entry in store.entries.items()}
    found = plan_quantization(shapes, scheme="w8a8", runtime=runtime, family=family)
    leaves = {keep: {name.split(".")[-2] for name, d in found.items() if d.keep == keep} for keep in (True, False)}
    assert leaves[True] - ALWAYS == more
    assert (
        leaves[False]
        == {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj"} - more
    )


def test_modules_of_stored_tensors() -> None:
    assert module_of("a.q_proj.weight") == "a.q_proj"
    assert module_of("a.mlp.experts.gate_up_proj") == "a.mlp.experts.gate_up_proj"
    for name in ("a.q_proj.bias", "a.q_proj.weight_scale_inv", "a.experts.gate_up_proj_bias", "rotary_emb.inv_freq"):
        assert module_of(name) is None


def test_stacked_experts_and_what_is_no_matrix() -> None:
    found = plan("w4a8", tensors={"m.mlp.experts.gate_up_proj": (4, 64, 32), "m.conv.weight": (8, 8, 3, 3)})
    assert found["m.mlp.experts.gate_up_proj"].spec == INT4
    assert found["m.conv.weight"].reason == "not a matrix: [8, 8, 3, 3]"
