"""No number of numpy gets past the border, where files and checkpoints would trip over it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.disease import disease_slice
from lungunet.data.files import json_text
from lungunet.data.split import fold_pairs, split_pairs
from lungunet.data.window import Window
from lungunet.errors import ConfigError
from lungunet.inference.measure import measure_files
from lungunet.inference.predictor import Predictor
from lungunet.inference.scans import predict_volume
from lungunet.models.architectures import Architecture
from lungunet.models.folder import save_model
from lungunet.models.losses import build_loss
from lungunet.models.unet import build_unet
from lungunet.phantom.phantom import phantom_slice
from lungunet.training.config import RunConfig, TrainConfig
from lungunet.volumes.slicing import SliceConfig

SLICE = np.zeros((20, 30), np.int16)


def predictor(*arguments):
    return Predictor(build_unet("unet2015", width=2, seed=0), *arguments)


def leaves(value):
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in leaves(inner)]
    return [value]


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(lr=np.logspace(-4, -2, 3)[1], epochs=np.int64(3), compile=np.False_),
        TrainConfig(loss="focal", loss_arguments={"gamma": np.float32(3)}, device=np.int64(0)),
        RunConfig(data="data", size=np.uint16(64), smp_arguments={"channels": [np.int64(8)]}),
        InputContract(np.int64(64), Window(np.float32(-600), np.int16(1500)), mean=np.float64(0.5)),
        LabelCodec({np.uint8(0): 0, 255: np.int64(1)}, threshold=np.int64(128)),
        Architecture("unet2015", classes=np.int64(3), smp_arguments={"width": np.int64(4)}),
    ],
    ids=lambda config: type(config).__name__,
)
def test_configs_hold_plain_values(config):
    kinds = {type(leaf) for leaf in leaves(asdict(config))}
    assert kinds <= {int, float, str, bool, type(None)}


def test_json_holds_numbers_as_numbers():
    facts = {np.int64(1): np.float32(0.5), "hu": np.array([-600, np.nan]), "at": Path("a")}
    assert json_text(facts, indent=None) == '{"1": 0.5, "hu": [-600.0, null], "at": "a"}\n'


def test_json_refuses_what_it_would_make_text_of():
    with pytest.raises(ConfigError, match="type set is not JSON serializable"):
        json_text({"slices": {1, 2}})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: InputContract((64, 64)), r"size \(64, 64\): must be a whole number"),
        (lambda: InputContract(64.0), r"size 64\.0: must be a whole number"),
        (lambda: InputContract(64, (-600, 1500)), r"window: \(-600, 1500\) is of the wrong kind"),
        (lambda: Window("-600", 1500), "window '-600',1500: level and width are numbers"),
        (lambda: LabelCodec("0,255"), "classes: '0,255' is of the wrong kind"),
        (lambda: disease_slice(SLICE, SLICE, seed=-1), "seed -1: must be 0 or more"),
        (lambda: disease_slice(SLICE, SLICE, seed=1.5), "seed: 1.5 is of the wrong kind"),
        (lambda: split_pairs([], seed=1.5, test=0), "seed: 1.5 is of the wrong kind"),
        (lambda: fold_pairs([], folds=2.5), "folds: 2.5 is of the wrong kind. Give a whole number"),
        (lambda: phantom_slice(0, 0.5, size=64.0), "size: 64.0 is of the wrong kind"),
        (lambda: SliceConfig(every=1.5), "every: 1.5 is of the wrong kind. Give a whole number"),
        (lambda: SliceConfig("0,1"), "codec: '0,1' is of the wrong kind"),
        (lambda: predictor({}), r"contract: \{\} is of the wrong kind. Give the one that"),
        (lambda: predictor(InputContract(32), "0,255"), "codec: '0,255' is of the wrong kind"),
        (
            lambda: [*predictor(InputContract(32)).predict_files([], batch_size=1.5)],
            "batch_size: 1.5 is of the wrong kind",
        ),
        (
            lambda: predict_volume(Predictor.load("threshold"), None, batch_size=1.5),
            "batch_size: 1.5 is of the wrong kind",
        ),
        (
            lambda: save_model("m", build_unet("unet2015"), contract={}, codec=LUNG_CODEC),
            r"contract: \{\} is of the wrong kind",
        ),
        (lambda: [*measure_files("a", "b", codec="0,1")], "codec: '0,1' is of the wrong kind"),
        (lambda: build_loss(class_weights="auto"), "class_weights: auto. Give one weight per"),
    ],
)
def test_other_kinds_are_told_where_they_come_in(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
