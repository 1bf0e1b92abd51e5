"""Which files of a checkpoint folder hold its tensors, by its own account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from porting.errors import InvalidModelError

STEM = "model"
SINGLE = f"{STEM}.safetensors"
INDEX = f"{SINGLE}.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
LONGEST_INDEX = 1 << 30


def read_index(folder: Path, stem: str = STEM) -> dict[str, list[str] | None]:
    """File name -> names of the tensors that the index says it holds; None where there is no index: all of them.

    A single ``model.safetensors`` goes before an index, as in transformers. stem: in the place of ``model``, as some
    formats have it. Raises InvalidModelError for a folder without safetensors and for an index that is malformed or
    names files outside the folder.
    """
    if not folder.is_dir():
        raise InvalidModelError("no such checkpoint folder", required="a folder", where=folder)
    single = f"{stem}.safetensors"
    path = folder / f"{single}.index.json"
    if (folder / single).exists():
        return {single: None}
    if not path.exists():
        raise _no_weights(folder)
    weight_map = _weight_map(path)
    files: dict[str, list[str] | None] = {}
    for tensor, file in weight_map.items():
        names = files.get(file)
        if names is None:
            _check_file_name(path, tensor, file)
            names = files[file] = []
        names.append(tensor)
    return files


def read_json(path: Path) -> Any:
    """The value of a JSON file of a checkpoint. InvalidModelError when it cannot be read or parsed."""
    try:
        if path.stat().st_size > LONGEST_INDEX:
            raise InvalidModelError("the file is too long", required=f"at most {LONGEST_INDEX} bytes", where=path)
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModelError(f"cannot read JSON: {ascii(str(error))[1:-1]}", where=path) from error


def _weight_map(path: Path) -> dict[str, str]:
    document = read_json(path)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidModelError("the index has no weight_map", required="weight_map: tensor name -> file", where=path)
    if not all(isinstance(file, str) for file in weight_map.values()):
        raise InvalidModelError("the weight_map is malformed", required="file names", where=path)
    return weight_map


def _check_file_name(index: Path, tensor: str, file: str) -> None:
    # Links are followed (download caches are made of them), but no name may lead out of the folder.
    if file != Path(file).name or not file.isprintable() or "\\" in file:
        raise InvalidModelError(
            "the index names a file outside its folder",
            required="the name of a file beside the index",
            met=ascii(file),
            where=f"{index}, tensor {tensor!a}",
        )
    if not file.endswith(".safetensors"):
        raise InvalidModelError(
            "the index names a file that is not safetensors", required="*.safetensors", met=ascii(file), where=index
        )


def _no_weights(folder: Path) -> InvalidModelError:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return InvalidModelError(
            "weights in pickle files are refused: loading one can run any code",
            required=f"{SINGLE}, or {INDEX} and its shards",
            met=", ".join(pickles[:3]) + (" ..." if len(pickles) > 3 else ""),
            where=folder,
            fix="where you trust the file, save it again with safe_serialization=True (transformers)",
        )
    shards = sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")
    return InvalidModelError(
        "the folder holds no weights" if not shards else "safetensors files without an index",
        required=f"{SINGLE}, or {INDEX} and its shards",
        met=", ".join(shards[:3]) + (" ..." if len(shards) > 3 else "") if shards else None,
        where=folder,
        fix="download the index as well" if shards else None,
    )
