"""Layers stamped out of a shortened trace against a full export, node by node, and what is exported whole instead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting import frontends
from porting.frontends import checkpoint_graph, repeated_layers
from porting.frontends.repeated_layers import LayersDiffer, Run
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {
    **SMALL,
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 3,
}
EXPERTS = {"head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SLIDING = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}

STAMPED: dict[str, tuple[str, dict[str, Any], list[tuple[int, int]]]] = {
    "dense_then_experts": ("deepseek_v3", LATENT, [(0, 2), (3, 5)]),
    # So many heads that no two keys of the indexer score exactly 0, where transformers and ONNX choose differently.
    "indexer": (
        "deepseek_v32",
        {**LATENT, "num_hidden_layers": 5, "index_n_heads": 16, "index_head_dim": 24, "index_topk": 4}
        | {"first_k_dense_replace": 1},
        [(1, 4)],
    ),
    "dense": ("llama", {**SMALL, "tie_word_embeddings": True}, [(0, 4)]),
    "first_layers_dense": ("qwen3_moe", {**SMALL, **EXPERTS, "mlp_only_layers": [0, 1]}, [(2, 4)]),
    "two_kinds_in_blocks": (
        "gemma3_text",
        {**SMALL, **SLIDING, "layer_types": ["sliding_attention"] * 4 + ["full_attention"]},
        [(0, 3)],
    ),
    "learned_positions": ("gpt2", GPT, [(0, 3)]),
}
QUICK = ("dense_then_experts", "learned_positions")
CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in STAMPED]
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "every_second_layer_sparse": ("qwen3_moe", {**SMALL, **EXPERTS, "decoder_sparse_step": 2}),
    "alternating_windows": ("gemma2", {**SMALL, **SLIDING}),
    "another_scale_each": ("gpt2", {**GPT, "scale_attn_by_inverse_layer_idx": True}),
    "no_three_layers": ("llama", {**SMALL, "num_hidden_layers": 2}),
}


def module_of(kind: str, fields: dict[str, Any]) -> Any:
    return checkpoint_graph.instantiate(transformers.CONFIG_MAPPING[kind](**fields))


def export_whole(monkeypatch: pytest.MonkeyPatch, module: Any) -> ir.Model:
    with monkeypatch.context() as patch:
        patch.setattr(repeated_layers, "find_runs", lambda module: [])
        return checkpoint_graph.export(module)


def count_exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one item with each export from now on."""
    exports: list[int] = []
    plain = checkpoint_graph._export_whole

    def counted(module: Any) -> ir.Model:
        exports.append(1)
        return plain(module)

    monkeypatch.setattr(checkpoint_graph, "_export_whole", counted)
    return exports


def write(folder: Path, kind: str, fields: dict[str, Any]) -> Any:
    """A model with random weights, none of them at a default, saved to the folder."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        scale = 0.2 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5
        parameter.data = parameter.data * (parameter.dim() < 2) + scale * torch.randn(parameter.shape)
    model.eval().save_pretrained(folder)
    return model


def attribute(value: ir.Attr) -> Any:
    if value.type == ir.AttributeType.TENSOR:
        tensor = value.as_tensor()
        return tensor.dtype, tuple(tensor.shape), tensor.tobytes()
    return value.type, value.value


def assert_same_graph(model: ir.Model, expected: ir.Model) -> None:
    """Equal in order and up to the names of nodes and of values that are no initializer, input or output."""
    counterparts: dict[ir.Value | None, ir.Value | None] = {None: None}
    for kind in ("inputs", "initializers"):
        values, others = (
            list(getattr(m.graph, kind).values() if kind == "initializers" else getattr(m.graph, kind))
            for m in (model, expected)
        )
        assert [value.name for value in values] == [value.name for value in others]
        assert [(v.dtype, v.shape) for v in values] == [(v.dtype, v.shape) for v in others]
        assert [provenance.of(v) for v in values] == [provenance.of(v) for v in others]
        counterparts.update(zip(values, others, strict=True))
        for value, other in zip(values, others, strict=True):
            if other.const_value is not None:  # computed from the config; what is stored only the stamped graph has
                assert value.const_value is not None
                assert np.array_equal(value.const_value.numpy(), other.const_value.numpy()), value.name
    nodes, others, sources = list(model.graph), list(expected.graph), []
    assert [node.op_identifier() for node in nodes] == [node.op_identifier() for node in others]
    for node, other in zip(nodes, others, strict=True):
        assert {k: attribute(v) for k, v in node.attributes.items()} == {
            k: attribute(v) for k, v in other.attributes.items()
        }
        assert [counterparts[value] for value in node.inputs] == list(other.inputs)
        assert [(v.dtype, v.shape) for v in node.outputs] == [(v.dtype, v.shape) for v in other.outputs]
        for value, twin in zip(node.outputs, other.outputs, strict=True):
            place, expected_place = provenance.of(value), provenance.of(twin)
            assert len(place.sources) == len(expected_place.sources)
            sources += place.sources
            for field in ("equal", "rules", "module", "class_name", "file", "line"):
                assert getattr(place, field) == getattr(expected_place, field), value.name
        counterparts.update(zip(node.outputs, other.outputs, strict=True))
    assert [counterparts[value] for value in model.graph.outputs] == list(expected.graph.outputs)
    assert [value.name for value in model.graph.outputs] == [value.name for value in expected.graph.outputs]
    for names in ([value.name for node in nodes for value in node.outputs], [node.name for node in nodes], sources):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES)
def test_stamped_graph_is_that_of_a_full_export_and_computes_what_eager_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, fields, runs = STAMPED[case]
    whole = module_of(kind, fields)
    assert [(run.first, run.last) for run in repeated_layers.find_runs(whole)] == runs
    model = write(tmp_path, kind, fields)
    exports = count_exports(monkeypatch)
    stamped = frontends.load(str(tmp_path)).model
    assert exports == [1]
    assert_same_graph(stamped, export_whole(monkeypatch, whole))
    ids = torch.randint(3, 96, (2, 7))
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
    got = Interpreter(stamped).run({"input_ids": ids})["logits"]
    # Sums of a few dozen float32 products in another order; a wrong or missing layer is off by 0.1 and more.
    assert float((torch.as_tensor(got) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("case", WHOLE)
def test_layers_that_are_not_alike_make_no_run(case: str) -> None:
    assert repeated_layers.find_runs(module_of(*WHOLE[case])) == []


@pytest.mark.parametrize("factor", [lambda number: 1 + number, lambda number: number], ids=["added_to", "multiplied"])
def test_layers_that_use_their_number_are_exported_each(factor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    plain = GPT2Block.forward

    def forward(self: Any, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return plain(self, hidden, *args, **kwargs) * factor(self.attn.layer_idx)

    monkeypatch.setattr(GPT2Block, "forward", forward)
    module = module_of("gpt2", {**GPT, "n_layer": 3})
    assert len(repeated_layers.find_runs(module)) == 1
    exports = count_exports(monkeypatch)
    model = checkpoint_graph.export(module)
    assert exports == [1, 1]
    assert [type(block.attn.layer_idx) for block in module.transformer.h] == [int] * 3
    places = [provenance.of(node.outputs[0]).module for node in model.graph if node.op_type == "Softmax"]
    assert places == [f"transformer.h.{number}.attn" for number in range(3)]


def test_shared_parameters_make_no_run() -> None:
    module = module_of("llama", SMALL)
    module.model.layers[1].mlp.up_proj.weight = module.model.layers[3].mlp.up_proj.weight
    assert repeated_layers.find_runs(module) == []


def test_another_epsilon_ends_a_run() -> None:
    module = module_of("llama", {**SMALL, "num_hidden_layers": 6})
    module.model.layers[4].input_layernorm.variance_epsilon = 1e-3
    assert repeated_layers.find_runs(module) == [Run("model.layers", 0, 3)]


class Model(torch.nn.Module):
    """Four equal layers and a way to call them."""

    class Config:
        num_hidden_layers = 4

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 3, device="meta")

        def forward(self, hidden: torch.Tensor, bias: Any = None) -> torch.Tensor:
            return self.linear(hidden) if bias is None else self.linear(hidden) + bias

    def __init__(self, call: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.config, self.call = self.Config(), call
        self.layers = torch.nn.ModuleList(self.Layer() for _ in range(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.call(self.layers, hidden)


def in_turn(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        hidden = layer(hidden, bias=2.0)
    return hidden


def scaled_between(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for number, layer in enumerate(layers):
        hidden = layer(hidden) * number
    return hidden


def another_bias(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for number, layer in enumerate(layers):
        hidden = layer(hidden, bias=1.0 if number == 3 else 0.0)
    return hidden


def another_tensor(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        hidden = layer(hidden, bias=torch.ones(3, device="meta"))
    return hidden


def backwards(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    for number in (0, 1, 3, 2):
        hidden = layers[number](hidden)
    return hidden


def last_one_left_out(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    return in_turn(list(layers)[:3], hidden)


def inner_module(layers: Any, hidden: torch.Tensor) -> torch.Tensor:
    return layers[3].linear(in_turn(list(layers)[:3], hidden))


def test_layers_called_in_turn_with_the_same_are_skipped() -> None:
    module = Model(in_turn)
    runs = repeated_layers.find_runs(module)
    assert runs == [Run("layers", 0, 3)]
    with repeated_layers.skipping(module, runs):
        module(torch.zeros(1, 3, device="meta"))
    assert "forward" not in vars(module.layers[3])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (scaled_between, "not the one hidden state"),
        (another_bias, "layer 3 is given another bias"),
        (another_tensor, "layer 1 is given another bias"),
        (backwards, "in turn"),
        (last_one_left_out, "in turn"),
        (inner_module, "in turn"),
    ],
)
def test_layers_called_otherwise_are_not_skipped(call: Any, reason: str) -> None:
    module = Model(call)
    with pytest.raises(LayersDiffer, match=reason), repeated_layers.skipping(module, repeated_layers.find_runs(module)):
        module(torch.zeros(1, 3, device="meta"))
    assert "forward" not in vars(module.layers[3])
