"""``quantization.json``: calibrated ranges beside a float model, for a converter that quantizes by ranges.

One entry a node that is to run in int8, named by its output: the range of its activation, which algorithm turns a range
into parameters, and the greatest magnitudes of its weight, one a channel or one for the whole tensor. Nodes without an
entry stay in float.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from porting.errors import InvalidInputError, PortingError
from porting_passes.quantization_style import QuantizationStyle
from porting_passes.quantize_static import ActivationRange, QuantizedNode

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Ranges:
    """activations: by value name. weight_absmax: by output of the node, float32. listed: outputs of int8 nodes."""

    activations: dict[str, ActivationRange]
    weight_absmax: dict[str, np.ndarray]
    listed: frozenset[str]


def document(
    nodes: Sequence[QuantizedNode], ranges: Mapping[str, ActivationRange], style: QuantizationStyle
) -> dict[str, Any]:
    """The file's content. Floats are written so that reading them gives the same bits."""
    return {
        "schema_version": SCHEMA_VERSION,
        "bits": 8,
        "nodes": [
            {
                "output": node.output,
                "operator": node.op_type,
                "activation": {
                    "name": node.activation,
                    "min": float(ranges[node.activation].min),
                    "max": float(ranges[node.activation].max),
                    "algorithm": style.activation,
                },
                "weight": {
                    "name": node.weight,
                    "granularity": "per_axis" if node.weight_absmax.size > 1 else "per_tensor",
                    "axis": node.channel_axis,
                    "absmax": [float(a) for a in node.weight_absmax],
                    "algorithm": "symmetric",
                },
            }
            for node in nodes
        ],
    }


def read(path: Path) -> Ranges:
    """Ranges from the file. InvalidInputError, with the place, for one that is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {content['schema_version']}, not {SCHEMA_VERSION}")
        activations, weights = {}, {}
        for entry in content["nodes"]:
            activation = entry["activation"]
            activations[activation["name"]] = ActivationRange(float(activation["min"]), float(activation["max"]))
            absmax = np.asarray(entry["weight"]["absmax"], dtype=np.float32)
            if absmax.ndim != 1 or not np.isfinite(absmax).all() or (absmax < 0).any():
                raise ValueError(f"{entry['output']}: absmax {entry['weight']['absmax']}")
            weights[entry["output"]] = absmax
    except (OSError, ValueError, KeyError, TypeError, PortingError) as error:
        raise InvalidInputError(
            f"{path} is damaged", met=f"{type(error).__name__}: {error}", fix="port again"
        ) from error
    return Ranges(activations, weights, frozenset(weights))
