"""Stock onnxruntime as a witness: it shares no code with the interpreter. CPU, one thread, graph optimizations off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

NAME = f"onnxruntime {onnxruntime.__version__}, graph optimizations disabled"


class RefusedError(Exception):
    """onnxruntime does not load a model: no implementation of an operator at this type or version, mostly."""


def open_session(model: Path | onnx.ModelProto, folder: Path | None = None) -> onnxruntime.InferenceSession:
    """A session of a model file, or of a model whose external data lies in ``folder``. RefusedError says why not."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own, unexported classes, one a status code
        raise RefusedError(str(error).splitlines()[0]) from error


def run(session: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs by name. May be called from several threads."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
