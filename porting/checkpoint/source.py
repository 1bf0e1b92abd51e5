"""The checkpoint that is converted: its tensors in the order of its files, each with the scales that belong to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from porting.errors import InvalidModelError
from porting.weights.index import read_json
from porting.weights.safetensors_file import Entry
from porting.weights.scales import CODES, FLOAT8, check_scale, find_scale
from porting.weights.store import WeightStore
from porting.weights.stored import Stored

_QUANTIZED = (".qweight", ".weight_packed", ".per_channel_scale")
_SAMPLES, _SAMPLE = 32, 4096
"""Places of a file and bytes at each that its digest holds."""
_SCALES = (".weight_scale_inv", ".weight_scale")
MODEL_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SourceTensor:
    """A tensor that is no scale. scale: that of its blocks, where it is float8."""

    entry: Entry
    scale: Entry | None

    @property
    def name(self) -> str:
        """As it is stored."""
        return self.entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is stored."""
        return self.entry.shape


class Source:
    """A Hugging Face folder whose weights are floats: bfloat16, float16, float32, or float8 with block scales.

    shards: the tensors of each file, in the order of their bytes. dtype: of what stays in float but cannot stay as it
    is stored: the model's, bfloat16 where config.json names none or float32.
    Raises InvalidModelError for a folder that is no checkpoint, is malformed, or is quantized otherwise already.
    """

    def __init__(self, folder: Path) -> None:
        self.store = WeightStore(folder, past_cache=True)
        self.folder = self.store.folder
        self.config = _config(self.folder)
        self.family = str(self.config.get("model_type", ""))
        self.dtype = model_dtype(self.config)
        self.shards = _shards(self.store)
        self.tensors = {tensor.name: tensor for shard in self.shards.values() for tensor in shard}

    @property
    def data_bytes(self) -> int:
        """Of all tensors, scales included."""
        return sum(entry.length for entry in self.store.entries.values())

    def stored(self, tensor: SourceTensor) -> Stored:
        """The tensor as a matrix of numbers."""
        return Stored(self.store, tensor.entry, tensor.scale, self.store.block)

    def digest(self) -> str:
        """What tells that the source is the one of an interrupted run: config, headers, sizes, and samples of the data.

        The same on every machine that has the same files, wherever they lie. Of the data some pages of each file are
        read: another training of the model shows in any of them, a single number that was changed does not.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for path in self.shards:
            with open(path, "rb", buffering=0) as stream:
                size = os.fstat(stream.fileno()).st_size
                digest.update(f"{path.name} {size}\n".encode())
                for number in range(_SAMPLES):
                    digest.update(os.pread(stream.fileno(), _SAMPLE, size * number // _SAMPLES))
        for entry in self.store.entries.values():
            digest.update(f"{entry.name} {entry.dtype} {entry.shape} {entry.offset}\n".encode())
        return f"sha256:{digest.hexdigest()}"


def model_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """The floating type that config.json names; bfloat16 where it names none or float32."""
    text = config.get("text_config")
    nested = text if isinstance(text, dict) else {}
    named = config.get("torch_dtype") or config.get("dtype") or nested.get("torch_dtype")
    return MODEL_DTYPES.get(str(named), torch.bfloat16)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise InvalidModelError("the checkpoint has no config.json", required="config.json", where=folder)
    config = read_json(path)
    if not isinstance(config, dict):
        raise InvalidModelError("config.json is no JSON object", required="an object", where=path)
    return config


def _shards(store: WeightStore) -> dict[Path, list[SourceTensor]]:
    scales: dict[str, Entry] = {}
    for entry in store.entries.values():
        _require_float(entry, store)
        if entry.dtype in FLOAT8:
            scale = find_scale(store.entries, entry.name)
            check_scale(entry, scale, store.block)
            assert scale is not None
            scales[entry.name] = scale
    consumed = {scale.name for scale in scales.values()}
    shards: dict[Path, list[SourceTensor]] = {}
    for entry in sorted(store.entries.values(), key=lambda entry: (entry.file.path.name, entry.offset)):
        tensors = shards.setdefault(entry.file.path, [])
        if entry.name in consumed:
            continue
        if entry.name.endswith(_SCALES):
            raise InvalidModelError("scales without an 8-bit weight", required="a float8 weight", where=entry)
        tensors.append(SourceTensor(entry, scales.get(entry.name)))
    return shards


def _require_float(entry: Entry, store: WeightStore) -> None:
    quantized = entry.dtype in CODES and entry.dtype not in FLOAT8 and find_scale(store.entries, entry.name)
    if quantized or entry.name.endswith(_QUANTIZED):
        raise InvalidModelError(
            "the checkpoint is quantized already",
            required="weights in bfloat16, float16, float32, or float8 with scales of blocks",
            where=entry,
            fix="convert the checkpoint that it was made from",
        )
