"""Parity of a port folder against a source: one piece for ``port``, which has just written it, and for ``verify``."""

from __future__ import annotations

import onnx_ir as ir

from porting.frontends import Source
from porting.parity.budgets import Budget
from porting.parity.comparison import Claim, measure
from porting.parity.result import Parity
from porting.parity.sampling import SampleSet
from porting.parity.verdict import Inputs
from porting.port_folder import PortFolder


def measure_port(
    port: PortFolder,
    source: Source,
    source_model: ir.Model,
    samples: SampleSet,
    *,
    inputs: Inputs,
    budget: Budget,
    threads: int,
    memory: int | None = None,
) -> Parity:
    """source_model: the unrewritten import with the port's shapes. Other arguments as in ``parity.measure``."""
    table = port.backend.numerics
    return measure(
        source_model,
        port.executable,
        samples,
        claim=Claim(
            source=port.manifest["source"]["digest"],
            backend=port.manifest["backend"],
            surface=port.manifest["surface"],
            scheme=port.manifest["scheme"],
            dtype=port.manifest["dtype"],
        ),
        inputs=inputs,
        budget=budget,
        origins=port.origins,
        reference=source.reference,
        reference_name=source.reference.name,
        numerics=table.numerics(),
        lines=table.lines,
        file=port.stock_file,
        language=source.is_language_model,
        memory=memory,
        threads=threads,
    )
