"""A small DeepSeek-V3 on disk, its weights as float32, and what runs a conversion of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fp8_checkpoint
import pytest
import torch

from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.source import Source

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("v3") / "source"
    return folder, fp8_checkpoint.write(folder)


@pytest.fixture(scope="session")
def source_folder(weights: tuple[Path, dict[str, torch.Tensor]]) -> Path:
    return weights[0]


@pytest.fixture(scope="session")
def values(weights: tuple[Path, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return weights[1]


@pytest.fixture
def converted(source_folder: Path, tmp_path: Path) -> Convert:
    """converted(scheme, format, ...) -> the folder."""

    def run(scheme: str, *formats: str, threads: int = 2, folder: Path | None = None, **options: Any) -> Path:
        conversion = Conversion(
            Source(folder or source_folder),
            scheme,
            formats,
            options.pop("scheme_map", None),
            options.pop("whole", False),
        )
        convert(conversion, tmp_path / "out", threads=threads, **options)
        return tmp_path / "out"

    return run
