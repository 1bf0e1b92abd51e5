"""Reads an AscendV1 folder by the published description of the format, with numpy and safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open


class AscendReader:
    """types: the description's entries. weight(name): float32 of the weight, by its type."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "quant_model_weights.safetensors.index.json").read_text())
        self.total_size = index["metadata"]["total_size"]
        self.tensors: dict[str, np.ndarray] = {}
        for file in sorted(set(index["weight_map"].values())):
            with safe_open(folder / file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    tensor = opened.get_tensor(name)
                    assert index["weight_map"][name] == file
                    self.tensors[name] = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        description = json.loads((folder / "quant_model_description.json").read_text())
        self.types = {name: kind for name, kind in description.items() if "." in name}
        self.globals = {name: kind for name, kind in description.items() if "." not in name}

    def codes(self, name: str) -> np.ndarray:
        """Integer codes [n, k]; of two int4 in a byte, the low nibble is the even output channel."""
        stored = self.tensors[name]
        assert stored.dtype == np.int8
        if self.types[name] != "W4A8_DYNAMIC":
            return stored
        unsigned = stored.view(np.uint8).astype(np.int16)
        nibbles = np.empty((2 * stored.shape[0], stored.shape[1]), np.int16)
        nibbles[0::2], nibbles[1::2] = unsigned & 15, unsigned >> 4
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8)

    def weight(self, name: str) -> np.ndarray:
        """(code - offset) * scale."""
        if self.types[name] == "FLOAT":
            return self.tensors[name]
        return (self.codes(name) - self.tensors[f"{name}_offset"]) * self.tensors[f"{name}_scale"]

    def bias(self, name: str) -> np.ndarray:
        """What scale_bias must be: 8 * sum of code * scale over each slice of the columns."""
        values = self.codes(name).astype(np.float64) * self.tensors[f"{name}_scale"]
        slices = 16 if "down_proj" in name or "o_proj" in name else 1
        return 8 * values.reshape(len(values), slices, -1).sum(-1)
