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
from porting_passes.infer_shapes import InferShapes
from porting_passes.inference import signature_error, type_error
from porting_passes.opset_adapters import CHANGES, Build
from porting_passes.schemas import NEWEST_OPSET, schema
from porting_passes.scopes import Scope, scopes
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
    3. Anything else must be valid as it stands under the wanted schema, dtypes of inputs and outputs included, after
       defaults that differ are written out and attributes that say no more than their default are dropped.
    4. Nodes that have no form there: OpsetConversionError naming all of them. The model is then partly converted.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise OpsetConversionError(f"no opset {version}", required=f"{OLDEST_OPSET} to {NEWEST_OPSET}", met=version)
        self._version = version

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place."""
        if all(scope.opset_imports.get("", self._version) == self._version for scope in scopes(model)):
            return ir.passes.PassResult(model, False)
        InferShapes()(model)
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
                        self._convert(node, now, names, scope)
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

    def _convert(self, node: ir.Node, now: int, names: Names, root: Scope) -> None:
        before, after = schema("", node.op_type, now, deprecated=True), schema("", node.op_type, self._version)
        if before is not None and before.since_version == _since(node.op_type, self._version):
            return
        if after is None:
            raise BuildError(f"{node.op_type} does not exist at opset {self._version}")
        if before is None:
            raise BuildError(f"{node.op_type} does not exist at opset {now}, which the model claims")
        changes = self._changes(node.op_type, now)
        parameters = [name for name, attr in node.attributes.items() if attr.is_ref()]
        if parameters and any(build is not None for _, build in changes):
            raise BuildError(f"attribute {', '.join(parameters)} is a parameter of the function: inline it first")
        _write_out_defaults(node, before, after)
        current = [node]
        for version, build in changes:
            current = [new for one in current for new in _cross(one, version, build, names, root)]
        for one in current:
            if one.op_type == node.op_type:
                _drop_defaults(one, before, after)
            problem = signature_error(one, self._version) or type_error(one, self._version)
            if problem is not None:
                raise BuildError(problem)

    def _changes(self, op_type: str, now: int) -> list[tuple[int, Build | None]]:
        """(opset whose form the node has after the change, how), in the order to cross."""
        known = sorted(_BY_OPERATOR.get(op_type, ()), key=lambda change: change[0])
        if self._version > now:
            return [(version, up) for version, up, _ in known if now < version <= self._version]
        return [(version - 1, down) for version, _, down in reversed(known) if self._version < version <= now]


def _cross(node: ir.Node, version: int, build: Build | None, names: Names, root: Scope) -> list[ir.Node]:
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
        return decompose_node(node, step, version, names, root)
    except BuildError:
        if unchanged:
            return [node]
        raise


def _since(op_type: str, version: int) -> int | None:
    found = schema("", op_type, version, deprecated=True)
    return None if found is None else int(found.since_version)


def _drop_defaults(node: ir.Node, before: onnx.defs.OpSchema, after: onnx.defs.OpSchema) -> None:
    """Drop attributes that the new schema lacks where they only repeat what their absence means."""
    for name, attribute in list(node.attributes.items()):
        old = before.attributes.get(name)
        if name in after.attributes or old is None:
            continue
        neutral = [1] * len(attribute.value) if name == "dilations" else None
        default = _default(old) if old.default_value.name else neutral
        if default is not None and _plain(attribute) == default:
            node.attributes.pop(name)


def _write_out_defaults(node: ir.Node, before: onnx.defs.OpSchema, after: onnx.defs.OpSchema) -> None:
    """Write out what absence meant, where it means something else under the new schema."""
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
