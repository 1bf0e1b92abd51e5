"""Equal decoder layers: a trace of a model takes two of each run, and the graph of the others is made of the second.

A layer is equal to another when only its parameters and its own number differ. The trace then takes the whole model,
in which the layers after the second of a run hand on the hidden state; it stops where a layer uses its number, and is
refused where the model gives these layers anything else than the second was given. Whatever is not certain raises
LayersDiffer, and every layer is exported.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

SHORTEST = 3
"""Layers from which on a run is shortened: two are traced in any case."""
_PLAIN = (bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)


class LayersDiffer(Exception):  # noqa: N818  (an answer, not a failure)
    """Why the layers of a run are not certain to be the same but for their parameters."""


class Run(NamedTuple):
    """Layers first .. last of the list at a module path, all equal."""

    path: str
    first: int
    last: int

    @property
    def skipped(self) -> range:
        """Numbers of the layers that a trace leaves out."""
        return range(self.first + 2, self.last + 1)


def find_runs(module: Any) -> list[Run]:
    """Runs of at least ``SHORTEST`` equal layers in the one list of as many modules as the config has layers."""
    count = getattr(module.config, "num_hidden_layers", None)
    lists = [
        (path, part)
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == count
    ]
    if len(lists) != 1:
        return []
    (path, layers), users = lists[0], _users(module)
    found: list[Run] = []
    first = 0
    for at in range(1, len(layers) + 1):
        if at == len(layers) or not _equal(layers[first], layers[at], (first, at)):
            found.append(Run(path, first, at - 1))
            first = at
    alone = [all(users[id(tensor)] == 1 for tensor in _tensors(layer)) for layer in layers]
    return [r for r in found if r.last - r.first + 1 >= SHORTEST and all(alone[r.first : r.last + 1])]


@contextlib.contextmanager
def skipping(module: Any, runs: Sequence[Run]) -> Iterator[None]:
    """Within, the layers after the second of each run hand on the hidden state; afterwards all is as it was.

    Raises LayersDiffer from inside a forward where a layer uses its number or is called unlike the second of its run,
    and at the end when the calls were not those of every layer in turn.
    """
    calls: list[int] = []
    with contextlib.ExitStack() as stack:
        for run in runs:
            layers = module.get_submodule(run.path)
            watch = _Watch(run, calls)
            for number in range(run.first, run.last + 1):
                forward = watch.forward(number, layers[number].forward)
                stack.enter_context(unittest.mock.patch.object(layers[number], "forward", forward))
            for owner, name, number in _numbers(run, layers):
                stack.enter_context(unittest.mock.patch.object(owner, name, _Number(number)))
        yield
    once = [number for run in runs for number in range(run.first, run.last + 1)]
    if not calls or calls != once * (len(calls) // len(once)):
        raise LayersDiffer("the model does not call every layer once and in turn")


class _Watch:
    """The calls of one run, of which each is compared to that of the second layer."""

    def __init__(self, run: Run, calls: list[int]) -> None:
        self._run = run
        self._calls = calls
        self._given: list[tuple[Any, Any]] = []  # (key, argument) of the second layer
        self._output: Any = None
        self._chain: Any = None  # where in the arguments the output of the layer before is

    def forward(self, number: int, plain: Callable[..., Any]) -> Callable[..., Any]:
        """In place of a layer's own forward: the same for the first two, for the others the hidden state itself."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self._calls.append(number)
            given = [*enumerate(args), *kwargs.items()]
            if number == self._run.first:
                self._given = given
            elif number == self._run.first + 1:
                self._chain = self._key_of_chain(given)
                self._compare(number, given)
                self._given = given
            else:
                if dict(given).get(self._chain) is not _hidden(self._output):
                    raise LayersDiffer(f"layer {number} is given another hidden state than that of the one before")
                self._compare(number, given)
                return self._output
            self._output = plain(*args, **kwargs)
            return self._output

        return watched

    def _key_of_chain(self, given: list[tuple[Any, Any]]) -> Any:
        hidden = _hidden(self._output)
        keys = [key for key, argument in given if argument is hidden]
        if len(keys) != 1:
            raise LayersDiffer("the output of a layer is not the one hidden state of the next")
        return keys[0]

    def _compare(self, number: int, given: list[tuple[Any, Any]]) -> None:
        if [key for key, _ in given] != [key for key, _ in self._given]:
            raise LayersDiffer(f"layer {number} is given other arguments")
        for (key, argument), (_, other) in zip(given, self._given, strict=True):
            if key != self._chain and not _same(argument, other):
                raise LayersDiffer(f"layer {number} is given another {key}")


class _Number(int):
    """A layer's own number, which may be handed on and not looked at."""


def _looked_at(*_: Any) -> Any:
    raise LayersDiffer("a layer uses its own number")


for _name in set(vars(int)) - {"__new__", "__getattribute__", "__getnewargs__", "__sizeof__", "__doc__"}:
    setattr(_Number, _name, _looked_at)


def _numbers(run: Run, layers: Any) -> Iterator[tuple[Any, str, int]]:
    """Where the two traced layers keep their numbers: what differs between equal layers and is no module or tensor."""
    one, other = layers[run.first], layers[run.first + 1]
    for left, right in zip(one.modules(), other.modules(), strict=True):
        for name, value in vars(left).items():
            if type(value) is int and value != vars(right)[name]:
                yield left, name, value
                yield right, name, vars(right)[name]


def _hidden(output: Any) -> torch.Tensor:
    """The one tensor that a layer returns."""
    parts = output if isinstance(output, tuple) else (output,)
    if not isinstance(parts[0], torch.Tensor) or any(part is not None for part in parts[1:]):
        raise LayersDiffer("a layer returns more than a hidden state")
    return parts[0]


def _same(one: Any, other: Any) -> bool:
    """Tensors must be the same one: that two computed alike are equal is not known in a trace."""
    if isinstance(one, (tuple, list)) and type(one) is type(other) and len(one) == len(other):
        return all(map(_same, one, other))
    return one is other or (isinstance(one, _PLAIN) and type(one) is type(other) and one == other)


def _equal(one: Any, other: Any, numbers: tuple[int, int]) -> bool:
    """Equal but for the values of tensors, and for integers that are the layers' own numbers."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.nn.Module):
        return _equal(vars(one), vars(other), numbers)
    if isinstance(one, torch.Tensor):
        return _description(one) == _description(other) and one.is_meta
    if isinstance(one, functools.partial):  # of an activation
        return _equal((one.func, one.args, one.keywords), (other.func, other.args, other.keywords), numbers)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_equal(one[key], other[key], numbers) for key in one)
    if isinstance(one, (list, tuple)) and not isinstance(one, torch.Size):
        return len(one) == len(other) and all(_equal(a, b, numbers) for a, b in zip(one, other, strict=True))
    if type(one) is int and (one, other) == numbers:
        return True
    return isinstance(one, (*_PLAIN, set, frozenset)) and bool(one == other)


def _description(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _users(module: Any) -> collections.Counter[int]:
    """How many names each parameter and buffer has."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return collections.Counter(id(tensor) for _, tensor in named)
