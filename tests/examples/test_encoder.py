"""The committed sorting encoder does what its README says, in eager torch and as its factory exports it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "encoder"
ABSOLUTE_PATH = re.compile(rb"(?:/(?:home|root|tmp|work|usr|Users|opt|mnt|var)/|[A-Z]:\\\\)[\w./\\-]*")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.encoder import model

    return model


def test_accuracy_of_the_held_out_lists(model, tmp_path: Path) -> None:
    with np.load(FOLDER / "test.npz") as arrays, torch.no_grad():
        logits = model.trained()(torch.from_numpy(arrays["ids"]))
    np.savez(tmp_path / "Y.npz", logits=logits.numpy())
    command = [sys.executable, str(FOLDER / "accuracy.py"), str(tmp_path / "Y.npz")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip().endswith("accuracy 0.9998 of tokens, 0.9980 of 1000 whole lists")


def test_labels_are_the_sorted_tokens() -> None:
    with np.load(FOLDER / "test.npz") as inputs, np.load(FOLDER / "labels.npz") as answers:
        for ids, labels in zip(inputs["ids"], answers["labels"], strict=True):
            assert sorted(ids[ids != 0]) == list(labels[labels != -100])


def test_padding_changes_no_answer(model) -> None:
    """The same four tokens alone and padded: the mask hides the padding exactly, up to another order of summation."""
    encoder = model.trained()
    with torch.no_grad():
        alone = encoder(torch.tensor([[9, 5, 7, 1]]))
        padded = encoder(torch.tensor([[9, 5, 7, 1, 0, 0, 0, 0]]))
    torch.testing.assert_close(padded[:, :4], alone, rtol=1e-4, atol=1e-4)
    assert alone.argmax(2).tolist() == [[1, 5, 7, 9]]


@pytest.mark.parametrize(("factory", "names"), [("factory", {"batch"}), ("factory_any_length", {"batch", "sequence"})])
def test_factory_gives_what_torch_export_takes(model, factory: str, names: set[str]) -> None:
    module, inputs, dynamic_shapes = getattr(model, factory)()
    assert not module.training
    assert {dim.__name__ for dim in dynamic_shapes["ids"].values()} == names
    program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes)
    shortest = torch.tensor([[3, 2]]) if "sequence" in names else torch.tensor([[*range(16, 0, -1)]])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(shortest), module(shortest), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "path", sorted(path for path in FOLDER.iterdir() if path.is_file()), ids=lambda path: path.name
)
def test_committed_file_is_small_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size < 3_000_000
    assert ABSOLUTE_PATH.findall(path.read_bytes()) == []
