"""Everything that a GPU is needed for, in one go: tests, trainings, predictions, the tables.

    python tests/campaigns/gpu.py --out build/gpu

At most ten minutes on one GPU with 16 cores; nothing of the network. Each part is a process of
its own with a limit, so that none takes the others along; ``gpu.json`` holds what all of them
found, ``gpu.log`` what they printed. ``--device cpu --small`` tries the whole of it without a GPU.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMITS = {  # seconds; the sum is what a whole run may take
    "facts": 20,
    "tests": 150,
    "trainings": 90,
    "two_ranks": 40,
    "predictions": 60,
    "step": 70,
    "tables": 170,
}
Facts = dict[str, Any]


def facts(options: argparse.Namespace) -> Facts:
    """Name card, driver and versions."""
    import torch

    import lungunet
    from lungunet.models.cores import count_cores

    found: Facts = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lungunet": lungunet.__version__,
        "cores": count_cores(),
    }
    if options.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "gib": round(card.total_memory / 2**30, 1)}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def tests(options: argparse.Namespace) -> Facts:
    """Run those marked gpu."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text()]
    words = [sys.executable, "-m", "pytest", *map(str, files), "-m", "gpu"]
    words += ["--device", options.device]
    words += ["-v", "--tb=short", "--durations=15", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    words += ["-n", "2" if options.small else "14"]
    if options.small:
        words += ["-k", "learns or masks or scan or resumed"]
    counts: Facts = {"passed": 0, "failed": 0, "skipped": 0, "error": 0}
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():  # as they come: a limit takes none of what was seen
            print(line, end="", flush=True)
            if (
                verdict := re.match(r"\[gw\d+\].* (PASSED|FAILED|SKIPPED|ERROR)", line)
            ) is not None:
                counts[verdict[1].lower()] += 1
                keep(counts, options)
    return {**counts, "exit": process.returncode}


def keep(found: Facts, options: argparse.Namespace) -> None:
    """Keep what a part has found so far."""
    (options.out / "part.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def trainings(options: argparse.Namespace) -> Facts:
    """Train three epochs in each precision, stopped in the middle of the second and resumed."""
    found: Facts = {}
    with tempfile.TemporaryDirectory() as name:
        pairs = write_slices(Path(name), 24 if options.small else 200, 64 if options.small else 256)
        precisions = ("fp32", "bf16", "fp16") if options.device == "cuda" else ("fp32", "bf16")
        for precision in precisions:
            found[precision] = train(pairs, Path(name) / precision, options, precision=precision)
            keep(found, options)
        found["no_graphs"] = train(
            pairs, Path(name) / "no-graphs", options, precision="bf16", cuda_graphs=False
        )
        keep(found, options)
        found["compiled"] = train(
            pairs, Path(name) / "compiled", options, precision="bf16", compile=True
        )
    return found


def train(pairs: list[Any], out: Path, options: argparse.Namespace, **settings: Any) -> Facts:
    import torch

    import lungunet

    n_val = len(pairs) // 5
    data = lungunet.LungCTDataset(pairs[n_val:], transform=lungunet.train_transform(), size=128)
    val = lungunet.LungCTDataset(pairs[:n_val], contract=data.contract)
    config = lungunet.TrainConfig(epochs=3, batch_size=8, device=options.device, **settings)
    steps = len(data) // 8 + n_val // 8
    asked = iter(range(10**6))
    start = time.perf_counter()
    first = lungunet.Trainer(
        lungunet.build_unet(seed=0), config, out=out, should_stop=lambda: next(asked) > 1.3 * steps
    )
    before = len(first.fit(data, val))
    second = lungunet.Trainer(lungunet.build_unet(seed=0), config, out=out)
    history = second.fit(data, val, resume=True)
    found: Facts = {
        "stopped_after_epochs": before,
        "seconds": time.perf_counter() - start,
        "val_iou": [result.val.iou for result in history],
        "train_loss": [result.train.loss for result in history],
        "images_per_second": history[-1].train.images_per_second,
    }
    if options.device == "cuda":
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    print(out.name, found, flush=True)
    return found


def two_ranks(options: argparse.Namespace) -> Facts:
    """Train with two processes on one device, over gloo, and compare with one.

    NCCL refuses two ranks on one GPU. Each process believes to be alone on a machine of its own.
    """
    found: Facts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slices(folder, 24, 64)
        for count in (1, 2):
            start = time.perf_counter()
            children = [
                subprocess.Popen(
                    [
                        sys.executable,
                        __file__,
                        "--rank-of",
                        str(folder),
                        "--device",
                        options.device,
                    ],
                    env=os.environ | rank_environment(rank, count),
                )
                for rank in range(count)
            ]
            codes = [child.wait() for child in children]
            assert codes == [0] * count, codes
            found[f"{count}"] = json.loads((folder / f"{count}.json").read_text())
            found[f"{count}"]["seconds"] = time.perf_counter() - start
    one, two = (found[each]["train_loss"] for each in ("1", "2"))
    found["largest_difference"] = max(abs(a / b - 1) for a, b in zip(one, two, strict=True))
    print(found)
    return found


def rank_environment(rank: int, count: int) -> dict[str, str]:
    if count == 1:
        return {}
    return {
        **{"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731", "TORCHELASTIC_RUN_ID": "gpu"},
    }


def be_rank(folder: Path, options: argparse.Namespace) -> None:
    import torch.distributed as dist

    import lungunet

    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        dist.init_process_group("gloo")
    pairs = lungunet.find_pairs(folder / "images", folder / "masks")
    train = lungunet.LungCTDataset(pairs, size=64)
    config = lungunet.TrainConfig(
        epochs=3, batch_size=4, device=options.device, precision="fp32", workers=2
    )
    trainer = lungunet.Trainer(
        lungunet.build_unet("resnet18", seed=0), config, out=folder / f"run{count}"
    )
    history = trainer.fit(train, train)
    if os.environ.get("RANK", "0") == "0":
        losses = [result.train.loss for result in history]
        ious = [result.val.iou for result in history]
        text = json.dumps({"train_loss": losses, "val_iou": ious})
        (folder / f"{count}.json").write_text(text, encoding="utf-8")
    if count > 1:
        dist.barrier()
        dist.destroy_process_group()


def predictions(options: argparse.Namespace) -> Facts:
    """Predict slices from files and a scan in memory, with the built-in model."""
    import numpy as np

    import lungunet
    from lungunet.volumes.grid import Grid
    from lungunet.volumes.volume import Volume

    found: Facts = {}
    size, n = (128, 16) if options.small else (512, 75)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_slices(folder, n, size, patients=1)
        for precision in ("fp32", "bf16"):
            predictor = lungunet.Predictor.load("lungs", device=options.device, precision=precision)
            predictor.segment([lungunet.read_image(pair.image) for pair in pairs[:8]])  # warms up
            for triage in (False, True):
                start = time.perf_counter()
                done = list(
                    lungunet.predict_slices(
                        predictor,
                        folder / "images",
                        folder / f"masks-{precision}-{triage}",
                        write=lungunet.SliceFiles(triage=triage),
                        batch_size=16,
                    )
                )
                title = f"slices_{precision}{'_triage' if triage else ''}"
                found[title] = len(done) / (time.perf_counter() - start)
                keep(found, options)
        array = np.repeat(np.stack([lungunet.read_image(pair.image) for pair in pairs]), 4, axis=0)
        grid = Grid.axial(array.shape, (1.25, 0.7, 0.7))
        scan = Volume(array, Path("scan.nii"), "scan", grid)
        for title, options_of in {"scan_raw": {"refine": False}, "scan": {}}.items():
            start = time.perf_counter()
            lungunet.predict_volume(predictor, scan, **options_of)
            found[f"{title}_seconds"] = time.perf_counter() - start
            keep(found, options)
        found["scan_shape"] = list(array.shape)
        one = [sys.executable, "-m", "lungunet", "predict", "lungs", str(pairs[0].image)]
        start = time.perf_counter()
        subprocess.run([*one, "--out", str(folder / "one")], check=True, cwd=ROOT)
        found["shell_one_slice_seconds"] = time.perf_counter() - start
    print(found)
    return found


def write_slices(folder: Path, n: int, size: int, patients: int = 0) -> list[Any]:
    """Write phantoms, as many at a time as there are cores; one slice of each patient, or all of
    one patient from feet to head."""
    import lungunet

    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    work = partial(write_slice, folder, n, size, patients)
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        list(pool.map(work, range(n)))
    return lungunet.find_pairs(folder / "images", folder / "masks")


def write_slice(folder: Path, n: int, size: int, patients: int, number: int) -> None:
    import lungunet
    from lungunet.phantom.phantom import phantom_slice

    height = 0.05 + 0.9 * (number + 0.5) / n if patients else 0.2 + 0.6 * (number % 10) / 10
    made = phantom_slice(0 if patients else number, height, size=size)
    lungunet.write_image(folder / "images" / f"{number:04d}.tif", made.image)
    lungunet.write_mask(folder / "masks" / f"{number:04d}.png", made.mask)


def step(options: argparse.Namespace) -> Facts:
    """Compare the Trainer with a bare loop, and what both take of memory."""
    small = ["--size", "64", "--rounds", "2", "--encoder", "resnet18"]
    large = ["--size", "512", "--batch", "16", "--steps", "20", "--rounds", "3"]
    return script("bench_step.py", small if options.small else large, options)


def tables(options: argparse.Namespace) -> Facts:
    """Measure images a second, from memory and from files, and the tutorial's loop."""
    small = ["--size", "64", "--batch", "4", "--seconds", "0.05", "--rounds", "1", "--side", "256"]
    small += ["--slices", "16", "--workers", "0", "--encoder", "resnet18", "unet2015"]
    extra = [*small, "--no-compile"] if options.small else []
    return script("bench_gpu.py", ["--device", options.device, *extra], options)


def script(name: str, words: list[str], options: argparse.Namespace) -> Facts:
    out, path = options.out / "script.json", ROOT / "tests" / "benchmarks" / name
    subprocess.run([sys.executable, path, "--out", out, *words], check=True, cwd=ROOT)
    found: Facts = json.loads(out.read_text(encoding="utf-8"))
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Facts]] = {
    part.__name__: part for part in (facts, tests, trainings, two_ranks, predictions, step, tables)
}


def run_part(name: str, words: list[str], log: Path, limit: float) -> Facts:
    """Run one part in a process of its own; return what it found, or how it failed."""
    start, found = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder, log.open("a", encoding="utf-8") as file:
        file.write(f"\n===== {name}\n")
        file.flush()
        process = subprocess.Popen(
            [sys.executable, __file__, "--out", folder, "--part", name, *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"OMP_NUM_THREADS": "4", **os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            code = process.wait()
        for result in (Path(folder) / "script.json", Path(folder) / "part.json"):
            if result.exists():
                found = json.loads(result.read_text(encoding="utf-8"))
    if code:
        found["failed"] = code
    return {**found, "part_seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if options.rank_of:
        be_rank(options.rank_of, options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        keep(PARTS[options.part](options), options)
        return
    words = ["--device", options.device, *(["--small"] if options.small else [])]
    whole: Facts = {}
    for name in options.parts:
        limit = LIMITS[name] * (5 if options.small else 1)  # a GPU's limits are no CPU's
        whole[name] = run_part(name, words, options.out / "gpu.log", limit)
        print(f"{name}: {json.dumps(whole[name])[:1500]}", flush=True)
        (options.out / "gpu.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
