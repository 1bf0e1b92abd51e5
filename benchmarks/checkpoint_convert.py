"""Converting a checkpoint of DeepSeek-V3's true shapes, beside copying it.

python benchmarks/checkpoint_convert.py [--folder DIR] [--gib 2] [--shard 1] [--runs 3] [--peer PYTHON] [--json FILE]

Makes a source of --gib GiB in shards of --shard GiB (layers of 256 experts, o_proj [7168, 16384], kv_a_proj of 576
rows; random codes), then times, each in a process of its own, in alternating order, with the source dropped from the
page cache before each run and everything brought to the disk at the end: `cp`; `porting checkpoint convert` to w8a8 for
one format, for three, and with `--sink null`; `dd` that only reads; a plain torch loop. --peer: a Python with
llm-compressor 0.14, whose `model_free_ptq` with its dequantizer of float8 blocks then converts a part of --part GiB in
shards as large.
Takes up to four times --gib on the disk beside the source. Results of a run are removed before the next one. What has
used 120 seconds is not run again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import harness

FORMATS = ("ascend", "cambricon", "compressed-tensors")
LIMIT = 120.0
"""Seconds after which a contender runs no more."""
PEER = """
import sys
from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
from llmcompressor.entrypoints.model_free import model_free_ptq
source, out = sys.argv[1:]
kept = ["lm_head", "re:.*mlp.gate$", "re:.*kv_b_proj$", "re:.*embed_tokens$"]
model_free_ptq(source, out, scheme="W8A8", ignore=kept, max_workers=2, device="cpu",
    converter=FP8BlockDequantizer(targets=["re:.*_proj$", "re:.*_with_mqa$"]))
"""


@dataclasses.dataclass
class Run:
    """One contender. command: what is timed. size: source bytes. seconds: of each run. peak: resident bytes at most."""

    name: str
    command: list[str]
    source: Path
    size: int
    copies: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0


def tensors() -> Iterator[checkpoints.Tensor]:
    """Layers of DeepSeek-V3 without end: one dense, then such with experts."""
    yield "model.embed_tokens.weight", "BF16", (16384, checkpoints.HIDDEN)
    for number in itertools.count(checkpoints.DENSE):
        yield from checkpoints._layer(f"model.layers.{number}", dense=False, indexer=False)


def make_source(folder: Path, total: int, shard: int) -> int:
    """Write a source of about ``total`` bytes; returns its true size."""
    import torch

    torch.manual_seed(0)
    codes = torch.randn(1 << 24).mul(60).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy().tobytes()
    floats = torch.randn(1 << 23).mul(0.02).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    chosen: list[checkpoints.Tensor] = []
    size = 0
    for tensor in tensors():
        if size >= total and not tensor[0].endswith("_scale_inv"):
            break
        chosen.append(tensor)
        size += checkpoints.size(tensor)
    count = max(1, round(size / shard))
    checkpoints.write(folder, chosen, checkpoints.CONFIG, shards=count)
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, fields in header.items():
                if name == "__metadata__":
                    continue
                begin, end = fields["data_offsets"]
                file.seek(8 + length + begin)
                if fields["dtype"] == "F32":
                    file.write((torch.rand((end - begin) // 4) * 1e-3 + 1e-5).numpy().tobytes())
                    continue
                tile = codes if fields["dtype"] == "F8_E4M3" else floats
                for at in range(begin, end, len(tile)):
                    file.write(memoryview(tile)[: min(len(tile), end - at)])
            file.flush()
            os.fsync(file.fileno())
    return size


def made(folder: Path, gib: float, shard: float) -> int:
    """``make_source`` in a process of its own: the memory of this one would count for those that it starts."""
    command = [sys.executable, __file__, "--make", str(folder), str(int(gib * 2**30)), str(int(shard * 2**30))]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def drop(folder: Path) -> None:
    """Take a folder's files out of the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def torch_loop(source: Path, out: Path) -> None:
    """What is written first by hand: whole shards, dequantized by repeated scales, quantized by rows, saved."""
    import torch
    from safetensors.torch import load_file, save_file

    out.mkdir()
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    for file in sorted(set(index.values())):
        shard = load_file(source / file)
        result = {}
        for name, tensor in shard.items():
            if name.endswith("_scale_inv"):
                continue
            if tensor.dtype != torch.float8_e4m3fn:
                result[name] = tensor
                continue
            scale = shard.get(f"{name}_scale_inv")
            if scale is None:
                scale = load_file(source / index[f"{name}_scale_inv"])[f"{name}_scale_inv"]
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
            weight = tensor.float() * spread[: tensor.shape[0], : tensor.shape[1]]
            step = weight.abs().amax(1, keepdim=True) / 127
            result[name] = (weight / step).round().clamp(-128, 127).to(torch.int8)
            result[f"{name}_scale"] = step
        save_file(result, out / file)
        descriptor = os.open(out / file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def contenders(source: Path, size: int, out: Path, options: Any) -> list[Run]:
    """Everything that is timed."""
    convert = [sys.executable, "-m", "porting", "checkpoint", "convert", str(source), "--scheme", "w8a8"]
    convert += ["--threads", str(options.threads)]
    three = [argument for form in FORMATS for argument in ("--format", form)]
    copy = f"mkdir {out} && cp {source}/* {out}/ && sync {out}/*"
    read = f"for f in {source}/*.safetensors; do dd if=$f of=/dev/null bs=16M iflag=direct; done"
    runs = [
        Run("cp, fsync", ["sh", "-c", copy], source, size),
        Run("porting, one format", [*convert, "--format", "ascend", "-o", str(out)], source, size),
        Run("porting, three formats", [*convert, *three, "-o", str(out)], source, size, 3),
        Run("porting, --sink null", [*convert, "--format", "ascend", "--sink", "null"], source, size),
        Run("dd, reading alone", ["sh", "-c", read], source, size),
        Run("torch loop", [sys.executable, __file__, "--torch-loop", str(source), str(out)], source, size),
    ]
    if options.peer is not None:
        part = source.with_name("part")
        part_size = made(part, options.part, options.part)
        command = [str(options.peer), "-c", PEER, str(part), str(out)]
        runs.append(Run("llm-compressor, no fsync", command, part, part_size))
    return runs


def turn(run: Run, out: Path) -> None:
    """One timed run."""
    shutil.rmtree(out, ignore_errors=True)
    drop(run.source)
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(run.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    run.seconds.append(time.perf_counter() - start)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"benchmark: {run.name} ended with {status}\n{text.decode()[-2000:]}")
    run.peak = max(run.peak, usage.ru_maxrss << 10)
    shutil.rmtree(out, ignore_errors=True)


def table(runs: list[Run]) -> str:
    """Median seconds, seconds a GB, ratio to as many copies, and peak memory."""
    copy = statistics.median(runs[0].seconds)
    lines = [f"{'contender':<26}{'median':>9}{'fastest':>9}{'s per GB':>10}{'of cp':>8}{'peak':>11}"]
    for run in runs:
        median = statistics.median(run.seconds)
        per_gb = median / run.size * 1e9
        ratio = per_gb / (copy / runs[0].size * 1e9) / run.copies
        times = f"{median:>7.1f} s{min(run.seconds):>7.1f} s{per_gb:>10.2f}{ratio:>8.2f}"
        lines.append(f"{run.name:<26}{times}{run.peak / 2**20:>7.0f} MiB")
    return "\n".join(lines)


def main() -> None:
    """Make the source, run everything, print the table."""
    if sys.argv[1:2] == ["--torch-loop"]:
        torch_loop(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--make"]:
        print(make_source(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
        return
    parser = harness.arguments(__doc__, runs=3)
    parser.add_argument("--folder", type=Path, help="where source and results go (default: a temporary folder)")
    parser.add_argument("--gib", type=float, default=2, help="size of the source (default 2)")
    parser.add_argument("--shard", type=float, default=1, help="size of a shard in GiB (default 1; DeepSeek's are 4)")
    parser.add_argument("--peer", type=Path, help="a Python with llm-compressor")
    parser.add_argument("--part", type=float, default=0.9, help="GiB that llm-compressor converts (default 0.9)")
    parser.set_defaults(threads=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        size = made(source, options.gib, options.shard)
        runs = contenders(source, size, out, options)
        for number in range(options.runs):
            for run in runs if number % 2 == 0 else reversed(runs):
                if sum(run.seconds) < LIMIT:
                    turn(run, out)
    print(f"{size / 1e9:.2f} GB, shards of about {options.shard} GiB, {options.threads} threads, {options.runs} runs")
    print(table(runs))
    if options.json is not None:
        facts = [{**dataclasses.asdict(run), "source": str(run.source)} for run in runs]
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
