"""Whether all is there that config.json counts: every layer, every expert, and a weight beside every scale.

What a layer consists of the config does not say: a norm that is missing in one of them shows when the model is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from porting.checkpoint.contracts.folder import Fault

_LAYER = re.compile(r"((?:.+\.)?layers)\.(\d+)\.")
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)$")
_BESIDE = re.compile(
    r"(.+)\.(?:weight_(?:scale|offset|shape|scale_inv)|scale_bias|per_channel_scale|smooth|scales|qzeros|g_idx)$"
)
_WEIGHTS = ("weight", "weight_packed", "qweight")
_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")


def check(names: Iterable[str], config: Mapping[str, Any]) -> Iterator[Fault]:
    """names: of all stored tensors. config: config.json."""
    known = set(names)
    yield from _layers(known, _number(config, "num_hidden_layers"))
    yield from _experts(known, next((n for n in (_number(config, key) for key in _EXPERTS) if n), 0))
    for name in sorted(known):
        found = _BESIDE.match(name)
        if found and not any(f"{found[1]}.{weight}" in known for weight in _WEIGHTS):
            yield Fault(name, "a weight beside it", "none")


def _number(config: Mapping[str, Any], key: str) -> int:
    text = config.get("text_config")
    value = config.get(key, text.get(key) if isinstance(text, dict) else None)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _layers(names: set[str], count: int) -> Iterator[Fault]:
    """Of the stack with the most layers; encoders of other inputs have their own."""
    stacks: dict[str, set[int]] = {}
    for name in names:
        found = _LAYER.match(name)
        if found:
            stacks.setdefault(found[1], set()).add(int(found[2]))
    if not stacks or not count:
        return
    stack = max(sorted(stacks), key=lambda each: len(stacks[each]))
    for number in sorted(set(range(count)) - stacks[stack]):
        yield Fault(f"{stack}.{number}", f"each of {count} layers", "missing")


def _experts(names: set[str], count: int) -> Iterator[Fault]:
    """Each has what the others of its layer have."""
    layers: dict[str, dict[int, set[str]]] = {}
    for name in names:
        found = _EXPERT.match(name)
        if found:
            layers.setdefault(found[1], {}).setdefault(int(found[2]), set()).add(found[3])
    for module, experts in sorted(layers.items()):
        parts = set().union(*experts.values())
        for number in range(max(count, *(n + 1 for n in experts))):
            for part in sorted(parts - experts.get(number, set())):
                yield Fault(f"{module}.{number}.{part}", "what the other experts have", "missing")
