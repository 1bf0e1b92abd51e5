"""Full-size DeepSeek configs as graphs, no weights present: seconds, memory, nodes, and what was read and held open.

python benchmarks/checkpoint_import.py [--json FILE] [CASE ...]

A case is v3 or v32. Its folder has headers and no data (`checkpoints.py`): 163 shards, 91,991 tensors and more. Each
case runs once, in a process of its own, which sees peak memory from its start. There is no peer: torch's exporter alone
refuses both models. Bar, with fusing: 3 minutes on 2 cores and 2 GiB; 400 descriptors and maps; headers only.
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

import checkpoints
import harness

CASES = {"v3": checkpoints.CONFIG, "v32": checkpoints.CONFIG_V32}


def measure(case: str, folder: str) -> dict[str, Any]:
    """Import, then canonicalize, in this process."""
    from porting import frontends
    from porting.weights import WeightView
    from porting_passes.canonicalize import Canonicalize

    start, cpu = time.perf_counter(), time.process_time()
    source = frontends.load(folder)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    nodes = len(source.model.graph)
    start = time.perf_counter()
    Canonicalize()(source.model)
    canonicalize_seconds = time.perf_counter() - start
    views = [value.const_value for value in source.model.graph.initializers.values()]
    pieces = [piece for view in views if isinstance(view, WeightView) for piece in view.raw]
    stores = {id(piece.stored.store): piece.stored.store for piece in pieces}
    return {
        "case": case,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "canonicalize_seconds": round(canonicalize_seconds, 1),
        "peak_mib": round(harness._peak_mib()),
        "nodes": nodes,
        "canonical_nodes": len(source.model.graph),
        "grouped_matmuls": sum(node.op_type == "GroupedMatmul" for node in source.model.graph),
        "initializers": len(views),
        "data_bytes_read": sum(store.data_bytes_read for store in stores.values()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shard_maps": Path("/proc/self/maps").read_text().count(".safetensors"),
        "not_in_graph": ", ".join(source.not_in_graph),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    options = parser.parse_args()
    results = []
    for case in options.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.write(Path(folder), list(checkpoints.deepseek_v3(indexer=case == "v32")), CASES[case])
            command = [sys.executable, __file__, "--worker", case, folder]
            path = os.pathsep.join(str(harness.ROOT / part) for part in (".", "passes", "kernels"))
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
            ).stdout
        results.append(json.loads(output.splitlines()[-1]))
        print("\n".join(f"{name:22}{value}" for name, value in results[-1].items()), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
