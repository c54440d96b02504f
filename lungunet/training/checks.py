"""What must hold before the first step, and what to say when training goes wrong later."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

import numpy as np
import torch
from torch import nn

from lungunet.data.codec import is_lung
from lungunet.data.ct import read_image
from lungunet.data.dataset import EightBitSamples, LungCTDataset, check_dataset
from lungunet.data.hu import HuSurvey
from lungunet.data.window import Window, shows_hu
from lungunet.errors import ConfigError, DataError, LungUNetError, LungUNetWarning, SplitError
from lungunet.models.torch_errors import explained, first_line, is_of_the_gpu, is_out_of_memory
from lungunet.models.unet import check_fits
from lungunet.training.config import TrainConfig
from lungunet.training.learner import Learner
from lungunet.training.tracking import EpochResult

_STUCK = 5  # epochs without any lung found
_LOOKED_AT = 24  # slices, to know what values a list holds
_ONE_GREY = 0.97  # of the pixels; soft tissue alone fills a tenth of a picture of a chest


def check_same_contract(
    train: LungCTDataset, val: LungCTDataset, *, name_of_val: str = "val"
) -> None:
    """Refuse a val set whose slices or labels are made into tensors otherwise than train's."""
    check_dataset("train", train)
    check_dataset(name_of_val, val)
    for name, ours, theirs in (
        ("input contract", train.contract, val.contract),
        ("label codec", train.codec, val.codec),
    ):
        if ours != theirs:
            raise ConfigError(
                f"{name_of_val} has another {name} ({theirs}) than train ({ours}). "
                "Build it with contract=train.contract, codec=train.codec."
            )


def check_has_lung(name: str, dataset: LungCTDataset) -> None:
    """Refuse a list whose masks are all empty; reads masks up to the first that is not."""
    if not any(is_lung(dataset.read(index)[1]).any() for index in range(len(dataset))):
        raise SplitError(
            f"no lung in any of its {len(dataset)} masks. "
            "Split again so that it gets slices with lung, or look at the label coding.",
            where=name,
        )


def check_samples(name: str, dataset: LungCTDataset) -> None:
    """Refuse samples of a subclass that no network for slices takes."""
    if EightBitSamples.serve(dataset):
        return
    image, mask = (tuple(getattr(part, "shape", ())) for part in dataset[0, 0])
    if len(image) != 3 or image[0] != 1 or mask != image[1:]:
        raise ConfigError(
            f"{type(dataset).__name__} gives an image of {image} and a mask of {mask}, which must "
            "be (1, H, W) and (H, W): a slice has one channel. A network that takes more repeats "
            "it itself, as with image.expand(-1, 3, -1, -1).",
            where=name,
        )


def warn_if_made_otherwise(val: LungCTDataset) -> None:
    """Warn where a subclass shows the network other pictures than its predictions will be of."""
    kind = type(val)
    own = [
        name
        for name in ("__getitem__", "augment", "read")
        if getattr(kind, name).__module__ != LungCTDataset.__module__
    ]
    if not own or val.transform is not None:
        return
    places = sorted({0, len(val) // 2, len(val) - 1})
    pairs = [val.pairs[place] for place in places]
    plain = LungCTDataset(pairs, contract=val.contract, codec=val.codec)
    shown = [np.asarray(val[0, place][0]) for place in places]
    with suppress(LungUNetError):  # of files that the subclass alone can read
        made = [plain[0, index][0].numpy() for index in range(len(pairs))]
        if all(np.array_equal(a, b) for a, b in zip(shown, made, strict=True)):
            return
    warnings.warn(
        f"val: {kind.__name__} makes slices in its own way ({' and '.join(own)}), and Predictor "
        "makes them as LungCTDataset does, so that best/ will see others than it is scored on "
        "here. Write such slices to files and train on those, or prepare in the same way whatever "
        "is predicted.",
        LungUNetWarning,
        stacklevel=2,
    )


def check_values(dataset: LungCTDataset) -> None:
    """Refuse slices that cannot be what the window is for, or of which it leaves one grey.

    Looks at some of the slices, spread over the list.
    """
    window = dataset.contract.window
    if window is None:
        return
    survey, seen = HuSurvey(), np.zeros(256, np.int64)
    places = np.linspace(0, len(dataset) - 1, min(len(dataset), _LOOKED_AT)).astype(int)
    for pair in (dataset.pairs[place] for place in places):
        image = read_image(pair.image)
        survey.look(image, pair.name)
        seen += np.bincount(dataset.contract.to_grey(image, str(pair.image)).ravel(), minlength=256)
    fault = survey.fault if shows_hu(window) else None
    if fault is not None and fault.severity == "error":
        raise DataError(fault.for_training, where="train")
    for shown, count in (("black or white", seen[[0, -1]].sum()), ("of one grey", seen.max())):
        if (share := float(count / seen.sum())) > _ONE_GREY:
            raise ConfigError(
                f"{share:.1%} of the pixels are {shown}: little can be learnt from that. "
                f"{_meant(window)}",
                where=f"window {window.level:g},{window.width:g}",
            )
    if fault is not None:
        warnings.warn(f"train: {fault.for_training}", LungUNetWarning, stacklevel=3)


def _meant(window: Window) -> str:
    """Say what was probably meant by a window that shows nothing."""
    if window.level < min(window.width, 0):  # as darkest and brightest value would be
        level, width = (window.level + window.width) / 2, window.width - window.level
        return (
            f"It is LEVEL,WIDTH; for all from {window.level:g} to {window.width:g} HU write "
            f"{level:g},{width:g}."
        )
    return "It is LEVEL,WIDTH in the values of the files; lungs are seen at -600,1500 HU."


def warn_if_stuck(history: Sequence[EpochResult]) -> None:
    """Warn each time that val IoU has been 0, as of an empty mask, for another few epochs."""
    stuck = 0
    while stuck < len(history) and not history[-1 - stuck].val.iou > 0:
        stuck += 1
    if stuck and stuck % _STUCK == 0:
        warnings.warn(
            f"val IoU has been 0 for {stuck} epochs: the model calls everything background. "
            "Lower lr, check with 'lungunet audit' that masks and slices belong together, or "
            "start from pretrained weights.",
            LungUNetWarning,
            stacklevel=3,
        )


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Return whether every weight and statistic is a number; waits for the device once."""
    tensors = [t for t in model.state_dict().values() if t.is_floating_point()]
    return not tensors or bool(torch.stack([t.isfinite().all() for t in tensors]).all())


def explain_memory(config: TrainConfig, train: LungCTDataset) -> AbstractContextManager[None]:
    """Turn running out of memory, and a GPU that fails, into advice."""
    size = train.contract.size
    return explained(
        f"batch_size {config.batch_size} at {size}x{size}",
        f"Lower batch_size (and raise accumulate to keep {config.batch_size} slices per step), "
        "size, or workers, or take a smaller encoder.",
    )


def check_compiler(device: torch.device) -> None:
    """Compile a sum on ``device``, so that a compiler that is missing is known before all else."""
    try:
        torch.compile(lambda number: number + number)(torch.ones(2, device=device))
    except Exception as err:  # torch and its back ends raise whatever they like
        raise ConfigError(
            f"does not work on this machine ({first_line(err)}). Install a C++ compiler, "
            "or pass compile=False.",
            where="compile",
        ) from err


def try_out(learner: Learner, train: LungCTDataset, config: TrainConfig) -> None:
    """Run the smallest batch there will be through the model, and look at what comes out.

    Leaves weights, statistics and generators as they are.
    """
    model, batch_size, ranks = learner.model, config.batch_size, learner.ranks.count
    rest = len(train) % batch_size
    count = (rest if rest >= 2 * ranks or len(train) < batch_size else batch_size) // ranks
    if not count:
        raise ConfigError(
            f"{len(train)} pairs for {ranks} processes. Start fewer processes.", where="train"
        )
    check_fits(model, train.contract.size)
    if config.compile:
        check_compiler(learner.device)
    images, masks = zip(*(train[0, index] for index in range(count)), strict=True)
    image, mask = torch.stack(images), torch.stack(masks)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [learner.device] if learner.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            model.train()
            channels, *given = learner.forward(model, image, mask)[0].shape[1:]
    except (ValueError, RuntimeError, AssertionError) as err:
        if is_out_of_memory(err) or is_of_the_gpu(err):
            raise  # for others to explain
        raise ConfigError(
            f"the model does not take a batch of {count} of shape {tuple(image.shape[1:])}: "
            f"{first_line(err)}. "
            "Change size or batch_size, add pairs, or take another encoder."
        ) from err
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
    if given != list(image.shape[2:]) and not getattr(model, "valid", False):
        raise ConfigError(
            f"the model gives logits of {given[0]}x{given[1]} for slices of "
            f"{image.shape[2]}x{image.shape[3]}. Let it scale them up itself, as with "
            "torch.nn.functional.interpolate."
        )
    if channels != train.codec.n_classes:
        raise ConfigError(
            f"the model gives {channels} classes, the label codec has {train.codec.n_classes}. "
            "Build it with n_classes=train.codec.n_classes."
        )
