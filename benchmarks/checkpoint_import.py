"""Full-size DeepSeek configs imported and fused, no weights present: seconds, memory, nodes, what was read.

python benchmarks/checkpoint_import.py [--json FILE] [CASE ...]

A case is v3 or v32. Its folder has headers and no data (`checkpoints.py`): 163 shards, 91,991 tensors and more. Each
case runs once, in a process of its own, which sees peak memory from its start. torch's exporter alone refuses both
models; the peer of the fusing passes is onnxscript's stock driver with the one rule for an RMS normalization, on the
same graph in the same process. Bar: 3 minutes on 2 cores and 2 GiB; 6,000 nodes; 400 descriptors and maps; headers
only.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import harness

CASES = {"v3": checkpoints.CONFIG, "v32": checkpoints.CONFIG_V32}


def measure(case: str, folder: str) -> dict[str, Any]:
    """Import, canonicalize and fuse, in this process."""
    from porting import frontends
    from porting.weights.view import WeightView
    from porting_passes.canonicalize import Canonicalize
    from porting_passes.language_model_fusions import language_model_fusions

    start, cpu = time.perf_counter(), time.process_time()
    source = frontends.load(folder)
    model = source.model
    imported, imported_cpu = time.perf_counter() - start, time.process_time() - cpu
    nodes = len(model.graph)
    canonicalized = _seconds(lambda: Canonicalize()(model))
    canonical_nodes, peer = len(model.graph), model.clone()
    fused = _seconds(lambda: [step(model) for step in language_model_fusions()])
    peak_mib = round(harness._peak_mib())
    views = [value.const_value for value in model.graph.initializers.values()]
    pieces = [piece for view in views if isinstance(view, WeightView) for piece in view.raw]
    stores = {id(piece.stored.store): piece.stored.store for piece in pieces}
    counts = collections.Counter(node.op_type for node in model.graph if node.domain == "porting")
    return {
        "case": case,
        "seconds": round(imported + canonicalized + fused, 1),
        "import_seconds": round(imported, 1),
        "import_cpu_seconds": round(imported_cpu, 1),
        "canonicalize_seconds": round(canonicalized, 1),
        "fuse_seconds": round(fused, 1),
        "one_stock_rule_seconds": round(_seconds(lambda: _stock_rule().apply_to_model(peer)), 1),
        "peak_mib": peak_mib,
        "nodes": nodes,
        "canonical_nodes": canonical_nodes,
        "fused_nodes": len(model.graph),
        "composite_operators": dict(counts.most_common()),
        "initializers": len(views),
        "data_bytes_read": sum(store.data_bytes_read for store in stores.values()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shard_maps": Path("/proc/self/maps").read_text().count(".safetensors"),
        "not_in_graph": ", ".join(source.not_in_graph),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _stock_rule() -> Any:
    from onnxscript.rewriter import pattern

    def norm(op, x, two, axes, epsilon, weight):
        mean = op.ReduceMean(op.Pow(x, two), axes, _allow_other_attributes=True)
        return op.Mul(weight, op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon)))))

    def fused(op, x, two, axes, epsilon, weight):
        return op.RMSNorm(x, weight, _domain="porting")

    return pattern.RewriteRule(norm, fused)


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
            path = str(harness.ROOT)
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
            ).stdout
        results.append(json.loads(output.splitlines()[-1]))
        print("\n".join(f"{name:24}{value}" for name, value in results[-1].items()), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main()
