"""What reading takes, of this process and of the machine, on files far larger than it may take."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from porting.weights.store import WeightStore
from porting.weights.view import WeightView

ROOT = Path(__file__).resolve().parents[3]

PEAK = """
import sys, torch
from pathlib import Path
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

torch.set_num_threads(1)
store, budget = WeightStore(sys.argv[1]), int(sys.argv[2])
for _ in WeightView.of(store, "small", torch.float32).blocks(budget):
    pass  # the first use of each operation takes memory once
for dtype in (torch.float32, torch.float16):
    whole = WeightView.of(store, "l.weight", dtype)
    for view in (whole, whole.sliced(0, 0, None, 2), whole.transposed().sliced(0, 0, 400)):
        before = peak()
        for first, values in view.blocks(budget):
            pass
        print(peak() - before)
"""


@pytest.fixture(scope="module")
def checkpoints():
    spec = importlib.util.spec_from_file_location("checkpoints", ROOT / "benchmarks" / "checkpoints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("native", ["0", "1"])
def test_blocks_stay_within_their_budget(tmp_path, checkpoints, native):
    tensors = [("l.weight", "F8_E4M3", (8_000, 4_000)), ("l.weight_scale_inv", "F32", (63, 32))]
    tensors += [("small", "F8_E4M3", (300, 300)), ("small_scale_inv", "F32", (3, 3))]
    checkpoints.write(tmp_path, tensors, checkpoints.CONFIG, shards=1)
    budget = 16 << 20
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), str(budget)],
        env={**os.environ, "PORTING_NATIVE": native},
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [int(peak) for peak in done.stdout.split()]
    assert len(peaks) == 6
    assert max(peaks) < budget


def test_every_weight_of_deepseek_v3_is_bound_from_headers_alone(tmp_path, checkpoints):
    tensors = list(checkpoints.deepseek_v3())
    assert len(tensors) == checkpoints.TENSORS
    assert sum(map(checkpoints.size, tensors)) == checkpoints.BYTES
    checkpoints.write(tmp_path, tensors, checkpoints.CONFIG)
    before = len(os.listdir("/proc/self/fd"))
    store = WeightStore(tmp_path)
    assert len(store.entries) == checkpoints.TENSORS
    assert sum(entry.length for entry in store.entries.values()) == checkpoints.BYTES
    names = [f"model.layers.60.mlp.experts.{e}.{part}_proj.weight" for part in ("gate", "up") for e in range(256)]
    views = [WeightView.of(store, name, torch.bfloat16) for name in names]
    view = WeightView.concatenated([WeightView.stacked(views[:256]), WeightView.stacked(views[256:])], axis=1)
    assert view.dims == (256, 4096, 7168)
    assert store.data_bytes_read == 0
    assert view.read(4096 * 255, 4096 * 255 + 3).tolist() == [[0.0] * 7168] * 3
    assert store.data_bytes_read == 3 * 7168 + 4 * 56
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    store.close()
