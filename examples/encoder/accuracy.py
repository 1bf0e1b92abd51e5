"""Accuracy of outputs files against the labels of test.npz: python examples/encoder/accuracy.py Y.npz [Y2.npz ...]"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

LABELS = Path(__file__).with_name("labels.npz")
NOT_SCORED = -100


def logits(path: str) -> np.ndarray:
    """The array of an outputs file, whatever its name."""
    with np.load(path) as arrays:
        if len(arrays.files) != 1:
            raise SystemExit(f"{path}: required one array, met {len(arrays.files)}: {', '.join(arrays.files)}")
        return arrays[arrays.files[0]]


def accuracy(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Shares of tokens and of whole lists that are right; padding is not scored. scores [N, 16, 64], labels [N, 16]."""
    if scores.shape[:2] != labels.shape:
        raise SystemExit(f"required outputs for {labels.shape} tokens (all of test.npz), met shape {scores.shape}")
    scored = labels != NOT_SCORED
    right = scores.argmax(2) == labels
    return float(right[scored].mean()), float((right | ~scored).all(1).mean())


def main(paths: list[str]) -> None:
    if not paths:
        raise SystemExit(__doc__)
    with np.load(LABELS) as arrays:
        labels = arrays["labels"]
    for path in paths:
        tokens, lists = accuracy(logits(path), labels)
        print(f"{path}: accuracy {tokens:.4f} of tokens, {lists:.4f} of {len(labels)} whole lists")


if __name__ == "__main__":
    main(sys.argv[1:])
