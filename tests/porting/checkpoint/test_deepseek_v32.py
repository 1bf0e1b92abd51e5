"""DeepSeek-V3.2: what runtimes keep of its attention is kept, and every format passes its contract."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from porting.checkpoint.comparison import compare
from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.source import Source
from porting.checkpoint.validation import validate

FORMATS = ("ascend", "cambricon", "compressed-tensors")
FLOAT = (
    "q_a_proj.weight",
    "kv_a_proj_with_mqa.weight",
    "kv_b_proj.weight",
    "indexer.wq_b.weight",
    "indexer.wk.weight",
    "indexer.weights_proj.weight",
    "indexer.k_norm.weight",
)
"""By msModelSlim's recipes for V3.2, and by both Cambricon runtimes."""


EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v32"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random example in three formats."""
    folder = tmp_path_factory.mktemp("v32") / "out"
    convert(Conversion(Source(EXAMPLE), "w8a8", FORMATS), folder, threads=2)
    return folder


def stored(folder: Path) -> dict[str, str]:
    """Types by name of the first layer's attention."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if ".layers.0.self_attn." in name:
                    found[name.partition("self_attn.")[2]] = opened.get_slice(name).get_dtype()
    return found


def test_what_of_the_attention_stays_in_float(out: Path) -> None:
    types = json.loads((out / "ascend" / "quant_model_description.json").read_text())
    ascend = {name.partition("layers.0.self_attn.")[2]: kind for name, kind in types.items()}
    for name in FLOAT:
        assert ascend[name] == "FLOAT"
        assert stored(out / "ascend")[name] in ("BF16", "F32")
        assert stored(out / "cambricon")[name] in ("BF16", "F32")
    for name in ("q_b_proj", "o_proj"):
        assert ascend[f"{name}.weight"] == "W8A8_DYNAMIC"
        assert stored(out / "ascend")[f"{name}.weight"] == "I8"
        assert stored(out / "cambricon")[f"{name}.qweight"] == "I8"


def test_the_key_norm_keeps_the_type_that_each_layer_stores(out: Path) -> None:
    """float32 in the first layer of the source."""
    assert stored(out / "ascend")["indexer.k_norm.bias"] == "F32"


@pytest.mark.parametrize("form", FORMATS)
def test_contract_and_error(form: str, out: Path) -> None:
    assert validate(out / form, digests=True) == []
    assert compare(Source(EXAMPLE), out / form, threads=2).past(0.02) == []
