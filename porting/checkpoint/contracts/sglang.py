"""What SGLang asks of its own int8 formats.

Sources: sgl-project/sglang:python/sglang/srt/layers/quantization/{w8a8_int8,blockwise_int8}.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from porting.checkpoint.contracts.folder import Fault, Folder, is_matrix, uniform

_METHODS = ("w8a8_int8", "blockwise_int8")


def check(path: Path) -> Iterator[Fault]:
    """Everything that is wrong, entry by entry."""
    folder = Folder(path)
    config = folder.quantization
    method = config.get("quant_method")
    if method is not None and method not in _METHODS:
        yield Fault("config.json, quantization_config.quant_method", " or ".join(_METHODS), str(method))
        return
    block = config.get("weight_block_size")
    if method == "blockwise_int8" and not (isinstance(block, list) and len(block) == 2):
        yield Fault("config.json, quantization_config.weight_block_size", "[rows, columns]", str(block))
        return
    ignored = config.get("ignored_layers", [])
    kinds: dict[str, str] = {}
    for name, entry in folder.entries.items():
        if not is_matrix(entry):
            continue
        module = name.removesuffix(".weight")
        kinds[module] = "int8" if entry.dtype == "I8" else "float"
        if entry.dtype != "I8":
            if method is not None and module not in ignored:
                yield Fault(name, "int8, or a place among ignored_layers", entry.dtype)
            continue
        rows, columns = entry.shape
        scale, shape = f"{name}_scale", (rows, 1)
        if method == "blockwise_int8" and isinstance(block, list):
            scale, shape = f"{name}_scale_inv", (-(-rows // block[0]), -(-columns // block[1]))
        if method is None or module in ignored:
            yield Fault(name, "a float weight", "int8")
        yield from folder.expect(scale, "F32", shape)
        yield from folder.expect_positive(scale)
    yield from uniform(kinds)
