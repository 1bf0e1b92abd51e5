"""Train SortingEncoder on random token lists and write everything that lies in this folder.

Run from the repository root: python -m examples.encoder.train   (some minutes on one core; same seed, same files)
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from examples.encoder.model import LENGTH, PAD, VOCABULARY, SortingEncoder

HERE = Path(__file__).resolve().parent
STEPS = 3000
BATCH = 128
WARM_UP = 200
LEARNING_RATE = 3e-3
SHORTEST = 4
TEST_ROWS = 1000
CALIBRATION_ROWS = 128
NOT_SCORED = -100


def lists(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, both int64 [rows, 16]: 4 to 16 random tokens, padded; labels are NOT_SCORED at the padding."""
    tokens = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator)
    lengths = torch.randint(SHORTEST, LENGTH + 1, (rows, 1), generator=generator)
    padding = torch.arange(LENGTH) >= lengths
    ordered = tokens.masked_fill(padding, VOCABULARY).sort(dim=1).values
    return tokens.masked_fill(padding, PAD), ordered.masked_fill(padding, NOT_SCORED)


def learning_rate(step: int) -> float:
    """Linear warm-up, then half a cosine to zero, as a factor."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP)))


def train(generator: torch.Generator) -> SortingEncoder:
    torch.manual_seed(0)
    model = SortingEncoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    for step in range(STEPS):
        ids, labels = lists(BATCH, generator)
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), ignore_index=NOT_SCORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    held_out, labels = lists(TEST_ROWS, torch.Generator().manual_seed(1))
    calibration, _ = lists(CALIBRATION_ROWS, torch.Generator().manual_seed(2))
    model = train(torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = (model(held_out).argmax(2) == labels) | (labels == NOT_SCORED)
    scored = labels != NOT_SCORED
    print(f"held-out tokens right {right[scored].float().mean():.4f}, whole lists {right.all(1).float().mean():.4f}")
    save_file(model.state_dict(), HERE / "weights.safetensors")
    np.savez_compressed(HERE / "calibration.npz", ids=calibration.numpy())
    np.savez_compressed(HERE / "test.npz", ids=held_out.numpy())
    np.savez_compressed(HERE / "labels.npz", labels=labels.numpy())


if __name__ == "__main__":
    main()
