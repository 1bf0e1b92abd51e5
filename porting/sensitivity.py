"""Which layers of a quantized port on disk lose the most: see ``parity.sensitivity``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from porting.errors import UsageError
from porting.parity import anchors, float_regions, sensitivity
from porting.parity.language_model import routers_of
from porting.parity.sensitivity import By, Sensitivity
from porting.pipeline import Pipeline
from porting.target import Target
from porting.verification import Opened, open_port

_LINES = 10
"""Lines of progress, about."""


def measure_sensitivity(
    out: Path,
    *,
    source: str | None = None,
    inputs: Path | None = None,
    by: By | None = None,
    memory: int | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Sensitivity:
    """Rank the quantized products of the port in ``out`` by what they cost.

    source overrides the recorded path; inputs the recorded evidence. by: what goes to float together. Raises UsageError
    for a port without quantized products, InvalidInputError when a file of the port or the source has changed.
    """
    opened = open_port(out, source)
    port = opened.port
    ported = port.executable
    regions, lost = float_regions.regions(float_surface(opened), ported, port.origins)
    if not regions:
        scheme = port.manifest["scheme"]
        raise UsageError(
            f"{out} has no quantized product that could go to float",
            required="a port with a scheme that quantizes",
            met=f"scheme {scheme}" + (f"; no values beside {', '.join(lost[:5])}" if lost and scheme != "none" else ""),
        )
    groups, chosen = sensitivity.groups(regions, by)
    samples = opened.data(inputs)
    language = opened.source.is_language_model
    found = anchors.find(opened.model, ported, port.origins)
    step = max(1, len(samples) // _LINES)
    say(f"measure   {len(groups)} {chosen}s in float, one after the other, on {len(samples)} batches")
    return sensitivity.measure(
        opened.model,
        ported,
        samples,
        groups,
        by=chosen,
        unmeasured=lost if port.manifest["scheme"] != "none" else (),
        routers=routers_of(opened.model, found) if language else (),
        language=language,
        numerics=port.numerics("backend"),
        memory=memory,
        threads=threads,
        each=lambda done: say(f"          {done} of {len(samples)}") if done % step == 0 else None,
    )


def float_surface(opened: Opened) -> ir.Model:
    """The source after the float half of the port's passes: what its quantizer was given."""
    manifest = opened.port.manifest
    target = Target.resolve(
        manifest["backend"], manifest["surface"], scheme=manifest["scheme"], dtype=manifest["dtype"], dims=opened.dims
    )
    pipeline = Pipeline(opened.model.clone(), target, language_model=opened.source.is_language_model)
    pipeline.dims = opened.dims
    pipeline.to_float_surface()
    return pipeline.model
