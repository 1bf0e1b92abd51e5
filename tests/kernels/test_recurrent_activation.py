from __future__ import annotations

import pytest
import torch

from porting_kernels.errors import PortingError
from porting_kernels.recurrent_activation import activations_of

X = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])


def test_defaults_for_every_direction():
    functions = activations_of(None, ("Sigmoid", "Tanh"), 2, None, None)
    assert [[f(X).tolist() for f in direction] for direction in functions] == [
        [torch.sigmoid(X).tolist(), torch.tanh(X).tolist()]
    ] * 2


@pytest.mark.parametrize(
    "name, alpha, beta, expected",
    [
        ("Affine", [2.0], [1.0], 2 * X + 1),
        ("LeakyRelu", None, None, torch.where(X < 0, 0.01 * X, X)),
        ("ThresholdedRelu", None, None, torch.tensor([0, 0, 0, 0, 2.0])),
        ("ScaledTanh", [3.0], [0.5], 3 * torch.tanh(0.5 * X)),
        ("HardSigmoid", None, None, (0.2 * X + 0.5).clamp(0, 1)),
        ("Elu", [2.0], None, torch.where(X < 0, 2 * (X.exp() - 1), X)),
        ("Softplus", None, None, torch.log(1 + X.exp())),
        ("softsign", None, None, X / (1 + X.abs())),
    ],
)
def test_functions_by_name_in_any_case(name, alpha, beta, expected):
    ((function,),) = activations_of([name], ("Tanh",), 1, alpha, beta)
    torch.testing.assert_close(function(X), expected)


def test_softplus_of_large_values_stays_finite():
    ((softplus,),) = activations_of(["Softplus"], ("Tanh",), 1, None, None)
    assert softplus(torch.tensor([200.0])).item() == 200


def test_functions_without_parameters_leave_them_to_the_next():
    ((_, leaky),) = activations_of(["Tanh", "LeakyRelu"], ("Sigmoid", "Tanh"), 1, [0.5], None)
    assert leaky(X)[0].item() == -1


def test_unknown_names_and_wrong_counts_are_refused():
    with pytest.raises(PortingError, match="unknown"):
        activations_of(["Gelu"], ("Tanh",), 1, None, None)
    with pytest.raises(PortingError, match="number"):
        activations_of(["Tanh"], ("Tanh",), 2, None, None)
