"""A converted folder held against its loaders' contract, offline: every entry that is missing or wrong, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from porting.checkpoint.contracts import ascend, cambricon, completeness, compressed_tensors, sglang
from porting.checkpoint.contracts.folder import Fault
from porting.checkpoint.record import NAME, read_record
from porting.errors import InvalidModelError
from porting.manifest import file_digest
from porting.weights.index import read_index, read_json
from porting.weights.safetensors_file import Header, read_header
from porting.weights.scales import FLOAT8

CONTRACTS: dict[str, Callable[[Path], Iterator[Fault]]] = {
    "ascend": ascend.check,
    "cambricon": cambricon.check,
    "compressed-tensors": compressed_tensors.check,
    "sglang": sglang.check,
}
_METHODS = {
    "smoothquant": "cambricon",
    "weightonly": "cambricon",
    "gptq": "cambricon",
    "compressed-tensors": "compressed-tensors",
    "w8a8_int8": "sglang",
    "blockwise_int8": "sglang",
}


def detect(folder: Path) -> str:
    """The format of a folder, by the documents in it; ``compressed-tensors`` for one that is plain float.

    InvalidModelError for a quantized folder of another format.
    """
    if not folder.is_dir():
        raise InvalidModelError("no such folder", required="a converted folder", where=folder)
    _require_whole(folder)
    if (folder / ascend.DESCRIPTION).exists():
        return "ascend"
    config = read_json(folder / "config.json")
    found = config.get("quantization_config") if isinstance(config, dict) else None
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method is None:
        return "compressed-tensors"
    if method not in _METHODS:
        raise InvalidModelError(
            "not a format that is known here", required=" or ".join(_METHODS), met=str(method)[:80],
            where=folder / "config.json",
        )  # fmt: skip
    return _METHODS[method]


def _require_whole(folder: Path) -> None:
    """InvalidModelError for a conversion that has not ended, and for one of several formats."""
    for place in (folder, folder.parent):
        if not (place / NAME).exists():
            continue
        record = read_record(place)
        if place != folder and folder.name not in record.get("formats", []):
            continue
        if not record.get("complete"):
            raise InvalidModelError(
                "the conversion has not ended", required="complete: true", where=place / NAME,
                fix="run the same `porting checkpoint convert` again: it goes on from there",
            )  # fmt: skip
        if place == folder and len(record.get("formats", [])) > 1:
            below = [str(folder / str(name)) for name in record["formats"]]
            raise InvalidModelError("a folder of several formats", required="one of them", met=", ".join(below))


def folders(out: Path) -> list[Path]:
    """The folders of a conversion's formats: ``out`` itself, or those below it with several."""
    if (out / "config.json").exists() or not (out / NAME).exists():
        return [out]
    return [out / str(form) for form in read_record(out).get("formats", [])]


def stem_of(form: str) -> str:
    """What weight files of a format are called."""
    return ascend.STEM if form == "ascend" else "model"


def validate(folder: Path, *, digests: bool = False) -> list[Fault]:
    """All that is wrong with a converted folder. digests: also read every file and compare it with conversion.json.

    Without, headers, documents and scales are read. Raises InvalidModelError for files that cannot be read at all.
    """
    form = detect(folder)
    stem = stem_of(form)
    headers = [read_header(folder / name) for name in read_index(folder, stem)]
    found = read_json(folder / "config.json")
    config = found if isinstance(found, dict) else {}
    faults = list(_files(folder, stem, headers, config))
    faults += CONTRACTS[form](folder)
    faults += completeness.check((name for header in headers for name in header.entries), config)
    if digests:
        faults += _digests(folder)
    return faults


def _files(folder: Path, stem: str, headers: Sequence[Header], config: Mapping[str, Any]) -> Iterator[Fault]:
    """The index tells the truth, and no file is there that a loader would take beside it."""
    files = {header.file.path.name for header in headers}
    path = folder / f"{stem}.safetensors.index.json"
    for stray in sorted(folder.glob("*.safetensors")):
        if stray.name not in files:
            yield Fault(
                stray.name, "no weight file that the index does not name: xLLM loads all of them", "it is there"
            )
    total = sum(entry.length for header in headers for entry in header.entries.values())
    index: Any = read_json(path) if path.exists() else {}
    stated = index.get("metadata", {}).get("total_size") if isinstance(index, dict) else None
    if stated != total:
        yield Fault(f"{path.name}, metadata.total_size", f"{total}, the bytes of all tensors", str(stated))
    mapped = index.get("weight_map", {}) if isinstance(index, dict) else {}
    for header in headers:
        if header.metadata.get("format") != "pt":
            yield Fault(header.file.path.name, "metadata format pt: transformers checks it", str(header.metadata))
        for entry in header.entries.values():
            if mapped.get(entry.name) != header.file.path.name:
                yield Fault(
                    f"{path.name}, weight_map, {entry.name}", header.file.path.name, str(mapped.get(entry.name))
                )
    dtypes = {entry.dtype for header in headers for entry in header.entries.values()}
    names = [entry.name for header in headers for entry in header.entries.values()]
    if "I8" in dtypes and dtypes & set(FLOAT8):
        yield Fault(str(folder), "no float8 beside int8", "both")
    method = (config.get("quantization_config") or {}).get("quant_method")
    for name in names:
        if name.endswith("weight_scale_inv") and method != "blockwise_int8":
            yield Fault(name, "no scales of the source", "it is there")


def _digests(folder: Path) -> Iterator[Fault]:
    """Every weight file is what was written. The record is in the folder, or above it with several formats."""
    place, prefix = (folder, "") if (folder / NAME).exists() else (folder.parent, f"{folder.name}/")
    if not (place / NAME).exists():
        yield Fault(NAME, "the record of the conversion", "missing")
        return
    record = read_record(place)
    digests = {name: facts["digest"] for name, facts in record["files"].items()} | record.get("documents", {})
    for name, digest in digests.items():
        if not name.startswith(prefix) or "/" in name.removeprefix(prefix):
            continue
        path = place / name
        met = file_digest(path) if path.is_file() else "missing"
        if met != digest:
            yield Fault(name, str(digest), met)
