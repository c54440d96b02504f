"""From a data folder to a trained run: what ``lungunet train`` does, for any caller."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from lungunet.data.codec import LabelCodec, parse_names
from lungunet.data.dataset import IllLungCTDataset, LungCTDataset
from lungunet.data.split import choose_codec, read_split, read_split_record
from lungunet.data.transforms import train_transform
from lungunet.data.window import parse_window
from lungunet.errors import ConfigError, LungUNetWarning, SplitError
from lungunet.models.architectures import (
    Architecture,
    check_network,
    check_size,
    choose_network,
)
from lungunet.models.encoders import size_arguments
from lungunet.models.hub import hub_address
from lungunet.models.unet import build_from, build_model, stored_architecture
from lungunet.progress import Progress, silent
from lungunet.training.config import RunConfig
from lungunet.training.distributed import Ranks
from lungunet.training.tracking import EpochResult
from lungunet.training.trainer import Trainer


def train_run(
    config: RunConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = bool,
    on_epoch: Callable[[EpochResult], object] | None = None,
) -> Iterator[EpochResult]:
    """Train on the lists of ``config.data``, yielding each epoch. The test list is never opened.

    With painted disease val is also scored with a disease painted into each of its lungs, and the
    best epoch is best in the mean of both.

    Parameters
    ----------
    out : the run folder
    resume : go on from its last checkpoint
    overwrite : replace what ``out`` holds of a run; without it nothing there is touched
    should_stop : asked at every step; True writes a checkpoint and ends
    on_epoch : called with each epoch before it is yielded, once its files are written; of several
        processes that train together in the first alone

    Raises
    ------
    LungUNetError
        Whatever is wrong with config, data or checkpoint; before the first step where possible.
    """
    trainer, train, val = make_trainer(
        config, out, pretrained=not resume, progress=progress, should_stop=should_stop
    )
    if not resume and Ranks.from_environment().is_first:
        _warn_of_lung_everywhere(config)
        _warn_of_no_mirror(config, train.codec)
    is_first = Ranks.from_environment().is_first
    ill = paint_val(val, config)
    for result in trainer.epochs(train, val, resume=resume, overwrite=overwrite, val_ill=ill):
        if on_epoch is not None and is_first:
            on_epoch(result)
        yield result


def _warn_of_lung_everywhere(config: RunConfig) -> None:
    """Say what comes of slices that all hold lung; split.json has counted them."""
    if read_split_record(config.data).empty_masks == 0:
        organs = ", and solid organs, since painted lung is solid" if config.disease else ""
        warnings.warn(
            f"{config.data}: no slice is without lung. A network that never saw one finds lung in "
            f"the neck and the belly too: gas{organs}. Add such slices, with empty masks "
            "('lungunet slices' keeps some), or predict chests alone.",
            LungUNetWarning,
            stacklevel=3,
        )


def _mirrors(config: RunConfig, codec: LabelCodec) -> bool:
    """Whether slices are mirrored; a mirrored left lung would be labelled as a left lung still."""
    return codec.n_classes == 2 if config.flip == "auto" else config.flip


def _warn_of_no_mirror(config: RunConfig, codec: LabelCodec) -> None:
    """Say that the recipe leaves something out, where that is for the user to judge."""
    if config.flip == "auto" and not _mirrors(config, codec):
        warnings.warn(
            f"{codec.n_classes} classes, which may tell left from right, so slices are not "
            "mirrored. Where a mirrored mask is right as well, pass flip=True; "
            "flip=False leaves this line out.",
            LungUNetWarning,
            stacklevel=3,
        )


def make_trainer(
    config: RunConfig,
    out: str | Path,
    *,
    pretrained: bool = True,
    progress: Progress = silent,
    should_stop: Callable[[], bool] = bool,
) -> tuple[Trainer, LungCTDataset, LungCTDataset]:
    """Build what :func:`train_run` runs: the trainer, and the datasets of train and val.

    Parameters
    ----------
    pretrained : False leaves ``config.weights`` out, for a trainer that will resume
    """
    # A run is gone on with from any folder, so it must not depend on the current one.
    cache = config.cache if config.cache == "off" else str(Path(config.cache).resolve())
    config = replace(config, data=str(Path(config.data).resolve()), cache=cache)
    address = hub_address(config.weights) if pretrained else ""
    config = replace(config, weights=address or config.weights)
    network = _network(config)
    train, val = load_datasets(config)
    network = replace(network, classes=train.codec.n_classes)
    model = _build_model(config, network, out, pretrained=pretrained)
    lists = {name: Path(config.data, f"{name}.txt").read_bytes() for name in ("train", "val")}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in lists.items()}
    notes: dict[str, object] = {"manifests": hashes}
    if address:
        notes["weights"] = address
    trainer = Trainer(
        model, config, out=out, progress=progress, should_stop=should_stop, notes=notes
    )
    return trainer, train, val


def _network(config: RunConfig) -> Architecture:
    """Return what ``config`` asks for, or refuse it, before anything is read or built."""
    name, encoder = choose_network(config.architecture, config.encoder)
    arguments = {**size_arguments(encoder, config.size), **config.smp_arguments}
    network = Architecture(encoder, smp_arguments=arguments, name=name)
    check_network(network)
    check_size(network, config.size)
    return network


def _build_model(
    config: RunConfig, network: Architecture, out: str | Path, *, pretrained: bool
) -> nn.Module:
    if not pretrained:
        # A resumed run has its weights in the checkpoint; those it began with may be gone by now.
        stored = stored_architecture(out) or stored_architecture(config.weights)
        if stored and (stored.name, stored.encoder) == (network.name, network.encoder):
            return build_from(replace(stored, classes=network.classes))
    return build_model(
        network.name,
        network.encoder,
        weights=config.weights if pretrained else None,
        n_classes=network.classes,
        seed=config.seed,
        **network.smp_arguments,
    )


def load_datasets(config: RunConfig) -> tuple[LungCTDataset, LungCTDataset]:
    """Build the datasets of train and val; val carries train's contract and codec."""
    split = read_split(config.data, "train", "val")
    for name in ("train", "val"):
        if not getattr(split, name):
            raise SplitError(
                f"no pairs. Training needs {name}: split again with a larger share for it.",
                where=f"{Path(config.data) / name}.txt",
            )
    names = () if config.label_names == "auto" else parse_names(config.label_names)
    codec = choose_codec(config.data, config.labels, config.label_threshold, names=names)
    if not codec.for_prediction.can_decode:
        raise ConfigError(
            "several raw values share a class, so predicted masks could not be "
            "written. Name the value of each class after a colon, as in 0,3=1,4=1,5=2:0,3,5.",
            where=f"labels {codec}",
        )
    cache = None if config.cache == "off" else config.cache
    train = LungCTDataset(
        split.train,
        transform=train_transform(flip=_mirrors(config, codec), disease=config.disease),
        size=config.size,
        window=parse_window(config.window),
        codec=codec,
        seed=config.seed,
        cache=cache,
    )
    return train, LungCTDataset(split.val, contract=train.contract, codec=codec, cache=cache)


def paint_val(val: LungCTDataset, config: RunConfig) -> LungCTDataset | None:
    """Return val with ill lungs, for a run that learns from such; None for others."""
    if not config.disease:
        return None
    cache = None if config.cache == "off" else config.cache
    return IllLungCTDataset(val.pairs, contract=val.contract, codec=val.codec, cache=cache)
