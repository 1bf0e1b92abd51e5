"""The activation functions that RNN, GRU and LSTM name in attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from porting_kernels.errors import PortingError

Activation = Callable[[torch.Tensor], torch.Tensor]

# Defaults of alpha and beta; None where a function takes no such parameter.
_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None),
    "tanh": (None, None),
    "sigmoid": (None, None),
    "softsign": (None, None),
    "softplus": (None, None),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01, None),
    "thresholdedrelu": (1.0, None),
    "scaledtanh": (1.0, 1.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0, None),
}


def _activation(name: str, alpha: float, beta: float) -> Activation:
    functions: dict[str, Activation] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": F.softsign,
        "softplus": lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype)),
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: F.leaky_relu(x, alpha),
        "thresholdedrelu": lambda x: torch.where(x >= alpha, x, 0.0),
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
        "hardsigmoid": lambda x: (alpha * x + beta).clamp(0, 1),
        "elu": lambda x: F.elu(x, alpha),
    }
    return functions[name]


def activations_of(
    names: Sequence[str] | None,
    defaults: Sequence[str],
    directions: int,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
) -> list[list[Activation]]:
    """The functions of each direction, in the operator's order.

    names: one list for all directions on end, any case; absent means ``defaults`` for each. alpha, beta: values taken
    in order by the functions that have such a parameter; a function beyond the values keeps its default.
    Raises PortingError for an unknown name or a wrong count.
    """
    wanted = list(names or [*defaults] * directions)
    if len(wanted) != len(defaults) * directions:
        raise PortingError("wrong number of activations", required=len(defaults) * directions, met=wanted)
    alphas, betas = iter(alpha or ()), iter(beta or ())
    functions = []
    for name in wanted:
        key = name.lower()
        if key not in _DEFAULTS:
            raise PortingError("unknown activation", required=", ".join(sorted(_DEFAULTS)), met=name)
        functions.append(
            _activation(key, *(_taken(v, d) for v, d in zip((alphas, betas), _DEFAULTS[key], strict=True)))
        )
    size = len(defaults)
    return [functions[d * size : (d + 1) * size] for d in range(directions)]


def _taken(values: Iterator[float], default: float | None) -> float:
    return 0.0 if default is None else next(values, default)
