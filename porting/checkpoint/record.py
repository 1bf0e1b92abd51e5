"""``conversion.json``: what a conversion was asked for, and which files of it are complete."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import porting
from porting.checkpoint.pipeline import Written
from porting.checkpoint.shard_file import write_file
from porting.errors import InvalidInputError, UsageError
from porting.manifest import file_digest
from porting_kernels.weight_quantization import Findings

NAME = "conversion.json"
SCHEMA_VERSION = 1


class Record:
    """The document in OUT. It is written anew, whole, after every file; a run that was killed goes on from it.

    asked: all that the bytes of the result depend on. Nothing in it depends on time or threads.
    """

    def __init__(self, out: Path, asked: dict[str, Any], document: dict[str, Any]) -> None:
        self.path = out / NAME
        self.asked = asked
        self.document = document

    @classmethod
    def resumed(cls, out: Path, asked: dict[str, Any]) -> Record:
        """The record in OUT, or a new one. UsageError for one of other options, another source or another version."""
        fresh = {
            "schema_version": SCHEMA_VERSION, "porting": porting.__version__, **asked,
            "complete": False, "documents": {}, "files": {},
        }  # fmt: skip
        if not (out / NAME).exists():
            return cls(out, asked, fresh)
        found = read_record(out)
        for key in ("porting", *asked):
            if found.get(key) != fresh[key]:
                raise UsageError(
                    f"{out} is of a conversion with another {key}",
                    required=_short(found.get(key)),
                    met=_short(fresh[key]),
                    where=out / NAME,
                    fix="the same command as before, or another -o",
                )
        return cls(out, asked, found)

    def holds(self, name: str, size: int) -> bool:
        """Whether a file is complete, by its name below OUT, and still has its size."""
        path = self.path.parent / name
        known = self.document["files"].get(name)
        return known is not None and known["size"] == size and path.is_file() and path.stat().st_size == size

    @property
    def is_whole(self) -> bool:
        """Whether everything was written, and index, config and description are still what they were."""
        documents = self.document["documents"].items()
        return bool(self.document["complete"]) and all(
            (self.path.parent / name).is_file() and file_digest(self.path.parent / name) == digest
            for name, digest in documents
        )

    def add(self, name: str, written: Written) -> None:
        """A file is complete and on the disk."""
        self.document["files"][name] = file_facts(written)
        self.save()

    def save(self) -> None:
        """Write the document."""
        self.document["files"] = dict(sorted(self.document["files"].items()))
        write_file(self.path, json.dumps(self.document, indent=1, ensure_ascii=False) + "\n")


def file_facts(written: Written) -> dict[str, Any]:
    """size, digest of what is a file, and what was found on the way; tensors are named only where something was."""
    facts: dict[str, Any] = {"size": written.shard.size}
    if written.digest:
        facts["digest"] = written.digest
    if written.findings:
        facts["findings"] = {
            name: {key: count for key, count in dataclasses.asdict(found).items() if count}
            for name, found in sorted(written.findings.items())
        }
    if written.scales:
        others = Counter(re.sub(r"\d+", "*", each.name) for each in written.scales if not each.powers_of_two)
        facts["block_scales"] = {
            "tensors": len(written.scales),
            "powers_of_two": sum(each.powers_of_two for each in written.scales),
            "others": dict(sorted(others.items())),
            "not_usable": sorted(each.name for each in written.scales if not each.usable),
        }
    return facts


@dataclasses.dataclass
class Totals:
    """Sums over the files of one format."""

    findings: Findings
    scales: int
    powers_of_two: int
    others: Counter[str]
    not_usable: list[str]


def totals(document: dict[str, Any], folder: str) -> Totals:
    """What the files of one format have found."""
    result = Totals(Findings(), 0, 0, Counter(), [])
    for name, facts in document["files"].items():
        if name.rpartition("/")[0] != folder:
            continue
        for found in facts.get("findings", {}).values():
            result.findings += Findings(**found)
        scales = facts.get("block_scales")
        if scales:
            result.scales += scales["tensors"]
            result.powers_of_two += scales["powers_of_two"]
            result.others.update(scales["others"])
            result.not_usable += scales["not_usable"]
    return result


def read_record(folder: Path) -> dict[str, Any]:
    """``conversion.json`` of a folder. InvalidInputError where it is none of this version, or damaged."""
    path = folder / NAME
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {NAME}: {error}", where=path, fix="another -o") from error
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{NAME} has another version", required=f"schema_version {SCHEMA_VERSION}", where=path, fix="another -o"
        )
    if not isinstance(document.get("files"), dict):
        raise InvalidInputError(f"{NAME} is damaged", required="files: an object", where=path, fix="another -o")
    return document


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."
