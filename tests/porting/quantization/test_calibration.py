import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.errors import InvalidInputError, UsageError
from porting.quantization.calibration import METHODS, calibrate
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance
from porting_passes.quantization_parameters import ActivationRange

BODY = "c = Conv<pads=[1, 1, 1, 1]>(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, m)"
ACTIVATIONS = ["x", "c", "r", "f"]


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)) / 4, "m": rng.standard_normal((256, 5))}
    tensors = [ir.tensor(a.astype(np.float32), name=n) for n, a in weights.items()]
    text = f'<ir_version: 8, opset_import: ["" : 13]> agraph (float[N, 3, 8, 8] x) => (float[N, 5] y) {{ {BODY} }}'
    built = ir.from_onnx_text(text, initializers=tensors)
    for node in built.graph:
        provenance.set_(node.outputs[0], provenance.Provenance(module=f"net.{node.outputs[0].name}"))
    return built


def samples(count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": (rng.standard_normal((2, 3, 8, 8)) * 2.0 ** (i % 5)).astype(np.float32)} for i in range(count)]


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("method", METHODS)
def test_neither_threads_nor_the_order_of_samples_nor_their_grouping_show(method, symmetry):
    data = samples()
    one = calibrate(model(), ACTIVATIONS, data, method=method, symmetry=symmetry)
    assert list(one) == ACTIVATIONS
    assert calibrate(model(), ACTIVATIONS, data, method=method, symmetry=symmetry, threads=2) == one
    shuffled = [data[i] for i in np.random.default_rng(2).permutation(len(data))]
    assert calibrate(model(), ACTIVATIONS, shuffled, method=method, symmetry=symmetry) == one


@pytest.mark.parametrize("method", [m for m in METHODS if m != "minmax"])
def test_without_the_native_loops_the_ranges_are_the_same(method, monkeypatch):
    with_them = calibrate(model(), ACTIVATIONS, samples(4), method=method)
    monkeypatch.setattr("porting_kernels.native._module", None)
    assert calibrate(model(), ACTIVATIONS, samples(4), method=method) == with_them


def test_minmax_is_the_range_of_all_values():
    found = calibrate(model(), ACTIVATIONS, samples())
    values: dict[str, list[torch.Tensor]] = {name: [] for name in ACTIVATIONS}

    def tap(value, tensor):
        values[value.name].append(tensor.reshape(-1).clone())

    torch.set_num_threads(1)
    for sample in samples():
        values["x"].append(torch.from_numpy(sample["x"]).reshape(-1))
        Interpreter(model()).run(sample, tap=tap, wanted=ACTIVATIONS)
    for name, parts in values.items():
        whole = torch.cat(parts)
        assert found[name] == ActivationRange(whole.min().item(), whole.max().item())


def test_memory_does_not_grow_with_the_number_of_samples():
    """Only the samples at work are alive: 300 of them are 115 MB."""
    alive = most = 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def stream(count):
        nonlocal alive, most
        for _ in range(count):
            array = np.ones((500, 3, 8, 8), np.float32).view(Counted)
            alive += 1
            most = max(most, alive)
            yield {"x": array}

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    calibrate(model(), ACTIVATIONS, stream(20), method="entropy", threads=2)
    before = resident()
    calibrate(model(), ACTIVATIONS, stream(300), method="entropy", threads=2)
    assert most <= 6
    assert resident() - before < 40e6


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_a_value_that_is_not_finite_is_named_with_its_place(method):
    bad = samples(2)
    bad[1]["x"][0] = 3e38
    with pytest.raises(InvalidInputError, match=r"activation 'c' is not finite[\s\S]*net\.c, element \[0, "):
        calibrate(model(), ["c"], bad, method=method)


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_samples_without_elements_say_nothing(method):
    nothing = {"x": np.zeros((0, 3, 8, 8), np.float32)}
    data = samples(2)
    assert calibrate(model(), ["c"], [nothing, *data], method=method) == calibrate(model(), ["c"], data, method=method)


def test_no_samples_and_unknown_methods_are_refused():
    with pytest.raises(InvalidInputError, match="no samples"):
        calibrate(model(), ["c"], [])
    with pytest.raises(UsageError, match="minmax, percentile, mse, entropy"):
        calibrate(model(), ["c"], samples(1), method="guess")
