"""Source model -> surface model: the passes, in order, and the record of what each of them did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from porting.errors import IllegalModelError, UnknownLegalityError
from porting.target import Target
from porting_passes import provenance
from porting_passes.bind_shapes import BindShapes
from porting_passes.canonicalize import Canonicalize
from porting_passes.convert_dtype import ConvertDtype
from porting_passes.convert_opset import ConvertOpset
from porting_passes.fusions import fusions
from porting_passes.language_model_fusions import language_model_fusions
from porting_passes.legalize import Failure, Legalize
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.lowering import add_surface_bodies
from porting_passes.materialize_reshape import MaterializeReshape
from porting_passes.quantize_dynamic import Decide, QuantizedProduct, QuantizeDynamic, QuantizeDynamicResult
from porting_passes.quantize_static import (
    ActivationRange,
    KeptFloat,
    QuantizedNode,
    QuantizeResult,
    QuantizeStatic,
    quantizable,
)
from porting_passes.rewrite import Applied

Calibrate = Callable[[Sequence[str]], Mapping[str, ActivationRange]]
_DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


@dataclasses.dataclass
class Pipeline:
    """One model on its way to a target; ``model`` is changed in place.

    dims: intervals of the symbols that stay. applied, passes: what was done, in order. failures: every node without a
    legal form. allowed: nodes of unknown legality that the user lets through. ranges: of activations by their present
    names, with a static scheme. quantized (static) or products (weights), and kept: what the scheme did.
    language_model: fuse to the grain of language models on any surface that takes composite operators; surfaces of
    Python calls are made of them, and have every model fused.
    """

    model: ir.Model
    target: Target
    dims: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    applied: list[Applied] = dataclasses.field(default_factory=list)
    passes: list[str] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    allowed: list[Failure] = dataclasses.field(default_factory=list)
    ranges: Mapping[str, ActivationRange] = dataclasses.field(default_factory=dict)
    quantized: list[QuantizedNode] = dataclasses.field(default_factory=list)
    products: list[QuantizedProduct] = dataclasses.field(default_factory=list)
    kept: list[KeptFloat] = dataclasses.field(default_factory=list)
    language_model: bool = False

    def bind(self, dims: Mapping[str, tuple[int, int]]) -> None:
        """Fix and bound the input shapes: what came with the source, then what the user says."""
        known = {str(d.value) for v in self.model.graph.inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim)}
        step = BindShapes(self.target.shapes, {**{k: v for k, v in dims.items() if k in known}, **self.target.dims})
        self._run(step)
        self.dims = dict(step.ranges)

    def to_surface(
        self, *, calibrate: Calibrate | None = None, decide: Callable[[], Decide] | None = None
    ) -> ir.Model | None:
        """All of the way but lowering; the first stage that leaves ``failures`` is the last.

        Asked for once the float model stands: ``calibrate``, by a scheme of static ranges, for the ranges of
        activations by name (None: nothing is quantized); ``decide``, by a scheme with integer weights, for what becomes
        of each. Returns the model in composite operators that static int8 means; None with another scheme.
        """
        self.to_float_surface()
        if self.failures:
            return None
        by_ranges = self.target.quantizes_by_ranges and calibrate is not None
        by_source = self._calibrated(calibrate) if by_ranges and calibrate is not None else {}
        if self.target.quantizes_by_row:
            assert decide is not None
            self.quantize_weights(decide())
        if not self.failures:
            self.to_dtype()
        if self.failures or not by_ranges:
            return None
        found = {value.name or "": _known(value, by_source) for value in self.activations()}
        self.ranges = {name: range_ for name, range_ in found.items() if range_ is not None}
        return self.quantize(self.ranges)

    def _calibrated(self, calibrate: Calibrate) -> dict[str, ActivationRange]:
        """Ranges by source value: names of activations may change with the dtype, what they stand for does not."""
        values = self.activations()
        found = calibrate([value.name or "" for value in values])
        return {key: found[v.name or ""] for v in values for key in _keys(v) if v.name in found}

    def to_float_surface(self) -> None:
        """Rewrite into float operators of the surface, at its opset. Sets ``failures`` where that is impossible.

        A converter is given float32 operators that it takes. A Python surface takes many of its operators in half
        precision only, and as the composite ones that fusing makes: there nothing is judged before ``to_dtype``.
        """
        accepts = self.target.surface.operator_set.accepts
        early = self.target.surface.kind != "python"
        self._run(Canonicalize())
        self._then_canonicalize(MaterializeReshape())
        opset = self.target.surface.opset or self.model.opset_imports[""]
        if early:
            self._legalize(by_name_at=opset)
        if self.failures:
            return
        self._then_canonicalize(ConvertOpset(opset))
        if self.language_model or not early:
            self._then_canonicalize(*language_model_fusions(accepts=accepts))
        self._then_canonicalize(*fusions(accepts=accepts))
        if early:
            self._legalize()

    def quantize_weights(self, decide: Decide) -> None:
        """Apply a scheme with integer weights, before ``to_dtype``: weights are quantized from float32."""
        result = QuantizeDynamic(decide)(self.model)
        assert isinstance(result, QuantizeDynamicResult)
        self.passes.append("QuantizeDynamic")
        self.products, self.kept = list(result.quantized), list(result.kept)
        if self.target.surface.kind != "python":
            self._legalize()

    def to_dtype(self) -> None:
        """Carry the target's floating type between operators, and judge the result."""
        converts = self.target.dtype in _DTYPES
        if converts:
            self._then_canonicalize(ConvertDtype(_DTYPES[self.target.dtype]))
        if converts or self.target.surface.kind == "python":
            self._legalize()

    def quantize(self, ranges: Mapping[str, ActivationRange]) -> ir.Model:
        """Apply the scheme. Returns the model in composite operators, which is what the port means.

        Where the surface carries quantization as nodes, ``model`` is changed and judged; where it wants ranges beside
        a float model, ``model`` stays as it is.
        """
        style = self.target.surface.quantization
        assert style is not None
        meant = self.model.clone() if style.carrier == "ranges" else self.model
        result = QuantizeStatic(ranges, style)(meant)
        assert isinstance(result, QuantizeResult)
        self.passes.append("QuantizeStatic")
        self.quantized, self.kept = list(result.quantized), list(result.kept)
        if style.carrier == "nodes":
            self._legalize()
        return meant

    def lower(self) -> None:
        """Composite operators -> the surface's own, with bodies where the surface is one of Python calls."""
        surface = self.target.surface
        self._run(LowerToSurface(surface.operator_set, self.dims))
        if surface.kind == "python":
            add_surface_bodies(self.model, surface.operator_set)

    def activations(self) -> list[ir.Value]:
        """The values whose ranges the scheme needs, in the order of the graph."""
        style = self.target.surface.quantization
        assert style is not None
        linears = (linear for _, linear in quantizable(self.model, style) if not isinstance(linear, str))
        return list(dict.fromkeys(linear.activation for linear in linears))

    @property
    def unused_permissions(self) -> list[str]:
        """Operators of ``allow_unknown`` that let no node through: perhaps misspelt."""
        return sorted(self.target.allow_unknown - {f.op_type for f in (*self.allowed, *self.failures)})

    def require_legal(self) -> None:
        """Raise for nodes without a legal form: IllegalModelError, or UnknownLegalityError when all are unknown."""
        if not self.failures:
            return
        illegal = [f for f in self.failures if f.verdict == "illegal"]
        unknown = [f for f in self.failures if f.verdict == "unknown"]
        where = f"{self.target.specification}, surface {self.target.surface.name}"
        text = "\n\n".join(describe(f) for f in self.failures)
        if illegal:
            rest = f" and {_nodes(len(unknown))} of unknown legality" if unknown else ""
            raise IllegalModelError(f"{_nodes(len(illegal))} with no legal form{rest} on {where}\n\n{text}")
        operators = ",".join(sorted({f.op_type for f in unknown}))
        raise UnknownLegalityError(
            f"{_nodes(len(unknown))} of unknown legality on {where}\n\n{text}\n",
            fix=f"--allow-unknown {operators} lets them through and records it in port.json",
        )

    def _legalize(self, by_name_at: int | None = None) -> None:
        step = Legalize(
            self.target.surface.operator_set,
            dims=self.dims,
            allow_unknown=self.target.allow_unknown,
            by_name_at=by_name_at,
        )
        result = step.call(self.model)
        self.passes.append("Legalize")
        self.applied += result.applied
        self.failures = list(result.failures)
        self.allowed = list(result.allowed)
        if result.modified and not self.failures:
            self._run(Canonicalize())

    def _then_canonicalize(self, *steps: ir.passes.InPlacePass) -> None:
        """Run passes, and tidy up once behind them if any of them changed something."""
        changed = [self._run(step) for step in steps]
        if any(changed):
            self._run(Canonicalize())

    def _run(self, step: ir.passes.InPlacePass) -> bool:
        """Run one pass and keep its record; whether it changed the model."""
        result = step(self.model)
        self.passes.append(type(step).__name__)
        self.applied += getattr(result, "applied", ())
        return bool(result.modified)


def _keys(value: ir.Value) -> list[str]:
    origin = provenance.of(value)
    return [value.name or "", *(origin.sources[:1] if origin.equal else ())]


def _known(value: ir.Value, ranges: Mapping[str, ActivationRange]) -> ActivationRange | None:
    return next((ranges[key] for key in _keys(value) if key in ranges), None)


def describe_untried(failures: Sequence[Failure], why: str) -> str:
    """Nodes with no legal form that no rewrite was tried on: those with equal reasons together, every place named."""
    groups: dict[tuple[object, ...], list[Failure]] = {}
    for failure in failures:
        key = (failure.verdict, *((r.rule, r.met, r.allowed) for r in failure.reasons))
        groups.setdefault(key, []).append(failure)
    texts = []
    for group in groups.values():
        lines = [f"{group[0].verdict}: {_nodes(len(group))}"]
        lines += [f"  {f.operator} {f.node!r} from {f.place}" for f in group]
        for index, reason in enumerate(group[0].reasons):
            lines.append(f"  rule   {reason.rule}: {reason.met}; allowed: {reason.allowed}")
            lines += [f"         [source: {s}]" for s in dict.fromkeys(f.reasons[index].source for f in group)]
        texts.append("\n".join([*lines, f"  tried  nothing: {why}"]))
    return "\n\n".join(texts)


def describe(failure: Failure) -> str:
    """One node with no legal form, for people: what is required, what was met, where, and what was tried."""
    lines = [f"{failure.verdict}: {failure.operator} {failure.node!r}", f"  from   {failure.place}"]
    for reason in failure.reasons:
        lines.append(f"  rule   {reason.rule}: {reason.met}; allowed: {reason.allowed}")
        lines.append(f"         [source: {reason.source}]")
    for name, why in failure.candidates:
        lines.append(f"  tried  {name}: {why}")
    if not failure.candidates:
        lines.append("  tried  nothing: no other form of this operator is known")
    return "\n".join(lines)


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"
