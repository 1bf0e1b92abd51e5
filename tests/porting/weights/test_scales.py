"""Scales are found by name, held to their shape, and looked at instead of believed."""

import math

import pytest
import torch

from porting.errors import InvalidModelError
from porting.weights.scales import find_scale, scale_report, scale_summary
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

F8 = torch.float8_e4m3fn


@pytest.fixture
def store_of(checkpoint):
    return lambda tensors, config=None: WeightStore(checkpoint({"model.safetensors": tensors}, config))


@pytest.mark.parametrize(
    "weight, scale",
    [
        ("l.weight", "l.weight_scale_inv"),
        ("l.weight", "l.weight_scale"),
        ("l.weight", "l.scale"),
        ("experts.gate_up_proj", "experts.gate_up_proj_scale_inv"),
    ],
)
def test_names_of_scales(store_of, weight, scale):
    store = store_of({weight: torch.zeros(3, 3, dtype=F8), scale: torch.ones(1, 1)})
    assert find_scale(store.entries, weight).name == scale
    assert WeightView.of(store, weight, torch.float32).entries == (store.entry(weight), store.entry(scale))


def test_a_weight_that_is_no_float8_takes_no_scale_by_itself(store_of):
    store = store_of({"l.weight": torch.ones(3, 3), "l.scale": torch.ones(7)})
    assert WeightView.of(store, "l.weight", torch.float32).tensor().tolist() == [[1] * 3] * 3


def test_missing_scale(store_of):
    with pytest.raises(InvalidModelError) as caught:
        WeightView.of(store_of({"l.weight": torch.zeros(3, 3, dtype=F8)}), "l.weight", torch.float32)
    assert "no scale for the 8-bit weight l.weight" in str(caught.value)
    assert "l.weight_scale_inv" in str(caught.value.required)


@pytest.mark.parametrize("shape", [(5, 5), (56, 5), (5,), (5, 56, 1), ()])
def test_scale_of_a_wrong_shape(store_of, shape):
    store = store_of({"l.weight": torch.zeros(576, 7168, dtype=F8), "l.weight_scale_inv": torch.ones(shape)})
    with pytest.raises(InvalidModelError) as caught:
        WeightView.of(store, "l.weight", torch.float32)
    assert "[5, 56]" in caught.value.required
    assert caught.value.met == list(shape)
    assert "l.weight_scale_inv" in str(caught.value.where)


def test_scale_of_a_weight_that_has_none(store_of):
    store = store_of({"l.weight": torch.zeros(3, 3), "l.weight_scale": torch.ones(1, 1)})
    with pytest.raises(InvalidModelError, match="takes no scale"):
        WeightView.of(store, "l.weight", torch.float32, scale="l.weight_scale")


def test_scale_of_a_wrong_dtype(store_of):
    store = store_of({"l.weight": torch.zeros(3, 3, dtype=F8), "l.scale": torch.ones(1, 1, dtype=torch.int32)})
    with pytest.raises(InvalidModelError, match="F32, F16, BF16, F8_E8M0"):
        WeightView.of(store, "l.weight", torch.float32)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scale_that_is_no_number_is_an_error_when_it_is_needed(store_of, bad):
    scales = torch.ones(3, 2)
    scales[2, 1] = bad
    view = WeightView.of(
        store_of({"l.weight": torch.zeros(300, 200, dtype=F8), "l.weight_scale_inv": scales}),
        "l.weight",
        torch.float32,
    )
    view.read(0, 256)
    with pytest.raises(InvalidModelError) as caught:
        view.read(255, 257)
    assert "l.weight_scale_inv" in str(caught.value)
    assert f"{bad} at (2, 1)" in caught.value.met


def test_e8m0_scale_that_is_no_number(store_of):
    scales = torch.tensor([[255]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    view = WeightView.of(
        store_of({"l.weight": torch.zeros(3, 3, dtype=F8), "l.scale": scales}), "l.weight", torch.float32
    )
    with pytest.raises(InvalidModelError, match=r"scales l\.scale"):
        view.tensor()


def test_report_looks_at_scales_whatever_the_config_says(store_of):
    powers = torch.tensor([[2.0**-12, 2.0**-127], [1.0, 2.0**40]])
    # DeepSeek-V3.1 says ue8m0 and has this mantissa in every o_proj.
    o_proj = powers.clamp(min=2.0**-20) * 1.3228756
    odd = torch.tensor([[math.nan, math.inf], [-1.0, 0.0]])
    e8m0 = torch.tensor([[0, 130], [200, 255]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    scales = {"q_proj": powers, "o_proj": o_proj, "odd": odd}
    tensors = {f"{name}.weight_scale_inv": value for name, value in scales.items()} | {"v4.scale": e8m0}
    tensors |= {f"{name}.weight": torch.zeros(200, 200, dtype=F8) for name in (*scales, "v4")}
    tensors["other.weight_scale_inv"] = torch.ones(2)
    store = store_of(tensors, {"quantization_config": {"scale_fmt": "ue8m0"}})
    found = {finding.name: finding for finding in scale_report(store)}
    assert set(found) == {"q_proj.weight_scale_inv", "o_proj.weight_scale_inv", "odd.weight_scale_inv", "v4.scale"}
    q = found["q_proj.weight_scale_inv"]
    assert (q.powers_of_two, q.usable, q.dtype, q.shape) == (True, True, "F32", (2, 2))
    assert not found["o_proj.weight_scale_inv"].powers_of_two
    assert found["o_proj.weight_scale_inv"].usable
    bad = found["odd.weight_scale_inv"]
    assert (bad.nan, bad.infinite, bad.negative, bad.zero, bad.usable) == (1, 1, 1, 1, False)
    assert not bad.powers_of_two
    assert (found["v4.scale"].nan, found["v4.scale"].zero) == (1, 0)
    assert store.data_bytes_read == 3 * 16 + 4


def test_nan_among_weights_is_counted_as_it_is_read(store_of):
    codes = torch.zeros(4, 4, dtype=torch.uint8)
    codes[1, 2], codes[3, 0] = 0x7F, 0xFF
    store = store_of({"l.weight": codes.view(F8), "l.scale": torch.ones(1, 1)})
    view = WeightView.of(store, "l.weight", torch.bfloat16)
    assert view.read(0, 1).isnan().sum() == 0
    assert store.nan_codes == {}
    assert view.read(1, 4).isnan().sum() == 2
    assert store.nan_codes == {"l.weight": 2}


def test_the_summary_groups_layers_and_names_what_is_not_usable(store_of):
    scales = {f"layers.{i}.{name}": value for i in range(3) for name, value in (("q", 0.25), ("o", 1.3228756))}
    scales["layers.2.q"] = -0.25
    tensors = {f"{name}.weight_scale_inv": torch.full((2, 2), value) for name, value in scales.items()}
    tensors |= {f"{name}.weight": torch.zeros(200, 200, dtype=F8) for name in scales}
    assert scale_summary(store_of(tensors)) == {
        "tensors": 6,
        "powers_of_two": 2,
        "others": {"layers.*.o.weight_scale_inv": 3, "layers.*.q.weight_scale_inv": 1},
        "not_usable": ["layers.2.q.weight_scale_inv"],
    }
