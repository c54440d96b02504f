"""A model folder on its way: through smp, through load and save, and what its card says."""

import json
import shutil
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml

import lungunet
from lungunet import InputContract, ModelError, build_unet, load_model, save_model
from lungunet.models.folder import add_scores, is_model_folder, weights_hash

FILES = {"config.json", "model.safetensors", "lungunet.json", "README.md"}


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "best", tmp_path / "model"))


class TestThroughSmp:
    @pytest.fixture
    def plain(self, folder: Path, tmp_path: Path) -> Path:
        """What smp writes of a model that it read from our folder."""
        smp.from_pretrained(folder, encoder_weights=None).save_pretrained(tmp_path / "plain")
        return tmp_path / "plain"

    def test_smp_reads_our_folder(self, folder: Path) -> None:
        theirs = smp.from_pretrained(folder, encoder_weights=None).eval()
        image = torch.randn(1, 1, 32, 64)
        with torch.no_grad():
            assert torch.equal(theirs(image), load_model(folder).model(image))

    def test_what_smp_wrote_lacks_lungunet_json_and_the_error_says_so(
        self, plain: Path, run_cli, data: Path, phantoms: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match=r"plain: weights without lungunet\.json, which says"):
            load_model(plain)
        for words in (("evaluate", plain, data), ("predict", plain, *phantoms, "--out", tmp_path)):
            done = run_cli(*words)
            assert done.code == 1
            assert "Copy it from the model folder that they came from" in done.err

    def test_the_file_copied_back_makes_it_whole_again(self, plain: Path, folder: Path) -> None:
        shutil.copy(folder / "lungunet.json", plain)
        ours, again = load_model(folder), load_model(plain)
        state = again.model.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in ours.model.state_dict().items())
        assert again.contract == ours.contract


def test_load_and_save_change_nothing(folder: Path, tmp_path: Path) -> None:
    add_scores(folder, {"test": {"slices": 7}}, weights_sha256=weights_hash(folder))
    saved = load_model(folder)
    save_model(
        tmp_path / "copy",
        saved.model,
        contract=saved.contract,
        codec=saved.codec,
        scores=saved.scores,
    )
    assert {path.name for path in (tmp_path / "copy").iterdir()} == FILES
    for name in ("model.safetensors", "README.md"):
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    for name in ("config.json", "lungunet.json"):
        copied = json.loads((tmp_path / "copy" / name).read_text(encoding="utf-8"))
        assert copied == json.loads((folder / name).read_text(encoding="utf-8"))
    assert saved.scores["test"] == {"slices": 7}


class TestAddingScores:
    def test_they_are_kept_beside_those_of_val(self, folder: Path) -> None:
        before = load_model(folder).scores
        add_scores(folder, {"test": {"slices": 7}}, weights_sha256=weights_hash(folder))
        assert load_model(folder).scores == {**before, "test": {"slices": 7}}
        add_scores(folder, {"test": {"slices": 8}}, weights_sha256=weights_hash(folder))
        assert load_model(folder).scores == {**before, "test": {"slices": 8}}

    def test_scores_of_other_weights_are_not(self, folder: Path) -> None:
        """As where a training has written a better model since."""
        texts = {name: (folder / name).read_bytes() for name in FILES}
        add_scores(folder, {"test": {"slices": 7}}, weights_sha256="0" * 64)
        assert texts == {name: (folder / name).read_bytes() for name in FILES}


def test_weights_alone_count_as_a_model_folder(tmp_path: Path) -> None:
    assert not is_model_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert is_model_folder(tmp_path)


class TestCard:
    def test_of_a_run(self, folder: Path) -> None:
        card = (folder / "README.md").read_text(encoding="utf-8")
        for said in (
            "Segments lung in axial CT slices.",
            "Not a medical device: not for diagnosis.",
            "- Encoder: tu-mobilenetv3_small_100\n",
            "one slice, HU window -600,1500, letterboxed to 32x32; files of\n  int16, int32,",
            "values 0, 255 for\n  background, lung",
            "Trained on 6 slices; the best epoch was chosen on 3 others, val.",
            "| val_iou | 0.",
        ):
            assert said in card, said
        assert "_slices |" not in card

    def test_header_is_what_the_hub_reads_and_claims_no_licence(self, folder: Path) -> None:
        card = (folder / "README.md").read_text(encoding="utf-8")
        header = yaml.safe_load(card.split("---\n")[1])
        assert header == {
            "library_name": "lungunet",
            "pipeline_tag": "image-segmentation",
            "tags": ["ct", "lung", "segmentation", "medical-imaging"],
        }
        assert "## Licence\n\nNone is stated." in card

    def test_it_names_no_path_and_no_slice(self, folder: Path, split: lungunet.Split) -> None:
        text = "".join(
            (folder / name).read_text(encoding="utf-8") for name in FILES - {"model.safetensors"}
        )
        assert not any(pair.name in text for part in (split.train, split.val) for pair in part)
        assert str(split.train[0].image.parent) not in text

    def test_of_a_model_that_nobody_scored(self, tmp_path: Path) -> None:
        codec = lungunet.LabelCodec({0: 0, 3: 1, 9: 2}, names=("background", "left", "right"))
        contract = InputContract(64, window=None, dtypes=("uint8",))
        model = build_unet("unet2015", n_classes=3, width=4)
        save_model(tmp_path, model, contract=contract, codec=codec)
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert "How many slices it was trained on is not recorded." in card
        assert "## Scores\n\nNone are recorded." in card
        assert "one slice, 8-bit grey, letterboxed to 64x64" in card
        assert "values 0, 3, 9 for\n  background, left, right" in card
        assert "Segments left, right in" in card

    def test_scores_of_a_list_with_their_intervals(self, folder: Path) -> None:
        found = {
            "slices": 40,
            "patients": 9,
            "iou": {"value": 0.97398, "low": 0.97093, "high": 0.97683},
            "iou_above_threshold": {"value": -0.0021, "low": None, "high": None},
        }
        add_scores(folder, {"test": found}, weights_sha256=weights_hash(folder))
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "On 40 slices of 9 patients, list test, at the size of the files." in card
        assert "| lung IoU, pooled | 0.9740 | 0.9709 to 0.9768 |" in card
        assert "| lung IoU gained over that threshold | -0.0021 | undefined to undefined |" in card
        assert card.index("list test") < card.index("| val_iou |")
