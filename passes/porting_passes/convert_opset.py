"""The same model at another version of the ONNX operators, up or down."""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes import provenance
from porting_passes.builder import Builder, BuildError
from porting_passes.contract import EXACT
from porting_passes.decomposition import Decomposition, decompose_node
from porting_passes.inference import signature_error
from porting_passes.opset_adapters import CHANGES, Build
from porting_passes.schemas import NEWEST_OPSET, schema
from porting_passes.scopes import scopes
from porting_passes.splice import Names

OLDEST_OPSET = 11
_BY_OPERATOR: dict[str, list[tuple[int, Build | None, Build | None]]] = {}
for _change in CHANGES:
    _BY_OPERATOR.setdefault(_change.op_type, []).append((_change.version, _change.up, _change.down))


class OpsetConversionError(PortingError):
    """Nodes that have no form at the wanted opset."""

    exit_code = 3


@dataclasses.dataclass(frozen=True)
class _Refused:
    node: ir.Node
    why: str

    def __str__(self) -> str:
        output = self.node.outputs[0] if self.node.outputs else None
        place = provenance.place(output) if output is not None else ""
        return f"{self.node.op_type} {self.node.name!r} ({place}): {self.why}"


class ConvertOpset(ir.passes.InPlacePass):
    """Rewrite every node of the default domain for another opset; subgraphs and functions included.

    1. The schema in force is the same at both opsets: leave the node.
    2. A change of form or meaning lies between (see ``opset_adapters``): cross it, one version after the other.
    3. Anything else must be valid as it stands under the wanted schema, after attributes that say no more than their
       default are dropped and defaults that differ are written out.
    4. Nodes that have no form there: OpsetConversionError naming all of them.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise OpsetConversionError(
                f"no opset {version}", required=f"{OLDEST_OPSET} to {NEWEST_OPSET}", met=version
            )
        self._version = version

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        refused: list[_Refused] = []
        names = Names(model)
        modified = False
        for scope in scopes(model):
            now = scope.opset_imports.get("", model.opset_imports.get("", self._version))
            if now == self._version:
                continue
            modified = True
            for node in list(ir.traversal.RecursiveGraphIterator(scope)):
                if node.domain in ("", "ai.onnx"):
                    try:
                        self._convert(node, now, names)
                    except BuildError as error:
                        refused.append(_Refused(node, str(error)))
            scope.opset_imports[""] = self._version
        if refused:
            raise OpsetConversionError(
                f"{len(refused)} node{'s' * (len(refused) > 1)} without a form at opset {self._version}",
                met="\n           ".join(map(str, refused)),
                fix="export the model at that opset, or choose another surface",
            )
        if modified:
            model.opset_imports[""] = self._version
        return ir.passes.PassResult(model, modified)

    def _convert(self, node: ir.Node, now: int, names: Names) -> None:
        before, after = schema("", node.op_type, now), schema("", node.op_type, self._version)
        if after is None:
            raise BuildError(f"{node.op_type} does not exist at opset {self._version}")
        if before is None or before.since_version == after.since_version:
            return
        current = [node]
        for version, build in self._changes(node.op_type, now):
            current = [new for one in current for new in _cross(one, version, build, names)]
        for one in current:
            if one.op_type == node.op_type:
                _settle(one, before, after)
            problem = signature_error(one, self._version)
            if problem is not None:
                raise BuildError(problem)

    def _changes(self, op_type: str, now: int) -> list[tuple[int, Build | None]]:
        """(opset whose form the node has after the change, how), in the order to cross."""
        known = sorted(_BY_OPERATOR.get(op_type, ()), key=lambda change: change[0])
        if self._version > now:
            return [(version, up) for version, up, _ in known if now < version <= self._version]
        return [(version - 1, down) for version, _, down in reversed(known) if self._version < version <= now]


def _cross(node: ir.Node, version: int, build: Build | None, names: Names) -> list[ir.Node]:
    """The nodes that stand for ``node`` at ``version``; the node itself where it crosses as it is."""
    if build is None:
        return [node]
    unchanged = False

    def attempt(b: Builder, old: ir.Node) -> list[ir.Value | None]:
        nonlocal unchanged
        outputs = build(b, old)
        if outputs is None:
            unchanged = True
            raise BuildError("unchanged")
        return outputs

    step = Decomposition(f"convert_{node.op_type}", node.op_type, attempt, EXACT, lambda rng: ())
    try:
        return decompose_node(node, step, version, names)
    except BuildError:
        if unchanged:
            return [node]
        raise


def _settle(node: ir.Node, before: onnx.defs.OpSchema, after: onnx.defs.OpSchema) -> None:
    """Drop attributes that the new schema lacks where they only repeat the default; write out changed defaults."""
    for name, attribute in list(node.attributes.items()):
        if name not in after.attributes:
            old = before.attributes.get(name)
            if old is not None and old.default_value.name and _plain(attribute) == _default(old):
                node.attributes.pop(name)
    for name, old in before.attributes.items():
        new = after.attributes.get(name)
        if new is None or name in node.attributes or not old.default_value.name:
            continue
        if not new.default_value.name or _default(new) != _default(old):
            node.attributes.add(ir.serde.deserialize_attribute(old.default_value))


def _plain(attribute: ir.Attr) -> object:
    return list(attribute.value) if isinstance(attribute.value, tuple | list) else attribute.value


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, tuple | list) else value
