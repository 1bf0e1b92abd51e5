"""Facts about chips -> the operator sets that the backends ship.

    python tools/convert_facts.py FACTS_FOLDER          writes the data files of every backend
    python tools/convert_facts.py FACTS_FOLDER --check  says which of them are not what the facts give

A fact row describes the chip's own operator; its operands are those of the vendor's prototype, not of ONNX. Dtypes are
kept for an operand only where position and meaning agree with the ONNX schema; everything else is left unstated. What
the facts say as text becomes a constraint through ``fact_overlays/SURFACE.json``, which also holds rows and limits read
from published sources. A text that the overlay does not know is an error.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parent.parent
OVERLAYS = Path(__file__).resolve().parent / "fact_overlays"
# surface -> (facts file, data file, who wrote the rows)
SURFACES = {
    "atc-onnx": ("ascend-910b.json", "ascend_910b/atc-onnx.json", "parser source"),
    "magicmind": ("cambricon-mlu370.json", "cambricon_mlu370/magicmind.json", "public consumer"),
}
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (4, 8, 16, 32, 64)]
DTYPES = {"float16", "float32", "float64", "bfloat16", "bool", "string", "complex64", "complex128", *_INTEGERS}
_ONNX_NAMES = {"float": "float32", "double": "float64"}

Json = dict[str, Any]


class Converter:
    """The rows of one surface."""

    def __init__(self, facts: Json, overlay: Json, evidence: str) -> None:
        self.facts = facts
        self.overlay = overlay
        self.evidence = evidence

    def operator_set(self) -> Json:
        """The content of the data file."""
        overlay = self.overlay
        rows = [row for _, row in sorted(self._standard().items())]
        rows += self._vendor() + [dict(row) for row in overlay["rows"]]
        result: Json = {
            "surface": overlay["surface"],
            "chip": self.facts["chip"],
            "opset": overlay["opset"],
            "unlisted": overlay["unlisted"],
            "unlisted_reason": overlay["unlisted_reason"],
            "sources": self.facts["sources"],
            "refused": self._refused(),
            "refused_dtypes": overlay["refused_dtypes"],
            "converted_dtypes": overlay.get("converted_dtypes", {}),
            "library": self._library(),
        }
        return {**result, "rows": rows}

    def _refused(self) -> Json:
        names = [name.split(" ")[0] for name in self.facts.get("onnx_not_accepted", ())]
        entry = {"reason": self.overlay.get("refused_reason"), "source": self.overlay.get("refused_source")}
        return dict.fromkeys(names, entry)

    def _is_library(self, fact: Json) -> bool:
        return bool(fact["source"] == self.overlay.get("library_source"))

    def _library(self) -> Json:
        """What the chip has, and what nevertheless makes no ONNX node legal: operator -> why."""
        known: Json = {}
        for fact in self.facts["ops"]:
            if fact["kind"] == "onnx" and self._is_library(fact):
                known[fact["onnx"]] = f"{fact['name']} is {self.overlay['library_reason']}"
        return {**known, **self.overlay.get("library", {})}

    def _standard(self) -> dict[str, Json]:
        rows: dict[str, Json] = {}
        for fact in self.facts["ops"]:
            listed_elsewhere = self._is_library(fact) or fact["onnx"] in self.overlay.get("library", {})
            if fact["kind"] != "onnx" or listed_elsewhere:
                continue
            operator = self.overlay.get("names", {}).get(fact["onnx"], fact["onnx"])
            row = self._row(operator, fact)
            if operator in rows:  # one ONNX operator, several nodes of the chip: all limits, all sources
                for key in ("source", "constraints", "lowers_to"):
                    row[key] = rows[operator][key] + [entry for entry in row[key] if entry not in rows[operator][key]]
            rows[operator] = row
        return rows

    def _row(self, operator: str, fact: Json) -> Json:
        special = self.overlay["operators"].get(operator, {})
        first, last = special.get("opset", fact.get("opset_range", self.overlay["opset_range"]))
        schemas = _schemas(operator, last)
        notes: list[str] = []
        inputs = self._operands(schemas[-1], fact["inputs"], special.get("keep_inputs"), notes, of_inputs=True)
        outputs = self._operands(schemas[-1], fact["outputs"], special.get("keep_outputs"), notes, of_inputs=False)
        limits, remarks = self._limits(fact)
        notes += remarks + list(special.get("notes", ()))
        row: Json = {
            "operator": operator,
            "domain": "",
            "opset": [max(first, schemas[0].since_version), last],
            "inputs": inputs,
            "outputs": outputs,
            "constraints": limits + [dict(limit) for limit in special.get("limits", ())],
            "notes": list(dict.fromkeys(notes)),
            "lowers_to": fact.get("lowers_to") or [fact.get("ge_operator") or fact["name"]],
            "source": _sources(fact),
            "evidence": self.evidence,
        }
        return row

    def _limits(self, fact: Json) -> tuple[list[Json], list[str]]:
        limits: list[Json] = []
        notes: list[str] = []
        for text in fact["constraints"]:
            if text in self.overlay["not_limits"]:
                if self.overlay["not_limits"][text] is not None:
                    notes.append(self.overlay["not_limits"][text])
            elif text in self.overlay["limits"]:
                if self.overlay["limits"][text] is not None:
                    source = "; ".join(_sources(fact))
                    limits.append({"text": text, "expression": self.overlay["limits"][text], "source": source})
            else:
                raise SystemExit(f"{fact['name']}: no overlay says what {text!r} means")
        return limits, notes

    def _operands(
        self,
        schema: onnx.defs.OpSchema,
        stated: list[Json],
        keep: list[int] | None,
        notes: list[str],
        *,
        of_inputs: bool,
    ) -> list[Json]:
        """The operands of the schema, with the facts' dtypes where the correspondence holds."""
        formal = list(schema.inputs if of_inputs else schema.outputs)
        found: list[Json] = []
        for i, parameter in enumerate(formal):
            corresponds = i < len(stated) and (keep is None or i in keep)
            dtypes = self._dtypes(stated[i]["dtypes"], notes) if corresponds else None
            if dtypes is None and keep is None and stated and self._shares_type(schema, parameter):
                dtypes = self._dtypes(stated[0]["dtypes"], notes)
            if dtypes is not None:
                allowed = _allowed(schema.name, i, of_inputs=of_inputs)
                fitting = [d for d in dtypes if d in allowed]
                if not fitting:
                    notes.append(f"{parameter.name}: unconstrained, ONNX has no {' or '.join(dtypes)} here")
                dtypes = fitting or None
            entry: Json = {"name": parameter.name}
            if dtypes:
                entry["dtypes"] = dtypes
            if parameter.option == onnx.defs.OpSchema.FormalParameterOption.Optional:
                entry["optional"] = True
            if parameter.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
                entry["variadic"] = True
            found.append(entry)
        return found

    def _shares_type(self, schema: onnx.defs.OpSchema, parameter: Any) -> bool:
        """Facts of graph builders state the first operand only; it speaks for all of the same type parameter."""
        states_first_only = self.evidence == "public consumer"
        return states_first_only and bool(schema.inputs) and parameter.type_str == schema.inputs[0].type_str

    def _dtypes(self, stated: Iterable[str], notes: list[str]) -> list[str] | None:
        names = ["float32" if name == "float32 (optional HF32)" else name for name in stated]
        incomplete = self.overlay.get("incomplete_dtypes")
        if incomplete and names == incomplete["met"]:
            notes.append(incomplete["note"])
            names = incomplete["meant"]
        if not names or any(name.startswith("any") for name in names):
            return None
        return list(dict.fromkeys(name for name in names if name in DTYPES))

    def _vendor(self) -> list[Json]:
        wanted = {f"ai.onnx::{name}" for name in self.overlay.get("vendor_rows", ())}
        rows = []
        for fact in self.facts["ops"]:
            if fact.get("parser_key") not in wanted or fact["kind"] == "onnx":
                continue
            rows.append(
                {
                    "operator": fact["parser_key"].split("::")[1],
                    "domain": "",
                    "opset": fact["opset_range"],
                    "inputs": self._vendor_operands(fact["inputs"]),
                    "outputs": self._vendor_operands(fact["outputs"]),
                    "constraints": [],
                    "notes": ["vendor operator; its operands are those of the graph engine's prototype"],
                    "lowers_to": fact.get("lowers_to") or [fact["name"]],
                    "source": _sources(fact),
                    "evidence": self.evidence,
                }
            )
        return sorted(rows, key=lambda row: str(row["operator"]))

    def _vendor_operands(self, stated: list[Json]) -> list[Json] | None:
        entries = []
        for operand in stated:
            entry: Json = {"name": operand["name"], "dtypes": self._dtypes(operand["dtypes"], [])}
            if operand.get("presence") == "optional":
                entry["optional"] = True
            entries.append(entry)
        return entries or None


@functools.cache
def _history() -> dict[str, list[onnx.defs.OpSchema]]:
    found: dict[str, list[onnx.defs.OpSchema]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema)
    return found


def _schemas(operator: str, last: int) -> list[onnx.defs.OpSchema]:
    """Every version of an operator up to an opset, oldest first."""
    every = _history().get(operator, [])
    found = sorted((s for s in every if s.since_version <= last and not s.deprecated), key=lambda s: s.since_version)
    if not found:
        raise SystemExit(f"{operator} is no ONNX operator at opset {last}")
    return found


def _allowed(operator: str, index: int, *, of_inputs: bool) -> set[str]:
    """Dtypes that ONNX allows for an operand in any version, the newest included: some only then took bfloat16."""
    allowed: set[str] = set()
    for schema in _schemas(operator, onnx.defs.onnx_opset_version()):
        formal = schema.inputs if of_inputs else schema.outputs
        if index < len(formal):
            for text in formal[index].types:
                name = text.removeprefix("tensor(").removesuffix(")")
                allowed.add(_ONNX_NAMES.get(name, name))
    return allowed


def _sources(fact: Mapping[str, Any]) -> list[str]:
    source = fact["source"]
    return list(source) if isinstance(source, list) else [part.strip() for part in source.split(";")]


def convert(facts: Path, surface: str) -> str:
    """The text of one data file."""
    fact_file, _, evidence = SURFACES[surface]
    overlay = json.loads((OVERLAYS / f"{surface}.json").read_text(encoding="utf-8"))
    content = Converter(json.loads((facts / fact_file).read_text(encoding="utf-8")), overlay, evidence).operator_set()
    head = json.dumps({k: v for k, v in content.items() if k != "rows"}, indent=1, ensure_ascii=False)
    stated = [{k: v for k, v in row.items() if v or k in ("domain", "inputs", "outputs")} for row in content["rows"]]
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in stated)
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def main(arguments: list[str]) -> int:
    """Write the data files, or check them."""
    if not 1 <= len(arguments) <= 2 or arguments[1:] not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for surface, (_, target, _) in SURFACES.items():
        path = ROOT / "porting" / "backends" / target
        text = convert(Path(arguments[0]), surface)
        if arguments[1:] == ["--check"]:
            if path.read_text(encoding="utf-8") != text:
                stale.append(str(path.relative_to(ROOT)))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name} is not what the facts give")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
