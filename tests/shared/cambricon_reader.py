"""Reads a SmoothQuant folder as vllm-mlu and xLLM name its tensors, with numpy and safetensors alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open


class CambriconReader:
    """quantization: config.json's. weight(module): float32."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        self.tensors: dict[str, np.ndarray] = {}
        for file in sorted(set(index["weight_map"].values())):
            with safe_open(folder / file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    tensor = opened.get_tensor(name)
                    self.tensors[name] = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        self.quantization = json.loads((folder / "config.json").read_text()).get("quantization_config", {})

    def codes(self, module: str) -> np.ndarray:
        """Integer codes [n, k]; of two int4 in a byte, the low nibble is the even input channel."""
        stored = self.tensors[f"{module}.qweight"]
        assert stored.dtype == np.int8
        if stored.shape[1] == len(self.tensors[f"{module}.smooth"]):
            return stored
        unsigned = stored.view(np.uint8).astype(np.int16)
        nibbles = np.stack([unsigned & 15, unsigned >> 4], axis=-1).reshape(len(stored), -1)
        return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8)

    def weight(self, module: str) -> np.ndarray:
        """y = (x * smooth) . (code * scale): the weight of x is both together."""
        if f"{module}.weight" in self.tensors:
            return self.tensors[f"{module}.weight"]
        codes, scale = self.codes(module), self.tensors[f"{module}.per_channel_scale"]
        scale = scale.reshape(len(codes), -1)
        spread = np.repeat(scale, codes.shape[1] // scale.shape[1], axis=1)
        return codes * spread * self.tensors[f"{module}.smooth"]
