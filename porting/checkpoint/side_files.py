"""What a runtime needs beside weights and config: tokenizer, templates, remote code, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

from porting.checkpoint.shard_file import PARTIAL, sync_folder

PATTERNS = (
    "tokenizer*",
    "*.tiktoken",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "*.py",
    "LICENSE*",
)


def side_files(folder: Path) -> list[Path]:
    """Files of a checkpoint that are copied as they are, sorted."""
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.suffix != ".safetensors")


def copy_side_files(folder: Path, out: Path) -> None:
    """Copy them, each whole or not at all. Links are followed."""
    for path in side_files(folder):
        partial = out / (path.name + PARTIAL)
        shutil.copyfile(path, partial)
        partial.rename(out / path.name)
    sync_folder(out)
