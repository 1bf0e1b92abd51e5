"""Latent attention in its absorbed order, as users write it in torch and as it stands over stored weights.

The expanded order is pinned by transformers' own models in test_language_model_fusions.py.
"""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from porting import frontends
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance
from porting_passes.canonicalize import Canonicalize
from porting_passes.declared import DeclaredTensor, bind_declared
from porting_passes.decomposition import decompose_node
from porting_passes.decompositions import by_operator
from porting_passes.fuse_mla_attention import FuseMLAAttention
from porting_passes.infer_shapes import InferShapes
from porting_passes.language_model_fusions import language_model_fusions
from porting_passes.operators import add_bodies
from porting_passes.splice import Names
from porting_passes.stored import is_stored

HEADS, NOPE, ROPE, VALUE, LATENT, WIDTH = 4, 8, 2, 6, 16, 12


class Einsum(nn.Module):
    """The absorbed branch of DeepSeek's MLA without its norms, rotation and cache: kv_b taken apart by heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wq = nn.Linear(WIDTH, HEADS * (NOPE + ROPE), bias=False)
        self.wkv_a = nn.Linear(WIDTH, LATENT + ROPE, bias=False)
        self.wkv_b = nn.Linear(LATENT, HEADS * (NOPE + VALUE), bias=False)
        self.wo = nn.Linear(HEADS * VALUE, WIDTH, bias=False)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.wkv_b.weight.view(HEADS, -1, LATENT)
        return weight[:, :NOPE], weight[:, -VALUE:]

    def mask(self, length: int) -> torch.Tensor:
        return torch.full((length, length), float("-inf")).triu_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q_nope, q_rope = self.wq(x).view(batch, length, HEADS, -1).split([NOPE, ROPE], -1)
        latent, k_rope = self.wkv_a(x).split([LATENT, ROPE], -1)
        key, value = self.parts()
        return self.wo(self.attend(q_nope, q_rope, latent, k_rope, key, value, self.mask(length)))

    def attend(self, q_nope, q_rope, latent, k_rope, key, value, mask):
        q_nope = torch.einsum("bshd,hdc->bshc", q_nope, key)
        scores = torch.einsum("bshc,btc->bsht", q_nope, latent) + torch.einsum("bshr,btr->bsht", q_rope, k_rope)
        scores = scores * (NOPE + ROPE) ** -0.5 + mask.unsqueeze(1)
        result = torch.einsum("bsht,btc->bshc", scores.softmax(-1), latent)
        return torch.einsum("bshc,hdc->bshd", result, value).flatten(2)


class Products(Einsum):
    """Batched products over joined keys, two weights of their own, and a mask that is not the causal one."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.randn(HEADS, NOPE, LATENT) * 0.2)
        self.value = nn.Parameter(torch.randn(HEADS, LATENT, VALUE) * 0.2)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.key, self.value

    def mask(self, length: int) -> torch.Tensor:
        return torch.arange(length).float() / 8

    def attend(self, q_nope, q_rope, latent, k_rope, key, value, mask):
        query = torch.cat((q_nope.transpose(1, 2) @ key, q_rope.transpose(1, 2)), -1)
        keys = torch.cat((latent, k_rope), -1).unsqueeze(1)
        scores = query @ keys.transpose(2, 3) / (NOPE + ROPE) ** 0.5 + mask
        return (scores.softmax(-1) @ latent.unsqueeze(1) @ value).transpose(1, 2).flatten(2)


class HeadsInside(Einsum):
    """The heads between latent and key, as vLLM keeps the weights."""

    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = super().parts()
        return key.permute(2, 0, 1), value.permute(2, 0, 1)

    def attend(self, q_nope, q_rope, latent, k_rope, key, value, mask):
        return super().attend(q_nope, q_rope, latent, k_rope, key.permute(1, 2, 0), value.permute(1, 2, 0), mask)


def factory(kind: type[Einsum], dynamic: bool):
    shapes = {"x": {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("length", min=2, max=64)}}
    return (kind(), (torch.zeros(2, 5, WIDTH),), *([shapes] if dynamic else []))


@functools.cache
def _source(kind: type[Einsum], dynamic: bool) -> ir.Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "made_for_test", SimpleNamespace(make=lambda: factory(kind, dynamic)))
        return frontends.load("made_for_test:make").model


def exported(kind: type[Einsum], *, dynamic: bool = True) -> ir.Model:
    """Through porting's own frontend, canonical."""
    model = _source(kind, dynamic).clone()
    Canonicalize()(model)
    return model


def run(model: ir.Model, x: torch.Tensor) -> torch.Tensor:
    (y,) = Interpreter(model).run({"x": x}).values()
    return y


def attention(model: ir.Model) -> ir.Node:
    (node,) = (node for node in model.graph if node.op_type == "MLAAttention")
    return node


def assert_equals(model: ir.Model, kind: type[Einsum], length: int = 5) -> None:
    """Tolerance: the budget of a float32 port, sums in another order."""
    x = torch.randn(2, length, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = kind()(x)
    torch.testing.assert_close(run(model, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dynamic", "causal"),
    [(Einsum, True, 1), (Einsum, False, 0), (Products, True, 0), (HeadsInside, True, 1)],
)
def test_a_module_is_one_attention(kind, dynamic, causal, run_onnxruntime) -> None:
    """Without symbols the causal mask is folded into numbers, and stays a mask."""
    model = exported(kind, dynamic=dynamic)
    for step in language_model_fusions():
        step(model)
    node = attention(model)
    assert (node.attributes["absorbed"].value, node.attributes["is_causal"].value) == (1, causal)
    assert not {"Einsum", "Softmax"} & {node.op_type for node in model.graph}
    assert provenance.of(node.outputs[0]).rules[-1] == "fuse_absorbed_mla_attention"
    for length in (5, 9) if dynamic else (5,):
        assert_equals(model, kind, length)
    InferShapes()(model)
    add_bodies(model)
    x = np.random.default_rng(0).standard_normal((2, 5, WIDTH)).astype(np.float32)
    (got,) = run_onnxruntime(model, {"x": x}).values()
    with torch.no_grad():
        np.testing.assert_allclose(got, kind()(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_einsum_that_the_surface_lacks_is_recognised_by_its_parts() -> None:
    model = exported(Einsum, dynamic=False)
    (form,), names = by_operator()["", "Einsum"], Names(model)
    for node in [node for node in model.graph if node.op_type == "Einsum"]:
        decompose_node(node, form, 20, names)
    Canonicalize()(model)
    assert FuseMLAAttention()(model).modified
    assert attention(model).attributes["absorbed"].value == 1
    assert_equals(model, Einsum)


def test_scores_that_something_else_reads_are_left() -> None:
    model = exported(Einsum)
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    model.graph.outputs.append(softmax.outputs[0])
    assert not FuseMLAAttention()(model).modified


# -- stored weights --------------------------------------------------------------------------------------------------


class Stored(ir.Tensor):
    """A stored tensor that counts who reads it."""

    reads = 0

    def numpy(self) -> np.ndarray:
        Stored.reads += 1
        return super().numpy()

    def converted(self, dtype: ir.DataType, name: str) -> Stored:
        raise NotImplementedError

    def transposed(self) -> Stored:
        return Stored(np.ascontiguousarray(self.raw.swapaxes(-1, -2)))

    def reshaped(self, shape) -> Stored:
        assert shape[-1] == self.shape[-1], "a stored tensor keeps its last axis"
        return Stored(self.raw.reshape(shape))

    @staticmethod
    def concatenated(views, axis=0) -> Stored:
        return Stored(np.concatenate([view.raw for view in views], axis))


WHOLE = {
    "by rows": ("w = Reshape(kv_b, rows) k, v = Split<axis = 1>(w, parts)", (36, 6)),
    "sliced": ("w = Reshape(kv_b, rows) k = Slice(w, zero, four, one) v = Slice(w, minus, end, one)", (36, 6)),
    "by columns": ("w = Reshape(kv_b, columns) k, v = Split<axis = 2>(w, parts)", (6, 36)),
    "of three axes": ("k, v = Split<axis = 1>(kv_b, parts)", (3, 12, 6)),
    "turned": ("w = Transpose<perm = [0, 2, 1]>(kv_b) k, v = Split<axis = 1>(w, parts)", (3, 6, 12)),
}
APART = {"rows": ((3, 4, 6), (3, 8, 6)), "turned": ((3, 4, 6), (3, 6, 8)), "heads inside": ((6, 3, 4), (6, 3, 8))}
LETTERS = {(3, 4, 6): "hdc", (3, 8, 6): "hvc", (3, 6, 8): "hcv", (6, 3, 4): "chd", (6, 3, 8): "chv"}


def over_stored(
    weights: dict[str, tuple[int, ...]], body: str, letters: tuple[str, str], kind: Any, *changes: tuple[str, str]
) -> ir.Model:
    constants = {
        "rows": [3, 12, 6], "columns": [6, 3, 12], "parts": [4, 8], "flat": [0, 0, -1], "zero": [0], "one": [1],
        "four": [4], "five": [5], "eight": [8], "back": [8, 4], "minus": [-8], "end": [1 << 62],
    }  # fmt: skip
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[b, s, 3, 4] qn, float[b, s, 3, 2] qr, float[b, t, 6] l, float[b, t, 2] kr) => (float[b, s, 24] y) {{
        {body} qa = Einsum<equation = "bshd,{letters[0]}->bshc">(qn, k)
        s1 = Einsum<equation = "bshc,btc->bsht">(qa, l) s2 = Einsum<equation = "bshr,btr->bsht">(qr, kr)
        a = Add(s1, s2) c = Mul(a, scale) p = Softmax(c) r = Einsum<equation = "bsht,btc->bshc">(p, l)
        o = Einsum<equation = "bshc,{letters[1]}->bshv">(r, v) y = Reshape(o, flat) }}"""
    for change in changes:
        assert change[0] in text
        text = text.replace(*change)
    tensors = [ir.tensor(np.array(v, np.int64), name=n) for n, v in constants.items() if f" {n}" in text]
    tensors += [ir.tensor(np.array(0.3, np.float32), name="scale"), *(kind(*weight) for weight in weights.items())]
    model = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(model)
    return model


def stored(name: str, shape: tuple[int, ...]) -> Stored:
    rng = np.random.default_rng(sum(map(ord, name)))
    return Stored(rng.standard_normal(shape).astype(np.float32), name=name)


def declared(name: str, shape: tuple[int, ...]) -> DeclaredTensor:
    return DeclaredTensor(ir.DataType.FLOAT, shape, lambda look_up: look_up(name), name)


def results(model: ir.Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    shapes = {"qn": (2, 5, 3, 4), "qr": (2, 5, 3, 2), "l": (2, 7, 6), "kr": (2, 7, 2)}
    feeds = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return Interpreter(model).run(feeds)["y"]


def assert_fused_unread(weights: dict, body: str, letters: tuple[str, str]) -> ir.Model:
    before = results(over_stored(weights, body, letters, stored))
    Stored.reads = 0
    model = over_stored(weights, body, letters, stored)
    assert FuseMLAAttention()(model).modified
    assert Stored.reads == 0
    kv_b = attention(model).inputs[4]
    assert list(kv_b.shape) == [6, 36]
    assert is_stored(kv_b.const_value)
    torch.testing.assert_close(results(model), before, rtol=1e-5, atol=1e-6)

    unbound = over_stored(weights, body, letters, declared)
    assert FuseMLAAttention()(unbound).modified
    bind_declared(unbound, lambda name: stored(name, weights[name]))
    torch.testing.assert_close(results(unbound), before, rtol=1e-5, atol=1e-6)
    return model


@pytest.mark.parametrize("case", WHOLE)
def test_one_stored_weight_in_two_parts_is_not_read(case) -> None:
    body, shape = WHOLE[case]
    letters = ("chd", "chv") if case == "by columns" else ("hdc", "hvc")
    model = assert_fused_unread({"kv_b": shape}, body, letters)
    if case == "by columns":
        assert attention(model).inputs[4] is model.graph.initializers["kv_b"]


@pytest.mark.parametrize("case", ["rows", "turned"])
def test_two_stored_weights_are_joined_without_reading(case) -> None:
    key, value = APART[case]
    assert_fused_unread({"k": key, "v": value}, "", (LETTERS[key], LETTERS[value]))


def test_stored_weights_that_only_reading_could_join_are_left() -> None:
    """Their last axis would have to be taken apart, which a view cannot."""
    key, value = APART["heads inside"]
    model = over_stored({"k": key, "v": value}, "", (LETTERS[key], LETTERS[value]), stored)
    assert not FuseMLAAttention()(model).modified


@pytest.mark.parametrize(
    "parts",
    [
        "v, k = Split<axis = 1>(w, back)",
        "k = Slice(w, one, five, one) v = Slice(w, minus, end, one)",
        "k = Slice(w, zero, four, one) v = Slice(w, zero, eight, one)",
    ],
)
def test_parts_that_are_not_the_key_and_then_the_value_are_left(parts) -> None:
    model = over_stored({"kv_b": (36, 6)}, f"w = Reshape(kv_b, rows) {parts}", ("hdc", "hvc"), stored)
    assert not FuseMLAAttention()(model).modified


@pytest.mark.parametrize(
    "change",
    [
        ("c = Mul(a, scale)", "z = Mul(a, scale) w = ReduceMean<keepdims = 0>(l) c = Mul(z, w)"),
        ("p = Softmax(c)", "p = Softmax<axis = 2>(c)"),
        ("(p, l)", "(p, n)"),
        ("y = Reshape(o, flat)", "u = Transpose<perm = [0, 1, 3, 2]>(o) y = Reshape(u, flat)"),
    ],
    ids=["scale of the data", "softmax over heads", "other values", "heads inside values"],
)
def test_what_only_looks_like_it_is_left(change) -> None:
    key, value = APART["rows"]
    changes = [change, ("a = Add", "n = Neg(l) a = Add")]
    model = over_stored({"k": key, "v": value}, "", (LETTERS[key], LETTERS[value]), stored, *changes)
    assert not FuseMLAAttention()(model).modified
