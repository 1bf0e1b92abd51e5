"""Time of the passes that rewrite a float model for a surface, at growing sizes.

python benchmarks/passes.py [--backend B] [--sizes N ...] [--json FILE]

Linear cost shows as seconds per 1,000 nodes that do not grow. Peer: onnxscript's optimizer, which does less
(no shapes bound, no legality), on the same graphs; it sits out sizes where quadratic growth, which is what it shows,
would take it past the limit.
"""

from __future__ import annotations

import collections
import gc
import time
from typing import Any

import harness

SIZES = (1_000, 7_500, 25_000, 75_000)


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not the model's."""
    import graphs  # noqa: F401
    import onnx_ir  # noqa: F401

    if contender == "onnxscript":
        import onnxscript.optimizer  # noqa: F401
    else:
        import porting.pipeline  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """The thing to time: all passes on a fresh model."""
    import graphs
    import onnx_ir

    proto = graphs.long_chain(int(case))

    def run() -> dict[str, Any]:
        model = onnx_ir.from_proto(proto)
        nodes = len(model.graph)
        gc.collect()
        start = time.perf_counter()
        notes = _onnxscript(model) if contender == "onnxscript" else _porting(model, contender)
        seconds = time.perf_counter() - start
        return {"seconds per 1000 nodes": f"{seconds / nodes * 1e3:.3f}", "nodes after": len(model.graph), **notes}

    return run


def _onnxscript(model: Any) -> dict[str, Any]:
    from onnxscript import optimizer

    optimizer.optimize(model)
    return {}


def _porting(model: Any, backend: str) -> dict[str, Any]:
    from porting.pipeline import Pipeline
    from porting.target import Target

    spent: collections.Counter[str] = collections.Counter()

    class Timed(Pipeline):
        def _run(self, step: Any) -> None:
            start = time.perf_counter()
            super()._run(step)
            spent[type(step).__name__] += time.perf_counter() - start

        def _legalize(self, by_name_at: int | None = None) -> None:
            start = time.perf_counter()
            super()._legalize(by_name_at)
            spent["Legalize"] += time.perf_counter() - start

    pipeline = Timed(model, Target.resolve(backend))
    pipeline.bind({"batch": (1, 8)})
    pipeline.to_float_surface()
    return {"failures": len(pipeline.failures), **{name: f"{seconds:.2f} s" for name, seconds in spent.items()}}


def main() -> None:
    parser = harness.arguments(__doc__, runs=5)
    parser.add_argument("--backend", default="ascend-910b")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), metavar="N")
    parser.add_argument(
        "--limit", type=float, default=60, help="seconds after which a contender stops early (default 60)"
    )
    options = parser.parse_args()
    contenders = [options.backend, "onnxscript"]
    results = []
    for size, following in zip(options.sizes, [*options.sizes[1:], 0], strict=True):
        race = harness.race(
            __file__, str(size), contenders, runs=options.runs, threads=options.threads, limit=options.limit
        )
        results += race
        growth = (following / size) ** 2
        contenders = [r.contender for r in race if r.contender != "onnxscript" or r.seconds * growth < options.limit]
    print(harness.table(results, baseline=options.backend))
    harness.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
