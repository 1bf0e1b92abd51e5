"""From a float ONNX file and samples to a statically quantized model: ours against onnxruntime's quantize_static.

python benchmarks/calibration.py [--threads N] [--json FILE] [CASE ...]

A case is NETWORK:METHOD. Both read the same file and the same samples, and end with a quantized model in memory (ours)
or on disk (theirs). Ours includes all passes for ascend-910b; the notes say what calibration alone took. Where the
network has held-out data, both quantized models are run on it, off the clock.
Bar: faster and smaller than onnxruntime.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np

CASES = ("cnn:minmax", "cnn:entropy", "resnet50:minmax", "resnet50:entropy")
CNN = harness.ROOT / "examples" / "cnn"
RESNET_SAMPLES = 8
BATCH = 32


def imports(contender: str) -> None:
    """The libraries of a contender: their memory is not calibration's."""
    import graphs  # noqa: F401

    if contender == "onnxruntime":
        import onnxruntime.quantization  # noqa: F401
    else:
        import porting.frontends.onnx_file
        import porting.pipeline
        import porting.quantization.calibration  # noqa: F401


def prepare(contender: str, case: str, threads: int) -> harness.Run:
    """The thing to time."""
    network, method = case.split(":")
    path = network_path(network)
    if contender == "onnxruntime":
        return lambda: quantize_static(path, network, method, threads)
    return lambda: port(path, network, method, threads)


def network_path(network: str) -> Path:
    import graphs

    return CNN / "model.onnx" if network == "cnn" else graphs.path(network)


def samples(network: str) -> Iterator[dict[str, np.ndarray]]:
    """Digits by BATCH; random images, one at a time, for networks without data."""
    if network == "cnn":
        with np.load(CNN / "calibration.npz") as arrays:
            for images in np.split(arrays["image"], len(arrays["image"]) // BATCH):
                yield {"image": images}
        return
    random = np.random.default_rng(0)
    for _ in range(RESNET_SAMPLES):
        yield {"x": random.standard_normal((1, 3, 224, 224), dtype=np.float32)}


def quantize_static(path: Path, network: str, method: str, threads: int) -> Any:
    """Stock onnxruntime: QDQ format, int8 per channel weights, int8 activations."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    logging.disable(logging.WARNING)  # It warns of each batch normalization's vectors: every turn, hundreds of lines.

    class Reader:
        def __init__(self) -> None:
            self.rows = samples(network)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    folder = tempfile.TemporaryDirectory()
    target = Path(folder.name) / "quantized.onnx"
    quantize(
        path,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy}[method],
    )

    def notes() -> dict[str, str]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
        found = accuracy(network, lambda inputs: session.run(None, inputs)[0])
        folder.cleanup()
        return found

    return notes


def port(path: Path, network: str, method: str, threads: int) -> Any:
    """Our pipeline for ascend-910b up to the quantized model."""
    import torch

    from porting.frontends.onnx_file import read_model
    from porting.pipeline import Pipeline
    from porting.quantization.calibration import calibrate
    from porting.simulation.interpreter import Interpreter
    from porting.target import Target

    torch.set_num_threads(threads)
    pipeline = Pipeline(read_model(path), Target.resolve("ascend-910b", scheme="w8a8-static"))
    batch = len(next(iter(next(samples(network)).values())))
    pipeline.bind({"batch": (batch, batch)})
    pipeline.to_float_surface()
    pipeline.require_legal()
    names = [str(value.name) for value in pipeline.activations()]
    start = time.perf_counter()
    ranges = calibrate(pipeline.model, names, samples(network), method=method, threads=threads)
    seconds = time.perf_counter() - start
    quantized = pipeline.quantize(ranges)
    pipeline.require_legal()

    def notes() -> dict[str, str]:
        interpreter = Interpreter(quantized)
        found = accuracy(network, lambda inputs: next(iter(interpreter.run(inputs).values())).numpy())
        return {"calibration alone": f"{seconds * 1e3:.0f} ms", **found}

    return notes


def accuracy(network: str, run: Any) -> dict[str, str]:
    """Accuracy on the held-out digits; nothing for networks without data."""
    if network != "cnn":
        return {}
    with np.load(CNN / "test.npz") as arrays, np.load(CNN / "labels.npz") as answers:
        count = len(arrays["image"])
        padded = np.concatenate([arrays["image"], arrays["image"][: -count % BATCH]])
        scores = np.concatenate([run({"image": images}) for images in np.split(padded, len(padded) // BATCH)])[:count]
        return {"accuracy": f"{(scores.argmax(1) == answers['labels']).mean():.4f}"}


def main() -> None:
    parser = harness.arguments(__doc__, runs=5)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    results = []
    for case in options.cases:
        contenders = ("onnxruntime", "porting")
        results += harness.race(__file__, case, contenders, runs=options.runs, threads=options.threads)
    print(harness.table(results, baseline="onnxruntime"))
    harness.write(options.json, results, threads=options.threads)


if __name__ == "__main__":
    harness.serve(imports, prepare)
    main()
