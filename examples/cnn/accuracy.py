"""Accuracy of outputs files against the labels of test.npz: python examples/cnn/accuracy.py Y.npz [Y2.npz ...]"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

LABELS = Path(__file__).with_name("labels.npz")


def logits(path: str) -> np.ndarray:
    """The array of an outputs file, whatever its name."""
    with np.load(path) as arrays:
        if len(arrays.files) != 1:
            raise SystemExit(f"{path}: required one array, met {len(arrays.files)}: {', '.join(arrays.files)}")
        return arrays[arrays.files[0]]


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose highest score is that of their label. scores [N, 10], labels [N]."""
    if scores.shape[:1] != labels.shape:
        raise SystemExit(f"required outputs for {len(labels)} images (all of test.npz), met shape {scores.shape}")
    return float((scores.argmax(1) == labels).mean())


def main(paths: list[str]) -> None:
    if not paths:
        raise SystemExit(__doc__)
    with np.load(LABELS) as arrays:
        labels = arrays["labels"]
    for path in paths:
        print(f"{path}: accuracy {accuracy(logits(path), labels):.4f} on {len(labels)} images")


if __name__ == "__main__":
    main(sys.argv[1:])
