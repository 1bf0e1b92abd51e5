"""Port fidelity: does the port compute the scheme it claims?

The simulation with exact numerics against an engine that shares no code with it: stock onnxruntime with graph
optimizations disabled, running the written file (``twin.onnx`` or ``model.onnx``). How good the scheme is plays no
part here.

A quantizer turns a last-bit difference into a whole step wherever a value lies on the border between two codes. So
codes are compared one quantizer at a time: after each comparison the simulation goes on with onnxruntime's codes, and
a code that differs by one is excused, and counted, only if the value before rounding is as near to the border as the
two engines may be apart: ``tie`` times its magnitude, at least ``tie`` steps.

The experts of a language model are treated alike: after each router the simulation goes on with onnxruntime's choice,
and a choice that differs is excused, and counted, only at a near tie (see ``routing``).

A bfloat16 model runs widened to float32 in both engines (see ``widen``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from porting import stock_runtime
from porting.parity.experts import RouterSums, Routing
from porting.parity.forcing import Forcing
from porting.parity.metrics import Accumulator, Metrics
from porting.parity.routing import Router
from porting.parity.sampling import Sample, fit, in_order
from porting.parity.widen import widened, widened_model
from porting.simulation.interpreter import Interpreter
from porting_kernels import dtypes
from porting_passes.constants import constant_of

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass
class Codes:
    """Integer codes of one quantizer. ties: differ, but within the tie distance; mismatches: differ without excuse.

    far: those of the mismatches that are off by more than one, which no rounding explains.
    """

    count: int = 0
    ties: int = 0
    mismatches: int = 0
    far: int = 0

    def merge(self, other: Codes) -> None:
        """Add another sample."""
        self.count += other.count
        self.ties += other.ties
        self.mismatches += other.mismatches
        self.far += other.far


@dataclasses.dataclass
class _One:
    """What one sample (or several, merged) adds. dtypes: of the outputs; routers: by their ``ids``."""

    outputs: dict[str, Accumulator]
    codes: dict[str, Codes]
    dtypes: dict[str, str]
    routers: dict[str, RouterSums]

    def merge(self, other: _One) -> None:
        for name, accumulator in other.outputs.items():
            self.outputs.setdefault(name, Accumulator()).merge(accumulator)
        for name, counted in other.codes.items():
            self.codes.setdefault(name, Codes()).merge(counted)
        for name, sums in other.routers.items():
            self.routers[name].merge(sums)
        self.dtypes = other.dtypes


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """outputs: simulation against ``against``, by graph output; codes: by the quantizer's output value.

    routing: of a model with experts.
    not_measured: why nothing was compared; then both mappings are empty.
    """

    against: str
    outputs: Mapping[str, Metrics] = dataclasses.field(default_factory=dict)
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    codes: Mapping[str, Codes] = dataclasses.field(default_factory=dict)
    not_measured: str | None = None
    routing: Routing | None = None

    def to_json(self) -> dict[str, Any]:
        """The ``fidelity`` entry of ``parity.json``."""
        return {
            "against": self.against,
            "not_measured": self.not_measured,
            "outputs": [
                {"name": name, "dtype": self.dtypes[name], **metrics.to_json()}
                for name, metrics in self.outputs.items()
            ],
            "routing": None if self.routing is None else self.routing.counts(),
            "codes": [{"value": name, **dataclasses.asdict(codes)} for name, codes in sorted(self.codes.items())],
        }


def measure_fidelity(
    file: Path,
    ported: ir.Model,
    samples: Iterable[Sample],
    *,
    threads: int = 1,
    tie: float,
    routers: Sequence[Router] = (),
) -> Fidelity:
    """Compare the simulation of ``ported`` with onnxruntime running ``file``; the two name their values alike.

    tie: relative distance from the border between two codes within which either code is right, and relative error of a
    router's logits within which either choice is. routers: whose choices are compared.
    """
    against, widen = stock_runtime.NAME, _has_bfloat16(ported)
    if widen:
        against += ", bfloat16 widened to float32 on both sides"
        ported = widened_model(ported)
    quantizers = {node.outputs[0].name or "": node for node in ported.graph if _is_quantizer(node)}
    by_row = {node.outputs[1].name or "": node for node in quantizers.values() if len(node.outputs) == 2}
    chosen = [router for router in routers if router.can_be_forced]
    extra = [*quantizers, *(name for r in chosen for name in (r.ported_logits, r.ported_ids) if name is not None)]
    try:
        session = stock_session(file, extra_outputs=extra, widen=widen)
    except stock_runtime.RefusedError as error:
        return Fidelity(against, not_measured=f"it does not load {file.name}: {str(error).splitlines()[0]}")
    simulation = Interpreter(ported)

    def one(sample: Sample) -> _One:
        inputs = fit(ported, sample)
        expected = stock_runtime.run(session, {name: _plain(tensor) for name, tensor in inputs.items()})
        codes: dict[str, Codes] = {}
        before: dict[str, torch.Tensor] = dict(inputs)
        waiting: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        sources = {node.inputs[0].name or "" for node in quantizers.values() if node.inputs[0] is not None}
        theirs = {r.ids: dtypes.to_torch(expected[r.ported_ids or ""]).to(torch.int64) for r in chosen}
        forcing = Forcing(chosen, theirs, "port")
        ours: dict[str, torch.Tensor] = {}
        by_ids = {router.ported_ids: router.ids for router in chosen}

        def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
            name = value.name or ""
            if name in sources:
                before[name] = tensor
            if name in by_ids:
                ours[by_ids[name]] = tensor.to(torch.int64)
            if name in by_row:
                node = by_row[name]
                codes[node.outputs[0].name or ""] = _compare_codes(
                    node, before, *waiting.pop(node.outputs[0].name or ""), tie, tensor
                )
            if name not in quantizers:
                return forcing.tap(name, tensor)
            other = dtypes.to_torch(expected[name])
            if len(quantizers[name].outputs) == 2:
                waiting[name] = other, tensor
            else:
                codes[name] = _compare_codes(quantizers[name], before, other, tensor, tie)
            return other

        outputs = simulation.run(inputs, tap=tap, wanted={*sources, *quantizers, *by_row, *forcing.wanted})
        routed = {r.ids: RouterSums(r.experts) for r in chosen}
        for router in chosen:
            logits = dtypes.to_torch(expected[router.ported_logits or ""])
            sums = routed[router.ids]
            sums.observe(router, logits, theirs[router.ids], ours[router.ids])
            sums.decide(router, logits, forcing.logits[router.ids], ours[router.ids],
                        sequence=max(len(logits), 1), tolerance=tie)  # fmt: skip
        compared = {}
        for name, tensor in outputs.items():
            if not isinstance(tensor, torch.Tensor):
                continue  # a sequence: its elements have no names to be compared under
            compared[name] = Accumulator()
            compared[name].update(dtypes.to_torch(expected[name]), tensor, where=f"output {name}")
        names = {name: str(outputs[name].dtype).removeprefix("torch.") for name in compared}
        return _One(compared, codes, names, routed)

    total = _One({}, {}, {}, {router.ids: RouterSums(router.experts) for router in chosen})
    for result in in_order(one, samples, threads):
        total.merge(result)
    metrics = {name: sums.metrics() for name, sums in total.outputs.items()}
    routing = Routing(chosen, total.routers) if chosen else None
    return Fidelity(against, metrics, total.dtypes, total.codes, routing=routing)


def stock_session(
    file: Path, *, extra_outputs: Iterable[str] = (), widen: bool = False
) -> onnxruntime.InferenceSession:
    """A session of a written file (see ``stock_runtime``).

    extra_outputs: names of inner values to give out. widen: turn bfloat16 into float32 first.
    """
    proto = onnx.load(file, load_external_data=False)
    if widen:
        proto = widened(proto, file.parent)
    present = {output.name for output in proto.graph.output}
    for name in extra_outputs:
        if name not in present:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))  # its type is inferred
    return stock_runtime.open_session(proto, file.parent)


def _has_bfloat16(model: ir.Model) -> bool:
    weights = model.graph.initializers.values()
    computed = (value for node in model.graph for value in node.outputs)
    return any(value.dtype == ir.DataType.BFLOAT16 for value in (*model.graph.inputs, *weights, *computed))


def _plain(tensor: torch.Tensor) -> np.ndarray:
    return dtypes.to_numpy(tensor.float() if tensor.dtype == torch.bfloat16 else tensor)


def _is_quantizer(node: ir.Node) -> bool:
    """Whether codes come out of floats: our own quantizers, and a vendor's call that gives codes and scales by row."""
    if (node.domain, node.op_type) == ("porting", "Quantize"):
        return True
    x = node.inputs[0] if node.inputs else None
    types = [value.dtype for value in node.outputs]
    return x is not None and x.dtype in _FLOATS and types == [ir.DataType.INT8, ir.DataType.FLOAT]


def _compare_codes(
    node: ir.Node,
    before: Mapping[str, torch.Tensor],
    theirs: torch.Tensor,
    ours: torch.Tensor,
    tie: float,
    row_scale: torch.Tensor | None = None,
) -> Codes:
    """row_scale: the scales that a quantizer by row found, (...) for codes (..., K)."""
    differ = theirs != ours
    different = int(differ.sum())
    result = Codes(count=ours.numel())
    by_one = (theirs.to(torch.int32) - ours.to(torch.int32)).abs() == 1
    result.far = int((differ & ~by_one).sum())
    operand = node.inputs[0]
    if different and operand is not None and operand.name is not None and operand.name in before:
        exact = _before_rounding(node, before[operand.name].double(), row_scale)
        distance = (exact - exact.floor() - 0.5).abs()
        result.ties = int((differ & by_one & (distance <= tie * exact.abs().clamp(min=1.0))).sum())
    result.mismatches = different - result.ties
    return result


def _before_rounding(node: ir.Node, x: torch.Tensor, row_scale: torch.Tensor | None) -> torch.Tensor:
    """What a quantizer rounds, in float64."""
    if row_scale is None:
        offset = node.attributes["offset"].as_int() if "offset" in node.attributes else 0
        return x * node.attributes["scale"].as_float() + offset
    smooth = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if smooth is not None:
        x = x * dtypes.to_torch(smooth.numpy()).double()
    return (x / row_scale.double().unsqueeze(-1)).nan_to_num(nan=0.0)
