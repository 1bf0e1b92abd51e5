"""DFT, STFT and MelWeightMatrix. Complex values are pairs in the last axis: (..., 1) is real, (..., 2) complex."""

from __future__ import annotations

import math

import torch

from porting_kernels.dtypes import promoted, torch_dtype
from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import Context, kernel


def _signal(x: torch.Tensor) -> torch.Tensor:
    """x without its last axis, real or complex."""
    if x.ndim < 2 or x.shape[-1] not in (1, 2):
        raise ShapeError("a signal's last axis", required="1 (real) or 2 (complex)", met=tuple(x.shape))
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _spectrum(signal: torch.Tensor, length: int, axis: int, onesided: bool) -> torch.Tensor:
    """The transform as pairs; one-sided keeps frequencies 0 to length // 2."""
    if onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, length, axis))
    spectrum = torch.fft.fft(signal, length, axis)
    return torch.view_as_real(spectrum.narrow(axis, 0, length // 2 + 1) if onesided else spectrum)


def _transform(x: torch.Tensor, length: torch.Tensor | None, axis: int, inverse: int, onesided: int) -> torch.Tensor:
    if axis % x.ndim == x.ndim - 1:
        raise ShapeError("DFT along the axis of pairs", required=f"-{x.ndim} to -2, or 0 to {x.ndim - 2}", met=axis)
    signal, axis = _signal(x), axis % x.ndim
    size = x.shape[axis]
    if inverse and onesided:
        n = 2 * (size - 1) if length is None else int(length)
        real: torch.Tensor = torch.fft.irfft(signal, n, axis)
        return real.unsqueeze(-1)
    n = size if length is None else int(length)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, n, axis))
    return _spectrum(signal, n, axis, bool(onesided))


@kernel("DFT", since=20)
@rounds_once
def dft(
    x: torch.Tensor,
    dft_length: torch.Tensor | None = None,
    axis: torch.Tensor | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> torch.Tensor:
    """Discrete Fourier transform along an axis (the last before the pairs), the inverse divided by its length.

    dft_length pads with zeros or cuts. onesided: real to frequencies 0 to n // 2, inverse back to real.
    Source: ONNX operator DFT.
    """
    return _transform(x, dft_length, -2 if axis is None else int(axis), inverse, onesided)


@kernel("DFT", since=17)
@rounds_once
def dft_17(
    x: torch.Tensor, dft_length: torch.Tensor | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> torch.Tensor:
    """DFT with the axis as attribute, the first after the batch by default."""
    return _transform(x, dft_length, axis, inverse, onesided)


@kernel("STFT", since=17)
@rounds_once
def stft(
    x: torch.Tensor,
    frame_step: torch.Tensor,
    window: torch.Tensor | None = None,
    frame_length: torch.Tensor | None = None,
    *,
    onesided: int = 1,
) -> torch.Tensor:
    """Transforms of windowed frames: (N, L, 1 or 2) -> (N, frames, frequencies, 2). Source: ONNX operator STFT.

    frame_length defaults to the window's, or to L. Frames that reach beyond the end are left out.
    """
    length = int(frame_length) if frame_length is not None else len(window) if window is not None else x.shape[1]
    if length > x.shape[1] or (window is not None and len(window) != length):
        raise ShapeError("a frame of this length", required=f"<= {x.shape[1]} and the window's length", met=length)
    frames = _signal(x).unfold(1, length, int(frame_step))
    return _spectrum(frames if window is None else frames * window, length, 2, bool(onesided))


@kernel("MelWeightMatrix", since=17)
def mel_weight_matrix(
    num_mel_bins: torch.Tensor,
    dft_length: torch.Tensor,
    sample_rate: torch.Tensor,
    lower_edge_hertz: torch.Tensor,
    upper_edge_hertz: torch.Tensor,
    *,
    output_datatype: int = 1,
    context: Context,
) -> torch.Tensor:
    """Triangles that sum a linear spectrum into mel bins: (dft_length // 2 + 1, num_mel_bins).

    Edges are whole spectrum bins, equally spaced in mel = 2595 log10(1 + hertz / 700), num_mel_bins + 2 steps apart.
    Source: ONNX operator MelWeightMatrix and its node test.
    """
    bins, length = int(num_mel_bins), int(dft_length)
    low, high = (2595 * math.log10(1 + float(edge) / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    mels = torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2)) + low
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = torch.floor((length + 1) * hertz / int(sample_rate))
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    place = torch.arange(length // 2 + 1, dtype=torch.float64)[:, None]
    rising = torch.where(center > left, (place - left) / (center - left), 1.0)
    falling = (right - place) / (right - center)
    weights = torch.where((place >= left) & (place <= center), rising, 0.0)
    weights = torch.where((place >= center) & (place < right), falling, weights)
    dtype = torch_dtype(output_datatype)
    return weights.to(promoted(dtype) if context.numerics.float64 else dtype)
