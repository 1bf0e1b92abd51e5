"""The native loops, each beside the torch form that defines it.

Without the module (not built, or PORTING_NATIVE=0 in the environment) every function here runs its torch form: the
same results bit for bit, slower. The loops are single-threaded and release the interpreter lock.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch

from porting_kernels import block_quantization, dyadic_histogram, fp8, microscaling, weight_quantization
from porting_kernels.dyadic_histogram import DyadicHistogram, NonFiniteError
from porting_kernels.errors import ShapeError
from porting_kernels.numerics import Rounding
from porting_kernels.rounding import saturate_int8
from porting_kernels.weight_quantization import Findings, Search

SWITCH = "PORTING_NATIVE"


def _load() -> ModuleType | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        module = importlib.import_module("porting_kernels._native")
    except ImportError:
        return None
    # One that was built from older sources counts as missing.
    return module if all(hasattr(module, loop) for loop in _LOOPS) else None


_LOOPS = (
    "quantize_int8",
    "dyadic_histogram",
    "dequantize_e4m3",
    "dequantize_e4m3_bfloat16",
    "quantize_rows",
    "requantize_e4m3",
    "microscale_e4m3",
    "microscale_e2m1",
    "quantize_blocks_int8",
    "quantize_blocks_e4m3",
)


_module = _load()
available = _module is not None
"""Whether the native loops run; ``porting doctor`` shows it."""

_ROUNDING_CODES: dict[Rounding, int] = {"half_even": 0, "half_away": 1, "half_up": 2}


def instruction_set() -> str | None:
    """The widest instruction set that the dispatcher of the native module picks on this machine; None without it."""
    return None if _module is None else str(_module.instruction_set())


def quantize_int8(x: torch.Tensor, scale: float, offset: int, rounding: Rounding) -> torch.Tensor:
    """saturate(round(x * scale + offset)) as int8; x: float32, any shape. See ``rounding.saturate_int8``."""
    if _module is None or x.dtype != torch.float32:
        return saturate_int8(x * scale + offset, rounding)
    x = x.contiguous()
    codes = torch.empty(x.shape, dtype=torch.int8)
    _module.quantize_int8(x.view(-1).numpy(), codes.view(-1).numpy(), scale, offset, _ROUNDING_CODES[rounding])
    return codes


def histogram(x: torch.Tensor) -> DyadicHistogram:
    """The dyadic histogram of a float32 tensor in one pass over memory. See ``dyadic_histogram.reference``."""
    if _module is None or x.numel() == 0:
        return dyadic_histogram.reference(x)
    counts, exponent, zeros, low, high, non_finite = _module.dyadic_histogram(x.contiguous().view(-1).numpy())
    if non_finite >= 0:
        index = torch.unravel_index(torch.tensor(non_finite), x.shape)
        raise NonFiniteError(x.reshape(-1)[non_finite].item(), tuple(int(i) for i in index))
    return DyadicHistogram(exponent, counts.reshape(2, dyadic_histogram.BINS), zeros, low, high)


def dequantize_blocks(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    block: tuple[int, int] = fp8.BLOCK,
    first_row: int = 0,
    first_column: int = 0,
) -> int:
    """out[:] = block-scaled codes, and the number of NaN codes among them. See ``fp8.dequantize_blocks``.

    codes: [r, c] float8 or int8. scales: [R, C] float32 or as there. out: [r, c] float32, bfloat16 or float16, any
    strides: the float32 product is rounded to it once more, half to even.
    """
    fp8.check_blocks(codes, scales, block, first_row, first_column)
    if out.shape != codes.shape:
        raise ShapeError("codes and result differ in shape", required=list(codes.shape), met=list(out.shape))
    corner = {"first_row": first_row, "first_column": first_column}
    if _module is None or codes.dtype != torch.float8_e4m3fn:
        out.copy_(fp8.dequantize_blocks(codes, scales, block=block, **corner))
        return int(fp8.is_nan(codes).sum())
    if out.dtype not in (torch.float32, torch.bfloat16) or (out.stride(1) != 1 and out.shape[1] > 1):
        return _dequantize_by_way_of_float32(codes, scales, out, block, first_row, first_column)
    narrow = out.dtype == torch.bfloat16
    nan = (_module.dequantize_e4m3_bfloat16 if narrow else _module.dequantize_e4m3)(
        (codes if codes.stride(1) == 1 else codes.contiguous()).view(torch.uint8).numpy(),
        fp8.decode_scales(scales).contiguous().numpy(),
        (out.view(torch.uint16) if narrow else out).numpy(),
        block_rows=block[0],
        block_columns=block[1],
        **corner,
    )
    return int(nan)


_SCRATCH = 1 << 17
"""Elements that stay in the cache; the whole of a large matrix at once takes four times as long."""


def _dequantize_by_way_of_float32(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    block: tuple[int, int],
    first_row: int,
    first_column: int,
) -> int:
    rows, columns = codes.shape
    step = 1 + _SCRATCH // max(1, columns)
    scratch = torch.empty(min(rows, step), columns)
    nan = 0
    for begin in range(0, rows, step):
        part = codes[begin : begin + step]
        values = scratch[: len(part)]
        corner = {"first_row": first_row + begin, "first_column": first_column}
        nan += dequantize_blocks(part, scales, values, block=block, **corner)
        out[begin : begin + step].copy_(values)
    return nan


def quantize_rows(
    w: torch.Tensor,
    *,
    bits: int,
    group: int | None = None,
    search: Search = "absmax",
    divisor: float | None = None,
    codes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """Codes int8 (R, K), scales float32 (R, G) and findings of a float32 weight (R, K), in one pass over memory.

    codes: where to put them, contiguous; fresh memory otherwise. See ``weight_quantization.quantize_rows``.
    """
    if _module is None or not w.numel():
        found, scales, findings = weight_quantization.quantize_rows(
            w, bits=bits, group=group, search=search, divisor=divisor
        )
        return (found if codes is None else codes.copy_(found)), scales, findings
    weight_quantization.check(w, bits, group, search, divisor)
    w = w if w.stride(1) == 1 else w.contiguous()
    codes = torch.empty(w.shape, dtype=torch.int8) if codes is None else codes
    scales = torch.empty(w.shape[0], 1 if group is None else w.shape[1] // group)
    limit = weight_quantization.LIMITS[bits]
    counts = _module.quantize_rows(
        w.numpy(), codes.numpy(), scales.numpy(), limit, divisor or float(limit), search == "mse"
    )
    return codes, scales, Findings(*counts)


def requantize_blocks(
    stored: torch.Tensor,
    block_scales: torch.Tensor,
    *,
    bits: int,
    group: int | None = None,
    search: Search = "absmax",
    divisor: float | None = None,
    block: tuple[int, int] = fp8.BLOCK,
    first_row: int = 0,
    codes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Findings, int]:
    """``quantize_rows`` of ``dequantize_blocks``, without the float32 between, and the number of NaN codes in it.

    stored, block_scales, block, first_row: as there; whole rows. codes: where to put them, int8 (R, K), contiguous;
    fresh memory otherwise.
    """
    fp8.check_blocks(stored, block_scales, block, first_row, 0)
    if _module is None or stored.dtype != torch.float8_e4m3fn or not stored.numel():
        w = fp8.dequantize_blocks(stored, block_scales, block=block, first_row=first_row)
        found, scales, findings = quantize_rows(w, bits=bits, group=group, search=search, divisor=divisor, codes=codes)
        return found, scales, findings, int(fp8.is_nan(stored).sum())
    weight_quantization.check(stored, bits, group, search, divisor, torch.float8_e4m3fn)
    limit = weight_quantization.LIMITS[bits]
    stored = stored if stored.stride(1) == 1 else stored.contiguous()
    codes = torch.empty(stored.shape, dtype=torch.int8) if codes is None else codes
    scales = torch.empty(len(stored), 1 if group is None else stored.shape[1] // group)
    *counts, nan = _module.requantize_e4m3(
        stored.view(torch.uint8).numpy(),
        fp8.decode_scales(block_scales).contiguous().numpy(),
        codes.numpy(),
        scales.numpy(),
        limit,
        divisor or float(limit),
        search == "mse",
        block_rows=block[0],
        block_columns=block[1],
        first_row=first_row,
        first_column=0,
    )
    return codes, scales, Findings(*counts), nan


def microscale(
    w: torch.Tensor, bits: int, *, codes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """``microscaling.quantize`` in one pass over memory. codes: where to put them, contiguous."""
    if _module is None or not w.numel():
        found, exponents, findings = microscaling.quantize(w, bits)
        return (found if codes is None else codes.copy_(found)), exponents, findings
    microscaling.check(w, bits)
    w = w if w.stride(1) == 1 else w.contiguous()
    codes = torch.empty(w.shape, dtype=microscaling.DTYPES[bits]) if codes is None else codes
    exponents = torch.empty(w.shape[0], w.shape[1] // microscaling.GROUP, dtype=torch.uint8)
    loop = _module.microscale_e4m3 if bits == 8 else _module.microscale_e2m1
    counts = loop(w.numpy(), codes.view(torch.uint8).numpy(), exponents.numpy())
    return codes, exponents, Findings(*counts)


def quantize_blocks(
    w: torch.Tensor,
    kind: block_quantization.Kind,
    block: tuple[int, int] = fp8.BLOCK,
    *,
    codes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """``block_quantization.quantize_blocks``. codes: where to put them, contiguous."""
    if _module is None or not w.numel():
        found, scales, findings = block_quantization.quantize_blocks(w, kind, block)
        return (found if codes is None else codes.copy_(found)), scales, findings
    block_quantization.check(w, kind, block)
    w = w if w.stride(1) == 1 else w.contiguous()
    codes = torch.empty(w.shape, dtype=block_quantization.DTYPES[kind]) if codes is None else codes
    scales = torch.empty(fp8.scale_shape(w.shape[0], w.shape[1], block))
    loop = _module.quantize_blocks_int8 if kind == "int8" else _module.quantize_blocks_e4m3
    counts = loop(w.numpy(), codes.view(torch.uint8).numpy(), scales.numpy(), block[0], block[1])
    return codes, scales, Findings(*counts)
