from __future__ import annotations

import re
from xml.etree import ElementTree

from porting.parity.report.heat_map import heat_map
from porting.parity.report.language_model import decoder_layers, routing

ROUTER = {
    "module": "model.layers.<1>.mlp.gate", "name": "e", "value": "e", "experts": 4, "chosen": 1, "decisions": 100,
    "differ": 3, "near_ties": 1, "faults": 0, "tight": 2, "margin_min": 1e-6, "logits_rel_l2": 3e-3,
    "hits": [25, 75, 0, 0], "reference_hits": [26, 74, 0, 0], "flipped": [1, 1, 0, 0], "untested": [2, 3],
    "flips": [{"kind": "near_tie", "sample": 0, "row": 0, "position": 9, "lost": [0], "gained": [1],
               "gap": 1e-5, "reach": 2e-5}],
}  # fmt: skip


def test_a_row_has_one_cell_an_expert_with_its_share_and_marks() -> None:
    drawn = ElementTree.fromstring(heat_map([ROUTER]).replace("&lt;", "(").replace("&gt;", ")"))
    cells = list(drawn.iter("rect"))
    assert [c.get("class") for c in cells] == ["share", "share", "untested", "untested"]
    assert [c.get("fill-opacity") for c in cells] == ["0.400", "1.000", None, None], "an even share is 2 of 5"
    assert len(list(drawn.iter("circle"))) == 2
    assert "75 of 100 tokens (75.00%), 1 flips" in "".join(drawn.itertext())


def test_256_experts_and_58_routers_keep_inside_the_drawing() -> None:
    router = ROUTER | {"experts": 256, "hits": [3] * 256, "flipped": [0] * 256, "untested": []}
    text = heat_map([router] * 58)
    assert max(float(x) for x in re.findall(r' x="([\d.]+)"', text)) < 1120
    assert text.count("<rect") == 256 * 58


def test_the_section_names_flips_and_untested_experts() -> None:
    parity = {
        "outputs": [{"name": "logits", "kl_mean": 3e-4, "replayed": {"kl_mean": 4e-6}}],
        "routing": {"decisions": 100, "differ": 3, "near_ties": 1, "faults": 0, "near_tie_fraction": 0.01,
                    "settled_by": "replay", "routers": [ROUTER]},
    }  # fmt: skip
    text = routing(parity, {ROUTER["module"]: "pass"})
    assert text is not None
    for part in ("untested", "batch 1, row 1, token 10", "4.00e-6 nats instead of 3.00e-4", "&lt;1&gt;"):
        assert part in text
    assert "<1>" not in text
    assert routing({"routing": None}, {}) is None


def test_decoder_layers_come_worst_first_and_ten_at_most() -> None:
    def layer(i: int) -> dict[str, object]:
        metrics = {"rel_l2": i * 1e-3, "sqnr_db": 40.0}
        return {"module": f"model.layers.{i}", "value": "h", "accumulated": metrics, "forced": metrics,
                "isolated": metrics, "flips": 0}  # fmt: skip

    text = decoder_layers({"decoder_layers": [layer(i) for i in range(12)]})
    assert text is not None
    assert re.findall(r"model\.layers\.(\d+)", text) == [str(i) for i in range(11, 1, -1)]
    assert decoder_layers({}) is None
