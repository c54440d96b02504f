"""Every setting of a training run: frozen dataclasses, and their TOML file.

Owns names, defaults, checks and the learning rate that follows; knows no model and no data.
"""

import dataclasses
import difflib
import math
import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w

from lungunet.data.dataset import DEFAULT_SIZE
from lungunet.data.files import write_text
from lungunet.data.kinds import is_number, make_plain
from lungunet.data.split import fold_folders
from lungunet.errors import ConfigError, listed
from lungunet.models.architectures import check_architecture, default_encoder, describe_network
from lungunet.models.device import Precision
from lungunet.models.losses import LossName, make_loss
from lungunet.training.class_weights import parse_class_weights

_POLY = 0.9  # of nnU-Net and DeepLab
_USUAL = {
    "adamw": {"lr": 2e-3, "weight_decay": 1e-2},
    # Adam and SGD add the decay to the gradients, where 1e-2 would hold the weights down.
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
    "sgd": {"lr": 1e-2, "weight_decay": 3e-5},
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train: what :class:`Trainer` needs beside model and data.

    Once made, a config holds numbers: one that is read from a file or changed with
    ``dataclasses.replace`` keeps ``lr`` and ``weight_decay``, whatever optimizer it gets.

    Parameters
    ----------
    epochs : passes over train
    batch_size : slices per forward pass
    lr : highest learning rate, reached after warm-up; left out, it is what suits the optimizer:
        2e-3 for adamw, 1e-3 for adam, 1e-2 for sgd
    weight_decay : left out, what suits the optimizer: 1e-2 for adamw, 0 for adam, 3e-5 for sgd
    warmup_epochs : length of the linear rise of the learning rate; may be a fraction
    accumulate : forward passes per optimizer step
    clip_norm : gradients are scaled down to this norm; 0 leaves them
    patience : stop after so many epochs without a better one; 0 never stops early
    seed : of shuffling and dropout; of augmentation and initial weights too in
        :func:`train_run`, else those have the seeds of :class:`LungCTDataset` and
        :func:`build_model`
    device : auto, cpu, gpu, cuda, cuda:1 (or 1) or mps
    precision : auto, fp32, bf16 or fp16
    workers : processes that read ahead; -1 decides from device and cores
    save_every_minutes : a checkpoint at least so often, in the middle of an epoch too; 0 leaves it
        at one per epoch
    freeze_epochs : the encoder stays as it is for so many epochs, for pretrained weights
    compile : let torch.compile make the model faster; starting takes a minute longer
    cuda_graphs : on a GPU, start the passes of a network of :func:`build_model` whole, not kernel
        by kernel, unless ``compile`` is on or several processes train; the same numbers, and up to
        four times as fast where network and batch are small
    loss : as :func:`build_loss` takes it
    loss_arguments : of that loss, such as ``{"gamma": 3.0}`` of focal
    class_weights : none; auto, by how rare a class is in train; or numbers, background first: 1,3
    optimizer : adamw, adam or sgd (with Nesterov momentum)
    momentum : of sgd
    schedule : what follows the warm-up: cosine down to 0, poly (to the power of 0.9) down to 0, or
        constant

    Raises
    ------
    ConfigError
        When a value is out of range.
    """

    # What a resumed run may have otherwise; with another of the rest its weights would differ.
    MAY_CHANGE = frozenset(
        {
            *("data", "epochs", "patience", "device", "workers", "save_every_minutes", "cache"),
            "cuda_graphs",
        }
    )

    epochs: int = 25
    batch_size: int = 4
    lr: float = None  # type: ignore[assignment]  # a number as soon as the config is made
    weight_decay: float = None  # type: ignore[assignment]
    warmup_epochs: float = 1.0
    accumulate: int = 1
    clip_norm: float = 1.0
    patience: int = 0
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    workers: int = -1
    save_every_minutes: float = 10.0
    freeze_epochs: int = 0
    compile: bool = False
    cuda_graphs: bool = True
    loss: LossName = "ce-dice"
    loss_arguments: dict[str, float] = field(default_factory=dict)
    class_weights: str = "none"
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    schedule: Literal["cosine", "poly", "constant"] = "cosine"

    def __post_init__(self) -> None:
        """Refuse what no training can work with."""
        make_plain(self)
        known = isinstance(self.optimizer, str) and self.optimizer in _USUAL
        usual = _USUAL[self.optimizer if known else "adamw"]
        for name, number in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, number)
        if isinstance(self.device, int) and not isinstance(self.device, bool):
            object.__setattr__(self, "device", str(self.device))
        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(value, hint):
                raise ConfigError(
                    f"{name} = {value!r} is of the wrong kind. Write {_describe(hint)}.",
                    where="config",
                )
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "workers": -1}
        least |= {"weight_decay": 0, "warmup_epochs": 0, "clip_norm": 0, "patience": 0, "seed": 0}
        least |= {"save_every_minutes": 0, "freeze_epochs": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if not value >= minimum:
                raise ConfigError(
                    f"{name}={value}: must be at least {minimum}. "
                    f"{usual.get(name, getattr(TrainConfig, name))} is usual.",
                    where="config",
                )
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, int) and value >= 2**63:  # more than torch and C can count
                raise ConfigError(f"{name}={value}: must be below 2**63. Lower it.", where="config")
        if self.warmup_epochs == math.inf:
            raise ConfigError("warmup_epochs=inf: must be finite. 1 is usual.", where="config")
        if not 0 < self.lr < math.inf:
            raise ConfigError(
                f"lr={self.lr}: must be above 0 and finite. 0.001 is a safe start.", where="config"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(
                f"momentum={self.momentum}: must be from 0 to below 1. 0.9 is usual.",
                where="config",
            )
        make_loss(self.loss, self.loss_arguments)  # says what is wrong with it
        parse_class_weights(self.class_weights)

    def fixed(self) -> dict[str, Any]:
        """Return the settings that a resumed run must keep, all but ``MAY_CHANGE``."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in self.MAY_CHANGE}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return what :meth:`fixed` holds where nothing is said, as far as there is a default."""
        return {
            each.name: each.default_factory() if callable(each.default_factory) else each.default
            for each in dataclasses.fields(cls)
            if each.name not in cls.MAY_CHANGE and not _required(each)
        }

    def learning_rate(self, step: int, *, steps_per_epoch: int) -> float:
        """Return the rate of a step: linear warm-up, then what ``schedule`` says.

        A pure function, so that resuming needs no state.

        Parameters
        ----------
        step : of the optimizer, counts from 0

        Examples
        --------
        >>> config = TrainConfig(lr=1.0, epochs=3, warmup_epochs=1)
        >>> [round(config.learning_rate(step, steps_per_epoch=2), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
        """
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, self.epochs * steps_per_epoch - warmup))
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "poly":
            return float(self.lr * (1 - done) ** _POLY)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def to_toml(self) -> str:
        """Return every setting as TOML text; :meth:`from_toml` reads it."""
        return tomli_w.dumps(dataclasses.asdict(self))

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> Self:
        """Read settings from a TOML file; ``changes`` win over it, defaults fill the rest.

        Raises
        ------
        ConfigError
            When the file is missing or no TOML, or a setting is unknown or of the wrong kind.
        """
        path = Path(path)
        return cls.from_dict({**read_toml(path), **changes}, where=path.name)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config") -> Self:
        """Build a config from plain values, checking names and types.

        Raises
        ------
        ConfigError
            As for :meth:`from_toml`.
        """
        hints = typing.get_type_hints(cls)
        for name in values:
            if name not in hints:
                near = [known for known in hints if name.startswith(f"{known}_")]
                near = near or difflib.get_close_matches(name, hints, n=1)
                hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(hints)}."
                raise ConfigError(f"unknown setting '{name}'. {hint}", where=where)
        missing = [
            each.name
            for each in dataclasses.fields(cls)
            if _required(each) and each.name not in values
        ]
        if missing:
            raise ConfigError(f"{', '.join(missing)} is missing. Add it.", where=where)
        try:
            return cls(**values)
        except ConfigError as err:
            raise ConfigError(err.message, where=where) from err

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_toml` to ``path``, atomically."""
        write_text(path, self.to_toml())


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainConfig):
    """All that ``lungunet train`` needs: what, on what, and how (:class:`TrainConfig`).

    Parameters
    ----------
    data : folder with train.txt and val.txt
    encoder : name as ``lungunet encoders`` lists it; auto is the default of the architecture,
        tu-mobilenetv3_small_100 but for dpt
    weights : none, lungs (the built-in model), imagenet, another smp tag, a path, or
        hf://OWNER/NAME@REVISION
    size : side of the square that slices are fitted to, px
    window : auto, or LEVEL,WIDTH in HU
    labels : auto (what split.json says, else 0,255), or as :meth:`LabelCodec.parse` reads it
    label_threshold : raw mask values from here on are lung, for smeared masks; -1 is off
    label_names : auto (what split.json says, else lung, or class 1 and so on), or one name per
        class, background first: background,left,right
    flip : mirror left and right at random; auto does so where lung is the only class beside the
        background, since more classes may tell left from right, and mirrored they would lie
    disease : share of the samples into whose lung a disease is painted; above 0 val is also
        scored with painted lungs, and the best epoch is best in the mean of both IoU
    cache : folder that keeps slices as the model sees them for later epochs and runs, or off
    architecture : name as ``list_architectures`` has it
    smp_arguments : what else :func:`build_model` takes, such as ``decoder_attention_type``
    """

    data: str
    encoder: str = "auto"
    weights: str = "none"
    size: int = DEFAULT_SIZE
    window: str = "auto"
    labels: str = "auto"
    label_threshold: int = -1
    flip: bool | Literal["auto"] = "auto"
    disease: float = 0.0
    cache: str = "off"
    architecture: str = "unet"
    smp_arguments: dict[str, Any] = field(default_factory=dict)
    label_names: str = "auto"

    @classmethod
    def of_run(cls, run: str | Path, **changes: Any) -> Self:
        """Read the settings of a run, to go on with it.

        Parameters
        ----------
        changes : what shall be otherwise from here on, of ``RunConfig.MAY_CHANGE``

        Raises
        ------
        ConfigError
            When ``run`` is none, or was made by :class:`Trainer` with data that only its program
            knows, or a change is one that a run cannot take.
        """
        file = Path(run) / "config.toml"
        fixed = sorted(set(changes) - cls.MAY_CHANGE)
        if fixed:
            raise ConfigError(
                f"a resumed run keeps its settings; only {', '.join(sorted(cls.MAY_CHANGE))} may "
                "change. Leave it out, or start a new run.",
                where=", ".join(fixed),
            )
        if not file.exists():
            raise ConfigError(say_no_run(run), where=run)
        if "data" not in read_toml(file):
            raise ConfigError(
                "was made in Python, with a model and data that only that program knows. "
                "Resume it there: Trainer.fit(train, val, resume=True).",
                where=run,
            )
        return cls.from_toml(file, **changes)

    @property
    def network(self) -> str:
        """The network in a few words: the encoder alone where the architecture is the usual one."""
        return describe_network(self.architecture, self.encoder)

    def __post_init__(self) -> None:
        """Take ``data`` and ``cache`` as paths too."""
        for name in ("data", "cache"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        super().__post_init__()
        object.__setattr__(self, "architecture", check_architecture(self.architecture))
        if self.encoder == "auto":
            object.__setattr__(self, "encoder", default_encoder(self.architecture))
        if not self.cache:
            raise ConfigError("must be a folder, or off.", where="cache=''")
        if not 0 <= self.disease <= 1:
            raise ConfigError(
                f"disease={self.disease}: a share is in [0, 1]. 0.3 is usual.", where="config"
            )


def say_no_run(folder: str | Path) -> str:
    """Say that a folder is no run, and which runs lie in it where it is a cross-validation's."""
    runs = [str(fold) for fold in fold_folders(folder) if (fold / "config.toml").is_file()]
    if not runs:
        return "no run (config.toml is missing). Give the folder that 'lungunet train' made."
    return (
        f"holds the runs of a cross-validation. Give one of them: {listed(runs, separator=', ')}. "
        f"'lungunet evaluate {folder} DATA' scores them as one model."
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file as it stands, names and kinds unchecked."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise ConfigError(
            f"cannot be read as TOML ({err}). Write one setting a line, as in lr = 0.001.",
            where=path,
        ) from err


def _required(each: "dataclasses.Field[Any]") -> bool:
    return each.default is each.default_factory is dataclasses.MISSING


def _fits(value: object, hint: Any) -> bool:
    if typing.get_origin(hint) is dict:
        key, kind = typing.get_args(hint)
        return isinstance(value, dict) and all(
            _fits(name, key) and _fits(each, kind) for name, each in value.items()
        )
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint is Any:
        return True
    if hint in (int, float):
        return is_number(value, whole=hint is int)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(f'"{choice}"' for choice in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Union:
        return " or ".join(_describe(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        numbers = typing.get_args(hint)[1] is float
        return (
            "a table of numbers, as in {gamma = 2.0}" if numbers else "a table of names and values"
        )
    names: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "text in quotes")
