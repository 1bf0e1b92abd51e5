"""What a converted model predicts: the trained example, with the weights of the written files, run by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ascend_reader import AscendReader
from cambricon_reader import CambriconReader

from examples.tiny_deepseek_v3 import fp8_layout
from examples.tiny_deepseek_v3.perplexity import bits_per_byte
from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.decoded import ConvertedFolder
from porting.checkpoint.source import Source

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"
TEXT = (EXAMPLE / "sample.txt").read_bytes()[:2048]

# Bits per byte that a scheme may cost. Measured on 2,048 bytes: int8 0.0002 at most, int4 experts 0.006, int4 in groups
# of 128 everywhere 0.007, blocks of float8 with bfloat16 for ragged ones 0.0004, blocks of int8 0.0005. Any rounding
# moves so short a text by 0.001 either way (half of it: int8 by 0.0006), hence three times the figure and 0.001.
COSTS = {"bf16": 0.001, "w8a8": 0.0016, "w4a8": 0.019, "w4a16-g128": 0.022, "fp8-block": 0.0022, "int8-block": 0.0025}


def weights(folder: Path, form: str, source: Source) -> dict[str, torch.Tensor]:
    """Every weight of a converted folder in float32; by an independent reader where there is one."""
    found: dict[str, torch.Tensor] = {}
    ascend = AscendReader(folder) if form == "ascend" else None
    cambricon = CambriconReader(folder) if form == "cambricon" else None
    others = ConvertedFolder(folder) if ascend is None and cambricon is None else None
    for name, tensor in source.tensors.items():
        if ascend is not None:
            value = ascend.weight(name)
        elif cambricon is not None:
            value = (
                cambricon.weight(name.removesuffix(".weight")) if name.endswith(".weight") else cambricon.tensors[name]
            )
        else:
            assert others is not None
            decoded = others.decoded(name, tensor.shape)
            value = decoded.values(decoded.read_codes(0, decoded.rows), 0).reshape(tensor.shape).numpy()
        found[name] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    return fp8_layout.stacked(found)


@pytest.mark.slow
def test_a_scheme_costs_as_many_bits_as_it_may(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = json.loads((EXAMPLE / "config.json").read_text())
    settings.pop("quantization_config")
    model = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**settings)).float().eval()
    model.load_state_dict(fp8_layout.read(EXAMPLE))
    reference = bits_per_byte(model, TEXT)
    for scheme, form in (
        ("bf16", "cambricon"),
        ("w8a8", "ascend"),
        ("w8a8", "cambricon"),
        ("w4a8", "ascend"),
        ("w4a16-g128", "compressed-tensors"),
        ("fp8-block", "compressed-tensors"),
        ("int8-block", "sglang"),
    ):
        source, out = Source(EXAMPLE), tmp_path / f"{scheme}-{form}"
        convert(Conversion(source, scheme, (form,)), out, threads=2)
        model.load_state_dict(weights(out, form, source))
        cost = bits_per_byte(model, TEXT) - reference
        print(f"{scheme} {form}: {reference:.4f} {cost:+.4f}")
        assert abs(cost) < COSTS[scheme], (scheme, form)
