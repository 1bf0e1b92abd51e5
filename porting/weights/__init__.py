"""Checkpoint weights, in place: ``store.WeightStore`` opens a folder, ``view.WeightView`` is a tensor of it."""
