"""Bits per byte of a causal language model over a text, by overlapping windows."""

from __future__ import annotations

import math

import torch

WINDOW, STRIDE = 256, 128


def bits_per_byte(model: torch.nn.Module, text: bytes, *, batch: int = 16) -> float:
    """Mean negative log2 likelihood of each byte of `text` but the first, ids being the bytes.

    Windows of WINDOW bytes advance by STRIDE; a byte is scored once, in the first window that holds it and a byte
    before it: those after the first window see WINDOW - STRIDE to WINDOW - 1 bytes. A tail shorter than STRIDE that
    fills no window is not scored. log-softmax in float32, sum in float64.
    Raises ValueError when `text` is shorter than one window.
    """
    if len(text) < WINDOW:
        raise ValueError(f"need at least {WINDOW} bytes of text, got {len(text)}")
    windows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().unfold(0, WINDOW, STRIDE)
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(windows), batch):
            ids = windows[first : first + batch]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double()
            fresh = losses[:, WINDOW - STRIDE - 1 :]
            total, count = total + fresh.sum().item(), count + fresh.numel()
            if first == 0:
                start = losses[0, : WINDOW - STRIDE - 1]
                total, count = total + start.sum().item(), count + start.numel()
    return total / count / math.log(2)


def unigram_bits(text: bytes) -> float:
    """Entropy of the byte frequencies of `text` itself: no model without context can do better on it."""
    shares = torch.bincount(torch.frombuffer(bytearray(text), dtype=torch.uint8).long()).double() / len(text)
    return float(torch.special.entr(shares).sum() / math.log(2))
