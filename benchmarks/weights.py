"""Weights of a checkpoint: opening 163 shards, binding every weight of DeepSeek-V3, and dequantizing.

python benchmarks/weights.py [--json FILE]

The shards have headers only (`checkpoints.py`). Peers: the safetensors library, which maps each file; for
dequantizing, the torch form that defines it; for reading from a file, that library with plain torch after it.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import harness

OPEN, BIND = "open 163 shards", "bind DeepSeek-V3"
DEQUANTIZE = tuple(f"2048x7168 e4m3 to {dtype}" for dtype in ("float32", "bfloat16", "float16"))
READ = tuple(f"expert from file to {dtype}" for dtype in ("float32", "bfloat16"))
ROWS, COLUMNS = 2048, 7168
FOLDER = "PORTING_BENCHMARK_FOLDER"


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not the work's."""
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401

    import porting.weights  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """One contender on one case."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    folder = Path(os.environ[FOLDER])
    if case == OPEN:
        return functools.partial(_open_porting if contender == "porting" else _open_safetensors, folder / "deepseek")
    if case == BIND:
        return functools.partial(_bind, folder / "deepseek")
    dtype = getattr(torch, case.rpartition(" ")[2])
    work = _dequantize(contender, dtype) if case in DEQUANTIZE else _read(contender, folder / "expert", dtype)

    def run() -> Callable[[], harness.Notes]:
        work()
        return dict

    return run


def _open_porting(folder: Path) -> Callable[[], harness.Notes]:
    from porting.weights.store import WeightStore

    store = WeightStore(folder)
    return lambda: {"tensors": len(store.entries), "header MB": store.bytes_read // 10**6} | _held()


def _open_safetensors(folder: Path) -> Callable[[], harness.Notes]:
    from safetensors import safe_open

    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    slices = {name: file.get_slice(name) for file in files for name in file.keys()}  # noqa: SIM118
    shapes = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    return lambda: {"tensors": len(shapes)} | _held()


def _bind(folder: Path) -> Callable[[], harness.Notes]:
    import torch

    from porting.weights.store import WeightStore
    from porting.weights.view import WeightView

    store = WeightStore(folder)
    of = functools.partial(WeightView.of, store, dtype=torch.bfloat16)
    views = [of(n) for n in store.entries if not n.endswith("_scale_inv") and ".experts." not in n]
    for layer in range(checkpoints.DENSE, checkpoints.LAYERS + 1):
        gate, up, down = (
            WeightView.stacked(
                [of(f"model.layers.{layer}.mlp.experts.{e}.{part}.weight") for e in range(checkpoints.EXPERTS)]
            )
            for part in ("gate_proj", "up_proj", "down_proj")
        )
        views += [WeightView.concatenated([gate, up], axis=1), down]
    pieces = sum(len(view.raw) for view in views)
    assert store.data_bytes_read == 0
    return lambda: {"views": len(views), "pieces": pieces} | _held()


def _held() -> harness.Notes:
    maps = Path("/proc/self/maps").read_text()
    return {"fds": len(os.listdir("/proc/self/fd")), "maps of shards": maps.count(".safetensors")}


def _dequantize(contender: str, dtype: Any) -> Callable[[], Any]:
    import torch

    from porting_kernels import fp8, native

    if contender == "native" and not native.available:
        raise SystemExit("the native module is not built; see CMakeLists.txt")
    codes, scales = _random(torch)
    out = torch.empty(ROWS, COLUMNS, dtype=dtype)
    if contender == "native":
        return lambda: native.dequantize_blocks(codes, scales, out)
    return lambda: out.copy_(fp8.dequantize_blocks(codes, scales))


def _read(contender: str, folder: Path, dtype: Any) -> Callable[[], Any]:
    import torch
    from safetensors import safe_open

    from porting.weights.store import WeightStore
    from porting.weights.view import WeightView

    if contender == "porting":
        view = WeightView.of(WeightStore(folder), "weight", dtype)
        return view.tensor

    def read() -> torch.Tensor:
        with safe_open(folder / "model.safetensors", "pt") as file:
            codes, scales = file.get_tensor("weight"), file.get_tensor("weight_scale_inv")
        blocks = codes.to(torch.float32).view(ROWS // 128, 128, COLUMNS // 128, 128)
        return (blocks * scales[:, None, :, None]).view(ROWS, COLUMNS).to(dtype)

    return read


def _random(torch: Any) -> tuple[Any, Any]:
    codes = torch.randn(ROWS, COLUMNS).mul(30).to(torch.float8_e4m3fn)
    return codes, torch.rand(ROWS // 128, COLUMNS // 128) + 0.1


def _write(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    checkpoints.write(folder / "deepseek", list(checkpoints.deepseek_v3()), checkpoints.CONFIG)
    (folder / "expert").mkdir()
    codes, scales = _random(torch)
    save_file({"weight": codes, "weight_scale_inv": scales}, folder / "expert" / "model.safetensors")


def main() -> None:
    """Time every case and print one table of each kind; a GB is of e4m3 codes."""
    options = harness.arguments(__doc__, runs=9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER] = folder
        _write(Path(folder))
        race = functools.partial(harness.race, __file__, runs=options.runs, threads=options.threads)
        opened = race(OPEN, ["porting", "safetensors"]) + race(BIND, ["porting"])
        loops = [result for case in DEQUANTIZE for result in race(case, ["native", "torch"])]
        read = [result for case in READ for result in race(case, ["porting", "safetensors + torch"])]
    for result in (*loops, *read):
        result.notes["GB/s"] = f"{ROWS * COLUMNS / result.seconds / 1e9:.2f}"
    print(harness.table([*opened, *read], baseline="porting"))
    print(harness.table(loops, baseline="native"))
    harness.write(options.json, [*opened, *loops, *read], threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
