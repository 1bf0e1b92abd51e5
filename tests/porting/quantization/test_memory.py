"""What quantizing a large weight takes of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

PEAK = """
import sys, torch
from pathlib import Path
from porting.quantization.quantized_weight import quantize_weight
from porting.quantization.weight_spec import WeightSpec
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

torch.set_num_threads(1)
store, budget = WeightStore(sys.argv[1]), int(sys.argv[2])
view = WeightView.of(store, "l.weight", torch.float32)
for source, spec in ((view, WeightSpec()), (view, WeightSpec(4, 100, "mse")), (view.transposed(), WeightSpec())):
    small = quantize_weight(source.sliced(0, 0, 8), spec)
    small.codes.tensor(), small.scale.tensor()  # the first use of each operation takes memory once
    weight = quantize_weight(source, spec)
    before = peak()
    for tensor in (weight.codes, weight.scale, weight.scale):
        for _ in tensor.blocks(budget):
            pass
    print(peak() - before)
"""


@pytest.mark.parametrize("native", ["0", "1"])
def test_a_pass_stays_within_its_budget(tmp_path: Path, native: str) -> None:
    codes = torch.zeros(3_000, 3_000, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes.view(torch.uint8)[:, ::2] = 0x38  # ones among zeros
    save_file({"l.weight": codes, "l.weight_scale_inv": torch.ones(24, 24)}, tmp_path / "model.safetensors")
    budget = 24 << 20
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(budget)],
        env={**os.environ, "PORTING_NATIVE": native},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [int(peak) for peak in done.stdout.split()]
    assert len(peaks) == 3
    assert max(peaks) < budget
