"""What one node, value or module of the user's model became in a port, from the port's files alone."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porting.errors import InvalidInputError, UsageError
from porting.parity.decoder_layers import layer_of
from porting.port_folder import MODEL, PARITY, TWIN, PortFolder
from porting_passes.legality import Illegal, Unknown, check
from porting_passes.operator_set import qualified
from porting_passes.provenance import Provenance

SCHEMA_VERSION = 1
_NEAR = 5


@dataclasses.dataclass(frozen=True)
class Explanation:
    """name: as it was asked for. kind: what it is. The rest is the document, see ``explanation.schema.json``."""

    name: str
    kind: str
    values: list[dict[str, Any]]
    quantized: list[dict[str, Any]]
    kept_in_float: list[dict[str, Any]]
    decoder_layer: dict[str, Any] | None
    untested_experts: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The document of ``porting explain --json``."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


def explain(out: Path, name: str) -> Explanation:
    """Look ``name`` up in the port in ``out``.

    It may be a value, node or weight of the port, a value or node of the source, or a module path, which stands for
    everything inside it. Raises UsageError, with near matches, for a name that is nowhere.
    """
    port = PortFolder.open(out)
    index = _Index(port, _parity(out))
    kind, found = index.resolve(name)
    values = [index.describe(value) for value in found]
    modules = list(dict.fromkeys(v["module"] for v in values if v["module"]))
    manifest = port.manifest
    return Explanation(
        name=name,
        kind=kind,
        values=values,
        quantized=_of_modules(manifest.get("quantized", ()), modules),
        kept_in_float=_of_modules(manifest["kept_in_float"], modules),
        decoder_layer=index.decoder_layer(modules),
        untested_experts=index.untested(modules),
    )


def _parity(out: Path) -> dict[str, Any]:
    """``parity.json``; empty where nothing was measured."""
    path = out / PARITY
    if not path.exists():
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInputError(f"{path} is damaged", met=str(error), fix="port again") from error
    return document


def _of_modules(entries: Iterable[Mapping[str, Any]], modules: Iterable[str]) -> list[dict[str, Any]]:
    """Entries of ``port.json`` whose place, ``module (file:line)``, is one of these modules."""
    wanted = set(modules)
    return [dict(entry) for entry in entries if str(entry["name"]).partition(" (")[0] in wanted]


class _Index:
    """A port's values by every name that a user may know them by."""

    def __init__(self, port: PortFolder, parity: Mapping[str, Any]) -> None:
        self._port, self._parity = port, parity
        self._origins = port.origins
        self._values: dict[str, ir.Value] = {}
        for file in (MODEL, TWIN):
            if (port.path / file).exists():
                model = ir.load(port.path / file)
                self._opset = model.opset_imports.get("", 1)
                for node in model.graph:
                    for value in node.outputs:
                        self._values.setdefault(value.name or "", value)
        self._layers = {layer["value"]: layer for layer in parity.get("layers", ())}
        self._contracts = {rewrite["rule"]: rewrite["contract"] for rewrite in port.manifest["rewrites"]}

    def resolve(self, name: str) -> tuple[str, list[str]]:
        """What a name is, and the values of the port that it leads to."""
        for kind, found in self._candidates(name):
            names = [value for value in self._order() if value in found]
            if names:
                return kind, names
        raise UsageError(
            f"nothing in {self._port.path} is called {name!r}",
            required="a value, node or weight of the port, a value or node of the source, or a module path",
            met=name,
            fix=f"perhaps {', '.join(near)}" if (near := self._near(name)) else f"the names are in {self._port.path}",
        )

    def _candidates(self, name: str) -> Iterator[tuple[str, set[str]]]:
        yield "value of the port", {name} & set(self._order())
        yield "node of the port", {v for v, value in self._values.items() if _node_name(value) == name}
        origins = self._origins.items()
        equal = {v for v, origin in origins if origin.equal and origin.sources[:1] == (name,)}
        yield "value of the source", equal or {v for v, origin in origins if name in origin.sources}
        yield "node of the source", {v for v, layer in self._layers.items() if layer["node"] == name}
        yield "module", {v for v, origin in origins if _inside(origin.module, name)}
        yield "weight", {v for v, value in self._values.items() if _reads(value, name)}

    def _order(self) -> list[str]:
        return list(dict.fromkeys([*self._origins, *self._values]))

    def _near(self, name: str) -> list[str]:
        modules = {prefix for origin in self._origins.values() for prefix in _prefixes(origin.module)}
        known = dict.fromkeys(
            [*sorted(modules), *(s for o in self._origins.values() for s in o.sources), *self._order()]
        )
        ending = [word for word in known if word.endswith(f".{name}")]
        return list(dict.fromkeys([*ending, *difflib.get_close_matches(name, known, n=_NEAR, cutoff=0.6)]))[:_NEAR]

    def describe(self, name: str) -> dict[str, Any]:
        """Everything about one value of the port."""
        origin = self._origins.get(name, Provenance())
        value, layer = self._values.get(name), self._layers.get(name)
        node = None if value is None else value.producer()
        subjects = {name, *origin.sources[:1]}
        return {
            "value": name,
            "node": None if value is None else _node_name(value),
            "operator": None if node is None else qualified(node.domain, node.op_type),
            "inputs": [] if node is None else [v.name or "" for v in node.inputs if v is not None],
            "dtype": None if value is None or value.dtype is None else value.dtype.name.lower(),
            "shape": None if value is None or value.shape is None else [str(d) for d in value.shape],
            "sources": list(origin.sources),
            "equal": origin.equal,
            "module": origin.module,
            "class": origin.class_name,
            "file": origin.file,
            "line": origin.line,
            "rules": [{"rule": rule, "contract": self._contracts.get(rule)} for rule in origin.rules],
            "surface": None if node is None else self._legality(node),
            "isolated": None if layer is None else layer["isolated"],
            "accumulated": None if layer is None else layer["accumulated"],
            "checks": [
                c for c in self._parity.get("checks", ()) if c["subject"] in subjects and c["verdict"] != "pass"
            ],
        }

    def _legality(self, node: ir.Node) -> dict[str, Any]:
        """The row of the surface that takes a node, with its limits, or why there is none."""
        dims = {name: (low, high) for name, (low, high) in self._port.manifest["dims"].items()}
        verdict = check(node, self._port.surface.operator_set, self._opset, dims)
        if isinstance(verdict, Illegal | Unknown):
            reasons = [f"{r.rule}: {r.met}; allowed: {r.allowed} [source: {r.source}]" for r in verdict.reasons]
            word = "illegal" if isinstance(verdict, Illegal) else "unknown"
            return {"verdict": word, "row": None, "constraints": [], "sources": [], "reasons": reasons}
        row = verdict.row
        return {
            "verdict": "legal",
            "row": None if row is None else row.name,
            "constraints": [] if row is None else [f"{c.text} [source: {c.source}]" for c in row.constraints],
            "sources": [] if row is None else list(row.source),
            "reasons": [],
        }

    def decoder_layer(self, modules: Iterable[str]) -> dict[str, Any] | None:
        """The decoder layer that all the modules lie in, as it was measured."""
        layers = {layer_of(module) for module in modules}
        measured = {layer["module"]: layer for layer in self._parity.get("decoder_layers", ())}
        return measured.get(layers.pop() or "") if len(layers) == 1 else None

    def untested(self, modules: Iterable[str]) -> list[dict[str, Any]]:
        """Experts that no token reached, of the routers of those blocks that a module belongs to."""
        routing = self._parity.get("routing") or {"routers": []}
        blocks = {r["module"].rpartition(".")[0]: r for r in routing["routers"]}
        hit = [r for block, r in blocks.items() if any(_inside(m, block) or _inside(block, m) for m in modules)]
        return [{"router": r["module"], "experts": r["untested"]} for r in hit if r["untested"]]


def _node_name(value: ir.Value) -> str | None:
    node = value.producer()
    return None if node is None else node.name


def _inside(module: str | None, outer: str) -> bool:
    return module is not None and (module == outer or module.startswith(f"{outer}."))


def _prefixes(module: str | None) -> Iterator[str]:
    parts = (module or "").split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _reads(value: ir.Value, weight: str) -> bool:
    """Whether the node of a value reads a weight: under its name, or one made from it (``weight/transposed``)."""
    node = value.producer()
    names = () if node is None else (v.name or "" for v in node.inputs if v is not None and v.is_initializer())
    return any(name == weight or name.startswith(f"{weight}/") for name in names)
