"""Reads a SmoothQuant or GPTQ folder as vllm-mlu and xLLM name its tensors, with numpy and safetensors alone."""

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
        """Integer codes [n, k]; of two int4 in a byte, the low nibble is the even input channel.

        GPTQ's are words [k / 8, n]: input channel 8 i + j is bits 4 j to 4 j + 3 of row i, as an offset from -8.
        """
        stored = self.tensors[f"{module}.qweight"]
        if self.quantization["quant_method"] == "gptq":
            assert stored.dtype == np.int32
            codes = np.empty((stored.shape[1], 8 * stored.shape[0]), np.int8)
            for channel in range(codes.shape[1]):
                codes[:, channel] = (stored[channel // 8] >> 4 * (channel % 8) & 15) - 8
            return codes
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
        codes = self.codes(module)
        if self.quantization["quant_method"] == "gptq":
            return codes * self.tensors[f"{module}.scales"][self.tensors[f"{module}.g_idx"]].T
        scale = self.tensors[f"{module}.per_channel_scale"]
        scale = scale.reshape(len(codes), -1)
        spread = np.repeat(scale, codes.shape[1] // scale.shape[1], axis=1)
        return codes * spread * self.tensors[f"{module}.smooth"]
