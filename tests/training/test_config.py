"""Settings: names, kinds, ranges, and the TOML file."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungunet import ConfigError, RunConfig, TrainConfig


def test_toml_round_trip_holds_every_setting(tmp_path: Path) -> None:
    arguments = {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}
    config = RunConfig(
        data="a folder/ä",
        epochs=3,
        lr=1e-4,
        flip=False,
        labels="0,3=1,4=1",
        smp_arguments=arguments,
        loss="tversky",
        loss_arguments={"beta": 0.9},
    )
    config.save(tmp_path / "config.toml")
    assert RunConfig.from_toml(tmp_path / "config.toml") == config
    text = (tmp_path / "config.toml").read_text(encoding="utf-8")
    names = [field.name for field in dataclasses.fields(RunConfig)]
    assert all(f"{name} = " in text or f"[{name}]" in text for name in names)


def test_changes_win_over_the_file_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("epochs = 7\nlr = 1\n")
    config = TrainConfig.from_toml(tmp_path / "c.toml", epochs=9)
    assert (config.epochs, config.lr, config.batch_size) == (9, 1, TrainConfig().batch_size)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_rate": 1.0}, "run.toml: unknown setting 'lr_rate'. Did you mean 'lr'?"),
        ({"zzz": 1}, "run.toml: unknown setting 'zzz'. Known: epochs, batch_size, lr"),
        ({"epochs": "3"}, "run.toml: epochs = '3' is of the wrong kind. Write a whole number."),
        ({"epochs": True}, "epochs = True is of the wrong kind"),
        ({"lr": True}, "lr = True is of the wrong kind. Write a number."),
        ({"precision": "fp8"}, 'Write "auto" or "fp32" or "bf16" or "fp16".'),
        ({"device": 3.5}, "device = 3.5 is of the wrong kind. Write text in quotes."),
        ({"lr": -1.0}, "lr=-1.0: must be above 0"),
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
        ({"lr": float("nan")}, "lr=nan: must be above 0"),
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"workers": -2}, "workers=-2: must be at least -1"),
        ({"weight_decay": float("nan")}, "weight_decay=nan: must be at least 0. 0.01 is usual"),
        ({"optimizer": "sgd", "weight_decay": -1.0}, "must be at least 0. 3e-05 is usual"),
        ({"optimizer": "lion"}, 'Write "adamw" or "adam" or "sgd".'),
        ({"schedule": "step"}, 'Write "cosine" or "poly" or "constant".'),
        ({"momentum": 1.0}, "momentum=1.0: must be from 0 to below 1"),
        ({"loss": "iou"}, 'Write "ce-dice" or "ce" or "dice" or "focal" or "tversky"'),
        ({"loss_arguments": {"gamma": "2"}}, "Write a table of numbers, as in {gamma = 2.0}."),
        ({"loss_arguments": [2.0]}, "Write a table of numbers"),
        ({"loss_arguments": {"gamma": 2.0}}, "run.toml: unknown argument 'gamma'. It takes ce_wei"),
        ({"loss_arguments": {"ignore_index": 9}}, "unknown argument 'ignore_index'"),
        ({"loss": "focal", "loss_arguments": {"gamma": -2.0}}, "gamma: -2.0. Give 0, or 1 or more"),
        ({"class_weights": "1"}, "not one number above 0 per class"),
        ({"class_weights": "1,-3"}, "not one number above 0 per class"),
        ({"class_weights": "balanced"}, "Write none, auto, or the weights"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(values, where="run.toml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "lr", "weight_decay"),
    [("adamw", 2e-3, 1e-2), ("adam", 1e-3, 0.0), ("sgd", 1e-2, 3e-5)],
)
def test_rate_and_decay_suit_the_optimizer_unless_they_are_said(
    tmp_path: Path, optimizer: str, lr: float, weight_decay: float
) -> None:
    config = TrainConfig.from_dict({"optimizer": optimizer})
    assert (config.lr, config.weight_decay) == (lr, weight_decay)
    assert TrainConfig.from_dict({"optimizer": optimizer, "lr": 0.5}).lr == 0.5
    config.save(tmp_path / "c.toml")  # holds the numbers
    assert f"lr = {lr}" in (tmp_path / "c.toml").read_text()


@pytest.mark.parametrize("content", [b"epochs = ", b"\xff\xfe", b"[section]\nx = 1"])
def test_files_that_are_no_settings_are_config_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.toml"):
        TrainConfig.from_toml(tmp_path / "c.toml")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        TrainConfig.from_toml(tmp_path / "none.toml")


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=3)))
def test_any_dict_is_a_config_or_a_config_error(values: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        TrainConfig.from_dict(values)
