"""The architectures there are, what each asks of its encoder and of the size, and how to name one.

Holds the one list of classes that a file may have rebuilt. Builds nothing.
"""

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lungunet.data.kinds import make_plain
from lungunet.errors import ConfigError
from lungunet.models.encoders import (
    DEFAULT_ENCODER,
    DEFAULT_VIT,
    ORIGINAL,
    check_encoder,
    dilates,
)

_ORIGINAL_ARGUMENTS = ("valid", "width")
_REFUSED = (
    *("activation", "aux_params", "encoder_name", "encoder_weights", "decoder_use_batchnorm"),
    *("psp_use_batchnorm", "upscale_mode"),  # older names of smp, which warn
    # These make timm open files or connections, which a model folder must not be able to ask for.
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")

# Arguments of every class of smp that Architecture holds by itself, or has no need of; with the
# last two something else than logits would come out.
_COMMON = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")


@dataclass(frozen=True)
class ArchitectureInfo:
    """An architecture that ``build_model`` can build.

    Parameters
    ----------
    name : what ``build_model`` takes
    title : what its authors call it
    smp_class : its class in segmentation-models-pytorch; empty for "unet2015"
    encoder : the one it has where none is named
    multiple : height and width must be multiples of this, px; 1 takes any
    smallest : height and width must be at least this, px
    paper : arXiv number or DOI
    """

    name: str
    title: str
    smp_class: str
    encoder: str
    multiple: int
    smallest: int
    paper: str


@dataclass(frozen=True)
class _Row:
    """What smp 0.6.0 does where no argument says otherwise.

    Parameters
    ----------
    stride : px of the picture under one px of what its encoder makes of it
    depth : levels of the encoder
    any_size : whether the decoder fits what it joins
    """

    title: str
    smp_class: str
    paper: str
    stride: int = 32
    depth: int = 5
    any_size: bool = False


_ROWS = {
    "unet": _Row("U-Net", "Unet", "1505.04597", any_size=True),
    "unetplusplus": _Row("U-Net++", "UnetPlusPlus", "1807.10165"),
    "manet": _Row("MA-Net", "MAnet", "10.1109/ACCESS.2020.3025372"),
    "linknet": _Row("LinkNet", "Linknet", "1707.03718"),
    "fpn": _Row("FPN", "FPN", "1901.02446"),
    "pspnet": _Row("PSPNet", "PSPNet", "1612.01105", depth=3),
    "deeplabv3": _Row("DeepLabV3", "DeepLabV3", "1706.05587", stride=8),
    "deeplabv3plus": _Row("DeepLabV3+", "DeepLabV3Plus", "1802.02611", stride=16),
    "pan": _Row("PAN", "PAN", "1805.10180", stride=16),
    "upernet": _Row("UPerNet", "UPerNet", "1807.10221"),
    "segformer": _Row("SegFormer", "Segformer", "2105.15203"),
    "dpt": _Row("DPT", "DPT", "2103.13413", depth=4),
    ORIGINAL: _Row("U-Net of 2015", "", "1505.04597", any_size=True),
}

_DILATING = ("deeplabv3", "deeplabv3plus", "pan")
_NO_MIT = ("unetplusplus", "linknet")  # they join a level that Mix Vision Transformers lack


@dataclass(frozen=True)
class Architecture:
    """What rebuilds a model, weights apart.

    Plain values only, so that ``to_dict`` can be JSON; tuples become lists at once, so that equal
    architectures stay equal on the way through a file.

    Parameters
    ----------
    encoder : "unet2015", the name of an smp encoder, or "tu-" and the name of a timm model
    in_channels : channels of the input, at least 1
    classes : channels of the logits, at least 2
    smp_arguments : what else ``build_model`` was given (``valid`` and ``width`` for "unet2015")
    name : of the architecture, as ``list_architectures`` has it
    """

    encoder: str = DEFAULT_ENCODER
    in_channels: int = 1
    classes: int = 2
    smp_arguments: dict[str, Any] = field(default_factory=dict)
    name: str = "unet"

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in (("in_channels", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}. It must be at least {least}"
                    + (": background is a class too." if name == "classes" else ".")
                )
        try:
            plain = json.loads(json.dumps(self.smp_arguments))
        except TypeError as err:
            raise ConfigError(
                f"{err}. Give plain values, which can be written to config.json."
            ) from err
        object.__setattr__(self, "smp_arguments", plain)
        if self.encoder == ORIGINAL:
            object.__setattr__(self, "name", ORIGINAL)

    def __str__(self) -> str:
        """Name it for a heading: the encoder alone of a U-Net, which is the usual one.

        Examples
        --------
        >>> str(Architecture("resnet18")), str(Architecture("resnet18", name="fpn"))
        ('resnet18', 'fpn of resnet18')
        """
        return describe_network(self.name, self.encoder)

    def to_dict(self) -> dict[str, Any]:
        """Give a dict of plain values; a U-Net's has no name, as before there were others.

        Examples
        --------
        >>> Architecture("resnet18").to_dict()
        {'encoder': 'resnet18', 'in_channels': 1, 'classes': 2, 'smp_arguments': {}}
        """
        values = asdict(self)
        return values if self.has_name else {k: v for k, v in values.items() if k != "name"}

    @property
    def has_name(self) -> bool:
        """Whether it takes more than the encoder to rebuild the model."""
        return self.name not in ("unet", ORIGINAL)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """Undo ``to_dict``."""
        known = {f.name for f in fields(cls)}
        missing, unknown = known - values.keys() - {"name"}, values.keys() - known
        if missing or unknown:
            raise ConfigError(
                f"architecture: missing {sorted(missing)}, unknown {sorted(unknown)}. Give what "
                "Architecture.to_dict wrote."
            )
        return cls(**values)

    @classmethod
    def from_smp(cls, config: Mapping[str, Any]) -> "Architecture | None":
        """Read what ``save_pretrained`` of smp writes; None for what cannot be rebuilt from it.

        Parameters
        ----------
        config : arguments by name, and the class under ``_model_class``: one of those that
            ``list_architectures`` has, or nothing is built
        """
        names = [n for n, row in _ROWS.items() if row.smp_class == config.get("_model_class", "")]
        gives_logits = config.get("activation") in (None, "identity") and not config.get(
            "aux_params"
        )
        if not names or names == [ORIGINAL] or not gives_logits:
            return None
        usual = usual_arguments(names[0])
        given = {
            key: value
            for key, value in json.loads(json.dumps(dict(config))).items()
            if key not in _COMMON and not key.startswith("_") and value != usual.get(key, _ABSENT)
        }
        return cls(
            config["encoder_name"], config["in_channels"], config["classes"], given, names[0]
        )


_ABSENT = object()


def smp_class(architecture: str) -> Any:
    """Return the class of segmentation-models-pytorch, one of those of the list."""
    from lungunet.models.outside import smp

    return getattr(smp, _ROWS[architecture].smp_class)


def usual_arguments(architecture: str) -> dict[str, Any]:
    """Return the arguments that an architecture takes beside encoder and channels, as defaults.

    Tuples are lists, as in a file.

    Examples
    --------
    >>> usual_arguments("fpn")["decoder_dropout"]
    0.2
    """
    parameters = inspect.signature(smp_class(architecture).__init__).parameters.values()
    return {
        p.name: list(p.default) if isinstance(p.default, tuple) else p.default
        for p in parameters
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in (*_COMMON, "self")
    }


def list_architectures() -> list[ArchitectureInfo]:
    """List the architectures, with what they ask of height and width.

    Examples
    --------
    >>> [a.name for a in list_architectures() if a.multiple == 1]
    ['unet', 'unet2015']
    """
    return [_info(name) for name in _ROWS]


def _info(name: str) -> ArchitectureInfo:
    row, (multiple, smallest) = _ROWS[name], _size_demands(name, {})
    encoder = default_encoder(name)
    return ArchitectureInfo(name, row.title, row.smp_class, encoder, multiple, smallest, row.paper)


def check_architecture(name: str) -> str:
    """Return the name as the list has it, whatever its case; refuse an unknown one."""
    known = name.lower()
    if known in _ROWS:
        return known
    plain = known.replace("-", "").replace("_", "").replace("+", "plus")
    close = difflib.get_close_matches(plain, _ROWS, n=3, cutoff=0.5)
    hint = f"Closest: {', '.join(map(repr, close))}. " if close else ""
    raise ConfigError(
        f"Unknown architecture '{name}'. {hint}'lungunet encoders --architectures' lists all."
    )


def default_encoder(architecture: str) -> str:
    """Return the encoder of an architecture where none is named."""
    return {ORIGINAL: ORIGINAL, "dpt": DEFAULT_VIT}.get(architecture, DEFAULT_ENCODER)


def describe_network(architecture: str, encoder: str) -> str:
    """Name a network for a heading; see :meth:`Architecture.__str__`."""
    if architecture == "unet" or encoder == ORIGINAL:
        return encoder
    return f"{architecture} of {encoder}"


def choose_network(architecture: str, encoder: str) -> tuple[str, str]:
    """Return both names, with "auto" resolved, and refuse what does not go together."""
    name = check_architecture(architecture)
    if encoder == "auto":
        encoder = default_encoder(name)
    if ORIGINAL in (name, encoder):
        if encoder != ORIGINAL or name not in ("unet", ORIGINAL):
            raise ConfigError(
                f"{ORIGINAL} is a whole network: it goes with no other architecture, and takes no "
                "encoder. Leave one of the two out.",
                where=f"{name}, {encoder}",
            )
        return ORIGINAL, ORIGINAL
    check_encoder(encoder)
    return name, encoder


def check_network(network: Architecture) -> None:
    """Refuse arguments and an encoder that do not go together, before anything is built."""
    if network.name == ORIGINAL:
        for name in network.smp_arguments:
            if name not in _ORIGINAL_ARGUMENTS:
                raise _unknown_argument(network, name, _ORIGINAL_ARGUMENTS)
        return
    _check_arguments(network)
    _check_pair(network)


def _unknown_argument(network: Architecture, name: str, known: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are {', '.join(known)}."
    return ConfigError(f"unknown argument '{name}'. {hint}", where=network)


def _check_arguments(network: Architecture) -> None:
    """Refuse arguments that smp would swallow, or notice at the first picture only."""
    arguments, usual = network.smp_arguments, usual_arguments(network.name)
    known = [*usual, *(["output_stride"] if network.name == "unet" else [])]
    for name in arguments:
        passed_to_timm = network.encoder.startswith("tu-") and name not in _REFUSED
        if name not in known and not passed_to_timm:
            raise _unknown_argument(network, name, known)
    depth = arguments.get("encoder_depth", usual["encoder_depth"])
    if depth not in range(1, 6):
        raise ConfigError(f"encoder_depth is {depth}. It must be 1 to 5.", where=network)
    channels = arguments.get("decoder_channels", usual.get("decoder_channels"))
    if isinstance(usual.get("decoder_channels"), list) and (
        not isinstance(channels, list) or len(channels) != depth
    ):
        raise ConfigError(
            f"encoder_depth is {depth}, but decoder_channels is {channels}. Give one "
            f"number for each level: decoder_channels={tuple(usual['decoder_channels'][:depth])}.",
            where=network,
        )
    interpolation = arguments.get("decoder_interpolation", "nearest")
    if interpolation not in _INTERPOLATIONS:
        raise ConfigError(
            f"unknown decoder_interpolation '{interpolation}'. It must be one of "
            f"{', '.join(_INTERPOLATIONS)}.",
            where=network,
        )


def _check_pair(network: Architecture) -> None:
    name, encoder = network.name, network.encoder
    if name in _NO_MIT and encoder.startswith("mit_"):
        raise ConfigError(
            f"{name} joins a level that {encoder} lacks. Take another encoder, such as resnet34 "
            "or tu-convnext_tiny, or an architecture such as unet, segformer or fpn.",
            where=network,
        )
    if name == "dpt" and not encoder.startswith("tu-"):
        raise ConfigError(
            f"dpt takes vision transformers of timm, such as {DEFAULT_VIT}. Take one, or another "
            "architecture.",
            where=network,
        )
    stride = network.smp_arguments.get("encoder_output_stride", _ROWS[name].stride)
    if name in _DILATING and stride != 32 and not dilates(encoder, stride):
        raise ConfigError(
            f"{name} needs an encoder whose last levels can keep their size (dilate), and "
            f"{encoder} cannot. Take one that can, such as {DEFAULT_ENCODER}, resnet34 or "
            "efficientnet-b0, or another architecture, such as fpn, upernet or unetplusplus.",
            where=network,
        )


def check_size(network: Architecture, size: int) -> None:
    """Refuse a size that the model cannot take, naming the nearest that it can.

    Parameters
    ----------
    size : of the square that slices are fitted to, px
    """
    name, arguments = network.name, network.smp_arguments
    multiple, smallest = _size_demands(name, arguments)
    below = max(size // multiple * multiple, smallest)
    above = max(-(-size // multiple) * multiple, smallest)
    if size != below:
        from_on = f", {smallest} at least" if smallest > multiple else ""
        near = f"The nearest are {below} and {above}" if below != above else f"Take {below}"
        raise ConfigError(
            f"{network} takes multiples of {multiple} px{from_on}. {near}.",
            where=f"size {size}",
        )
    only = arguments.get("img_size", size)
    if only not in (size, [size, size]) and not arguments.get("dynamic_img_size"):
        raise ConfigError(
            f"{network} was built for {only} px. Take that size, or build it with img_size={size}.",
            where=f"size {size}",
        )


def _size_demands(name: str, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Return what height and width must be multiples of, and at least, px."""
    row = _ROWS[name]
    if row.any_size:
        return 1, 1
    depth = arguments.get("encoder_depth", row.depth)
    if name == "dpt":  # each level it makes is half of the one before, the first a quarter
        return 2 ** (depth + 1), 2 ** (depth + 1)
    stride = arguments.get("encoder_output_stride", arguments.get("output_stride", row.stride))
    multiple = min(stride, 2**depth)
    # PAN's pyramid halves what the encoder made three times more.
    return multiple, multiple * 8 if name == "pan" else multiple
