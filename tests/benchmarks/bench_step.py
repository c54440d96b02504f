"""One training step of the Trainer against a bare loop: same model, batch, precision, layout.

Both run in one process, in turns, on data that is in memory already; for the peak of memory each
runs in a process of its own. ``--compile`` adds a compiled Trainer. Prints a table; ``--out``
writes it as JSON too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import peak
import torch

import lungunet
from lungunet.data.files import write_text
from lungunet.data.loader import EpochSampler
from lungunet.models.device import pick_device, pick_precision
from lungunet.training.batches import Batches
from lungunet.training.trainer import _Position


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


class InMemory:
    """Batches that are on the device already, behind what the Trainer asks of a loader."""

    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        size = len(batches[0][1])
        self.batches = batches
        self.sampler = EpochSampler(size * len(batches), batch_size=size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.batches)


def train_epoch(trainer: lungunet.Trainer, batches: InMemory | Batches) -> None:
    """Take a whole epoch, whichever came before; of what is trained on it asks the codec alone."""
    lists = SimpleNamespace(codec=lungunet.LUNG_CODEC)
    trainer._train_epoch(_Position(lists, lists), batches)


class Contest:
    """Both loops over the same batches."""

    def __init__(self, encoder: str, folder: str, options: argparse.Namespace) -> None:
        self.device = pick_device()
        self.dtype = pick_precision("auto", self.device)
        layout = {"device": self.device, "memory_format": torch.channels_last}
        shape = (options.batch, options.size, options.size)
        self.batches = InMemory(
            [
                (
                    torch.randn(shape[0], 1, *shape[1:]).to(**layout),
                    (torch.rand(shape) > 0.75).long().to(self.device),
                )
                for _ in range(options.steps)
            ]
        )
        self.bare = lungunet.build_unet(encoder, seed=0).to(**layout)
        self.trainers = {
            compiled: lungunet.Trainer(
                lungunet.build_unet(encoder, seed=0),
                lungunet.TrainConfig(epochs=1000, lr=1e-4, save_every_minutes=0, compile=compiled),
                out=folder,
            )
            for compiled in ((False, True) if options.compile else (False,))
        }

    def trainer_turn(self, compiled: bool = False) -> float:
        trainer = self.trainers[compiled]
        return timed(lambda: train_epoch(trainer, self.batches), self.device)

    def bare_turn(self) -> float:
        return timed(
            lambda: bare_loop(self.bare, self.batches, self.device, self.dtype, 1e-4), self.device
        )


def measure(encoder: str, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(encoder, folder, options)
        turns = []
        for turn in range(options.rounds + 1):
            times = {c: contest.trainer_turn(c) for c in contest.trainers}
            times["bare"] = contest.bare_turn()
            if turn:  # the first warms up
                turns.append(times)
    ratios = [turn[False] / turn["bare"] for turn in turns]
    row = {
        "trainer_ms_per_step": statistics.median(turn[False] for turn in turns)
        / options.steps
        * 1e3,
        "trainer_over_bare": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "memory_over_bare": peak_mib(encoder, "trainer", options)
        / peak_mib(encoder, "bare", options),
    }
    if options.compile:
        row["compiled_over_eager"] = statistics.median(turn[True] / turn[False] for turn in turns)
    return row


def peak_mib(encoder: str, who: str, options: argparse.Namespace) -> float:
    words = [sys.executable, __file__, "--peak-of", who, "--encoder", encoder]
    words += ["--size", str(options.size), "--batch", str(options.batch)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout)


def print_peak(options: argparse.Namespace) -> None:
    """Print the peak of a process that runs one of both: of the device, on a CPU of all."""
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(options.encoder[0], folder, options)
        if contest.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            contest.trainer_turn() if options.peak_of == "trainer" else contest.bare_turn()
        if contest.device.type == "cuda":
            print(torch.cuda.max_memory_allocated() / 2**20)
        else:
            print(peak.peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--encoder", nargs="+", default=["tu-mobilenetv3_small_100", "resnet18"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak-of", choices=["trainer", "bare"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options)
        return
    table = {}
    for encoder in options.encoder:
        row = table[encoder] = measure(encoder, options)
        if len(table) == 1:
            print(f"{'':<26}" + "".join(f"{name:>22}" for name in row))
        print(f"{encoder:<26}" + "".join(f"{value:>22.3f}" for value in row.values()), flush=True)
    if options.out:
        write_text(options.out, json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
