from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError, ShapeError

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
# Five steps of inner products over 7 unit normals, each through saturating functions.
CLOSE = {"rtol": 1e-5, "atol": 5e-6}


def operands(
    rng, op_type, directions=1, *, steps=5, batch=3, inputs=4, hidden=7, lengths=None, states=True, peephole=False
):
    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    gates = GATES[op_type]
    x, w = normal(steps, batch, inputs), normal(directions, gates * hidden, inputs)
    r, b = normal(directions, gates * hidden, hidden), normal(directions, 2 * gates * hidden)
    values = [x, w, r, b, None if lengths is None else np.array(lengths, np.int32)]
    values += [normal(directions, batch, hidden) if states else None] * (2 if op_type == "LSTM" else 1)
    return values + ([normal(directions, 3 * hidden)] if peephole else [])


def assert_same(got, want):
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, **CLOSE)


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [5, 2, 1]], ids=["full", "early_ends"])
def test_directions_and_lengths_match_stock_runtime(op_type, direction, lengths, rng, ours, stock):
    values = operands(rng, op_type, 2 if direction == "bidirectional" else 1, lengths=lengths)
    attributes = {"direction": direction, "hidden_size": 7, "opset": 14, "outputs": 3 if op_type == "LSTM" else 2}
    assert_same(ours(op_type, *values, **attributes), stock(op_type, *values, **attributes))


@pytest.mark.parametrize("op_type", GATES)
def test_batch_first_only_transposes(op_type, rng, ours):
    values = operands(rng, op_type, 2, lengths=[5, 2, 3])
    attributes = {"direction": "bidirectional", "hidden_size": 7, "opset": 14, "outputs": 3 if op_type == "LSTM" else 2}
    y, *states = ours(op_type, *values, **attributes)
    turned = [v.swapaxes(0, 1) if i == 0 or i >= 5 else v for i, v in enumerate(values)]
    got = ours(op_type, *turned, layout=1, **attributes)
    np.testing.assert_array_equal(got[0], y.transpose(2, 0, 1, 3))
    for g, s in zip(got[1:], states, strict=True):
        np.testing.assert_array_equal(g, s.swapaxes(0, 1))


@pytest.mark.parametrize("linear_before_reset", [0, 1])
@pytest.mark.parametrize("clip", [None, 0.7])
def test_gru_forms_match_stock_runtime(linear_before_reset, clip, rng, ours, stock):
    attributes = {"hidden_size": 7, "linear_before_reset": linear_before_reset, "opset": 14, "outputs": 2}
    if clip is not None:
        attributes["clip"] = clip
    values = operands(rng, "GRU")
    assert_same(ours("GRU", *values, **attributes), stock("GRU", *values, **attributes))


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("input_forget", [0, 1])
def test_lstm_forms_match_stock_runtime(peephole, input_forget, rng, ours, stock):
    attributes = {"hidden_size": 7, "input_forget": input_forget, "opset": 14, "outputs": 3}
    values = operands(rng, "LSTM", peephole=peephole)
    assert_same(ours("LSTM", *values, **attributes), stock("LSTM", *values, **attributes))


def test_lstm_clips_what_enters_an_activation(rng, ours):
    x, w, r, b, *_ = operands(rng, "LSTM", steps=1, states=False)
    y, _, c = ours("LSTM", x, w, r, b, hidden_size=7, clip=0.5, opset=14, outputs=3)
    gates = np.clip(x[0] @ w[0].T + b[0, :28] + b[0, 28:], -0.5, 0.5)
    i, o, _, g = (gates[:, k * 7 : (k + 1) * 7] for k in range(4))
    cell = np.tanh(g) / (1 + np.exp(-i))
    np.testing.assert_allclose(c[0], cell, **CLOSE)
    np.testing.assert_allclose(y[0, 0], np.tanh(np.clip(cell, -0.5, 0.5)) / (1 + np.exp(-o)), **CLOSE)


@pytest.mark.parametrize(
    "name, alpha, beta",
    [
        ("Relu", [], []), ("Softsign", [], []), ("Softplus", [], []), ("Affine", [0.3], [0.1]), ("Elu", [0.6], []),
        ("LeakyRelu", [0.2], []), ("ThresholdedRelu", [0.4], []), ("ScaledTanh", [0.7], [0.5]),
        ("HardSigmoid", [0.3], [0.4]),
    ],
)  # fmt: skip
def test_named_activations_match_stock_runtime(name, alpha, beta, rng, ours, stock):
    values = operands(rng, "RNN")
    values[2] *= 0.2  # unbounded functions must not blow up: stock onnxruntime's Softplus overflows
    attributes = {"hidden_size": 7, "activations": [name], "opset": 14, "outputs": 2}
    attributes |= ({"activation_alpha": alpha} if alpha else {}) | ({"activation_beta": beta} if beta else {})
    assert_same(ours("RNN", *values, **attributes), stock("RNN", *values, **attributes))


def test_alphas_are_taken_in_order_by_the_functions_that_have_one(rng, ours, stock):
    values = operands(rng, "LSTM")
    attributes = {
        "hidden_size": 7, "activations": ["HardSigmoid", "Tanh", "LeakyRelu"], "activation_alpha": [0.3, 0.25],
        "activation_beta": [0.4], "opset": 14, "outputs": 3,
    }  # fmt: skip
    assert_same(ours("LSTM", *values, **attributes), stock("LSTM", *values, **attributes))


def test_an_instance_without_steps_keeps_its_state(rng, ours):
    values = operands(rng, "RNN", lengths=[5, 0, 2])  # stock onnxruntime gives zeros here; the equations do not
    y, h = ours("RNN", *values, hidden_size=7, opset=14, outputs=2)
    np.testing.assert_array_equal(y[:, 0, 1], 0)
    np.testing.assert_array_equal(h[0, 1], values[5][0, 1])


def test_no_steps_leave_the_state(rng, ours):
    values = operands(rng, "GRU", steps=0)
    y, h = ours("GRU", *values, hidden_size=7, opset=14, outputs=2)
    assert y.shape == (0, 1, 3, 7)
    np.testing.assert_array_equal(h, values[5])


def test_wrong_attributes_are_refused(rng, ours):
    values = operands(rng, "RNN")
    with pytest.raises(PortingError, match="direction"):
        ours("RNN", *values, direction="backward", opset=14)
    with pytest.raises(ShapeError, match="directions"):
        ours("RNN", *values, direction="bidirectional", opset=14)
    with pytest.raises(PortingError, match="activation"):
        ours("RNN", *values, activations=["Gelu"], opset=14)
    with pytest.raises(PortingError, match="number"):
        ours("RNN", *values, activations=["Tanh", "Tanh"], opset=14)
