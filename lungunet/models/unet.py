"""Build U-Nets by the name of their encoder, fill them with weights, list the encoders.

Knows names, tensors and files of weights; nothing of slices, training or the model folder's
metadata. smp and timm are imported inside the functions that need them: they take about 2 s.
"""

import difflib
import fnmatch
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lungunet.errors import ConfigError, ModelError, WeightsUnavailableError, listed
from lungunet.models.original import UNet2015

_ORIGINAL = "unet2015"
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
_REFUSED = ("activation", "aux_params", "encoder_name", "encoder_weights", "decoder_use_batchnorm")
_DECODER_CHANNELS = (256, 128, 64, 32, 16)  # smp's default
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")

# Families (modules of timm 1.0.31) none of whose models halves the picture from level to level,
# which is what smp asks of a U-Net encoder; in every other family all models do. Counted on the
# meta device.
_NO_PYRAMID = """
    beit cait convit convmixer crossvit csatv2 deepseek_vit deit efficientvim efficientvit_msra eva
    gemma4_vit levit mlp_mixer naflexvit pit qwen3_vit sequencer shvit tnt visformer
    vision_transformer vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam
    vitamin volo xcit
"""


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

    Raises
    ------
    ConfigError
        A number is too small, or an argument is not a plain value.
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
        """Undo ``to_dict``.

        Raises
        ------
        ConfigError
            A key is missing or unknown, or a value is bad.
        """
        known = {f.name for f in fields(cls)}
        if values.keys() != known:
            raise ConfigError(
                f"architecture: missing {sorted(known - values.keys())}, "
                f"unknown {sorted(values.keys() - known)}. Give what Architecture.to_dict wrote."
            )
        return cls(**values)


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder that ``build_unet`` can use.

    Parameters
    ----------
    name : what ``build_unet`` takes
    parameters : number of parameters of the encoder alone with one input channel; None for "tu-"
        encoders, which would have to be built one by one, 0.1 s each and there are 900
    weights : names that ``weights=`` takes; for "tu-" encoders "imagenet" stands for the first
    """

    name: str
    parameters: int | None
    weights: tuple[str, ...]


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
    weights : None, a tag or a path
        None (also "none" and False): random. A tag of the encoder: downloaded, or taken from the
        Hugging Face cache; "imagenet" (also True) exists for most. A path: a ``.safetensors``,
        ``.pt`` or ``.pth`` file with the state dict of such a model or of its encoder alone, or a
        model folder or run folder. Where an encoder was trained on three channels and this model
        has one, the first weights are summed over RGB. A name that is both a tag and a path is a
        tag.
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
    architecture = Architecture(encoder, in_channels, classes, smp_arguments)
    _check_encoder(encoder)
    tag, path = _tag_or_path(encoder, weights)
    with _seeded(seed):
        model = (
            _build_original(architecture) if encoder == _ORIGINAL else _build_smp(architecture, tag)
        )
    setattr(model, _MARK, architecture)
    if path is not None:
        _load_weights(model, path)
    return model


def build_from(architecture: Architecture) -> nn.Module:
    """Build the model that ``architecture`` describes, with random weights, without network."""
    return build_unet(
        architecture.encoder,
        in_channels=architecture.in_channels,
        classes=architecture.classes,
        **architecture.smp_arguments,
    )


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


def list_encoders(pattern: str = "*") -> list[EncoderInfo]:
    """List the encoders whose name fits a shell pattern.

    Encoders of timm are listed only where the pattern begins with "tu-". The "timm-" names of smp
    still build but are deprecated, and left out: timm has each of them under "tu-".

    Examples
    --------
    >>> [(e.name, e.parameters, e.weights) for e in list_encoders("resnet1?")]
    [('resnet18', 11170240, ('imagenet', 'ssl', 'swsl'))]
    """
    if pattern.startswith("tu-"):
        return [EncoderInfo(name, None, _tags_of(name)) for name in _timm_names(pattern)]
    return [
        EncoderInfo(name, _count_parameters(name), _tags_of(name))
        for name in _native_names()
        if fnmatch.fnmatchcase(name, pattern)
    ]


def _native_names() -> list[str]:
    from segmentation_models_pytorch.encoders import encoders

    return [_ORIGINAL, *(name for name in encoders if not name.startswith("timm-"))]


def _timm_names(pattern: str = "tu-*") -> list[str]:
    import timm

    families = [name for name in timm.list_modules() if name not in _NO_PYRAMID.split()]
    return [f"tu-{name}" for name in timm.list_models(pattern[3:], module=families)]


def _tags_of(encoder: str) -> tuple[str, ...]:
    """Give the tags of pretrained weights of a known encoder, the default one first."""
    if encoder == _ORIGINAL:
        return ()
    if not encoder.startswith("tu-"):
        from segmentation_models_pytorch.encoders import encoders

        return tuple(encoders[encoder]["pretrained_settings"])
    return _timm_tags(encoder[3:])


def _timm_tags(model: str) -> tuple[str, ...]:
    import timm.models

    name, tag = timm.models.split_model_name_tag(model)
    configs = timm.models.get_arch_pretrained_cfgs(name).values()  # the default one comes first
    tags = tuple(config.tag for config in configs if config.has_weights and config.tag)
    return (tag,) if tag in tags else tags


def _count_parameters(encoder: str) -> int:
    if encoder == _ORIGINAL:
        with torch.device("meta"):  # allocates nothing and draws nothing
            return _n_parameters(UNet2015().down)
    from segmentation_models_pytorch.encoders import get_encoder

    # MixTransformer reads numbers back from a linspace, which the meta device cannot; the others
    # are spared the mode, which doubles the time. What smp draws on the CPU must not move the
    # global generator.
    mode = _LinspaceOnCpu() if encoder.startswith("mit_") else nullcontext()
    with torch.random.fork_rng(devices=[]), torch.device("meta"), mode:
        return _n_parameters(get_encoder(encoder, in_channels=1, weights=None))


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _LinspaceOnCpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        device = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **device})


def _check_encoder(encoder: str) -> None:
    if encoder == _ORIGINAL:
        return
    if encoder.startswith("tu-"):
        import timm.models

        name, tag = timm.models.split_model_name_tag(encoder[3:])
        if timm.is_model(name):
            if tag and encoder[3:] not in timm.models.get_arch_pretrained_cfgs(name):
                raise _unknown_tag(f"tu-{name}", tag)
            return
    else:
        from segmentation_models_pytorch.encoders import encoders

        if encoder in encoders:
            return
    raise ConfigError(
        f"Unknown encoder '{encoder}'. {_closest(encoder)}'lungunet encoders' lists all."
    )


def _closest(encoder: str) -> str:
    # Native names first and a stable sort: of equally close names the better known one is shown.
    names = _native_names() + _timm_names()
    matcher = difflib.SequenceMatcher(b=encoder)
    ratios: dict[str, float] = {}
    for name in names:
        matcher.set_seq1(name)
        ratios[name] = matcher.ratio()
    close = [name for name in sorted(names, key=lambda n: -ratios[n])[:2] if ratios[name] > 0.6]
    return f"Closest: {', '.join(map(repr, close))}. " if close else ""


def _unknown_tag(encoder: str, tag: str) -> ConfigError:
    tags = [repr(known) for known in _tags_of(encoder)]
    exist = f"There are {listed(tags, separator=', ')}" if tags else "There are none to download"
    return ConfigError(
        f"{encoder}: no weights '{tag}'. {exist}; None starts from random weights, and a path "
        "reads a file or a model folder."
    )


def _tag_or_path(encoder: str, weights: str | Path | bool | None) -> tuple[str | None, Path | None]:
    # smp takes False for a wish to download ("is not None"), so nothing but None or a name goes on.
    if weights is None or weights is False or weights == "none":
        return None, None
    if isinstance(weights, Path):
        return None, weights
    tag = "imagenet" if weights is True else weights
    tags = _tags_of(encoder)
    if tag in tags or (tag == "imagenet" and tags and encoder.startswith("tu-")):
        return tag, None
    path = Path(tag)
    if path.exists() or path.suffix in _READERS or os.sep in tag or "/" in tag:
        return None, path
    raise _unknown_tag(encoder, tag)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    # Not torch.manual_seed: it seeds the generators of all devices, and forking those costs a CUDA
    # context each. Models are built on the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _build_original(architecture: Architecture) -> nn.Module:
    for name in architecture.smp_arguments:
        if name not in _ORIGINAL_ARGUMENTS:
            raise _unknown_argument(_ORIGINAL, name, _ORIGINAL_ARGUMENTS)
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
        raise ConfigError(f"{encoder}: encoder_depth is {depth}. It must be 1 to 5.")
    if not isinstance(channels, list | tuple) or len(channels) != depth:
        raise ConfigError(
            f"{encoder}: encoder_depth is {depth}, but decoder_channels is {channels}. Give one "
            f"number for each level: decoder_channels={_DECODER_CHANNELS[:depth]}."
        )
    # smp would notice a wrong name at the first picture only.
    interpolation = arguments.get("decoder_interpolation", "nearest")
    if interpolation not in _INTERPOLATIONS:
        raise ConfigError(
            f"{encoder}: unknown decoder_interpolation '{interpolation}'. It must be one of "
            f"{', '.join(_INTERPOLATIONS)}."
        )


def _unknown_argument(encoder: str, name: str, known: tuple[str, ...]) -> ConfigError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"There are {', '.join(known)}."
    return ConfigError(f"{encoder}: unknown argument '{name}'. {hint}")


def _explained(err: Exception, architecture: Architecture, tag: str | None) -> Exception:
    """Give the error to raise for ``err``, which came out of smp or timm; ``err`` if none fits."""
    encoder, arguments = architecture.encoder, architecture.smp_arguments
    if tag is not None and _is_unreachable(err):
        return WeightsUnavailableError(
            f"{encoder}: the weights '{tag}' could not be fetched ({type(err).__name__}). Go on "
            "without (weights=None), or from a file or model folder "
            "(weights='path/to/model.safetensors'), or copy the Hugging Face cache of a machine "
            "that has them and point HF_HOME to it."
        )
    if encoder.startswith("tu-") and "Unsupported model downsampling" in str(err):
        return ConfigError(
            f"{encoder}: this timm model does not halve the picture level by level, so it cannot "
            "be a U-Net encoder. list_encoders('tu-*') lists those that can."
        )
    if arguments and isinstance(err, TypeError | ValueError | KeyError | AssertionError):
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        reason = str(err).rstrip(".") or type(err).__name__
        return ConfigError(f"{encoder}: {reason}. Change or leave out {given}.")
    return err


def _is_unreachable(err: Exception) -> bool:
    # huggingface_hub turns most failures into LocalEntryNotFoundError. The rest comes raw from its
    # HTTP library, requests, httpx or httpx2 by version: told by the names of their base classes.
    names = {cls.__name__ for cls in type(err).__mro__}
    by_name = {"LocalEntryNotFoundError", "HTTPError", "RequestException", "URLError"}
    return isinstance(err, ConnectionError | TimeoutError) or bool(names & by_name)


def _load_weights(model: nn.Module, path: Path) -> None:
    file = _weights_file(path)
    state = _read_state(file)
    target, what = model, "model"
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module) and not state.keys() & model.state_dict().keys():
        target, what = encoder, "encoder"
        state = _fit_first_layer(state, encoder.state_dict())
    try:
        target.load_state_dict(dict(state))  # a copy: smp's loaders take keys out of what they get
    except RuntimeError as err:
        raise ModelError(
            f"{file}: does not fit the {what} of {architecture_of(model)}:\n  "
            f"{listed(_misfits(state, target.state_dict()))}\n"
            "Build the model that the weights came from, or give other weights."
        ) from err


def _weights_file(path: Path) -> Path:
    names = ("model.safetensors", "best/model.safetensors")  # a model folder, a run folder
    file = next((path / name for name in names if (path / name).is_file()), path)
    if file.is_dir():
        raise ModelError(
            f"{path}: holds neither {names[0]} nor {names[1]}. Give a model folder, a run folder "
            "or a file of weights."
        )
    if not file.is_file():
        raise ModelError(f"{path}: there is no such file of weights. Check the path.")
    if file.suffix not in _READERS:
        raise ModelError(
            f"{path}: cannot read '{file.suffix}' as weights. Give one of {', '.join(_READERS)}."
        )
    return file


def _read_safetensors(file: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(file)


def _read_torch(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


_READERS = {".safetensors": _read_safetensors, ".pt": _read_torch, ".pth": _read_torch}


def _read_state(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    try:
        state = _READERS[file.suffix](file)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as err:
        raise ModelError(
            f"{file}: damaged, or holds more than tensors, which is not loaded because it could "
            "run code. Save it again with torch.save(model.state_dict(), ...)."
        ) from err
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(
            f"{file}: holds no state dict (names and tensors). Save model.state_dict() alone."
        )
    return state


def _fit_first_layer(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn weights over RGB into weights over the model's channels, as smp and timm do.

    One channel gets the sum over RGB; several get R, G, B, R, ... in turn, times 3 / n, which keeps
    the size of the response.
    """
    fitted = dict(state)
    for name, weight in state.items():
        shape = wanted[name].shape if name in wanted else weight.shape
        if weight.ndim != 4 or weight.shape[1] != 3 or shape[1] == 3:
            continue
        n = shape[1]
        turns = weight[:, torch.arange(n) % 3] * (3 / n)
        fitted[name] = weight.sum(dim=1, keepdim=True) if n == 1 else turns
    return fitted


def _misfits(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    shapes = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(wanted[name].shape)} in the model"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    missing = [f"{name}: missing in the file" for name in wanted if name not in state]
    return shapes + missing + [f"{name}: not in the model" for name in state if name not in wanted]
