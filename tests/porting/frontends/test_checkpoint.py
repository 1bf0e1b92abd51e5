"""Checkpoint folders: what binds, what is left out and said to be, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from porting import frontends
from porting.errors import InvalidModelError, UsageError
from porting.frontends import checkpoint, checkpoint_graph
from porting.frontends.checkpoint_binding import Binding, bind, outside
from porting.frontends.checkpoint_recipe import to_view
from porting.weights.store import WeightStore
from porting_passes import provenance
from porting_passes.canonicalize import Canonicalize

transformers = pytest.importorskip("transformers")

TINY: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
}
LATENT: dict[str, Any] = {
    **TINY,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}


def write(folder: Path, kind: str, fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.eval().save_pretrained(folder)
    return model


def edit(folder: Path, change: Any) -> None:
    """Change the stored tensors, a dict by name, in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def binding_of(folder: Path) -> tuple[Any, WeightStore, Binding]:
    store = WeightStore(folder)
    module = checkpoint_graph.instantiate(checkpoint.read_config(folder))
    return module, store, bind(module, checkpoint.stored_shapes(store))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {**TINY, "tie_word_embeddings": True}),
        ("deepseek_v3", LATENT),
        ("mixtral", {**TINY, "num_local_experts": 4}),
        ("phi3", {**TINY, "pad_token_id": 0}),
        ("gpt2", {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    ],
)
def test_bound_weights_are_those_of_the_model_that_wrote_them(kind: str, fields: Any, tmp_path: Path) -> None:
    model = write(tmp_path, kind, fields)
    _, store, binding = binding_of(tmp_path)
    expected = model.state_dict()
    assert binding.recipes.keys() == expected.keys()
    for name, recipe in binding.recipes.items():
        assert torch.equal(to_view(recipe, store, expected[name].dtype).tensor(), expected[name]), name
    assert binding.unused == ()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "deepseek_v3", "gpt2"])
def test_computed_buffers_are_those_of_an_eager_model(kind: str) -> None:
    fields = LATENT if kind == "deepseek_v3" else TINY if kind != "gpt2" else {"n_embd": 32, "n_layer": 2, "n_head": 4}
    config = transformers.CONFIG_MAPPING[kind](**fields)
    eager = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    computed = checkpoint_graph.materialize(checkpoint_graph.instantiate(config))
    expected = dict(eager.named_non_persistent_buffers())
    assert computed.keys() == expected.keys()
    assert all(torch.equal(computed[name], expected[name]) for name in expected)


def test_import_reads_headers_only_and_knows_the_users_places(tmp_path: Path) -> None:
    write(tmp_path, "deepseek_v3", LATENT)

    def add_next_token_layer(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.2.eh_proj.weight"] = torch.zeros(32, 64)
        tensors["model.layers.2.mlp.experts.0.gate_proj.weight"] = torch.zeros(24, 32)

    edit(tmp_path, add_next_token_layer)
    source = frontends.load(str(tmp_path))
    model = source.model
    assert source.not_in_graph == ["model.layers.2"]
    assert [(v.name, str(v.dtype), list(v.shape)) for v in model.graph.inputs] == [
        ("input_ids", "INT64", ["batch", "sequence"])
    ]
    assert [(v.name, str(v.dtype), list(v.shape)) for v in model.graph.outputs] == [
        ("logits", "FLOAT", ["batch", "sequence", 48])
    ]
    stack = model.graph.initializers["model.layers.1.mlp.experts.gate_up_proj"].const_value
    assert list(stack.shape) == [4, 48, 32]
    assert len(stack.entries) == 8
    experts = [node for node in model.graph if node.op_type == "GroupedMatmul"]
    assert len(experts) == 2
    assert {provenance.of(node.outputs[0]).module for node in experts} == {"model.layers.1.mlp.experts"}
    Canonicalize()(model)
    assert stack.raw[0].stored.store.data_bytes_read == 0


def test_tied_parameters_that_are_both_stored_are_not_tied(tmp_path: Path) -> None:
    write(tmp_path, "llama", {**TINY, "tie_word_embeddings": False})
    edit_config(tmp_path, tie_word_embeddings=True)
    store = WeightStore(tmp_path)
    module = checkpoint._instantiate(checkpoint.read_config(tmp_path), checkpoint.stored_shapes(store))
    assert module.lm_head.weight is not module.model.embed_tokens.weight


def test_missing_tensors_are_listed(tmp_path: Path) -> None:
    write(tmp_path, "llama", TINY)
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(InvalidModelError) as caught:
        binding_of(tmp_path)
    assert "1 of 21" in caught.value.message
    assert caught.value.required == "model.layers.1.mlp.up_proj.weight"


def test_missing_expert_is_named_by_its_siblings(tmp_path: Path) -> None:
    write(tmp_path, "deepseek_v3", LATENT)
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.experts.2.up_proj.weight"))
    with pytest.raises(InvalidModelError) as caught:
        binding_of(tmp_path)
    assert "4 x mlp.experts.*.gate_proj.weight, 3 x mlp.experts.*.up_proj.weight" in str(caught.value)


def test_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "llama", TINY)
    edit(tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(InvalidModelError) as caught:
        binding_of(tmp_path)
    assert caught.value.required == "model.norm.weight [32]"
    assert "[31]" in str(caught.value.met)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mamba_zebra"}, "unknown architecture 'mamba_zebra'"),
        ({"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Mine"}}, "code of its own"),
        ({"model_type": 3}, "names no architecture"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "mxfp4"}}, "quantized format"),
        ({"model_type": "llama", "hidden_size": "wide"}, "no valid llama config"),
    ],
)
def test_config_is_refused_with_the_reason(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InvalidModelError, match=message) as caught:
        frontends.load(str(tmp_path))
    assert caught.value.exit_code == 2


def test_code_in_a_folder_is_not_run_where_transformers_has_its_own(tmp_path: Path) -> None:
    write(tmp_path, "llama", TINY)
    (tmp_path / "mine.py").write_text("raise SystemExit('remote code ran')")
    edit_config(tmp_path, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Mine"})
    module, _, _ = binding_of(tmp_path)
    assert type(module).__module__ == "transformers.models.llama.modeling_llama"


def test_model_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(InvalidModelError, match="no causal language model"):
        checkpoint_graph.instantiate(checkpoint.read_config(tmp_path))


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"without config\.json"):
        frontends.load(str(tmp_path))


def test_without_transformers_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from porting import frontends\n"
        "from porting.errors import UsageError\n"
        "try: frontends.load(sys.argv[1])\n"
        "except UsageError as error: print(error.fix)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "pip install 'porting[hf]'"


def test_names_outside_are_grouped_by_their_first_unknown_module() -> None:
    inside = ["model.embed.weight", "model.layers.0.a.weight"]
    names = ["model.layers.10.a.weight", "model.layers.9.b", "model.layers.9.c.d", "extra", "model.layers.0.a.bias"]
    assert outside(names, inside) == ["extra", "model.layers.0.a.bias", "model.layers.9", "model.layers.10"]
