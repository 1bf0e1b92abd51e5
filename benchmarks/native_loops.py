"""The native loops against the torch forms that define them, on 4 Mi float32 values.

python benchmarks/native_loops.py [--json FILE]

The integer product has no loop of its own: torch's int8 product is timed against float32 and float64 ones, which are
exact too where their sums fit. The weights are 4 Mi elements as well, 128 rows at a time: 4.19 divided by milliseconds
is GB of FP8 a second.
"""

from __future__ import annotations

from typing import Any

import harness

SIZE = 1 << 22
ROWS, COLUMNS = 1024, 4096
LOOPS = ("quantize half_even", "quantize half_away", "quantize half_up", "histogram", "histogram after relu")
WEIGHTS = {
    "weight: e4m3 to int8": {"bits": 8},
    "weight: e4m3 to blocks of int8": {"kind": "int8"},
    "weight: e4m3 to mxfp8": {"width": 8},
    "weight: e4m3 to mxfp4": {"width": 4},
    "weight: float32 to blocks of e4m3": {"kind": "float8_e4m3fn"},
    "weight: float32 to int8": {"bits": 8},
    "weight: int4, searched by row": {"bits": 4, "search": "mse"},
    "weight: int4, searched by 128": {"bits": 4, "search": "mse", "group": 128},
}
PRODUCT = "product 784x1152x128"


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not the loop's."""
    import torch  # noqa: F401

    import porting_kernels.native  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """One loop on seeded data."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if case in WEIGHTS:
        work = _weight(contender, case)
    else:
        work = _product(contender) if case == PRODUCT else _loop(contender, case)

    def run() -> dict[str, Any]:
        work()
        return {}

    return run


def _loop(contender: str, case: str) -> Any:
    import torch

    from porting_kernels import dyadic_histogram, native
    from porting_kernels.rounding import saturate_int8

    if contender == "native" and not native.available:
        raise SystemExit("the native module is not built; see CMakeLists.txt")
    x = torch.randn(SIZE)
    name, _, rest = case.partition(" ")
    if name == "histogram":
        x = torch.relu(x) if rest else x
        return lambda: (native.histogram if contender == "native" else dyadic_histogram.reference)(x)
    mode: Any = rest
    if contender == "native":
        return lambda: native.quantize_int8(x, 37.3, 3, mode)
    return lambda: saturate_int8(x * 37.3 + 3, mode)


def _weight(contender: str, case: str) -> Any:
    """One expert's worth of rows, a block of 128 rows at a time, as a pass over a weight takes them."""
    import torch

    from porting_kernels import block_quantization, fp8, microscaling, native, weight_quantization

    is_native = contender == "native"
    if is_native and not native.available:
        raise SystemExit("the native module is not built; see CMakeLists.txt")
    options: Any = WEIGHTS[case]
    w = torch.randn(ROWS, COLUMNS)
    scales = torch.rand(fp8.scale_shape(ROWS, COLUMNS)) + 0.1
    e4m3 = w.mul(30).to(torch.float8_e4m3fn)
    out = torch.empty(128, COLUMNS)

    def encode(part: torch.Tensor) -> None:
        if "kind" in options:
            (native if is_native else block_quantization).quantize_blocks(part, **options)
        elif "width" in options:
            (native.microscale if is_native else microscaling.quantize)(part, options["width"])
        else:
            (native if is_native else weight_quantization).quantize_rows(part, **options)

    def work() -> None:
        for first in range(0, ROWS, 128):
            stored = e4m3[first : first + 128]
            if "e4m3 to" not in case:
                encode(w[first : first + 128])
            elif is_native and "bits" in options:
                native.requantize_blocks(stored, scales, first_row=first, **options)
            elif is_native:
                native.dequantize_blocks(stored, scales, out, first_row=first)
                encode(out)
            else:
                encode(fp8.dequantize_blocks(stored, scales, first_row=first))

    return work


def _product(contender: str) -> Any:
    import torch

    from porting_kernels.integer_matmul import integer_matmul

    a = torch.randint(-128, 128, (784, 1152), dtype=torch.int8)
    b = torch.randint(-128, 128, (1152, 128), dtype=torch.int8)
    if contender == "int8":
        return lambda: integer_matmul(a, b)
    dtype = getattr(torch, contender)
    return lambda: (a.to(dtype) @ b.to(dtype)).to(torch.int32)


def main() -> None:
    """Time every loop and print one table of each kind."""
    options = harness.arguments(__doc__, runs=15).parse_args()
    loops = []
    for case in LOOPS:
        loops += harness.race(__file__, case, ["native", "torch"], runs=options.runs, threads=options.threads)
    weights = []
    for case in WEIGHTS:
        # The search is seconds in torch.
        runs = min(options.runs, 5) if "searched" in case else options.runs
        weights += harness.race(__file__, case, ["native", "torch"], runs=runs, threads=options.threads)
    contenders = ["int8", "float32", "float64"]
    product = harness.race(__file__, PRODUCT, contenders, runs=options.runs, threads=options.threads)
    print(harness.table(loops, baseline="native"))
    print(harness.table(weights, baseline="native"))
    print(harness.table(product, baseline="int8"))
    harness.write(options.json, [*loops, *weights, *product], threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
