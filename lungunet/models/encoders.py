"""The encoders there are: their names, sizes and pretrained weights.

Asks smp and timm, which are imported inside the functions that need them: they take about 2 s.
"""

import difflib
import fnmatch
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lungunet.errors import ConfigError, listed
from lungunet.models.original import UNet2015

ORIGINAL = "unet2015"
DEFAULT_ENCODER = "tu-mobilenetv3_small_100"
DEFAULT_VIT = "tu-vit_tiny_patch16_224"  # of DPT, which takes nothing else

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
class EncoderInfo:
    """An encoder that ``build_model`` can use.

    Parameters
    ----------
    name : what ``build_model`` takes
    parameters : number of parameters of the encoder alone with one input channel; None for "tu-"
        encoders, which would have to be built one by one, 0.1 s each and there are 900
    weights : names that ``weights=`` takes; for "tu-" encoders "imagenet" stands for the first
    """

    name: str
    parameters: int | None
    weights: tuple[str, ...]


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
        return [EncoderInfo(name, None, tags_of(name)) for name in _timm_names(pattern)]
    return [
        EncoderInfo(name, _count_parameters(name), tags_of(name))
        for name in _native_names()
        if fnmatch.fnmatchcase(name, pattern)
    ]


def _native_names() -> list[str]:
    from lungunet.models.outside import smp_encoders

    return [ORIGINAL, *(name for name in smp_encoders.encoders if not name.startswith("timm-"))]


def _timm_names(pattern: str = "tu-*") -> list[str]:
    from lungunet.models.outside import timm

    families = [name for name in timm.list_modules() if name not in _NO_PYRAMID.split()]
    return [f"tu-{name}" for name in timm.list_models(pattern[3:], module=families)]


def tags_of(encoder: str) -> tuple[str, ...]:
    """Give the tags of pretrained weights of a known encoder, the default one first."""
    if encoder == ORIGINAL:
        return ()
    if encoder.startswith("tu-"):
        from lungunet.models.outside import timm

        name, tag = timm.models.split_model_name_tag(encoder[3:])
        configs = timm.models.get_arch_pretrained_cfgs(name).values()  # the default one comes first
        tags = tuple(config.tag for config in configs if config.has_weights and config.tag)
        return (tag,) if tag in tags else tags
    from lungunet.models.outside import smp_encoders

    return tuple(smp_encoders.encoders[encoder]["pretrained_settings"])


def is_cached(encoder: str) -> bool:
    """Tell whether the default pretrained weights of an encoder lie in the Hugging Face cache.

    Looks at the disk, never asks the network.
    """
    from huggingface_hub import try_to_load_from_cache

    if not tags_of(encoder):
        return False
    if encoder.startswith("tu-"):
        from lungunet.models.outside import timm

        config = timm.models.get_pretrained_cfg(encoder[3:])
        repository, revision = str(config and config.hf_hub_id), None
    else:
        from lungunet.models.outside import smp_encoders

        settings = smp_encoders.encoders[encoder]["pretrained_settings"][tags_of(encoder)[0]]
        repository, revision = settings["repo_id"], settings["revision"]
    return any(
        isinstance(try_to_load_from_cache(repository, name, revision=revision), str)
        for name in ("model.safetensors", "pytorch_model.bin")
    )


def _count_parameters(encoder: str) -> int:
    from lungunet.models.outside import smp_encoders

    # MixTransformer reads numbers back from a linspace, which the meta device cannot; the others
    # are spared the mode, which doubles the time. What smp draws on the CPU must not move the
    # global generator.
    mode = _LinspaceOnCpu() if encoder.startswith("mit_") else nullcontext()
    with torch.random.fork_rng(devices=[]), torch.device("meta"), mode:
        if encoder == ORIGINAL:
            module: nn.Module = UNet2015().down
        else:
            module = smp_encoders.get_encoder(encoder, in_channels=1, weights=None)
    return sum(parameter.numel() for parameter in module.parameters())


class _LinspaceOnCpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        device = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**(kwargs or {}), **device})


def check_encoder(encoder: str) -> None:
    """Refuse an unknown encoder."""
    if encoder == ORIGINAL:
        return
    if encoder.startswith("tu-"):
        from lungunet.models.outside import timm

        name, tag = timm.models.split_model_name_tag(encoder[3:])
        if timm.is_model(name):
            if tag and encoder[3:] not in timm.models.get_arch_pretrained_cfgs(name):
                raise unknown_tag(f"tu-{name}", tag)
            return
    else:
        from lungunet.models.outside import smp_encoders

        if encoder in smp_encoders.encoders:
            return
    raise ConfigError(
        f"Unknown encoder '{encoder}'. {_closest(encoder)}'lungunet encoders' lists all."
    )


def dilates(encoder: str, stride: int) -> bool:
    """Tell whether the last levels of a known encoder can keep the size of the level at ``stride``.

    Asks timm on the meta device, without weights; smp by its classes.
    """
    if encoder.startswith("tu-"):
        from lungunet.models.outside import timm

        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model = timm.create_model(encoder[3:], features_only=True, output_stride=stride)
        except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError):
            return False
        return bool(max(model.feature_info.reduction()) <= stride)  # type: ignore[operator, union-attr]
    from lungunet.models.outside import EncoderMixin, smp_encoders

    return bool(smp_encoders.encoders[encoder]["encoder"].make_dilated is EncoderMixin.make_dilated)


def size_arguments(encoder: str, size: int) -> dict[str, Any]:
    """Return what builds a known encoder for a size, px: of timm some are of one size alone."""
    if not encoder.startswith("tu-"):
        return {}
    from lungunet.models.outside import timm

    config = timm.models.get_pretrained_cfg(encoder[3:])
    # Not all that say so mean it (timm 1.0.31), but all of them take the argument.
    return {"img_size": size} if config and config.fixed_input_size else {}


def _closest(encoder: str) -> str:
    # Native names first and a stable sort: of equally close names the better known one is shown.
    names = _native_names() + _timm_names()
    matcher = difflib.SequenceMatcher(b=encoder)
    ratios: dict[str, float] = {}
    for name in names:
        matcher.set_seq1(name)
        ratios[name] = matcher.ratio()
    close = [name for name in sorted(names, key=lambda n: -ratios[n])[:3] if ratios[name] > 0.6]
    return f"Closest: {', '.join(map(repr, close))}. " if close else ""


def unknown_tag(encoder: str, tag: str) -> ConfigError:
    """Return the error for a tag that ``encoder`` does not have."""
    known = tags_of(encoder)
    words = [*known, "lungs", "none"]
    if known and encoder.startswith("tu-"):
        words.append("imagenet")  # stands for the first, whatever that is called
    close = difflib.get_close_matches(tag, words, n=1, cutoff=0.85)
    meant = f"Did you mean '{close[0]}'? " if close else ""
    tags = [repr(each) for each in known]
    exist = f"There are {listed(tags, separator=', ')}" if tags else "There are none to download"
    return ConfigError(
        f"no weights '{tag}'. {meant}{exist}; None starts from random weights, and a path "
        "reads a file or a model folder.",
        where=encoder,
    )
