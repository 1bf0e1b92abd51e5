"""The same model at another version of the ONNX operators, up or down."""

from __future__ import annotations

import dataclasses

import onnx
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes import provenance
from porting_passes.builder import Builder, BuildError
from porting_passes.infer_shapes import InferShapes
from porting_passes.inference import signature_error, type_error
from porting_passes.node_facts import used
from porting_passes.opset_adapters import CHANGES, Build
from porting_passes.schemas import NEWEST_OPSET, schema
from porting_passes.scopes import Scope, holder, nodes, scopes
from porting_passes.splice import Names, ReplacementTape, discard, splice

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
    4. Nodes that have no form there: OpsetConversionError naming all of them; the model stays as it was.
    """

    def __init__(self, version: int) -> None:
        super().__init__()
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise OpsetConversionError(f"no opset {version}", required=f"{OLDEST_OPSET} to {NEWEST_OPSET}", met=version)
        self._version = version

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place: everything is planned on detached nodes before the first one is put in."""
        concerned = [scope for scope in scopes(model) if scope.opset_imports.get("", self._version) != self._version]
        if not concerned:
            return ir.passes.PassResult(model, False)
        annotated = [(v, v.type, v.shape) for node, _ in nodes(model) for v in node.outputs]
        InferShapes()(model)
        planned: list[tuple[_Plan, Scope]] = []
        refused: list[_Refused] = []
        for scope in concerned:
            for node in ir.traversal.RecursiveGraphIterator(scope):
                if node.domain == "":
                    try:
                        plan = self._plan(node, scope.opset_imports[""])
                    except BuildError as error:
                        refused.append(_Refused(node, str(error)))
                        continue
                    if plan is not None:
                        planned.append((plan, scope))
        if refused:
            for plan, _ in planned:
                discard(plan.nodes)
            for value, type_, shape in annotated:
                value.type, value.shape = type_, shape
            raise OpsetConversionError(
                f"{len(refused)} node{'s' * (len(refused) > 1)} without a form at opset {self._version}",
                met="\n           ".join(map(str, refused)),
                fix="export the model at that opset, or choose another surface",
            )
        names = Names(model)
        for plan, scope in planned:
            plan.apply(scope, names)
        for scope in concerned:
            scope.opset_imports[""] = self._version
        return ir.passes.PassResult(model, True)

    def obstacle(self, node: ir.Node, now: int) -> str | None:
        """Why a node of opset ``now`` has no form at the wanted opset; None when it has one. Nothing is changed."""
        try:
            plan = self._plan(node, now)
        except BuildError as error:
            return str(error)
        if plan is not None:
            discard(plan.nodes)
        return None

    def _plan(self, node: ir.Node, now: int) -> _Plan | None:
        """How a node gets to the wanted opset; None when it is there. Raises BuildError when it cannot."""
        before, after = schema("", node.op_type, now, deprecated=True), schema("", node.op_type, self._version)
        if before is not None and before.since_version == _since(node.op_type, self._version):
            return None
        if after is None:
            raise BuildError(f"{node.op_type} does not exist at opset {self._version}")
        if before is None:
            raise BuildError(f"{node.op_type} does not exist at opset {now}, which the model claims")
        changes = self._changes(node.op_type, now)
        parameters = [name for name, attr in node.attributes.items() if attr.is_ref()]
        if parameters and any(build is not None for _, build in changes):
            raise BuildError(f"attribute {', '.join(parameters)} is a parameter of the function: inline it first")
        plan = _Plan(node)
        try:
            _write_out_defaults(plan.nodes[0], before, after)
            # Before the crossing too: its builders know the forms of their own version only.
            _drop_defaults(plan.nodes[0], before, after)
            for version, build in changes:
                if build is not None:
                    plan.cross(version, build)
            for new in plan.nodes:
                if new.op_type == node.op_type:
                    _drop_defaults(new, before, after)
                problem = signature_error(new, self._version) or type_error(new, self._version)
                if problem is not None:
                    raise BuildError(problem)
        except BuildError:
            discard(plan.nodes)
            raise
        return plan

    def _changes(self, op_type: str, now: int) -> list[tuple[int, Build | None]]:
        """(opset whose form the node has after the change, how), in the order to cross."""
        known = sorted(_BY_OPERATOR.get(op_type, ()), key=lambda change: change[0])
        if self._version > now:
            return [(version, up) for version, up, _ in known if now < version <= self._version]
        return [(version - 1, down) for version, _, down in reversed(known) if self._version < version <= now]


class _Plan:
    """What will stand for a node: detached nodes, their constants, and the new value of each output of the node."""

    def __init__(self, node: ir.Node) -> None:
        copy = ir.Node("", node.op_type, node.inputs, node.attributes.values(), num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type, new.shape, new.const_value = old.type, old.shape, old.const_value
        self.nodes = [copy]
        self._old = node
        self._read = {new for old, new in zip(node.outputs, copy.outputs, strict=True) if used(old)}
        self._initializers: list[ir.Value] = []
        self._outputs: list[ir.Value | None] = list(copy.outputs)
        self._crossed = False

    def cross(self, version: int, build: Build) -> None:
        """Take every node through one change; ``version`` is the opset on its other side."""
        for node in list(self.nodes):
            if node.op_type != self._old.op_type:
                continue
            builder = Builder(version)
            try:
                built = build(builder, node)
                self._require_read_outputs(node, built)
            except BuildError:
                discard(builder.nodes)
                raise
            if built is None:
                continue
            for old, new in zip(node.outputs, built, strict=True):
                self._outputs = [new if value is old else value for value in self._outputs]
                if new is not None:
                    if new.producer() in builder.nodes:
                        new.type, new.shape = old.type or new.type, old.shape or new.shape
                    old.replace_all_uses_with(new)
                    self._read |= {new} if old in self._read else set()
            at = self.nodes.index(node)
            discard([node])
            self.nodes[at : at + 1] = builder.nodes
            self._initializers += builder.initializers
            self._crossed = True

    def _require_read_outputs(self, node: ir.Node, built: list[ir.Value | None] | None) -> None:
        for old, new in zip(node.outputs, built or (), strict=False):
            if new is None and (old in self._read or old.uses()):
                raise BuildError(f"output {node.outputs.index(old)} has no form there")

    def apply(self, scope: Scope, names: Names) -> None:
        """Put the new nodes in the old one's place; a node that crossed nothing keeps its place and identity."""
        old, (first, *_) = self._old, self.nodes
        if not self._crossed:
            old.attributes.clear()
            old.attributes.update(first.attributes)
            discard([first])
            return
        holding = holder(old, scope)
        assert holding is not None
        tape = ReplacementTape()
        tape.nodes, tape.initializers = self.nodes, self._initializers
        pairs = [(a, b) for a, b in zip(old.outputs, self._outputs, strict=True) if b is not None]
        olds, news = [a for a, _ in pairs], [b for _, b in pairs]
        splice(holding, old, [old], olds, tape, news, f"convert_{old.op_type}", names)


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
