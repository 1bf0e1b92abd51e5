"""What vllm-mlu asks of a GPTQ folder: int4 for every linear layer, with scales, zero points and groups in order.

Source: Cambricon/vllm-mlu:vllm_mlu/model_executor/layers/quantization/gptq_mlu.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from porting.checkpoint.contracts.folder import Fault, Folder, experts_only, qweights_alone
from porting.checkpoint.formats.format import STORED_AS
from porting.checkpoint.formats.gptq import IN_A_WORD, QUANTIZATION, is_linear
from porting.checkpoint.source import model_dtype

METHOD = QUANTIZATION["quant_method"]
_GROUPS = (64, 128, 256, 512)
_ZERO_POINTS = 0x77777777


def check(folder: Folder, runtime: str) -> Iterator[Fault]:
    """Everything that is wrong, entry by entry."""
    yield from _config(folder)
    yield from qweights_alone(
        folder,
        lambda module: is_linear(module, folder.family, runtime),
        "every linear layer: the loader has no list of others",
    )
    modules = folder.qweights
    for module in modules:
        yield from _module(folder, module, runtime)


def _config(folder: Folder) -> Iterator[Fault]:
    for key, value in QUANTIZATION.items():
        met = folder.quantization.get(key, False if key == "lm_head" else None)
        right = met in _GROUPS if key == "group_size" else met == value
        if not right or type(met) is not type(value):
            required = " or ".join(map(str, _GROUPS)) if key == "group_size" else str(value)
            yield Fault(f"config.json, quantization_config.{key}", required, str(met))


def _module(folder: Folder, module: str, runtime: str) -> Iterator[Fault]:
    name = f"{module}.qweight"
    entry = folder.entries[name]
    if experts_only(module):
        yield Fault(name, "no routed experts: the loader has no method for them", "quantized")
    elif not is_linear(module, folder.family, runtime):
        yield Fault(name, "a float weight: no linear layer to the loader", "quantized")
    if len(entry.shape) != 2 or entry.dtype != "I32":
        yield Fault(name, "I32 of two axes", f"{entry.dtype} {list(entry.shape)}")
        return
    columns, rows = entry.shape[0] * IN_A_WORD, entry.shape[1]
    group = folder.quantization.get("group_size")
    if group not in _GROUPS:
        return
    if columns % group or rows % IN_A_WORD:
        yield Fault(
            name, f"words of columns that {group} divides, and rows that {IN_A_WORD} divides", str([*entry.shape])
        )
        return
    dtype = STORED_AS[str(model_dtype(folder.config)).removeprefix("torch.")]
    yield from folder.expect(f"{module}.scales", dtype, (columns // group, rows))
    yield from folder.expect_positive(f"{module}.scales")
    zeros = torch.full((columns // group, rows // IN_A_WORD), _ZERO_POINTS, dtype=torch.int32)
    yield from _equal(folder, f"{module}.qzeros", zeros, "7 in each of eight nibbles: symmetric codes")
    groups = torch.arange(columns, dtype=torch.int32) // group
    yield from _equal(folder, f"{module}.g_idx", groups, "the group of each column, in their order")


def _equal(folder: Folder, name: str, wanted: torch.Tensor, required: str) -> Iterator[Fault]:
    wrong = list(folder.expect(name, "I32", tuple(wanted.shape)))
    yield from wrong
    if not wrong and not torch.equal(folder.store.tensor(name), wanted):
        yield Fault(name, required, "other values")
