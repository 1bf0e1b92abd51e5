"""Memory of writing a port: a stack of experts that is several times larger than what may be in memory.

python benchmarks/emission.py [--experts 32] [--dtype float32] [--folder DIR] [--json FILE]

One mixture-of-experts layer of DeepSeek-V3's true widths (`wide_layer.py`), FP8 on disk, ported to backend reference;
the weights are written beside the model, as `porting port` does by default. The peak of the process starts anew behind
the passes, so that what is told is the emission alone. Bar: 1 GiB and one row block above what was there before.
`--weights embed` writes the same blocks into the model file, which
protobuf bounds at 2 GiB: less than this layer takes in float32 (tests/porting/test_emit.py has it for one stack).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import wide_layer

BAR = 1 << 30


def status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def emit(source: str, dtype: str, out: str) -> dict[str, Any]:
    """Import, rewrite and write, in this process; what the writing took."""
    import torch

    from porting import backends, frontends
    from porting.emit import WeightFile, write_model
    from porting.pipeline import Pipeline
    from porting.target import Target
    from porting.weights.view import STREAM
    from porting_passes.operators import add_bodies

    torch.set_num_threads(1)
    loaded = frontends.load(source)
    backend = backends.get("reference")
    target = Target("reference", backend, backend.surfaces["reference"], dtype=dtype)
    pipeline = Pipeline(loaded.model, target, language_model=True)
    pipeline.bind(loaded.dims)
    pipeline.to_float_surface()
    pipeline.to_dtype()
    pipeline.require_legal()
    add_bodies(pipeline.model)

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = status("VmRSS"), time.perf_counter()
    weights = WeightFile(Path(out))
    write_model(pipeline.model, Path(out) / "model.onnx", weights)
    weights.close()
    return {
        "above": status("VmHWM") - before,
        "peak": status("VmHWM"),
        "row_block": STREAM,
        "seconds": time.perf_counter() - start,
        "written": sum(file.stat().st_size for file in Path(out).iterdir()),
        "largest": max(v.const_value.nbytes for v in pipeline.model.graph.initializers.values() if v.const_value),
    }


def measured(source: Path, dtype: str, out: Path) -> dict[str, Any]:
    """``emit`` in a process of its own."""
    root = wide_layer.ROOT
    path = os.pathsep.join(str(root / part) for part in (".", "benchmarks"))
    command = [sys.executable, str(Path(__file__)), "--emit", str(source), dtype, str(out)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--folder", type=Path, help="where to work; 8 GB of space for 32 experts in float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--emit", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.emit:
        print(json.dumps(emit(*options.emit)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source, out = Path(name, "source"), Path(name, "out")
        source.mkdir()
        out.mkdir()
        wide_layer.write(source, options.experts)
        found = measured(source, options.dtype, out)
    mib = {name: found[name] >> 20 for name in ("largest", "written", "above", "peak", "row_block")}
    print(f"largest weight {mib['largest']} MiB, {mib['written']} MiB written in {found['seconds']:.1f} s:")
    print(f"{mib['above']} MiB above the {mib['peak'] - mib['above']} before; bar {(BAR >> 20) + mib['row_block']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
