"""GroupedMatmul, our kernel and its body in onnxruntime, against a loop of one torch product an expert.

python benchmarks/moe.py [--threads N] [--json FILE] [CASE ...]

A case is PHASE:DTYPE. 32 experts of 1024 x 1024, 8 a token: prefill has 512 tokens, decode one, skewed 512 tokens of
which all go to the same 8 experts. onnxruntime's Python interface takes no bfloat16 arrays: there the body sits out.
int8 is QuantizedGroupedMatmul, scaled and rounded to bfloat16, against bare int8 products; bar: half of their speed.
"""

from __future__ import annotations

from typing import Any

import harness

CASES = (
    "prefill:float32",
    "skewed:float32",
    "decode:float32",
    "prefill:bfloat16",
    "decode:bfloat16",
    "prefill:int8",
    "decode:int8",
)
EXPERTS, SLOTS, K, N = 32, 8, 1024, 1024


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not the product's."""
    import torch  # noqa: F401

    if contender == "body":
        import onnxruntime  # noqa: F401

        import porting_passes.operators  # noqa: F401
    if contender == "kernel":
        import porting_kernels.quantized_grouped_matmul  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """One grouped product on seeded data, weights stored (E, N, K) as transformers stores them."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    phase, dtype = case.split(":")
    tokens = 1 if phase == "decode" else 512
    scores = torch.rand(tokens, EXPERTS)
    ids = (scores[:1].expand(tokens, -1) if phase == "skewed" else scores).topk(SLOTS).indices
    offsets = torch.bincount(ids.flatten(), minlength=EXPERTS).cumsum(0)
    if dtype == "int8":
        x = torch.randint(-128, 128, (tokens * SLOTS, K), dtype=torch.int8)
        w = torch.randint(-128, 128, (EXPERTS, N, K), dtype=torch.int8)
        work = {"torch loop": _integer_loop, "kernel": _quantized_kernel}[contender](x, w, offsets)
    else:
        x = torch.randn(tokens * SLOTS, K).to(getattr(torch, dtype))
        w = torch.empty(EXPERTS, N, K, dtype=x.dtype).normal_()
        work = {"torch loop": _loop, "kernel": _kernel, "body": _body}[contender](x, w, offsets, threads)

    def run() -> dict[str, Any]:
        work()
        return {}

    return run


def _loop(x: Any, w: Any, offsets: Any, threads: int) -> Any:
    import torch

    bounds = [0, *offsets.tolist()]
    return lambda: torch.cat([x[bounds[e] : bounds[e + 1]] @ w[e].t() for e in range(EXPERTS)])


def _kernel(x: Any, w: Any, offsets: Any, threads: int) -> Any:
    from porting_kernels.grouped_matmul import grouped_matmul

    return lambda: grouped_matmul(x, w, offsets, transposed=1)


def _integer_loop(x: Any, w: Any, offsets: Any) -> Any:
    import torch

    bounds = [0, *offsets.tolist()]
    hit = [e for e in range(EXPERTS) if bounds[e] < bounds[e + 1]]
    return lambda: torch.cat([torch._int_mm(x[bounds[e] : bounds[e + 1]], w[e].t()) for e in hit])


def _quantized_kernel(x: Any, w: Any, offsets: Any) -> Any:
    import torch

    from porting_kernels.quantized_grouped_matmul import quantized_grouped_matmul
    from porting_kernels.registry import Context

    operands = x, torch.rand(len(x)), w, torch.rand(EXPERTS, N), offsets, torch.zeros(EXPERTS, 1)
    return lambda: quantized_grouped_matmul(*operands, to=16, context=Context(1))


def _body(x: Any, w: Any, offsets: Any, threads: int) -> Any:
    import numpy as np
    import onnx_ir as ir
    import onnxruntime as ort

    from porting_passes.operators import add_bodies

    operands = [x.numpy(), w.numpy(), offsets.numpy(), np.zeros((EXPERTS, 1), np.float32)]
    values = [
        ir.Value(name=f"i{k}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)), shape=ir.Shape(a.shape))
        for k, a in enumerate(operands)
    ]
    node = ir.node("GroupedMatmul", values, {"transposed": 1}, domain="porting")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 20}, name="g"), ir_version=10)
    add_bodies(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {f"i{k}": a for k, a in enumerate(operands)}
    return lambda: session.run(None, feeds)


def main() -> None:
    """Race the contenders and print one table."""
    parser = harness.arguments(__doc__, runs=7)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    results = []
    for case in options.cases:
        contenders = ["torch loop", "kernel", *(["body"] if case.endswith("float32") else [])]
        results += harness.race(__file__, case, contenders, runs=options.runs, threads=options.threads)
    print(harness.table(results, baseline="torch loop"))
    harness.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
