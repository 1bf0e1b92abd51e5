"""Train DigitsNet on scikit-learn's digits and write everything that lies in this folder.

Run from the repository root: python -m examples.cnn.train   (about a minute on one core; same seed, same files)
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript import optimizer
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from examples.cnn.model import SIZE, DigitsNet

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EPOCHS = 40
BATCH = 64
MAX_BATCH = 64
TEST_IMAGES = 450
CALIBRATION_IMAGES = 128
FRAME = re.compile(r'File "([^"]+)"')


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, test images ([N, 1, 8, 8] float32 in [0, 1]), training labels, test labels (int64 [N])."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, SIZE, SIZE)
    return train_test_split(images, labels.astype(np.int64), test_size=TEST_IMAGES, stratify=labels, random_state=0)


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by -1, 0 or 1 pixels along both axes, zeros moving in."""
    count = len(images)
    offsets = torch.randint(0, 3, (2, count, 1), generator=generator)
    window = torch.arange(SIZE)
    rows, columns = (offsets[0] + window)[:, None, :, None], (offsets[1] + window)[:, None, None, :]
    return nn.functional.pad(images, (1, 1, 1, 1))[torch.arange(count)[:, None, None, None], 0, rows, columns]


def train(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = DigitsNet()
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            logits = model(shifted(images[rows], generator))
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return model.eval()


def relative_path(path: str) -> str:
    """A source path as any machine would write it: from the repository root, or from site-packages."""
    resolved = Path(path).resolve()
    if resolved.is_relative_to(ROOT):
        return resolved.relative_to(ROOT).as_posix()
    return path.rpartition("site-packages/")[2]


def export(model: DigitsNet, path: Path) -> None:
    """Opset 18 with the exporter's metadata. Constants are folded, but BatchNormalization stays a node of its own
    (the exporter's `optimize=True` would fold it into the convolutions), as in many models that users bring.

    The exporter's stack traces name files of the machine it ran on: they are made relative.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, SIZE, SIZE),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: batch}},
        opset_version=18,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(program.model)
    proto = program.model_proto
    for node in proto.graph.node:
        for entry in node.metadata_props:
            entry.value = FRAME.sub(lambda frame: f'File "{relative_path(frame[1])}"', entry.value)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train_images, test_images, train_labels, test_labels = digits()
    model = train(torch.from_numpy(train_images), torch.from_numpy(train_labels))
    with torch.no_grad():
        predicted = model(torch.from_numpy(test_images)).argmax(1).numpy()
    print(f"test accuracy {(predicted == test_labels).mean():.4f} on {len(test_labels)} images")
    export(model, HERE / "model.onnx")
    np.savez_compressed(HERE / "calibration.npz", image=train_images[:CALIBRATION_IMAGES])
    np.savez_compressed(HERE / "test.npz", image=test_images)
    np.savez_compressed(HERE / "labels.npz", labels=test_labels)


if __name__ == "__main__":
    main()
