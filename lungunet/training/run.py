"""From a data folder to a trained run: what ``lungunet train`` does, for any caller."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import parse_window
from lungunet.data.dataset import LungCTDataset
from lungunet.data.split import SPLITS, read_split, read_split_facts
from lungunet.data.transforms import train_transform
from lungunet.errors import ConfigError, SplitError
from lungunet.models.unet import build_unet
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.tracking import EpochResult
from lungunet.training.trainer import Trainer


def train_run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Iterator[EpochResult]:
    """Train on the lists of ``config.data``, yielding each epoch. The test list is never opened.

    Parameters
    ----------
    out : the run folder
    resume : go on from its last checkpoint
    overwrite : replace the run that ``out`` holds

    Raises
    ------
    LungUNetError
        Whatever is wrong with config, data or checkpoint; before the first step where possible.
    """
    train, val = load_datasets(config)
    model = build_unet(
        config.encoder,
        weights=None if resume else config.weights,
        classes=train.codec.n_classes,
        seed=config.seed,
    )
    trainer = Trainer(
        model, config, out=out, progress=progress, notes={"manifests": _manifest_hashes(config)}
    )
    yield from trainer.epochs(train, val, resume=resume, overwrite=overwrite)


def load_datasets(config: RunConfig) -> tuple[LungCTDataset, LungCTDataset]:
    """Build the datasets of train and val; val carries train's contract and codec.

    Raises
    ------
    SplitError
        When train or val is empty.
    """
    split = read_split(config.data)
    for name in ("train", "val"):
        if not getattr(split, name):
            raise SplitError(
                f"{Path(config.data) / name}.txt: no pairs. Training needs {name}: "
                "split again with a larger share for it."
            )
    codec = choose_codec(config.data, config.labels, config.label_threshold)
    if not codec.for_prediction.can_decode:
        raise ConfigError(
            f"labels {codec}: several raw values share a class, so predicted masks could not be "
            "written. Name the value of each class after a colon, as in 0,3=1,4=1,5=2:0,3,5."
        )
    train = LungCTDataset(
        split.train,
        transform=train_transform(flip=config.flip),
        size=config.size,
        window=parse_window(config.window),
        codec=codec,
        seed=config.seed,
    )
    return train, LungCTDataset(split.val, contract=train.contract, codec=codec)


def choose_codec(data: str | Path, labels: str = "auto", threshold: int = -1) -> LabelCodec:
    """Return the codec of a data folder's masks: as said, else as split.json says, else 0,255.

    Parameters
    ----------
    labels : auto, or as :meth:`LabelCodec.parse` reads it
    threshold : raw values from here on are lung; -1 is off
    """
    stored = read_split_facts(data).get("labels")
    if labels == "auto" and threshold < 0:
        return LUNG_CODEC if stored is None else LabelCodec.from_dict(stored)
    text = "0,255" if labels == "auto" else labels
    return LabelCodec.parse(text, threshold=threshold if threshold >= 0 else None)


def _manifest_hashes(config: RunConfig) -> dict[str, str]:
    files = {name: Path(config.data) / f"{name}.txt" for name in SPLITS}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path.exists()
    }
