"""RNN, GRU and LSTM: one layer, one or two directions, over sequences that may end early.

x (T, N, I), w (D, G*H, I), r (D, G*H, H), b (D, 2*G*H), states (D, N, H); with layout 1 the batch comes first in x, in
the states and in all outputs. Returns Y (T, D, N, H) and the last states. Steps beyond an instance's sequence length
leave its state alone and give zeros. Sources: ONNX operators RNN, GRU and LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.recurrent_activation import Activation, activations_of
from porting_kernels.registry import kernel

State = tuple[torch.Tensor, ...]
# (projected input of one step, state) -> next state, whose first tensor is the output.
Cell = Callable[[torch.Tensor, State], State]


def _reversed_within(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """x (T, N, ...) with the first ``lengths`` steps of each instance backwards."""
    if lengths is None:
        return x.flip(0)
    step = torch.arange(x.shape[0])[:, None]
    source = torch.where(step < lengths, lengths - 1 - step, step)
    return x[source, torch.arange(x.shape[1])]


def _unroll(
    cell: Cell, projected: torch.Tensor, state: State, lengths: torch.Tensor | None
) -> tuple[torch.Tensor, State]:
    """Run a cell over (T, N, G*H); returns (T, N, H) and the last state of each instance."""
    outputs = []
    for t, step in enumerate(projected.unbind(0)):
        following = cell(step, state)
        if lengths is None:
            state = following
            outputs.append(state[0])
        else:
            alive = (t < lengths)[:, None]
            state = tuple(torch.where(alive, new, old) for new, old in zip(following, state, strict=True))
            outputs.append(torch.where(alive, state[0], 0.0))
    return torch.stack(outputs) if outputs else projected.new_zeros(0, *state[0].shape), state


def _layer(
    make_cell: Callable[[int, torch.Tensor], tuple[Cell, torch.Tensor | None]],
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None,
    lengths: torch.Tensor | None,
    initial: Sequence[torch.Tensor | None],
    direction: str,
    layout: int,
) -> tuple[torch.Tensor, ...]:
    """All directions of a layer.

    make_cell(direction, r[direction].T) gives the cell and the bias that belongs to the projected input.
    """
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if backward is None:
        raise PortingError("unknown direction", required="forward, reverse or bidirectional", met=direction)
    if w.shape[0] != len(backward) or r.shape[0] != len(backward):
        raise ShapeError(f"weights of a {direction} layer", required=f"{len(backward)} directions", met=w.shape[0])
    if layout:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    zeros = x.new_zeros(x.shape[1], r.shape[2])
    outputs, finals = [], []
    for d, is_backward in enumerate(backward):
        cell, bias = make_cell(d, r[d].t())
        sequence = _reversed_within(x, lengths) if is_backward else x
        projected = torch.nn.functional.linear(sequence, w[d], bias)
        y, state = _unroll(cell, projected, tuple(zeros if s is None else s[d] for s in initial), lengths)
        outputs.append(_reversed_within(y, lengths) if is_backward else y)
        finals.append(state)
    y = torch.stack(outputs, 1)
    states = [torch.stack(state) for state in zip(*finals, strict=True)]
    if layout:
        return y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states)
    return y, *states


def _summed_bias(b: torch.Tensor | None, direction: int) -> torch.Tensor | None:
    if b is None:
        return None
    of_input, of_state = b[direction].chunk(2)
    return of_input + of_state


def _clipped(activation: Activation, clip: float | None) -> Activation:
    """The activation of its clipped argument."""
    return activation if clip is None else lambda x: activation(x.clamp(-clip, clip))


@kernel("RNN")
@rounds_once
def rnn(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[torch.Tensor, ...]:
    """H = f(x W' + H R' + b). Returns Y and Y_h."""
    chosen = activations_of(activations, ("Tanh",), w.shape[0], activation_alpha, activation_beta)

    def make_cell(d: int, recurrence: torch.Tensor) -> tuple[Cell, torch.Tensor | None]:
        f = _clipped(chosen[d][0], clip)
        return lambda step, state: (f(torch.addmm(step, state[0], recurrence)),), _summed_bias(b, d)

    return _layer(make_cell, x, w, r, b, sequence_lens, (initial_h,), direction, layout)


@kernel("GRU")
@rounds_once
def gru(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Update, reset and hidden gates in the order z, r, h; H = (1 - z) h + z H. Returns Y and Y_h.

    linear_before_reset: the reset gate multiplies H R' + b instead of H.
    """
    chosen = activations_of(activations, ("Sigmoid", "Tanh"), w.shape[0], activation_alpha, activation_beta)
    size = r.shape[2]

    def make_cell(d: int, recurrence: torch.Tensor) -> tuple[Cell, torch.Tensor | None]:
        f, g = (_clipped(activation, clip) for activation in chosen[d])
        of_gates, of_hidden = recurrence[:, : 2 * size], recurrence[:, 2 * size :]
        bias, hidden_bias = _summed_bias(b, d), None
        if b is not None and bias is not None and linear_before_reset:
            hidden_bias = b[d, 5 * size :]
            bias = torch.cat((bias[: 2 * size], b[d, 2 * size : 3 * size]))

        def cell(step: torch.Tensor, state: State) -> State:
            h = state[0]
            z, reset = f(torch.addmm(step[:, : 2 * size], h, of_gates)).chunk(2, 1)
            candidate = step[:, 2 * size :]
            if linear_before_reset:
                linear = h @ of_hidden if hidden_bias is None else torch.addmm(hidden_bias, h, of_hidden)
                candidate = g(torch.addcmul(candidate, reset, linear))
            else:
                candidate = g(torch.addmm(candidate, reset * h, of_hidden))
            return (torch.lerp(candidate, h, z),)

        return cell, bias

    return _layer(make_cell, x, w, r, b, sequence_lens, (initial_h,), direction, layout)


@kernel("LSTM")
@rounds_once
def lstm(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    initial_c: torch.Tensor | None = None,
    p: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Input, output, forget and cell gates in the order i, o, f, c, with peepholes p (D, 3*H) for i, o, f.

    C = f C + i c; H = o h(C). input_forget: f = 1 - i. Returns Y, Y_h and Y_c.
    """
    chosen = activations_of(activations, ("Sigmoid", "Tanh", "Tanh"), w.shape[0], activation_alpha, activation_beta)

    def make_cell(d: int, recurrence: torch.Tensor) -> tuple[Cell, torch.Tensor | None]:
        f, g, hidden = (_clipped(activation, clip) for activation in chosen[d])
        size = r.shape[2]
        peepholes = None if p is None else p[d].chunk(3)

        def cell(step: torch.Tensor, state: State) -> State:
            h, c = state
            gates = torch.addmm(step, h, recurrence)
            if peepholes is None:
                i, o, forget = f(gates[:, : 3 * size]).chunk(3, 1)
            else:
                i, o, forget = gates[:, : 3 * size].chunk(3, 1)
                i, forget = f(torch.addcmul(i, peepholes[0], c)), f(torch.addcmul(forget, peepholes[2], c))
            if input_forget:
                forget = 1 - i
            c = torch.addcmul(forget * c, i, g(gates[:, 3 * size :]))
            if peepholes is not None:
                o = f(torch.addcmul(o, peepholes[1], c))
            return o * hidden(c), c

        return cell, _summed_bias(b, d)

    return _layer(make_cell, x, w, r, b, sequence_lens, (initial_h, initial_c), direction, layout)
