"""One quantizer: the codes and scales of a converted checkpoint are those of a port, to the bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from ascend_reader import AscendReader
from click.testing import CliRunner
from onnx import numpy_helper

from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.source import Source
from porting.cli import port

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"


def stored_names(value: str, experts: int) -> Iterator[str]:
    """The checkpoint's names of what a port has put into one matrix, in the order of its rows."""
    module = re.sub(r"\.weight.*|/.*", "", value)
    if match := re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj", module):
        parts = ("gate", "up") if match[2] == "gate_up" else ("down",)
        yield from (f"{match[1]}.{expert}.{part}_proj.weight" for expert in range(experts) for part in parts)
    elif "/joined" in value:
        yield from (module.replace("gate_proj", part) + ".weight" for part in ("gate_proj", "up_proj"))
    else:
        yield f"{module}.weight"


@pytest.mark.slow
def test_codes_and_scales_are_those_of_the_port_for_the_same_scheme_and_runtime(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("def f(x):\n    return x\n")
    result = CliRunner().invoke(
        port.command,
        [str(EXAMPLE), "--backend", "ascend-910b", "--surface", "torch_npu", "--scheme", "w8a8",
         "--inputs", str(tmp_path / "text.txt"), "-o", str(tmp_path / "port")],
        standalone_mode=False,
    )  # fmt: skip
    assert (tmp_path / "port" / "model.onnx").exists(), result.output
    convert(Conversion(Source(EXAMPLE), "w8a8", ("ascend",)), tmp_path / "checkpoint", threads=2)
    reader = AscendReader(tmp_path / "checkpoint")
    experts = json.loads((EXAMPLE / "config.json").read_text())["n_routed_experts"]
    model = onnx.load(tmp_path / "port" / "model.onnx")
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    seen = set()
    for name, codes in values.items():
        if codes.dtype != np.int8:
            continue
        sources = list(stored_names(name, experts))
        ours = np.concatenate([reader.codes(source) for source in sources])
        scales = np.concatenate([reader.tensors[f"{source}_scale"] for source in sources])
        np.testing.assert_array_equal(codes.reshape(ours.shape), ours, err_msg=name)
        np.testing.assert_array_equal(values[f"{name}/scale"].reshape(scales.shape), scales, err_msg=name)
        seen |= set(sources)
    assert seen == {name for name, kind in reader.types.items() if kind == "W8A8_DYNAMIC" and name.endswith(".weight")}
