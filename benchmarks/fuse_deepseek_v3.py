"""Fuse the whole DeepSeek-V3 (61 layers, 256 experts) from its config alone: seconds, peak memory, nodes by operator.

    python benchmarks/fuse_deepseek_v3.py [--layers 61]

No weights are present. The peer is onnxscript's stock driver with the one rule for its RMS normalization, on the same
graph in the same process: the work of one of the passes that are timed.
"""

from __future__ import annotations

import argparse
import collections
import resource
import time
from collections.abc import Callable

import onnx_ir as ir
from onnxscript.rewriter import pattern
from transformers import DeepseekV3Config

from porting.frontends.checkpoint_graph import export, instantiate
from porting_passes.canonicalize import Canonicalize
from porting_passes.declared import declare_weights
from porting_passes.language_model_fusions import language_model_fusions


def timed(name: str, work: Callable[[], object]) -> None:
    begin = time.perf_counter()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - begin:8.2f} s  {peak:7.0f} MiB peak  {name}", flush=True)


def stock_rule() -> pattern.RewriteRule:
    def norm(op, x, two, axes, epsilon, weight):
        mean = op.ReduceMean(op.Pow(x, two), axes, _allow_other_attributes=True)
        return op.Mul(weight, op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon)))))

    def fused(op, x, two, axes, epsilon, weight):
        return op.RMSNorm(x, weight, _domain="porting")

    return pattern.RewriteRule(norm, fused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=61)
    config = DeepseekV3Config(num_hidden_layers=parser.parse_args().layers)
    models: list[ir.Model] = []
    timed("export", lambda: models.append(export(instantiate(config))))
    (model,) = models
    declare_weights(model)
    timed("canonicalize", lambda: Canonicalize()(model))
    before = len(model.graph)
    peer = model.clone()
    begin = time.perf_counter()
    for step in language_model_fusions():
        timed(type(step).__name__, lambda step=step: step(model))
    print(f"{time.perf_counter() - begin:8.2f} s  all fusions, {before} -> {len(model.graph)} nodes")
    applied: list[int] = []
    timed("onnxscript's stock driver, one rule", lambda: applied.append(stock_rule().apply_to_model(peer)))
    print(f"it applied {applied[0]} times")
    counts = collections.Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)
    print(", ".join(f"{count} {name}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
