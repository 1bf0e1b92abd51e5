"""One port on one device: named arrays in, named arrays out, and where each node ran."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from porting.errors import RunnerError
from porting.port_folder import PortFolder
from porting.runner.vendor_calls import VendorCalls
from porting.simulation.interpreter import Interpreter
from porting.simulation.plan import ExecutionError
from porting_kernels import dtypes

SCHEMA_VERSION = 1
STAND_IN = "cpu-standin"


class DeviceRun:
    """A port bound to a device. device: torch's name of it (``npu:0``), or ``cpu-standin``.

    ``cpu-standin`` runs on CPU and takes only modules that say that they stand in for the vendor's (``STAND_IN``).
    Raises RunnerError where a module or the device is missing, or the surface is none of Python calls.
    """

    def __init__(self, port: PortFolder, device: str) -> None:
        if port.surface.kind != "python":
            raise RunnerError(
                f"surface {port.surface.name} is not one of Python calls",
                met=port.surface.kind,
                fix=f"its consumer is: {port.surface.consumer or 'none known'}",
            )
        model = port.executable
        calls = VendorCalls(port.surface.operator_set)
        self._modules = calls.modules(model)
        self._stand_in = any(getattr(module, "STAND_IN", False) for module in self._modules.values())
        if device == STAND_IN and not self._stand_in:
            raise RunnerError(
                f"device {STAND_IN} wants modules that stand in for the vendor's",
                required="a module with STAND_IN = True",
                met=", ".join(self._modules),
            )
        self._device = _device("cpu" if device == STAND_IN else device)
        self._name = device
        with self._place():
            self._interpreter = Interpreter(model, bind=calls.bind, device=self._device)
        self._calls = calls
        self._model = model
        self._seen: dict[str, str] = {}

    def __call__(self, sample: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for one batch of inputs. RunnerError where a call fails."""

        def note(value: ir.Value, tensor: torch.Tensor) -> None:
            self._seen[value.name or ""] = str(tensor.device)

        with self._place():
            try:
                results = self._interpreter.run(sample, tap=note)
            except ExecutionError as error:
                raise RunnerError(f"the run failed: {error}") from error
        return {name: dtypes.to_numpy(tensor.cpu()) for name, tensor in results.items()}

    def placement(self) -> dict[str, Any]:
        """Where each node ran, as ``placement.json`` says it: the vendor's function or torch, and on which device.

        A device is that of a node's first result, as it was met; null before anything has run.
        """
        nodes = [
            {
                "name": node.name,
                "operator": f"{node.domain}.{node.op_type}".lstrip("."),
                "runs": self._calls.made.get(node.name or "", "torch"),
                "device": self._seen.get(node.outputs[0].name or ""),
            }
            for node in self._model.graph.all_nodes()
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "device": self._name,
            "stand_in": self._stand_in,
            "modules": {name: str(getattr(m, "__version__", "unknown")) for name, m in self._modules.items()},
            "calls": dict(sorted(Counter(str(node["runs"]) for node in nodes).items())),
            "nodes": nodes,
        }

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Tensors that plain operators make, such as ranges, are made on the device."""
        with torch.device(self._device):
            yield


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RunnerError(f"device {name!r} cannot be used", met=str(error).splitlines()[0]) from error
    return device
