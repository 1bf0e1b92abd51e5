"""A converted folder as a loader meets it, and what can be wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from porting.checkpoint.treatment import is_routed_expert
from porting.errors import InvalidModelError
from porting.quantization.keep_tables import kept
from porting.quantization.schemes import schemes
from porting.weights.index import read_json
from porting.weights.safetensors_file import Entry
from porting.weights.store import WeightStore


@dataclasses.dataclass(frozen=True)
class Fault:
    """where: the tensor, key or file. required: what loaders ask for. met: what is there."""

    where: str
    required: str
    met: str

    def __str__(self) -> str:
        return f"{self.where}: {self.met}; required: {self.required}"


class Folder:
    """Headers and documents. Raises InvalidModelError where even these cannot be read."""

    def __init__(self, path: Path, stem: str = "model") -> None:
        self.path = path
        self.stem = stem
        self.store = WeightStore(path, stem=stem)
        self.entries: Mapping[str, Entry] = self.store.entries
        self.config = _document(path / "config.json")
        self.family = str(self.config.get("model_type", ""))

    @property
    def qweights(self) -> list[str]:
        """Modules whose codes are called ``qweight``."""
        return [name.removesuffix(".qweight") for name in self.entries if name.endswith(".qweight")]

    @property
    def quantization(self) -> dict[str, Any]:
        """``quantization_config``; empty where there is none."""
        found = self.config.get("quantization_config", {})
        return found if isinstance(found, dict) else {}

    def expect(self, name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Fault]:
        """That a tensor is there, of this type and shape."""
        entry = self.entries.get(name)
        wanted = f"{dtype} {list(shape)}"
        if entry is None:
            yield Fault(name, wanted, "missing")
        elif (entry.dtype, entry.shape) != (dtype, shape):
            yield Fault(name, wanted, f"{entry.dtype} {list(entry.shape)}")

    def expect_positive(self, name: str) -> Iterator[Fault]:
        """That scales are finite and above zero."""
        if name in self.entries:
            values = self.store.tensor(name).to(torch.float32)
            wrong = int((~torch.isfinite(values) | (values <= 0)).sum())
            if wrong:
                yield Fault(name, "finite scales above zero", f"{wrong} of {values.numel()} are not")

    def kept_always(self, module: str, runtime: str) -> str | None:
        """Why a runtime takes a module in float and not otherwise; None where it does not say so."""
        row = kept(module, self.family, runtime)
        return row.reason if row is not None and row.fixed else None


def uniform(kinds: Mapping[str, str]) -> Iterator[Fault]:
    """That weights which runtimes multiply by at once are quantized alike. kinds: by module.

    All experts of a layer go together: vllm-ascend asks the first one alone.
    """
    first: dict[str, str] = {}
    for module, kind in kinds.items():
        group = schemes().matrix(module)
        other = first.setdefault(group, module)
        if kinds[other] != kind:
            yield Fault(module, f"{kinds[other]} as {other}, with which it is fused", kind)


def experts_only(module: str) -> bool:
    """Whether a module may be int4 where only routed experts may."""
    return is_routed_expert(f"{module}.weight")


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise InvalidModelError("no JSON object", required="an object", where=path)
    return document


def is_matrix(entry: Entry) -> bool:
    """Whether a tensor may be the weight of a linear layer."""
    return len(entry.shape) == 2 and entry.name.endswith(".weight")


def qweights_alone(folder: Folder, wanted: Callable[[str], bool], required: str) -> Iterator[Fault]:
    """No weight beside a qweight, none in the place of one that is ``wanted`` by its module, and joined ones agree."""
    kinds = dict.fromkeys(folder.qweights, "quantized")
    for name, entry in folder.entries.items():
        if not is_matrix(entry):
            continue
        module = name.removesuffix(".weight")
        if module in kinds:
            yield Fault(name, "qweight alone", "weight beside qweight")
        elif wanted(module):
            yield Fault(f"{module}.qweight", required, "missing")
        kinds.setdefault(module, "float")
    yield from uniform(kinds)
