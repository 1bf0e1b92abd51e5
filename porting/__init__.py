"""Port PyTorch and ONNX models to domestic inference accelerators, quantized, with proof of parity.

Importing this package is cheap: torch, onnx and onnxruntime load with the part that needs them.
"""

from __future__ import annotations

__version__ = "0.1.0"
