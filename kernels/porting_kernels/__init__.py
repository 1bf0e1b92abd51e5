"""Floor 1: how an operator computes. Reference kernels in torch, number formats, and wrappers of the native module."""
