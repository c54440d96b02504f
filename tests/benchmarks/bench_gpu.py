"""What a GPU trains per second: the Trainer from memory and from files, and a tutorial's loop.

From memory, batches lie on the device: images a second, and what share that is of the most there
could be, the rate of a large matrix product of the same precision over the operations of a forward
and a backward pass (counted by torch). From files, loader and cache feed it; what is missing to the
rate from memory is the share of time that the GPU idles. The tutorial's loop trains the padded
U-Net of 31 M parameters in float32, with ``.cuda()`` in the data set and ``.item()`` at each step,
on the same files. Prints tables; ``--out`` writes them as JSON too. Without a GPU it says so;
``--device cpu`` with small numbers shows that it runs.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from bench_loading import TutorialDataset
from bench_step import InMemory, timed, train_epoch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

import lungunet
from lungunet.data.files import write_text

ENCODERS = ("resnet34", "tu-mobilenetv3_small_100", "unet2015")
PRECISIONS = ("fp32", "tf32", "bf16")  # the Trainer's fp32 is tf32 on CUDA


class TutorialOnDevice(TutorialDataset):
    """Moves each sample by itself."""

    def __init__(self, pairs: list[lungunet.Pair], device: torch.device) -> None:
        super().__init__(pairs)
        self.device = device

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = super().__getitem__(index)
        return (image / 1000).to(self.device), mask.to(self.device)


def in_memory(steps: int, batch: int, size: int, device: torch.device) -> InMemory:
    """Return one batch that is on the device already, again and again."""
    image = torch.randn(batch, 1, size, size, device=device)
    mask = (torch.rand(batch, size, size, device=device) > 0.75).long()
    return InMemory([(image.contiguous(memory_format=torch.channels_last), mask)] * steps)


def allow_tf32(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def matrix_rate(precision: str, device: torch.device, side: int) -> float:
    """Return operations a second of a large matrix product."""
    allow_tf32(precision == "tf32")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [timed(lambda: left @ right, device) for _ in range(10)]
    return 2 * side**3 / statistics.median(times[3:])


def operations_per_image(encoder: str, size: int, device: torch.device) -> float:
    """Return the operations of a forward and a backward pass over one image."""
    model = lungunet.build_unet(encoder, seed=0).to(device)
    image = torch.randn(2, 1, size, size, device=device)
    with FlopCounterMode(display=False) as counter:
        model(image).sum().backward()
    return counter.get_total_flops() / 2


def trainer(
    encoder: str, batch: int, folder: str, options: argparse.Namespace, **settings: object
) -> lungunet.Trainer:
    config = lungunet.TrainConfig(
        epochs=1000,
        batch_size=batch,
        lr=1e-4,
        save_every_minutes=0,
        device=options.device,
        **settings,
    )
    return lungunet.Trainer(lungunet.build_unet(encoder, seed=0), config, out=folder)


def from_memory(encoder: str, batch: int, precision: str, compiled: bool, options) -> float:
    """Return images a second."""
    device = torch.device(options.device)
    allow_tf32(precision != "fp32")
    own = "bf16" if precision == "bf16" else "fp32"
    torch.compiler.reset()  # it compiles eight variants of one forward, and the rest runs eagerly
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(encoder, batch, folder, options, precision=own, compile=compiled)
        few = in_memory(4, batch, options.size, device)
        _, once = (timed(lambda: train_epoch(made, few), device) for _ in range(2))
        steps = max(4, round(options.seconds / once * 4))
        batches = in_memory(steps, batch, options.size, device)
        times = [timed(lambda: train_epoch(made, batches), device) for _ in range(options.rounds)]
    return batch * steps / statistics.median(times)


def write_slices(folder: Path, n: int, size: int, n_different: int = 16) -> list[lungunet.Pair]:
    """Write some phantoms, and link to them under other names."""
    images, masks = lungunet.write_phantoms(
        folder, patients=min(n, n_different), slices=1, size=size
    )
    first = lungunet.find_pairs(images, masks)
    for number in range(len(first), n):
        pair = first[number % len(first)]
        for path in (pair.image, pair.mask):
            os.link(path, path.with_stem(f"{path.stem}-{number}"))
    return lungunet.find_pairs(images, masks)


def from_files(
    pairs: list[lungunet.Pair], folder: Path, options, *, encoder: str, size: int, batch: int
) -> dict[str, object]:
    """Return images a second from files and from memory."""
    allow_tf32(True)
    train = lungunet.LungCTDataset(
        pairs, transform=lungunet.train_transform(), size=size, cache=folder / f"cache-{size}"
    )
    out = str(folder / f"{encoder}-{size}")
    made = trainer(encoder, batch, out, options, precision="bf16", workers=options.workers)
    batches = made._batches(train, shuffle=True)
    device = torch.device(options.device)
    memory = in_memory(len(batches), batch, size, device)
    loaded, held = [], []
    for _ in range(options.rounds + 1):
        loaded.append(timed(partial(train_epoch, made, batches), device))
        held.append(timed(partial(train_epoch, made, memory), device))
    return {
        "encoder": encoder,
        "size": size,
        "batch": batch,
        "images_per_second": len(train) / statistics.median(loaded[1:]),
        "idle": 1 - statistics.median(h / s for h, s in zip(held[1:], loaded[1:], strict=True)),
    }


def tutorial(pairs: list[lungunet.Pair], batch: int, options) -> float:
    """Return images a second."""
    device = torch.device(options.device)
    allow_tf32(False)
    torch.backends.cudnn.allow_tf32 = True  # torch's default, which tutorials leave
    model = lungunet.build_unet("unet2015", seed=0).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = nn.CrossEntropyLoss()
    batches = DataLoader(TutorialOnDevice(pairs, device), batch, shuffle=True)

    def epoch() -> None:
        total, right = 0.0, 0.0
        for image, mask in batches:
            logits = model(image)
            loss = loss_of(logits, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += (logits.argmax(1) == mask).float().mean().item()

    times = [timed(epoch, device) for _ in range(options.rounds + 1)]
    return len(pairs) / statistics.median(times[1:])


def print_from_memory(rows: list[dict[str, object]], options: argparse.Namespace) -> None:
    """Measure and print what is not compiled; ``rows`` gets each figure as it comes."""
    device = torch.device(options.device)
    peak = {name: matrix_rate(name, device, options.side) for name in PRECISIONS}
    print(
        "large matrix product: " + ", ".join(f"{n} {r / 1e12:.1f} TFLOP/s" for n, r in peak.items())
    )
    print(f"{'images/s (% of the most)':<30}{'batch':>6}" + "".join(f"{n:>16}" for n in PRECISIONS))
    for encoder in options.encoder:
        work = operations_per_image(encoder, options.size, device)
        for batch in options.batch:
            line = f"{encoder:<30}{batch:>6}"
            for precision in PRECISIONS:
                row = {"encoder": encoder, "batch": batch, "precision": precision}
                try:
                    rate = from_memory(encoder, batch, precision, False, options)
                except (lungunet.ConfigError, torch.OutOfMemoryError):
                    line += f"{'out of memory':>16}"
                    continue
                share = rate * work / peak[precision]
                line += f"{rate:>9.1f} ({share:>4.0%})"
                rows.append({**row, "images_per_second": rate, "share_of_the_most": share})
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", nargs="+", default=list(ENCODERS))
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=0.5, help="for a measurement from memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=768, help="files for the loaders")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: nothing measured")
        return
    table: dict[str, list[dict[str, object]]] = {"memory": [], "files": [], "compiled": []}

    def keep() -> None:  # after each part: what comes last takes longest
        if options.out:
            write_text(options.out, json.dumps(table, indent=2) + "\n")

    print_from_memory(table["memory"], options)
    keep()
    batch = options.batch[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_slices(folder, options.slices, options.size)
        time.sleep(2.1)  # younger files are not kept by the cache
        print(f"\n{'from files, bf16':<30}{'size':>6}{'batch':>6}{'images/s':>10}{'idle':>7}")
        usual = lungunet.RunConfig(data="data")
        recipe = (usual.encoder, usual.size, usual.batch_size)
        for encoder, size, n in [*((e, options.size, batch) for e in options.encoder), recipe]:
            row = from_files(pairs, folder, options, encoder=encoder, size=size, batch=n)
            table["files"].append(row)
            rate, idle = row["images_per_second"], row["idle"]
            print(f"{encoder:<30}{size:>6}{n:>6}{rate:>10.1f}{idle:>7.1%}", flush=True)
        slow = tutorial(pairs[: options.slices // 8], batch, options)
        table["files"].append({"encoder": "unet2015", "tutorial": True, "images_per_second": slow})
        print(f"{'tutorial, unet2015, fp32':<30}{options.size:>6}{batch:>6}{slow:>10.1f}")
    for row in table["files"][:-1]:
        if row["encoder"] == "unet2015":
            print(f"the same network: {row['images_per_second'] / slow:.1f} times as fast")
    keep()
    for encoder in options.encoder if options.compile else ():
        rate = from_memory(encoder, batch, "bf16", True, options)
        table["compiled"].append({"encoder": encoder, "batch": batch, "images_per_second": rate})
        print(f"compiled, bf16: {encoder:<30}{batch:>6}{rate:>9.1f}", flush=True)
        keep()


if __name__ == "__main__":
    main()
