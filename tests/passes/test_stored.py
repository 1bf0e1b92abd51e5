"""What stays where it is stored, and what of it can be shown in another order."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting.quantization.quantized_weight import quantize_weight
from porting.quantization.weight_spec import WeightSpec
from porting_passes.declared import DeclaredTensor
from porting_passes.join_weights import joinable
from porting_passes.stored import is_stored, is_view


def weight(tensor: ir.TensorProtocol, name: str) -> ir.Value:
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    ir.Graph([], [], nodes=[], initializers=[value])
    return value


def test_codes_are_stored_but_no_view() -> None:
    plain = ir.tensor(np.ones((2, 4), np.float32))
    codes = quantize_weight(plain, WeightSpec(), name="w").codes
    declared = DeclaredTensor(ir.DataType.FLOAT, (2, 4), lambda look_up: look_up("w"))
    assert [is_stored(tensor) for tensor in (plain, codes, declared, None)] == [False, True, True, False]
    assert [is_view(tensor) for tensor in (plain, codes, declared, None)] == [False, False, True, False]


def test_codes_are_not_joined() -> None:
    plain = ir.tensor(np.ones((2, 4), np.float32))
    codes = [weight(quantize_weight(plain, WeightSpec(), name=n).codes, n) for n in "ab"]
    assert not joinable(codes)
    assert joinable([weight(ir.tensor(np.ones((2, 4), np.float32)), n) for n in "cd"])
