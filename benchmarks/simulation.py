"""Time and peak memory of reading and running a model: our interpreter, onnxruntime, onnx.reference.

python benchmarks/simulation.py [--threads N] [--reference] [--json FILE] [NETWORK ...]

`load` is from the file to something that can run; `run` is one inference of float32, weights in memory.
porting runs the graph as it is in the file, porting-fused after the passes (batch normalization in the convolutions).
Bar: `run` of porting within 1.5 times that of onnxruntime as it comes (its graph optimizations on).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness

NETWORKS = ("resnet50", "mobilenet_v2", "encoder", "cnn")
BATCHES = {"cnn": 64}
CONTENDERS = ("onnxruntime", "onnxruntime-unoptimized", "porting", "porting-fused")


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not the model's."""
    import graphs  # noqa: F401

    if contender.startswith("onnxruntime"):
        import onnxruntime  # noqa: F401
    elif contender == "onnx.reference":
        import onnx.reference  # noqa: F401
    else:
        import onnx_ir  # noqa: F401
        import torch  # noqa: F401

        import porting.simulation.interpreter  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """The thing to time."""
    network, action = case.split()
    path = network_path(network)
    load = {
        "onnxruntime": lambda: onnxruntime_session(path, threads, optimized=True),
        "onnxruntime-unoptimized": lambda: onnxruntime_session(path, threads, optimized=False),
        "onnx.reference": lambda: reference_evaluator(path),
        "porting": lambda: interpreter(path, threads, fused=False),
        "porting-fused": lambda: interpreter(path, threads, fused=True),
    }[contender]
    if action == "load":
        return lambda: load() and None
    inputs = network_inputs(network, path)
    run = load()
    return lambda: {"mean of output": f"{float(next(iter(run(inputs).values())).mean()):.5g}"}


def network_path(network: str) -> Path:
    import graphs

    return harness.ROOT / "examples" / "cnn" / "model.onnx" if network == "cnn" else graphs.path(network)


def network_inputs(network: str, path: Path) -> dict[str, Any]:
    import graphs
    import onnx

    return graphs.inputs(onnx.load(path), batch=BATCHES.get(network, 1))


def onnxruntime_session(path: Path, threads: int, *, optimized: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def reference_evaluator(path: Path) -> Any:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda inputs: dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def interpreter(path: Path, threads: int, *, fused: bool) -> Any:
    import onnx_ir
    import torch

    from porting.simulation.interpreter import Interpreter

    torch.set_num_threads(threads)
    model = onnx_ir.load(path)
    if fused:
        from porting.pipeline import Pipeline
        from porting.target import Target

        Pipeline(model, Target.resolve("reference")).to_float_surface()
    return Interpreter(model).run


def main() -> None:
    parser = harness.arguments(__doc__, runs=7)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--reference", action="store_true", help="onnx.reference too: minutes for the larger networks")
    options = parser.parse_args()
    contenders = (*CONTENDERS, *(["onnx.reference"] if options.reference else []))
    results = []
    for network in options.networks:
        for action in ("load", "run"):
            case = f"{network} {action}"
            results += harness.race(__file__, case, contenders, runs=options.runs, threads=options.threads)
    print(harness.table(results, baseline="onnxruntime"))
    harness.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
