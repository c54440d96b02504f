"""Whether this machine and its packages can train: what is there, what would be chosen, one step.

Imports nothing heavy by itself, so that it can still tell what is wrong where torch does not start.
"""

import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, TypeVar

from lungunet._version import PACKAGES, __version__, installed
from lungunet.errors import LungUNetError

T = TypeVar("T")

_OPTIONAL = {
    **{"SimpleITK": "volumes", "pydicom": "volumes"},
    **{"highdicom": "dicom", "dicomweb-client": "pacs"},
    **{"onnx": "onnx", "onnxruntime": "onnx"},
}
_OPENCV = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
_PRETRAINED = ("tu-mobilenetv3_small_100", "resnet34")  # the default, and the one that many know
_ANEW = "Install lungunet into a new environment."
_CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu "
_TORCHVISION = (
    "Mostly torchvision was built for another torch: 'pip install --force-reinstall {index}torch "
    "torchvision' brings two that fit."
)
_ANOTHER_DEVICE = (
    f"If 'lungunet train ... --device cpu' works, it is the GPU or its driver. If not: {_ANEW}"
)
_STEP_PX = 64
_STEP_SLICES = 2
_RIGHT_IOU = 0.8


@dataclass(frozen=True)
class Choice:
    """What lungunet would choose here, and why."""

    value: str
    reason: str


@dataclass(frozen=True)
class Health:
    """What :func:`check_installation` finds; names no user, no host and no folder.

    Parameters
    ----------
    versions : package -> version, None where it is not installed
    missing_extras : package -> the extra that brings it
    choices : device, precision and workers; empty where torch does not start
    threads, cores : that torch computes with, and that this process may use; None where torch does
        not start
    memory_bytes, memory_free_bytes : of the computer, or of the container; None where not known
    disk_free_bytes : where the current folder lies
    weights_cached : encoder -> whether ``weights="imagenet"`` needs no network
    builtin_s : of one made-up slice through the built-in model, after a first one; None where it
        fails
    step_s : of one small training step, after a first one; None where it fails
    problems : what is broken, each with its advice
    """

    versions: dict[str, str | None]
    missing_extras: dict[str, str]
    choices: dict[str, Choice]
    threads: int | None
    cores: int | None
    memory_bytes: int | None
    memory_free_bytes: int | None
    disk_free_bytes: int
    weights_cached: dict[str, bool]
    builtin_s: float | None
    step_s: float | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "problems": list(self.problems)}


def check_installation() -> Health:
    """Look at packages, machine and cache without network; segment a slice, train a small step."""
    problems = _package_problems()

    def attempt(work: Callable[[], T], what: str, advice: str) -> T | None:
        try:
            return work()
        except Exception as err:  # any package may fail in any way: that is what is looked for
            said = _in_short(_first_cause(err))
            if not any(_explains(problem, said) for problem in problems):
                problems.append(f"{what}: {said}. {advice}")
            return None

    choices, threads, cores = attempt(_choose, "torch does not start", _ANEW) or ({}, None, None)
    cached = builtin_s = step_s = None
    if choices:
        torchvision = _TORCHVISION.format(index=_index())
        cached = attempt(_weights_cached, "the encoders do not load", torchvision)
        builtin_s = attempt(_time_builtin, "the built-in model fails", _ANOTHER_DEVICE)
        step_s = attempt(_time_step, "one training step fails", _ANOTHER_DEVICE)
    total, free = _memory()
    return Health(
        versions={
            "python": platform.python_version(),
            "lungunet": __version__,
            **{name: installed(name) for name in (*PACKAGES, "typer", *_OPTIONAL)},
        },
        missing_extras={name: extra for name, extra in _OPTIONAL.items() if not installed(name)},
        choices=choices,
        threads=threads,
        cores=cores,
        memory_bytes=total,
        memory_free_bytes=free,
        disk_free_bytes=shutil.disk_usage(".").free,
        weights_cached=cached or {},
        builtin_s=builtin_s,
        step_s=step_s,
        problems=tuple(problems),
    )


def _explains(problem: str, said: str) -> bool:
    """Return whether an error follows from a problem that is counted already."""
    unfit = ", torchvision needs " in problem and "torchvision" in said
    return unfit or f": {said}. " in problem


def _package_problems() -> list[str]:
    problems = [*_unmet("lungunet"), *_unmet("torchvision", only="torch")]
    builds = [name for name in _OPENCV if installed(name)]
    if len(builds) > 1:
        problems.append(
            f"{' and '.join(builds)} are installed together and overwrite each other. Run "
            f"'pip uninstall -y {' '.join(builds)}', then 'pip install opencv-python-headless'."
        )
    if installed("albumentationsx"):
        problems.append(
            "albumentationsx stands in the place of albumentations. Run 'pip uninstall -y "
            "albumentationsx', then 'pip install --force-reinstall \"albumentations>=2.0.8,<2.1\"'."
        )
    return problems


def _unmet(package: str, only: str = "") -> list[str]:
    """List what ``package`` needs and does not find, extras left out."""
    try:
        needed = requires(package) or []
    except PackageNotFoundError:
        return []
    problems = []
    for line in needed:
        name = re.match(r"[\w.-]+", line)
        if not name or ";" in line or (only and name[0] != only):
            continue
        have = installed(name[0])
        bounds = re.findall(r"(>=|<=|==|<|>)\s*([\d.]+)", line)
        if have is None or not all(_satisfies(have, *bound) for bound in bounds):
            wanted = ",".join("".join(bound) for bound in bounds)
            index = _index() if name[0] in ("torch", "torchvision") else ""
            problems.append(
                f"{name[0]} is {have or 'missing'}, {package} needs {wanted or 'it'}. "
                f"Run 'pip install {index}\"{name[0]}{wanted}\"'."
            )
    return problems


def _index() -> str:
    """Return where a torch for CPUs comes from, where one is here: elsewhere CUDA comes with it."""
    return _CPU_INDEX if (installed("torch") or "").endswith("+cpu") else ""


def _satisfies(version: str, sign: str, bound: str) -> bool:
    numbers, limit = _numbers(version), _numbers(bound)
    width = max(len(numbers), len(limit))
    have, want = (part + (0,) * (width - len(part)) for part in (numbers, limit))
    held = {">=": have >= want, "<=": have <= want, "==": have == want}
    return {**held, "<": have < want, ">": have > want}[sign]


def _numbers(text: str) -> tuple[int, ...]:
    """Take the release out of a version: 2.6.0+cu124 is (2, 6, 0)."""
    release = re.match(r"[\d.]*\d|", text)
    return tuple(int(part) for part in release[0].split(".") if part) if release else ()


def _choose() -> tuple[dict[str, Choice], int, int]:
    """Return what would be chosen, and how many threads and cores there are."""
    import torch

    from lungunet.models.cores import count_cores
    from lungunet.models.device import pick_device, pick_precision, pick_workers

    device = pick_device("auto")
    dtype = pick_precision("auto", device)
    workers = pick_workers(-1, device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        seen = f"{name}, {free / 2**30:.1f} GiB free of {total / 2**30:.1f}"
    else:
        seen = "no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    fast = "a GPU that multiplies bf16 fast" if device.type == "cuda" else "a CPU with AMX"
    slow = "an older GPU" if device.type == "cuda" else "a CPU without AMX gains nothing from bf16"
    choices = {
        "device": Choice(str(device), seen),
        "precision": Choice(
            {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype],
            fast if dtype == torch.bfloat16 else slow,
        ),
        "workers": Choice(
            str(workers),
            "one for each core, 14 at most" if workers else "training takes every core",
        ),
    }
    return choices, torch.get_num_threads(), count_cores()


def _weights_cached() -> dict[str, bool]:
    from lungunet.models.encoders import is_cached

    return {encoder: is_cached(encoder) for encoder in _PRETRAINED}


def _time_builtin() -> float:
    """Segment a phantom twice with the built-in model; return the seconds of the second time."""
    from lungunet.inference.predictor import Predictor
    from lungunet.phantom.phantom import phantom_slice

    predictor, made, start = Predictor.load("lungs"), phantom_slice(0, 0.5), 0.0
    truth = pred = made.mask > 0
    for _ in range(2):
        start = time.perf_counter()
        pred = predictor(made.image) > 0
    spent = time.perf_counter() - start
    iou = float((truth & pred).sum() / (truth | pred).sum())
    if not iou > _RIGHT_IOU:
        raise ArithmeticError(f"lung IoU {iou:.2f} on a made-up slice")
    return spent


def _time_step() -> float:
    """Train the default model for two steps on noise; return the seconds of the second."""
    import torch

    from lungunet.data.transforms import train_transform
    from lungunet.models.device import pick_device, pick_precision
    from lungunet.models.losses import CrossEntropyDiceLoss
    from lungunet.models.unet import build_unet

    device = pick_device("auto")
    dtype = pick_precision("auto", device)
    train_transform()  # nothing augments where this fails
    model = build_unet(_PRETRAINED[0], seed=0).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(_STEP_SLICES, 1, _STEP_PX, _STEP_PX, generator=noise).to(device)
    mask = (image[:, 0] > 0).long()
    start = 0.0
    for _ in range(2):  # the first one sets up kernels and memory
        start = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(image)
        loss = CrossEntropyDiceLoss()(logits, mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(loss):  # also waits for the device
            raise ArithmeticError(f"the loss is {loss.item()}")
    return time.perf_counter() - start


def _memory() -> tuple[int | None, int | None]:
    """Return memory and what is free of it, of the container where that has a limit."""
    kib = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE))
    if not {"MemTotal", "MemAvailable"} <= set(kib):
        return None, None  # not Linux
    total, free = int(kib["MemTotal"]) * 1024, int(kib["MemAvailable"]) * 1024
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        total, free = min(total, int(limit)), min(free, int(limit) - int(used))
    return total, free


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _first_cause(err: BaseException) -> BaseException:
    """Return what a package said, of which an error of ours would send the user to us."""
    while isinstance(err, LungUNetError) and err.__cause__ is not None:
        err = err.__cause__
    return err


def _in_short(err: BaseException) -> str:
    """Say what went wrong in a line without folders, which may hold a user's name."""
    line = (str(err).splitlines() or [""])[0][:200]
    line = re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\"]+[\\/])+", "", line)
    return f"{type(err).__name__}: {line}".rstrip(": .")
