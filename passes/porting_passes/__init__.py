"""Floor 2: graph -> graph over onnx_ir. One pass a file; a chip arrives only as a value."""
