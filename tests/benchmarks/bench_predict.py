"""Files in, masks out, against the bare forward pass on slices that are in memory already.

Same model, batch and precision, in one process, in turns; phantoms of 512x512 in a temporary
folder. The model learns from phantoms for some seconds first, for masks that look like lungs: noise
takes longer to write and to judge. ``rate`` is by the clock, ``work`` by the processor, over all
threads: bare over ours, so 0.9 means that a tenth goes into files. Then the largest memory of fresh
processes that predict ten times as many files. Prints tables; ``--out`` writes them as JSON too.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peak import peak_mib

import lungunet
from lungunet.data.files import write_text
from lungunet.models.device import pick_device
from lungunet.phantom.phantom import phantom_slice

ENCODER = "tu-mobilenetv3_small_100"
BATCH = 8
SIDE = 512


def write_slices(folder: Path, n: int, n_different: int = 8) -> Path:
    """Write a few phantoms, and link to them under other names."""
    folder.mkdir()
    for number in range(n):
        path = folder / f"{number:05d}.tif"
        if number < n_different:
            image = phantom_slice(number, 0.3 + 0.05 * number, size=SIDE).image
            lungunet.write_image(path, image)
        else:
            os.link(folder / f"{number % n_different:05d}.tif", path)
    return folder


def train_model(folder: Path) -> torch.nn.Module:
    images, masks = lungunet.write_phantoms(folder / "phantoms", patients=24, slices=2, size=128)
    train = lungunet.LungCTDataset(lungunet.find_pairs(images, masks), size=128)
    model = lungunet.build_unet(ENCODER, seed=0)
    config = lungunet.TrainConfig(epochs=8, batch_size=4, device="cpu")
    lungunet.Trainer(model, config, out=folder / "run").fit(train, train)
    return model


def save_model(folder: Path, model: torch.nn.Module, size: int) -> Path:
    contract, codec = lungunet.InputContract(size), lungunet.LUNG_CODEC
    lungunet.save_model(folder, model, contract=contract, codec=codec)
    return folder


def predict(predictor: lungunet.Predictor, files: Path, out: Path, triage: bool) -> None:
    write = lungunet.SliceFiles(triage=triage)
    for _ in lungunet.predict_slices(
        predictor, files, out, write=write, batch_size=BATCH, overwrite=True
    ):
        pass


def bare(predictor: lungunet.Predictor, files: Path) -> Callable[[], None]:
    """Return the forward passes alone, on batches that are in memory."""
    segmenter = predictor.segmenter
    paths = sorted(files.iterdir())
    images = [segmenter.prepare(lungunet.read_image(path)) for path in paths]
    groups = [images[at : at + BATCH] for at in range(0, len(images), BATCH)]
    if not hasattr(segmenter, "model"):
        stacked = [np.stack(group) for group in groups]
        return lambda: [segmenter._file.run(group) for group in stacked]
    layout = {"device": segmenter.device, "memory_format": torch.channels_last}
    tensors = [
        torch.from_numpy(np.stack([p.pixels for p in group])).to(**layout) for group in groups
    ]
    dtype = segmenter.dtype

    @torch.inference_mode()
    def run() -> None:
        for tensor in tensors:
            with torch.autocast(tensor.device.type, dtype, enabled=dtype != torch.float32):
                segmenter.model(tensor).sum().item()

    return run


def seconds(call: Callable[[], None]) -> tuple[float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def compare(
    predictor: lungunet.Predictor, files: Path, out: Path, *, triage: bool, rounds: int
) -> dict[str, float]:
    forward = bare(predictor, files)
    n = len(list(files.iterdir()))
    rates, work, ours = [], [], []
    for turn in range(rounds + 1):
        theirs = seconds(forward)
        mine = seconds(lambda: predict(predictor, files, out, triage))
        if turn:  # the first warms up
            rates.append(theirs[0] / mine[0])
            work.append(theirs[1] / mine[1])
            ours.append(n / mine[0])
    return {
        "slices_per_second": statistics.median(ours),
        "rate": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "work": statistics.median(work),
    }


def peak_after(model: Path, files: Path, out: Path) -> float:
    """Return the largest memory of this process after it has predicted all files."""
    torch.set_num_threads(1)
    predict(lungunet.Predictor.load(model, device="cpu"), files, out, True)
    return peak_mib()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--most", type=int, default=2000, help="files for the memory")
    options = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        trained = train_model(work)
        model = save_model(work / "model", trained, options.size)
        lungunet.export_onnx(model, work / "lung.onnx")
        files = write_slices(work / "slices", options.slices)
        device = pick_device().type
        precisions = ("fp32", "bf16")
        predictors = {
            f"{device} {p}": lungunet.Predictor.load(model, precision=p) for p in precisions
        }
        predictors["onnxruntime"] = lungunet.Predictor.load(work / "lung.onnx")
        columns = ("rate", "lowest", "highest", "work")
        print(f"{'slices of 512x512':<26}{'slices/s':>10}" + "".join(f"{c:>9}" for c in columns))
        for name, predictor in predictors.items():
            for triage in (False, True):
                row = compare(predictor, files, work / "out", triage=triage, rounds=options.rounds)
                title = f"{name}{', triage' if triage else ''}"
                table[title] = row
                speed, *ratios = row.values()
                print(f"{title:<26}{speed:>10.1f}" + "".join(f"{r:>9.3f}" for r in ratios))
        small = save_model(work / "small", trained, 64)
        fresh = multiprocessing.get_context("spawn")
        for n in (options.most // 10, options.most):
            many = write_slices(work / f"many-{n}", n)
            with fresh.Pool(1) as pool:
                memory[n] = pool.apply(peak_after, (small, many, work / f"out-{n}"))
            print(f"{n} files: {memory[n]:.0f} MiB at most")
    if options.out:
        write_text(
            options.out, json.dumps({"against_bare": table, "peak_mib": memory}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
