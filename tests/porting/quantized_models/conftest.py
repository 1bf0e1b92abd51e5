"""DeepSeek models of quantized linear layers in plain torch: what a port of a scheme is compared with.

Nothing of the project takes part: transformers' modules, the example's own reader of its FP8 layout, and the formulas
of the schemes as vendors state them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch

TINY = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"


def rounded_rows(x: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and scales by row: the largest magnitude of a row is ``limit``."""
    scale = x.abs().amax(-1, keepdim=True) / limit
    return torch.where(scale == 0, 0.0, torch.round(x / scale).clamp(-limit - 1, limit)), scale


def rounded_weight(weight: torch.Tensor, bits: int, group: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and scales of a weight (N, K) by row, or by groups of columns: (N, G, K / G) and (N, G, 1)."""
    grouped = weight.unflatten(-1, (-1, group or weight.shape[-1]))
    return rounded_rows(grouped, 2 ** (bits - 1) - 1)


def searched_weight(weight: torch.Tensor, bits: int, group: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the scale of least square error among multiples of 1/64 of the plain one: 64, 60, ... 4, then
    within 3 of the best; docs/quantize.md."""
    grouped = weight.unflatten(-1, (-1, group or weight.shape[-1]))
    limit = 2 ** (bits - 1) - 1
    base = grouped.abs().amax(-1, keepdim=True) / limit

    def tried(step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = grouped / base * (64 / step)
        codes = torch.round(scaled).clamp(-limit - 1, limit)
        error = (scaled - codes).square().double().sum(-1, keepdim=True).float() * (step / 64).square()
        return torch.round(grouped / (base * (step / 64))).clamp(-limit - 1, limit), error

    best = torch.full_like(base, 64.0)
    least = tried(best)[1]
    for offsets in (range(-4, -61, -4), (3, 2, 1, -1, -2, -3)):
        start = best.clone() if len(offsets) == 6 else torch.full_like(base, 64.0)
        for offset in offsets:
            step = start + offset
            error = torch.where((step > 64) | (step < 1), torch.inf, tried(step.clamp(1, 64))[1])
            best, least = torch.where(error < least, step, best), torch.minimum(error, least)
    return tried(best)[0], base * (best / 64)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """bits and group of weights, whether activations are quantized too, and how a weight becomes integers."""

    bits: int = 8
    group: int | None = None
    activations: bool = True
    weight: Callable[[torch.Tensor, int, int | None], tuple[torch.Tensor, torch.Tensor]] = rounded_weight

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x @ weight' under the scheme. Integers are summed in float64, which is exact; scales multiply in float32."""
        codes, scale = self.weight(weight.float(), self.bits, self.group)
        if not self.activations:
            return x @ (codes * scale).flatten(1).t()
        rows, row_scale = rounded_rows(x, 127)
        parts = rows.double().unflatten(-1, codes.shape[1:])
        sums = torch.einsum("...gk,ngk->...gn", parts, codes.double()).float()
        return (sums * scale.squeeze(-1).t()).sum(-2) * row_scale


class QuantizedLinear(torch.nn.Module):
    """In the place of a torch.nn.Linear without a bias."""

    def __init__(self, weight: torch.Tensor, scheme: Scheme) -> None:
        super().__init__()
        self.weight, self.scheme = weight, scheme

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scheme's product."""
        return self.scheme.product(x, self.weight)


class QuantizedExperts(torch.nn.Module):
    """In the place of transformers' experts: one after the other, gate and up apart."""

    def __init__(self, experts: torch.nn.Module, scheme: Scheme) -> None:
        super().__init__()
        self.gate_up, self.down, self.scheme = experts.gate_up_proj, experts.down_proj, scheme
        self.hit = torch.zeros(len(self.down), dtype=torch.int64)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum over each token's experts, in the order of the experts' places in ``ids``."""
        result = torch.zeros_like(x)
        parts = torch.zeros(*ids.shape, x.shape[-1])
        for expert in ids.unique().tolist():
            token, slot = (ids == expert).nonzero(as_tuple=True)
            self.hit[expert] += len(token)
            gate, up = self.gate_up[expert].chunk(2)
            rows = x[token]
            inner = torch.nn.functional.silu(self.scheme.product(rows, gate)) * self.scheme.product(rows, up)
            parts[token, slot] = self.scheme.product(inner, self.down[expert])
        for slot in range(ids.shape[1]):
            result += parts[:, slot] * weights[:, slot, None]
        return result


class Routing:
    """Records the routers' choices of a run, or forces others upon it: scores are then gathered for those."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.chosen: dict[str, torch.Tensor] = {}
        self.margins: dict[str, torch.Tensor] = {}
        self.forced: Mapping[str, torch.Tensor] = {}
        for name, module in model.named_modules():
            if type(module).__name__ == "DeepseekV3TopkRouter":
                module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        def choose(router, _inputs, outputs):
            logits, weights, ids = outputs
            self.chosen[name] = ids
            self.margins[name] = _margin(router, logits)
            if name not in self.forced:
                return outputs
            ids = self.forced[name]
            weights = logits.sigmoid().gather(1, ids)
            if router.norm_topk_prob:
                weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
            return logits, weights * router.routed_scaling_factor, ids

        return choose


def _margin(router: torch.nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """How far each token is from another choice: between groups, or between the last chosen and the first other."""
    scores = logits.sigmoid() + router.e_score_correction_bias
    grouped = scores.unflatten(-1, (router.num_group, -1))
    group_scores = grouped.topk(2, -1)[0].sum(-1)
    best = group_scores.sort(-1, descending=True)
    margin = torch.full((len(logits),), torch.inf)
    if router.topk_group < router.num_group:
        margin = best[0][:, router.topk_group - 1] - best[0][:, router.topk_group]
    inside = torch.zeros_like(group_scores).scatter_(1, best[1][:, : router.topk_group], 1).bool()
    masked = grouped.masked_fill(~inside.unsqueeze(-1), -torch.inf).flatten(1)
    ranked = torch.nn.functional.pad(masked, (0, 1), value=-torch.inf).sort(-1, descending=True)[0]
    return torch.minimum(margin, ranked[:, router.top_k - 1] - ranked[:, router.top_k])


@pytest.fixture(scope="session")
def float_model(fp8_layout: ModuleType) -> Callable[[Path], torch.nn.Module]:
    """A checkpoint folder as transformers' eager float32 model."""
    transformers = pytest.importorskip("transformers")

    def load(folder: Path) -> torch.nn.Module:
        config = transformers.AutoConfig.from_pretrained(
            folder, attn_implementation="eager", experts_implementation="eager"
        )
        module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        module.load_state_dict(fp8_layout.read(folder))
        return module

    return load


@pytest.fixture(scope="session")
def fake_quantized(float_model: Callable[[Path], torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """(folder, kept names, scheme, scheme of experts) -> the model under the scheme.

    kept: last names of linear layers that stay in float.
    """

    def load(folder: Path, kept: frozenset[str], scheme: Scheme, experts: Scheme | None = None) -> torch.nn.Module:
        module = float_model(folder)
        for name, inner in list(module.named_modules()):
            parent, _, last = name.rpartition(".")
            if isinstance(inner, torch.nn.Linear) and last not in kept:
                setattr(module.get_submodule(parent), last, QuantizedLinear(inner.weight.detach(), scheme))
            if last == "experts":
                setattr(module.get_submodule(parent), last, QuantizedExperts(inner, experts or scheme))
        return module

    return load


@pytest.fixture(scope="session")
def scheme() -> type[Scheme]:
    """The parameters of a scheme."""
    return Scheme


@pytest.fixture(scope="session")
def int4() -> Scheme:
    """int4 weights with the searched scale of each row, int8 activations."""
    return Scheme(bits=4, weight=searched_weight)


@pytest.fixture(scope="session")
def routing() -> type[Routing]:
    """The routers of a model, watched or forced."""
    return Routing


FIELDS = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 160, "moe_intermediate_size": 48, "num_hidden_layers": 3,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
    "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2,
    "norm_topk_prob": True, "routed_scaling_factor": 1.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "num_nextn_predict_layers": 0, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 256,
    "initializer_range": 0.15,
}  # fmt: skip


@pytest.fixture(scope="session")
def random_checkpoint(fp8_layout: ModuleType) -> Callable[..., Path]:
    """(folder, seed, outliers=factor, **fields) -> a DeepSeek-V3 of random weights in the FP8 layout.

    Norms and router biases are random too. outliers: five channels of every norm before linear layers are multiplied by
    it, and the weights that read them divided: the same function, with activations that stand out.
    """
    transformers = pytest.importorskip("transformers")

    def write(folder: Path, seed: int, *, outliers: float = 1.0, **fields: object) -> Path:
        config = {**FIELDS, **fields}
        torch.manual_seed(seed)
        own = transformers.DeepseekV3Config(**config, attn_implementation="eager", experts_implementation="eager")
        state = transformers.DeepseekV3ForCausalLM(own).state_dict()
        for name, tensor in state.items():
            if tensor.ndim == 1:
                tensor += torch.randn_like(tensor) * (0.2 if "bias" in name else 0.1)
        _plant(state, outliers)
        folder.mkdir(parents=True, exist_ok=True)
        fp8_layout.write(folder, config, fp8_layout.encode(state))
        return folder

    return write


_READERS = {
    "input_layernorm": ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    "post_attention_layernorm": (
        "mlp.gate_proj", "mlp.up_proj", "mlp.gate", "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj",
        "mlp.experts.gate_up_proj",
    ),
}  # fmt: skip


def _plant(state: dict[str, torch.Tensor], factor: float) -> None:
    for name, tensor in state.items():
        channels = torch.linspace(3, len(tensor) - 1, 5).long()
        layer, _, norm = name.removesuffix(".weight").rpartition(".")
        if norm in _READERS:
            tensor[channels] *= factor
            for reader in _READERS[norm]:
                for suffix in (".weight", ""):
                    weight = state.get(f"{layer}.{reader}{suffix}")
                    if weight is not None:
                        weight[..., channels] /= factor


@pytest.fixture(scope="session")
def plant() -> Callable[[dict[str, torch.Tensor], float], None]:
    """(state of a DeepSeek-V3 as transformers names it, factor): channels that stand out, in place."""
    return _plant
