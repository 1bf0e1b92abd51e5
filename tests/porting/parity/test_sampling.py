from __future__ import annotations

import threading

import onnx_ir as ir
import pytest
import torch

from porting.errors import InvalidInputError
from porting.parity.sampling import fit, in_order, saturated


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_samples(threads):
    first_may_end = threading.Event()

    def work(sample):
        if threads > 1 and sample["i"] == 0:
            first_may_end.wait(10)
        if sample["i"] == 1:
            first_may_end.set()
        return sample["i"]

    assert list(in_order(work, ({"i": i} for i in range(7)), threads)) == list(range(7))


def test_at_most_as_many_samples_as_threads_are_alive():
    read = []

    def stream():
        for i in range(8):
            read.append(i)
            yield {"i": i}

    for done, result in enumerate(in_order(lambda sample: sample["i"], stream(), 2)):
        assert result == done
        assert len(read) <= done + 1 + 2


def test_every_worker_computes_with_one_torch_thread():
    assert set(in_order(lambda _: torch.get_num_threads(), [{}] * 4, 2)) == {1}


def test_an_error_in_a_sample_comes_out():
    def fail(sample):
        raise ZeroDivisionError(sample["i"])

    with pytest.raises(ZeroDivisionError, match="0"):
        list(in_order(fail, [{"i": 0}, {"i": 1}], 2))


def test_no_threads_is_an_error():
    with pytest.raises(InvalidInputError):
        list(in_order(len, [{}], 0))


def test_fit_casts_to_the_dtypes_of_the_model():
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["" : 17]> f (float16[2] x) => (float16[2] y) {y=Neg(x)}')
    assert fit(model, {"x": torch.ones(2), "more": torch.ones(1)})["x"].dtype == torch.float16


def test_saturation_keeps_infinities_and_clips_the_rest():
    x = torch.tensor([1e6, -1e6, float("inf"), 1.0])
    assert saturated(x, torch.float16).tolist() == [65504.0, -65504.0, float("inf"), 1.0]
    assert saturated(torch.tensor([3]), torch.float32).dtype == torch.float32
