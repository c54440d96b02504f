"""The model folder: whole, readable by smp, and refused where it is damaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import lungunet
from lungunet import InputContract, LabelCodec, ModelError, build_unet, load_model, save_model
from lungunet.models.folder import FORMAT


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(run / "best", tmp_path / "model"))


@pytest.mark.parametrize(
    "model",
    [
        lambda: build_unet("resnet18", n_classes=3, seed=1, decoder_channels=(16, 16, 8, 8, 8)),
        lambda: build_unet("tu-mobilenetv3_small_100", seed=1),
        lambda: build_unet("unet2015", width=4, seed=1),
    ],
)
def test_round_trip_keeps_logits_contract_codec_and_scores(model, tmp_path: Path) -> None:
    model = model().eval()
    classes = 3 if hasattr(model, "segmentation_head") and model.config["classes"] == 3 else 2
    codec = LabelCodec({i * 9: i for i in range(classes)})
    contract = InputContract(64, lungunet.Window(40, 400), ("int16",), mean=0.3, std=0.2)
    save_model(tmp_path, model, contract=contract, codec=codec, scores={"val_iou": 0.5})
    saved = load_model(tmp_path)
    assert (saved.contract, saved.codec, saved.scores) == (contract, codec, {"val_iou": 0.5})
    assert not saved.model.training
    image = torch.randn(2, 1, 40, 56)
    with torch.no_grad():
        assert torch.equal(saved.model(image), model(image))


def test_no_weights_are_fetched(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["encoder_weights"] is None
    load_model(folder)  # the suite blocks the network


def test_new_weights_without_their_scores_load_without_scores(folder: Path) -> None:
    """As after a kill between the two writes."""
    model = load_model(folder).model
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    other = folder.parent / "other"
    save_model(other, model, contract=InputContract(64), codec=lungunet.LUNG_CODEC)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    assert load_model(folder).scores == {}


@pytest.mark.parametrize("others", [{"contract": InputContract(128)}, {"width": 3}, {}])
def test_a_kill_leaves_no_new_weights_that_the_old_contract_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: dict
) -> None:
    codec = lungunet.LUNG_CODEC
    old = build_unet("unet2015", width=2, seed=0)
    save_model(tmp_path, old, contract=InputContract(64), codec=codec)
    new = build_unet("unet2015", width=others.get("width", 2), seed=1)
    write = lungunet.models.folder.write_text

    def killed(path: Path, text: str) -> None:
        if path.name == "lungunet.json":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr("lungunet.models.folder.write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save_model(tmp_path, new, contract=others.get("contract", InputContract(64)), codec=codec)
    if others:
        with pytest.raises(ModelError, match=r"weights without lungunet\.json"):
            load_model(tmp_path)
    else:  # the best model of a run can be used at any instant
        assert torch.equal(load_model(tmp_path).model.head.weight, new.head.weight)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_files_of_no_model_folder_stay_unless_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    what = {"contract": InputContract(64), "codec": lungunet.LUNG_CODEC}
    model = build_unet("unet2015", width=2)
    with pytest.raises(lungunet.ConfigError, match=rf"{name}: already there\. Add overwrite=True"):
        save_model(tmp_path, model, **what)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    save_model(tmp_path, model, overwrite=True, **what)
    save_model(tmp_path, model, **what)  # a model of ours is replaced


def damage(name: str, content: bytes | None):
    def apply(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return apply


def change(**values: object):
    def apply(folder: Path) -> None:
        path = folder / "lungunet.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damage("lungunet.json", None), "weights without lungunet.json"),
        (damage("lungunet.json", b"{"), "lungunet.json: damaged"),
        (damage("lungunet.json", b"[]"), "lungunet.json: not a JSON object"),
        (damage("lungunet.json", b"\xff"), "lungunet.json: damaged"),
        (damage("model.safetensors", None), "model"),
        (damage("model.safetensors", b"PK\x03\x04 something"), "model.safetensors: damaged"),
        (truncate, "model.safetensors: damaged"),
        (change(format=FORMAT + 1), f"format {FORMAT + 1} is not one that this lungunet reads"),
        (change(format="1"), "format 1 is not one"),
        (change(contract={}), "lungunet.json: damaged"),
        (change(codec=None), "lungunet.json: damaged"),
        (change(scores=[1]), "lungunet.json: damaged"),
        (change(architecture=[1]), "lungunet.json: damaged"),
        (change(architecture={"encoder": 3}), "lungunet.json: damaged"),
        (
            change(codec=LabelCodec({0: 0, 1: 1, 2: 2}).to_dict()),
            "the model has 2 classes, its label codec 3",
        ),
        (
            change(
                architecture={
                    "encoder": "tu-mobilenetv3_small_100",
                    "in_channels": 1,
                    "classes": 2,
                    "smp_arguments": {"checkpoint_path": "evil.pth"},
                }
            ),
            "unknown argument 'checkpoint_path'",
        ),
        (change(architecture={"encoder": "resnet18"}), "lungunet.json: damaged"),
        (
            change(
                architecture={
                    "encoder": "resnet18",
                    "in_channels": 1,
                    "classes": 2,
                    "smp_arguments": {},
                }
            ),
            "does not fit the model",
        ),
    ],
)
def test_damage_is_a_model_error(folder: Path, harm, message: str) -> None:
    harm(folder)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert message in str(caught.value)


def test_weights_path_starts_a_model_from_a_run(run: Path) -> None:
    saved = load_model(run).model.state_dict()
    model = build_unet("tu-mobilenetv3_small_100", weights=run)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
