"""DeepSeek models of quantized linear layers in plain torch: what a port of a scheme is compared with.

Nothing of the project takes part: transformers' modules, the example's own reader of its FP8 layout, and the formulas
of the schemes as vendors state them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
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
    ranked = grouped.masked_fill(~inside.unsqueeze(-1), -torch.inf).flatten(1).sort(-1, descending=True)[0]
    return torch.minimum(margin, ranked[:, router.top_k - 1] - ranked[:, router.top_k])


@pytest.fixture(scope="session")
def fp8_layout() -> ModuleType:
    """The example's own reader and writer of DeepSeek's layout, which share no code with ours."""
    spec = importlib.util.spec_from_file_location("fp8_layout", TINY / "fp8_layout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
def routing() -> type[Routing]:
    """The routers of a model, watched or forced."""
    return Routing
