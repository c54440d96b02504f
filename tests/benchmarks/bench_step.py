"""One training step of the Trainer against a bare loop: same model, batch, precision, layout.

Both run in one process, in turns, on data that is in memory already. Prints a table;
``--out`` writes it as JSON too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

import lungunet
from lungunet.data.atomic import write_text
from lungunet.models.device import pick_device, pick_precision


def bare_loop(model, batches, device, dtype, lr: float) -> None:
    loss_of = lungunet.CrossEntropyDiceLoss().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2, fused=True)
    model.train()
    for image, mask in batches:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(image)
        loss_of(logits, mask).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def timed(call, device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(encoder: str, *, size: int, batch: int, steps: int, rounds: int) -> dict[str, float]:
    device = pick_device()
    dtype = pick_precision("auto", device)
    layout = {"device": device, "memory_format": torch.channels_last}
    batches = [
        (
            torch.randn(batch, 1, size, size).to(**layout),
            (torch.rand(batch, size, size) > 0.75).long().to(device),
        )
        for _ in range(steps)
    ]
    bare = lungunet.build_unet(encoder, seed=0).to(**layout)
    config = lungunet.TrainConfig(epochs=1000, lr=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lungunet.Trainer(lungunet.build_unet(encoder, seed=0), config, out=folder)
        ratios, ours = [], []
        for turn in range(rounds + 1):
            mine = timed(lambda: trainer._train_epoch(batches, 1), device)
            theirs = timed(lambda: bare_loop(bare, batches, device, dtype, 1e-4), device)
            if turn:  # the first warms up
                ratios.append(mine / theirs)
                ours.append(mine / steps)
    return {
        "trainer_ms_per_step": statistics.median(ours) * 1e3,
        "trainer_over_bare": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    table = {}
    print(f"{'encoder':<26}{'ms/step':>10}{'ratio':>8}{'lowest':>8}{'highest':>9}")
    for encoder in ("tu-mobilenetv3_small_100", "resnet18"):
        row = measure(encoder, size=256, batch=8, steps=options.steps, rounds=options.rounds)
        table[encoder] = row
        ms, ratio, low, high = row.values()
        print(f"{encoder:<26}{ms:>10.1f}{ratio:>8.3f}{low:>8.3f}{high:>9.3f}")
    if options.out:
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
