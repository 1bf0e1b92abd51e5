"""Plans are made from headers alone, of the full DeepSeek-V3 too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from porting import schemas
from porting.checkpoint.conversion import Conversion, convert
from porting.checkpoint.planning import plan
from porting.checkpoint.source import Source

ROOT = Path(__file__).parents[3]
EMBEDDING = "model.embed_tokens.weight"


def test_the_plan_gives_the_sizes_that_are_written(source_folder: Path, tmp_path: Path) -> None:
    for scheme, formats in (("w4a8", ("ascend", "cambricon")), ("w4a16-g128", ("compressed-tensors",))):
        found = plan(Conversion(Source(source_folder), scheme, formats))
        files = convert(Conversion(Source(source_folder), scheme, formats), tmp_path / scheme, threads=1)["files"]
        assert found.disk == sum(facts["size"] for facts in files.values())


def test_the_plan_reads_no_data_and_says_why(source_folder: Path) -> None:
    source = Source(source_folder)
    found = plan(Conversion(source, "w8a8", ("cambricon",)))
    assert source.store.data_bytes_read == 0
    lines = {line.pattern: line for line in found.formats[0].lines}
    kept = lines["model.layers.*.self_attn.kv_b_proj.weight"]
    assert kept.stored == "float"
    assert "absorbed" in kept.reason
    assert lines["model.layers.*.mlp.experts.*.up_proj.weight"].stored == "int8 channel absmax"
    assert found.seconds == (found.nbytes + found.disk) / found.rate
    schemas.validate("conversion_plan", json.loads(json.dumps(found.to_json())))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of DeepSeek-V3 without its data: sparse files."""
    folder = tmp_path_factory.mktemp("full")
    command = [sys.executable, str(ROOT / "benchmarks" / "checkpoints.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_full_deepseek_v3_is_planned_in_little_memory_without_maps(full: Path) -> None:
    code = f"""
import json, os, resource, pathlib
from porting.checkpoint.conversion import Conversion
from porting.checkpoint.planning import plan
from porting.checkpoint.source import Source
source = Source(pathlib.Path({str(full)!r}))
found = plan(Conversion(source, "w8a8", ("ascend",)))
maps = pathlib.Path("/proc/self/maps").read_text()
print(json.dumps([found.tensors, found.float8, found.nbytes, found.disk, source.store.data_bytes_read,
    maps.count(".safetensors"), len(os.listdir("/proc/self/fd")),
    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10]))
"""
    path = os.pathsep.join(str(ROOT / part) for part in ("", "passes", "kernels"))
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    tensors, float8, nbytes, disk, read, maps, descriptors, resident = json.loads(run.stdout)
    # Derived from the published table of tensors, see the totals in benchmarks/checkpoints.py.
    assert (tensors, float8, nbytes) == (91_991, 45_808, 688_574_839_360)
    assert disk / 2**30 == pytest.approx(643.4, abs=0.05)
    assert (read, maps) == (0, 0)
    assert descriptors < 100
    assert resident < 1 << 30
