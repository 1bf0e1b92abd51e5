"""Faults planted into the files of a port: `verify` flags each, and its isolated view names the layer.

Nothing but the layer's own numbers can give such a fault away: the files agree with their digests, both engines of the
fidelity check run the same wrong model, and some faults move the logits less than the scheme does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted_faults import Fault, all_faults, plant

from porting import frontends, verification
from porting.frontends import Source
from porting.parity.decoder_layers import layer_of
from porting.parity.result import Parity
from porting.port import Request, port
from porting.target import Target

TINY = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"
FAULTS = all_faults()
SMALL = {"n_routed_experts": 16, "n_group": 4, "moe_intermediate_size": 64, "rms_norm_eps": 1e-6}


class Ports:
    """Ports of one source for ascend-910b, each made once, and verified without loading the source again."""

    def __init__(self, source: Path, folder: Path, characters: int) -> None:
        self._source, self._folder = source, folder
        self._text = folder / "text.txt"
        self._text.write_bytes((TINY / "sample.txt").read_bytes()[:characters])

    def of(self, scheme: str) -> Path:
        """The port of a scheme."""
        out = self._folder / scheme
        if not out.exists():
            target = Target.resolve("ascend-910b", scheme=scheme)
            port(Request(str(self._source), target, out, inputs=self._text))
        return out

    def verified(self, fault: Fault | None, scheme: str) -> Parity:
        """What `verify` says of a copy with the fault."""
        copy = plant(self.of(scheme), fault, self._folder / "copy")
        try:
            return verification.verify(copy, threads=2)
        finally:
            shutil.rmtree(copy)


def _loaded_once(source: Path, folder: Path, characters: int) -> Iterator[Ports]:
    loaded: dict[str, Source] = {}
    load = frontends.load

    def once(text: str) -> Source:
        if text not in loaded:
            loaded[text] = load(text)
        return loaded[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontends, "load", once)
        yield Ports(source, folder, characters)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Ports]:
    """The committed model: six layers, 512 tokens."""
    yield from _loaded_once(TINY, tmp_path_factory.mktemp("trained"), 512)


@pytest.fixture(scope="module")
def small(tmp_path_factory, random_checkpoint) -> Iterator[Ports]:
    """A random model of three layers."""
    folder = tmp_path_factory.mktemp("small")
    yield from _loaded_once(random_checkpoint(folder / "source", 5, **SMALL), folder, 256)


def wrong_modules(parity: Parity) -> dict[str, list[str]]:
    """Modules that break a limit of the isolated view, with what broke."""
    modules = {layer.anchor.source: layer.anchor.origin.module or "" for layer in parity.layers}
    found: dict[str, list[str]] = {}
    for check in parity.checks:
        if check.question == "isolated" and check.verdict == "fail":
            found.setdefault(modules[check.subject], []).append(check.sentence())
    return found


def require_named(fault: Fault, parity: Parity) -> None:
    """A verdict of fail, the module among those that break an isolated limit, and no other decoder layer."""
    assert parity.verdict == "fail"
    named = wrong_modules(parity)
    assert fault.module in named
    allowed = {layer_of(fault.module), *map(layer_of, fault.also)}
    assert {layer_of(module) for module in named} <= allowed, named


def test_enough_faults():
    assert len({fault.kind for fault in FAULTS}) >= 12
    assert len({fault.name for fault in FAULTS}) >= 60


def test_a_small_port_without_a_fault_breaks_no_limit_of_a_layer(small):
    assert wrong_modules(small.verified(None, "w4a8")) == {}


QUICK = (
    "scale of a channel-w8a8-layers.0.self_attn.q_b_proj",
    "swapped nibbles-w4a8-layers.1.mlp.experts",
    "lost 8*sum-w4a8-layers.2.mlp.experts",
    "stale expert order-w4a8-layers.1.mlp.experts",
    "gate and up swapped-w8a8-layers.2.mlp.shared_experts",
    "wrong rotary half-w8a8-layers.0.self_attn",
)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in QUICK], ids=lambda fault: fault.name)
def test_a_fault_in_a_small_port_is_flagged_and_named(fault, small):
    """Experts have int4 weights in this port, all other products int8."""
    require_named(fault, small.verified(fault, "w4a8"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_a_port_without_a_fault_passes(scheme, trained):
    parity = trained.verified(None, scheme)
    assert parity.verdict == "pass", parity.reasons


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_flagged_and_named(fault, trained):
    require_named(fault, trained.verified(fault, fault.scheme))
