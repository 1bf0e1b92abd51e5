from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.errors import ParityError
from porting.frontends import origin
from porting.parity import anchors
from porting.parity.layers import LayerComparison, LayerSums
from porting.parity.sampling import in_order
from porting_passes import provenance


def compare(source, ported, samples, *, threads=1):
    found = anchors.find(source, ported, anchors.of_model(ported))
    comparison = LayerComparison(source, ported, found)
    total = LayerSums()
    for run in in_order(comparison.run, samples, threads):
        total.merge(run.sums)
    return {layer.anchor.source: layer for layer in comparison.result(total)}


def test_a_model_equals_itself_in_both_views(make_net, samples):
    layers = compare(make_net(), make_net(), samples)
    assert list(layers) == ["c", "r", "g", "y"]
    for layer in layers.values():
        assert layer.isolated.rel_l2 == layer.accumulated.rel_l2 == 0.0
        assert layer.anchor.place == "net.py:7"


def test_a_place_is_the_module_before_the_file() -> None:
    def place(**known: object) -> str:
        origin = provenance.Provenance(sources=("getitem_18",), equal=True, **known)
        return anchors.Anchor("v", "getitem_18", "node_3", "Add", "Add", origin).place

    assert place(module="stem.1", file="net.py", line=7) == "stem.1 (net.py:7)"
    assert place(file="net.py", line=7) == "net.py:7"
    assert place(module="stem.1") == "stem.1"
    assert place() == "node_3"


def test_only_the_wrong_layer_is_wrong_in_isolation(make_net, samples):
    layers = compare(make_net(), make_net(scale=1.5), samples)
    assert layers["c"].isolated.rel_l2 == pytest.approx(0.5, rel=1e-6)
    for name in ("r", "g", "y"):
        assert layers[name].isolated.rel_l2 == 0.0, "fed reference inputs, the later layers make no error"
        assert layers[name].accumulated.rel_l2 > 0.01, "but they carry the error of the first one"


def test_float16_isolated_is_the_operator_and_not_its_input(samples):
    """exp(10) of an input rounded to float16 is off by 0.4 %; the operator itself only rounds once (2**-11)."""
    text = '<ir_version: 8, opset_import: ["" : 17]> f ({0}[4] x) => ({0}[4] y) {{ h = Neg (x) y = Exp (h) }}'
    source, ported = ir.from_onnx_text(text.format("float")), ir.from_onnx_text(text.format("float16"))
    origin.stamp(source)
    origin.stamp(ported)
    x = np.array([-9.997, -10.003, -9.991, -10.009], dtype=np.float32)
    exp = compare(source, ported, [{"x": x}])["y"]
    assert exp.accumulated.rel_l2 > 1e-3
    assert exp.isolated.rel_l2 < 2**-11


@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_threads_do_not_change_a_bit(make_net, samples, dtype):
    one, two = (compare(make_net(), make_net(dtype), samples, threads=n) for n in (1, 2))
    assert {n: layer.to_json() for n, layer in one.items()} == {n: layer.to_json() for n, layer in two.items()}
    assert {n: layer.isolated for n, layer in one.items()} == {n: layer.isolated for n, layer in two.items()}


def test_threads_setting_is_restored(make_net, samples):
    before = torch.get_num_threads()
    compare(make_net(), make_net(), samples, threads=2)
    assert torch.get_num_threads() == before


def test_float16_overflow_names_the_first_layer(samples):
    """Squares beyond 65504, as in the variance of a norm: the product overflows, the sum after it only follows."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
      f ({0}[4] x) => ({0}[4] y) {{ s = Mul (x, x) a = Add (s, x) y = Neg (a) }}"""
    source, ported = ir.from_onnx_text(text.format("float")), ir.from_onnx_text(text.format("float16"))
    origin.stamp(source)
    origin.stamp(ported)
    layers = compare(source, ported, [{"x": np.array([1, 2, 300, 4], dtype=np.float32)}])
    assert [name for name, layer in layers.items() if layer.overflows] == ["s", "a", "y"]
    assert layers["s"].overflow_starts_here
    assert not layers["y"].overflow_starts_here
    assert layers["s"].accumulated.reference_max == 90000.0
    assert layers["s"].limit == 65504.0


def test_provenance_survives_the_disk(make_net, tmp_path):
    model = make_net()
    path = tmp_path / "provenance.jsonl"
    anchors.write(model, path)
    read = anchors.read(path)
    assert read == {n: o for n, o in anchors.of_model(model).items() if n != "x"}
    assert anchors.find(make_net(), model, read) == anchors.find(make_net(), model, anchors.of_model(model))


def test_damaged_provenance_names_its_line(tmp_path):
    path = tmp_path / "provenance.jsonl"
    path.write_text('{"value": "a"}\n')
    with pytest.raises(Exception, match="damaged") as error:
        anchors.read(path)
    assert f"{path}:1" in str(error.value)


def test_the_first_of_several_values_is_the_anchor(make_net):
    origins = dict(anchors.of_model(make_net()))
    origins["r"] = origins["c"]
    found = anchors.find(make_net(), make_net(), origins)
    assert [(a.value, a.source) for a in found] == [("c", "c"), ("g", "g"), ("y", "y")]


def test_an_anchor_of_another_shape_is_an_error_with_its_place(make_net, samples):
    ported = make_net()
    origins = anchors.of_model(ported)
    origins["g"] = origins["c"]
    del origins["c"]
    source = make_net()
    comparison = LayerComparison(source, ported, anchors.find(source, ported, origins))
    with pytest.raises(ParityError, match="different shapes") as error:
        comparison.run(samples[0])
    assert "net.py:7" in str(error.value)
