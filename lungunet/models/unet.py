"""Build U-Nets by the name of their encoder, and remember how they were built.

Knows nothing of slices, training or the model folder. smp is imported inside the functions that
need it: it takes about 2 s.
"""

import difflib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungunet.data.files import read_json
from lungunet.errors import ConfigError, LungUNetError, ModelError, WeightsUnavailableError
from lungunet.models.builtin import BUILTIN, named_folder
from lungunet.models.encoders import ORIGINAL, check_encoder, tags_of, unknown_tag
from lungunet.models.original import UNet2015
from lungunet.models.weights import WEIGHT_SUFFIXES, load_weights

_ORIGINAL_ARGUMENTS = ("valid", "width")
_MARK = "_lungunet_architecture"  # the attribute of a model that holds its Architecture

# The arguments of smp.Unet (and of its get_encoder: output_stride) that may be passed on. Native
# encoders of smp 0.6.0 swallow any other name without a word. ``activation`` and ``aux_params``
# are not here: a model gives logits and nothing else.
_SMP_ARGUMENTS = (
    "encoder_depth",
    "decoder_channels",
    "decoder_use_norm",
    "decoder_attention_type",
    "decoder_interpolation",
    "output_stride",
)
_REFUSED = (
    *("activation", "aux_params", "encoder_name", "encoder_weights", "decoder_use_batchnorm"),
    # These make timm open files or connections, which a model folder must not be able to ask for.
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
)
_DECODER_CHANNELS = (256, 128, 64, 32, 16)  # smp's default
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")


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
    smp_arguments : what else ``build_unet`` was given (``valid`` and ``width`` for "unet2015")
    """

    encoder: str = "resnet34"
    in_channels: int = 1
    classes: int = 2
    smp_arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("in_channels", 1), ("classes", 2)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"build_unet: {name} is {getattr(self, name)}. It must be at least {least}"
                    + (": background is a class too." if name == "classes" else ".")
                )
        try:
            plain = json.loads(json.dumps(self.smp_arguments))
        except TypeError as err:
            raise ConfigError(
                f"build_unet: {err}. Give plain values, which can be written to config.json."
            ) from err
        object.__setattr__(self, "smp_arguments", plain)

    def to_dict(self) -> dict[str, Any]:
        """Give a dict of plain values.

        Examples
        --------
        >>> Architecture("resnet18").to_dict()
        {'encoder': 'resnet18', 'in_channels': 1, 'classes': 2, 'smp_arguments': {}}
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """Undo ``to_dict``."""
        known = {f.name for f in fields(cls)}
        if values.keys() != known:
            raise ConfigError(
                f"architecture: missing {sorted(known - values.keys())}, "
                f"unknown {sorted(values.keys() - known)}. Give what Architecture.to_dict wrote."
            )
        return cls(**values)


def build_unet(
    encoder: str = "resnet34",
    *,
    weights: str | Path | bool | None = None,
    in_channels: int = 1,
    classes: int = 2,
    seed: int | None = None,
    **smp_arguments: Any,
) -> nn.Module:
    """Build a U-Net that turns (N, in_channels, H, W) float into (N, classes, H, W) logits.

    Encoders of smp and timm take any height and width (some timm ones are of fixed size: pass
    ``img_size=512``). Weights are random unless asked for; only a tag may use the network, and it
    obeys ``HF_HUB_OFFLINE``.

    Parameters
    ----------
    encoder : name of an encoder
        An smp encoder ("resnet34"), "tu-" and a timm model with or without its tag
        ("tu-convnext_tiny"), or "unet2015", the original. ``list_encoders`` lists them.
    weights : None, a tag, the word "lungs" or a path
        None (also "none" and False): random. "lungs": those of the built-in model, of which each
        class of lung begins as lung. A tag of the encoder: downloaded, or taken from the
        Hugging Face cache; "imagenet" (also True) exists for most. A path: a ``.safetensors``,
        ``.pt`` or ``.pth`` file with the state dict of such a model or of its encoder alone, or a
        model folder or run folder, whose ``smp_arguments`` count where none are given. Where an
        encoder was trained on three channels and this model has one, the first weights are summed
        over RGB. A name that is both a tag and a path is a tag.
    in_channels : channels of the input
    classes : channels of the logits, background included
    seed : seed of the random weights; the global generator of torch stays untouched
        None draws from the global generator, as torch does.
    **smp_arguments
        ``encoder_depth``, ``decoder_channels``, ``decoder_use_norm``, ``decoder_attention_type``,
        ``decoder_interpolation``, ``output_stride`` of ``smp.Unet``; with "tu-" encoders also what
        ``timm.create_model`` takes; with "unet2015" only ``valid`` and ``width``.

    Raises
    ------
    ConfigError
        The encoder, the tag or an argument is unknown, or arguments do not fit each other.
    ModelError
        A file of weights is missing, damaged or of another model.
    WeightsUnavailableError
        The weights could not be fetched.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, DOI 10.1007/978-3-319-24574-4_28.

    Examples
    --------
    >>> model = build_unet("resnet18", seed=0, decoder_channels=(32, 16, 16, 8, 8)).eval()
    >>> tuple(model(torch.zeros(1, 1, 65, 47)).shape)
    (1, 2, 65, 47)
    """
    check_encoder(encoder)
    tag, path = _tag_or_path(encoder, weights)
    stored = stored_architecture(path) if path else None
    if stored and stored.encoder != encoder and weights in BUILTIN:
        raise ConfigError(
            f"weights of the encoder {stored.encoder}, not of {encoder}. Name that encoder, or "
            "take other weights.",
            where=str(weights),
        )
    if stored and stored.encoder == encoder:
        smp_arguments = {**stored.smp_arguments, **smp_arguments}
    architecture = Architecture(encoder, in_channels, classes, smp_arguments)
    # Models are built on the CPU: forking the generators of other devices costs a context each.
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds all devices
        model = (
            _build_original(architecture) if encoder == ORIGINAL else _build_smp(architecture, tag)
        )
    setattr(model, _MARK, architecture)
    if path is not None:
        load_weights(model, path)
    return model


def build_from(architecture: Architecture) -> nn.Module:
    """Build the model that ``architecture`` describes, with random weights, without network."""
    return build_unet(
        architecture.encoder,
        in_channels=architecture.in_channels,
        classes=architecture.classes,
        **architecture.smp_arguments,
    )


def stored_architecture(source: str | Path) -> Architecture | None:
    """Read how the model in a model folder or run folder was built; None where nothing says so."""
    folder = named_folder(source)
    for file in (folder / "lungunet.json", folder / "best" / "lungunet.json"):
        with suppress(LungUNetError, TypeError, AttributeError):  # loading it says what is wrong
            stored = read_json(file, error=ModelError, fix="").get("architecture")
            return Architecture.from_dict(stored) if stored else None
    return None


def architecture_of(model: nn.Module) -> Architecture | None:
    """Tell what rebuilds ``model``; None for a module that ``build_unet`` did not build.

    Copies and ``torch.compile``d models answer like the model; unwrap DistributedDataParallel
    first.

    Examples
    --------
    >>> architecture_of(build_unet("unet2015", width=2))
    Architecture(encoder='unet2015', in_channels=1, classes=2, smp_arguments={'width': 2})
    >>> architecture_of(nn.Conv2d(1, 2, 1)) is None
    True
    """
    found = getattr(model, _MARK, None)
    return found if isinstance(found, Architecture) else None


def _tag_or_path(encoder: str, weights: str | Path | bool | None) -> tuple[str | None, Path | None]:
    # smp takes False for a wish to download ("is not None"), so nothing but None or a name goes on.
    if weights is None or weights is False or weights == "none":
        return None, None
    if isinstance(weights, Path):
        return None, weights
    if weights in BUILTIN:
        return None, named_folder(str(weights))
    tag = "imagenet" if weights is True else weights
    tags = tags_of(encoder)
    if tag in tags or (tag == "imagenet" and tags and encoder.startswith("tu-")):
        return tag, None
    path = Path(tag)
    if path.exists() or path.suffix in WEIGHT_SUFFIXES or os.sep in tag or "/" in tag:
        return None, path
    raise unknown_tag(encoder, tag)


def _build_original(architecture: Architecture) -> nn.Module:
    for name in architecture.smp_arguments:
        if name not in _ORIGINAL_ARGUMENTS:
            raise _unknown_argument(ORIGINAL, name, _ORIGINAL_ARGUMENTS)
    return UNet2015(architecture.in_channels, architecture.classes, **architecture.smp_arguments)


def _build_smp(architecture: Architecture, tag: str | None) -> nn.Module:
    import segmentation_models_pytorch as smp

    encoder = architecture.encoder
    _check_arguments(encoder, architecture.smp_arguments)
    weights: str | bool | None = tag
    if tag is not None and encoder.startswith("tu-"):
        # timm has the tag in the name of the model; smp wants True and warns about a name.
        weights = True
        if tag != "imagenet" and not encoder.endswith(f".{tag}"):
            encoder = f"{encoder}.{tag}"
    try:
        model: nn.Module = smp.Unet(
            encoder,
            encoder_weights=weights,
            in_channels=architecture.in_channels,
            classes=architecture.classes,
            **architecture.smp_arguments,
        )
    except Exception as err:
        raise _explained(err, architecture, tag) from err
    # A folder saved from this model must not make smp.from_pretrained download what it overwrites.
    model.config.update(encoder_name=architecture.encoder, encoder_weights=None)  # type: ignore[operator, union-attr]
    return model


def _check_arguments(encoder: str, arguments: dict[str, Any]) -> None:
    for name in arguments:
        passed_to_timm = encoder.startswith("tu-") and name not in _REFUSED
        if name not in _SMP_ARGUMENTS and not passed_to_timm:
            raise _unknown_argument(encoder, name, _SMP_ARGUMENTS)
    depth = arguments.get("encoder_depth", len(_DECODER_CHANNELS))
    channels = arguments.get("decoder_channels", _DECODER_CHANNELS)
    if depth not in range(1, 6):
        raise ConfigError(f"encoder_depth is {depth}. It must be 1 to 5.", where=encoder)
    if not isinstance(channels, list | tuple) or len(channels) != depth:
        raise ConfigError(
            f"encoder_depth is {depth}, but decoder_channels is {channels}. Give one "
            f"number for each level: decoder_channels={_DECODER_CHANNELS[:depth]}.",
            where=encoder,
        )
    # smp would notice a wrong name at the first picture only.
    interpolation = arguments.get("decoder_interpolation", "nearest")
    if interpolation not in _INTERPOLATIONS:
        raise ConfigError(
            f"unknown decoder_interpolation '{interpolation}'. It must be one of "
            f"{', '.join(_INTERPOLATIONS)}.",
            where=encoder,
        )


def _unknown_argument(encoder: str, name: str, known: tuple[str, ...]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are {', '.join(known)}."
    return ConfigError(f"unknown argument '{name}'. {hint}", where=encoder)


def _explained(err: Exception, architecture: Architecture, tag: str | None) -> Exception:
    """Give the error to raise for ``err``, which came out of smp or timm; ``err`` if none fits."""
    encoder, arguments = architecture.encoder, architecture.smp_arguments
    if tag is not None and _is_unreachable(err):
        return WeightsUnavailableError(
            f"the weights '{tag}' could not be fetched ({type(err).__name__}). Go on "
            "without (weights='none'), or from a file or model folder "
            "(weights='path/to/model.safetensors'), or copy the Hugging Face cache of a machine "
            "that has them and point HF_HOME to it.",
            where=encoder,
        )
    if encoder.startswith("tu-") and "Unsupported model downsampling" in str(err):
        return ConfigError(
            "this timm model does not halve the picture level by level, so it cannot "
            "be a U-Net encoder. list_encoders('tu-*') lists those that can.",
            where=encoder,
        )
    if arguments and isinstance(err, TypeError | ValueError | KeyError | AssertionError):
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        reason = str(err).rstrip(".") or type(err).__name__
        return ConfigError(f"{reason}. Change or leave out {given}.", where=encoder)
    return err


def _is_unreachable(err: Exception) -> bool:
    # huggingface_hub turns most failures into LocalEntryNotFoundError. The rest comes raw from its
    # HTTP library, requests, httpx or httpx2 by version: told by the names of their base classes.
    names = {cls.__name__ for cls in type(err).__mro__}
    by_name = {"LocalEntryNotFoundError", "HTTPError", "RequestException", "URLError"}
    return isinstance(err, ConnectionError | TimeoutError) or bool(names & by_name)
