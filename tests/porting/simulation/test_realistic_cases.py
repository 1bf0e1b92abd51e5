"""Small graphs with the shapes and idioms of real networks, with outputs of onnxruntime, where they are at hand."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.simulation.interpreter import Interpreter

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "realistic"
NAMES = sorted(folder.name for folder in CASES.iterdir()) if CASES.is_dir() else []
LIMIT = 1e-5
"""Relative L2 of one operator in float32: twelve times the largest seen (bilinear resizing by 1.5, 1.4e-6: two
libraries place a sample a fraction of a pixel apart)."""


@pytest.mark.skipif(not NAMES, reason="the folder of cases is not beside this checkout")
def test_there_are_many() -> None:
    assert len(NAMES) > 100


@pytest.mark.parametrize("name", NAMES)
def test_equals_onnxruntime(name: str) -> None:
    torch.set_num_threads(1)
    folder = CASES / name
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "outputs.npz") as outputs:
        found = Interpreter(ir.load(folder / "model.onnx")).run(dict(inputs))
        for output, expected in outputs.items():
            result = found[output].numpy()
            assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
            finite = np.isfinite(expected)
            np.testing.assert_array_equal(result[~finite], expected[~finite])
            if expected.dtype.kind == "f":
                error = np.linalg.norm(result[finite] - expected[finite])
                assert error <= LIMIT * np.linalg.norm(expected[finite])
            else:
                np.testing.assert_array_equal(result, expected)
