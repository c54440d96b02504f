"""Build models by the names of architecture and encoder, and remember how they were built.

Knows nothing of slices, training or the model folder. smp is imported inside the functions that
need it: it takes about 2 s.
"""

import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungunet.data.files import read_json
from lungunet.errors import (
    ConfigError,
    LungUNetError,
    LungUNetWarning,
    ModelError,
    WeightsUnavailableError,
)
from lungunet.models.architectures import (
    Architecture,
    check_network,
    check_size,
    choose_network,
    smp_class,
    usual_arguments,
)
from lungunet.models.builtin import BUILTIN
from lungunet.models.encoders import DEFAULT_ENCODER, DEFAULT_VIT, ORIGINAL, tags_of, unknown_tag
from lungunet.models.hub import hub_address, is_on_hub, is_unreachable
from lungunet.models.members import named_folder
from lungunet.models.original import UNet2015
from lungunet.models.torch_errors import first_line
from lungunet.models.weights import WEIGHT_SUFFIXES, load_weights
from lungunet.process_wide import ignored_warnings, muted_logger

# Levels that the decoder climbs; the rest, up to the picture, is scaled at the end.
_CLIMBS = {"pspnet": 0, "fpn": 3}
_MARK = "_lungunet_architecture"  # the attribute of a model that holds its Architecture
_SOURCE = "_lungunet_weights"  # and that which says what its weights come from


def build_model(
    architecture: str = "unet",
    encoder: str = "auto",
    *,
    weights: str | Path | bool | None = None,
    in_channels: int = 1,
    n_classes: int = 2,
    seed: int | None = None,
    **smp_arguments: Any,
) -> nn.Module:
    """Build a network that turns (N, in_channels, H, W) float into (N, n_classes, H, W) logits.

    What each architecture asks of height and width, :func:`list_architectures` says. Some encoders
    of timm are of one size, vision transformers among them: pass ``img_size=512``. Weights are
    random unless asked for; only a tag may use the network, and it obeys ``HF_HUB_OFFLINE``.

    Parameters
    ----------
    architecture : "unet", "unetplusplus", "deeplabv3plus", ...; "unet2015" is the original U-Net
    encoder : name of an encoder, or auto
        An smp encoder ("resnet34"), "tu-" and a timm model with or without its tag
        ("tu-convnext_tiny"). ``list_encoders`` lists them. "auto" is the default of the
        architecture: "tu-mobilenetv3_small_100", or for "dpt" a small vision transformer.
    weights : None, a tag, the word "lungs", a path, or "hf://OWNER/NAME@REVISION"
        None (also "none" and False): random. "lungs": those of the built-in model, of which each
        class of lung begins as lung. A tag of the encoder: downloaded, or taken from the
        Hugging Face cache; "imagenet" (also True) exists for most. A path: a ``.safetensors``,
        ``.pt`` or ``.pth`` file with the state dict of such a model or of its encoder alone, or a
        model folder or run folder, whose ``smp_arguments`` count where none are given; of a folder
        of another architecture the encoder is taken, with a warning. Where an encoder was
        trained on three channels and this model has one, the first weights are summed over RGB. A
        name that is both a tag and a path is a tag.
    in_channels : channels of the input
    n_classes : channels of the logits, background included
    seed : seed of the random weights; the global generator of torch stays untouched
        None draws from the global generator, as torch does.
    **smp_arguments
        What the class of smp takes, such as ``encoder_depth``, ``decoder_channels`` or
        ``decoder_attention_type="scse"``, which makes "unet" an attention U-Net; with "tu-"
        encoders also what ``timm.create_model`` takes; with "unet2015" only ``valid`` and
        ``width``.

    Raises
    ------
    ConfigError
        A name, the tag or an argument is unknown, or they do not fit each other.
    ModelError
        A file of weights is missing, damaged or of another model.
    WeightsUnavailableError
        The weights could not be fetched.

    Examples
    --------
    >>> model = build_model("unetplusplus", "resnet18", seed=0).eval()
    >>> tuple(model(torch.zeros(1, 1, 64, 96)).shape)
    (1, 2, 64, 96)
    """
    if "classes" in smp_arguments:
        raise ConfigError("is called n_classes here. Write n_classes=3, say.", where="classes")
    name, encoder = choose_network(architecture, encoder)
    tag, path = _tag_or_path(encoder, weights)
    stored = stored_architecture(path) if path else None
    if stored and stored.encoder != encoder and weights in BUILTIN:
        raise ConfigError(
            f"weights of the encoder {stored.encoder}, not of {encoder}. Name that encoder, or "
            "take other weights.",
            where=str(weights),
        )
    if stored and (stored.name, stored.encoder) == (name, encoder):
        smp_arguments = {**stored.smp_arguments, **smp_arguments}
    network = Architecture(encoder, in_channels, n_classes, smp_arguments, name)
    check_network(network)
    # Models are built on the CPU: forking the generators of other devices costs a context each.
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds all devices
        model = _build_original(network) if name == ORIGINAL else _build_smp(network, tag)
    setattr(model, _MARK, network)
    if tag is not None:
        mark_source(model, tag)
    if path is not None:
        other = stored if stored and stored.name != name else None
        if other:
            warnings.warn(
                f"{weights}: holds {other}, of which {network} takes the encoder; the rest begins "
                "with random weights.",
                LungUNetWarning,
                stacklevel=2,
            )
        load_weights(model, path, encoder_only=other is not None)
        mark_source(model, weights if isinstance(weights, str) else path)
    return model


def build_unet(
    encoder: str = DEFAULT_ENCODER,
    *,
    weights: str | Path | bool | None = None,
    in_channels: int = 1,
    n_classes: int = 2,
    seed: int | None = None,
    **smp_arguments: Any,
) -> nn.Module:
    """Build a U-Net that turns (N, in_channels, H, W) float into (N, n_classes, H, W) logits.

    It is :func:`build_model` for the usual architecture, which takes any height and width.

    Parameters
    ----------
    encoder : name of an encoder, or "unet2015" for the original
    weights, in_channels, n_classes, seed, **smp_arguments : as for :func:`build_model`
        ``classes`` is the old name of ``n_classes``, which 0.3 removes.

    Raises
    ------
    ConfigError, ModelError, WeightsUnavailableError
        As for :func:`build_model`.

    References
    ----------
    Ronneberger, Fischer, Brox 2015, DOI 10.1007/978-3-319-24574-4_28.

    Examples
    --------
    >>> model = build_unet("resnet18", seed=0, decoder_channels=(32, 16, 16, 8, 8)).eval()
    >>> tuple(model(torch.zeros(1, 1, 65, 47)).shape)
    (1, 2, 65, 47)
    """
    if "classes" in smp_arguments:
        warnings.warn(
            "build_unet(classes=...) is called n_classes= now, as in build_model; 0.3 removes the "
            "old name.",
            DeprecationWarning,
            stacklevel=2,
        )
        n_classes = smp_arguments.pop("classes")
    return build_model(
        "unet",
        encoder,
        weights=weights,
        in_channels=in_channels,
        n_classes=n_classes,
        seed=seed,
        **smp_arguments,
    )


def build_from(architecture: Architecture) -> nn.Module:
    """Build the model that ``architecture`` describes, with random weights, without network."""
    return build_model(
        architecture.name,
        architecture.encoder,
        in_channels=architecture.in_channels,
        n_classes=architecture.classes,
        **architecture.smp_arguments,
    )


def stored_architecture(source: str | Path) -> Architecture | None:
    """Read how the model in a model folder or run folder was built; None where nothing says so."""
    try:
        folder = named_folder(source)
    except ModelError:  # loading it says what is wrong
        return None
    for file in (folder / "lungunet.json", folder / "best" / "lungunet.json"):
        with suppress(LungUNetError, TypeError, AttributeError):
            stored = read_json(file, error=ModelError, fix="").get("architecture")
            return Architecture.from_dict(stored) if stored else None
    return None


def architecture_of(model: nn.Module) -> Architecture | None:
    """Tell what rebuilds ``model``: one of ``build_model``, or of a class of smp by itself.

    None for any other module, and for one of smp that gives no logits. Copies and
    ``torch.compile``d models answer like the model; unwrap DistributedDataParallel first.

    Examples
    --------
    >>> architecture_of(build_unet("unet2015", width=2))
    Architecture(encoder='unet2015', in_channels=1, classes=2, smp_arguments={'width': 2}, \
name='unet2015')
    >>> architecture_of(nn.Conv2d(1, 2, 1)) is None
    True
    """
    model = getattr(model, "_orig_mod", model)
    mark = getattr(model, _MARK, None)
    if isinstance(mark, Architecture):
        return mark
    config = getattr(model, "config", None)
    if not isinstance(config, dict):
        return None
    found = architecture_in({**config, "_model_class": type(model).__name__})
    # A class of the user's own may have a name of smp's.
    return found if found and type(model) is smp_class(found.name) else None


def mark_source(model: nn.Module, weights: str | Path) -> None:
    """Note in ``model`` what its weights come from; copies of it know that too."""
    known = isinstance(weights, str) and (weights in BUILTIN or is_on_hub(weights))
    if isinstance(weights, Path) or (not known and Path(weights).exists()):
        weights = str(Path(weights).absolute())
    setattr(getattr(model, "_orig_mod", model), _SOURCE, hub_address(weights) or weights)


def source_of(model: nn.Module) -> str:
    """Tell what the weights of ``model`` come from: a path, word, address or tag, or none."""
    return str(getattr(getattr(model, "_orig_mod", model), _SOURCE, "none"))


def architecture_in(config: dict[str, Any]) -> Architecture | None:
    """Read a config.json of smp; see :meth:`Architecture.from_smp`."""
    try:
        found = Architecture.from_smp(config)
        if found:
            check_network(found)
    except (ConfigError, KeyError, TypeError, ValueError):
        return None
    return found


def check_fits(model: nn.Module, size: int) -> None:
    """Refuse a size, or channels, that ``model`` cannot take; of a foreign module nothing is known.

    Parameters
    ----------
    size : of the square that slices are fitted to, px
    """
    network = architecture_of(model)
    if network is None:
        return
    if network.in_channels != 1:
        raise ConfigError(
            f"takes {network.in_channels} channels, and slices have one. Build it with "
            "in_channels=1.",
            where=network,
        )
    check_size(network, size)


def _tag_or_path(encoder: str, weights: str | Path | bool | None) -> tuple[str | None, Path | None]:
    # smp takes False for a wish to download ("is not None"), so nothing but None or a name goes on.
    if weights is None or weights is False or weights == "none":
        return None, None
    if isinstance(weights, Path):
        return None, weights
    if weights in BUILTIN or is_on_hub(weights):
        return None, named_folder(str(weights))
    tag = "imagenet" if weights is True else weights
    tags = tags_of(encoder)
    if tag in tags or (tag == "imagenet" and tags and encoder.startswith("tu-")):
        return tag, None
    path = Path(tag)
    if path.exists() or path.suffix in WEIGHT_SUFFIXES or os.sep in tag or "/" in tag:
        return None, path
    raise unknown_tag(encoder, tag)


def _build_original(network: Architecture) -> nn.Module:
    return UNet2015(network.in_channels, network.classes, **network.smp_arguments)


def _build_smp(network: Architecture, tag: str | None) -> nn.Module:
    encoder, arguments = network.encoder, dict(network.smp_arguments)
    if network.name in _CLIMBS:  # smp's own default fits its default depth alone
        depth = arguments.get("encoder_depth", usual_arguments(network.name)["encoder_depth"])
        arguments.setdefault("upsampling", 2 ** (depth - _CLIMBS[network.name]))
    weights: str | bool | None = tag
    if tag is not None and encoder.startswith("tu-"):
        # timm has the tag in the name of the model; smp wants True and warns about a name.
        weights = True
        if tag != "imagenet" and not encoder.endswith(f".{tag}"):
            encoder = f"{encoder}.{tag}"
    build = smp_class(network.name)
    try:
        with (
            # DPT of an encoder without class token: it does what the warning advises by itself.
            ignored_warnings("Encoder does not have prefix tokens"),
            # It tells of each failed try; the error says it once, and what to do.
            muted_logger("huggingface_hub", logging.ERROR),
        ):
            model: nn.Module = build(
                encoder,
                encoder_weights=weights,
                in_channels=network.in_channels,
                classes=network.classes,
                **arguments,
            )
    except Exception as err:
        raise _explained(err, network, tag) from err
    # Each level that DPT makes is half of the one before, the first a quarter of the picture.
    if network.name == "dpt" and 32 % model.encoder.output_stride:  # type: ignore[operator, union-attr]
        raise _no_vit(network, f"its patches are of {model.encoder.output_stride} px")  # type: ignore[union-attr]
    # A folder saved from this model must not make smp.from_pretrained download what it overwrites.
    model.config.update(encoder_name=network.encoder, encoder_weights=None)  # type: ignore[operator, union-attr]
    return model


def _explained(err: Exception, network: Architecture, tag: str | None) -> Exception:
    """Give the error to raise for ``err``, which came out of smp or timm; ``err`` if none fits."""
    encoder, arguments = network.encoder, network.smp_arguments
    if tag is not None and is_unreachable(err):
        return WeightsUnavailableError(
            f"the weights '{tag}' could not be fetched ({type(err).__name__}). Go on "
            "without (weights='none'), or from a file or model folder "
            "(weights='path/to/model.safetensors'), or copy the Hugging Face cache of a machine "
            "that has them and point HF_HOME to it.",
            where=encoder,
        )
    if encoder.startswith("tu-") and "Unsupported model downsampling" in str(err):
        return ConfigError(
            "this timm model does not halve the picture level by level, so it cannot be an encoder "
            f"of {network.name}. list_encoders('tu-*') lists those that can.",
            where=encoder,
        )
    if network.name == "dpt" and isinstance(err, ValueError | AttributeError | TypeError):
        return _no_vit(network, first_line(err))
    if arguments and isinstance(err, TypeError | ValueError | KeyError | AssertionError):
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        reason = str(err).rstrip(".") or type(err).__name__
        return ConfigError(f"{reason}. Change or leave out {given}.", where=encoder)
    return err


def _no_vit(network: Architecture, reason: str) -> ConfigError:
    return ConfigError(
        f"dpt takes vision transformers of timm with patches of 8, 16 or 32 px, and cannot take "
        f"this model ({reason}). Take {DEFAULT_VIT}, or another architecture.",
        where=network,
    )
