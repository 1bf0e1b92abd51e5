"""Checkpoint weights, in place: ``WeightStore`` opens a folder, ``WeightView`` is a tensor of the model over it."""

from __future__ import annotations

from porting.weights.row_tensor import RowTensor
from porting.weights.safetensors_file import DataFile, Entry
from porting.weights.scales import ScaleFinding, find_scale, scale_report
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

__all__ = ["DataFile", "Entry", "RowTensor", "ScaleFinding", "WeightStore", "WeightView", "find_scale", "scale_report"]
