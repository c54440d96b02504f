"""Masks where CT belongs, and CT where masks belong: said by every verb, and nothing is made."""

from pathlib import Path

import numpy as np
import pytest

from lungunet.data.ct import read_image, read_mask, write_image, write_mask
from lungunet.data.manifest import Pair, read_manifest, render_manifest
from lungunet.data.split import SPLITS
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, read_volume, write_volume

NO_CT = "0, 255 and nothing else: a mask, no CT slice"
NO_MASK = "as CT has and no mask"


@pytest.fixture
def lists(data: Path, tmp_path: Path):
    """A data folder made by hand, of images and masks that are told by a function of each pair."""

    def make(change) -> Path:
        folder = tmp_path / "lists"
        for name in SPLITS:
            pairs = [change(pair) for pair in read_manifest(data / f"{name}.txt")]
            (folder / f"{name}.txt").parent.mkdir(exist_ok=True)
            (folder / f"{name}.txt").write_text(render_manifest(folder, pairs))
        return folder

    return make


@pytest.fixture
def hu_masks(phantoms: tuple[Path, Path], tmp_path: Path) -> Path:
    """Masks as int16, the dtype of the slices, so that the dtype does not tell."""
    for path in phantoms[1].glob("*.png"):
        write_image(tmp_path / "tif" / f"{path.stem}.tif", read_mask(path).astype(np.int16))
    return tmp_path / "tif"


def assert_said(done, text: str, *made: Path) -> None:
    assert done.code == 1
    assert text in done.err
    assert "Traceback" not in done.err
    assert "labels" not in done.err  # no advice on a coding that is none
    assert not any(path.exists() for path in made)


class TestSlices:
    @pytest.mark.parametrize("verb", ["split", "prepare"])
    def test_folders(self, run_cli, phantoms, hu_masks, tmp_path: Path, verb: str) -> None:
        images, masks = phantoms
        out = tmp_path / "out"
        for swapped in ((masks, images), (hu_masks, masks)):
            assert_said(run_cli(verb, *swapped, out), NO_CT, out)
        for path in images.glob("*.tif"):
            write_image(tmp_path / "slices" / path.name, read_image(path))
        assert_said(run_cli(verb, images, tmp_path / "slices", out), NO_MASK, out)

    def test_of_lists(self, run_cli, lists, run: Path, tmp_path: Path) -> None:
        def swap(pair: Pair) -> Pair:
            return Pair(pair.require_mask(), pair.image)

        folder, out = lists(swap), tmp_path / "out"
        assert_said(run_cli("train", folder, "--out", out, "--epochs", 1, "--size", 32), NO_CT)
        for model in (run, "lungs", "threshold"):
            assert_said(run_cli("evaluate", model, folder, "--out", out), NO_CT, out)
        audited = run_cli("audit", folder, "--out", out)
        assert audited.code == 1
        assert NO_CT in (out / "findings.csv").read_text()
        assert NO_MASK in (out / "findings.csv").read_text()

    def test_ct_in_the_place_of_masks(self, run_cli, lists, run: Path, tmp_path: Path) -> None:
        folder, out = lists(lambda pair: Pair(pair.image, pair.image)), tmp_path / "out"
        assert_said(run_cli("train", folder, "--out", out, "--epochs", 1, "--size", 32), NO_MASK)
        assert_said(run_cli("evaluate", run, folder, "--out", out), NO_MASK, out)

    @pytest.mark.parametrize("model", ["lungs", "threshold"])
    def test_predict(self, run_cli, hu_masks, tmp_path: Path, model: str) -> None:
        drawn = [path for path in sorted(hu_masks.glob("*.tif")) if _has_lung(path)]
        out = tmp_path / "out"
        assert_said(run_cli("predict", model, *drawn, "--out", out), NO_CT)
        assert not list(out.glob("*.png"))

    def test_predict_of_masks_among_slices(self, run_cli, phantoms, tmp_path: Path) -> None:
        image = sorted(phantoms[0].glob("*.tif"))[8]
        write_image(tmp_path / "in" / "P1" / "img" / image.name, read_image(image))
        mask = read_mask(phantoms[1] / f"{image.stem}.png")
        write_mask(tmp_path / "in" / "P1" / "gt" / f"{image.stem}.png", mask)
        done = run_cli("predict", "threshold", tmp_path / "in", "--out", tmp_path / "out")
        assert_said(done, NO_CT)
        assert done.err.endswith(
            "lungunet: 1 of 2 files skipped. Masks lie among them: give the slices alone, as "
            "'COHORT/*/img', or a list (.txt).\n"
        )

    def test_masks_of_another_tool(self, run_cli, data, phantoms, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert_said(run_cli("evaluate", phantoms[0], data, "--out", out), NO_MASK, out)

    def test_measure(self, run_cli, phantoms, tmp_path: Path) -> None:
        images, masks = phantoms
        done = run_cli("measure", masks, images, "--out", tmp_path / "out.csv")
        assert_said(done, NO_CT)

    def test_eight_bits(self, run_cli, phantoms, tmp_path: Path) -> None:
        images, masks = phantoms
        for path in images.glob("*.tif"):
            grey = np.clip(read_image(path) / 6 + 225, 0, 255).astype(np.uint8)
            write_mask(tmp_path / "grey" / f"{path.stem}.png", grey)
        out = tmp_path / "out"
        assert_said(run_cli("split", masks, tmp_path / "grey", out), NO_CT, out)
        assert_said(run_cli("split", images, tmp_path / "grey", out), NO_MASK, out)


class TestLungAndBackground:
    """Masks in which 0 is lung: each verb says so, and how they are read."""

    SAID = "masks with lung have it on most of the picture and of its margin, as background lies"
    FIX = "If lung and background are swapped, pass --labels 255,0."

    @pytest.fixture
    def inverted(self, phantoms, tmp_path: Path) -> Path:
        for path in phantoms[1].glob("*.png"):
            write_mask(tmp_path / "inverted" / path.name, 255 - read_mask(path))
        return tmp_path / "inverted"

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    @pytest.mark.parametrize("verb", [("split",), ("prepare", "--size", 32)])
    def test_split(self, run_cli, phantoms, inverted, tmp_path: Path, verb) -> None:
        images, masks = phantoms
        verb, *more = verb
        done = run_cli(verb, images, inverted, tmp_path / "a", *more)
        assert (done.code, done.err.count(self.SAID)) == (0, 1)
        assert self.FIX in done.err
        for right in ((masks,), (inverted, "--labels", "255,0")):
            done = run_cli(verb, images, right[0], tmp_path / "b", *right[1:], *more, "--overwrite")
            assert (done.code, done.err) == (0, "")

    @pytest.mark.filterwarnings("ignore::lungunet.LungUNetWarning")
    def test_evaluate(self, run_cli, phantoms, inverted, tmp_path: Path) -> None:
        images, masks = phantoms
        alone = ("--val", 0, "--test", 1)
        for name, folder, said in (("a", inverted, True), ("b", masks, False)):
            run_cli("split", images, folder, tmp_path / name, *alone)
            done = run_cli("evaluate", "threshold", tmp_path / name, "--out", tmp_path / name)
            assert (done.code, self.SAID in done.out) == (0, said)
            assert (f"\nthe truth: {len(list(masks.iterdir()))} of" in done.out) == said
            assert (self.FIX in done.out) == said

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_measure(self, run_cli, phantoms, inverted, tmp_path: Path) -> None:
        images, masks = phantoms
        for folder, said in ((inverted, True), (masks, False)):
            out = tmp_path / f"{folder.name}.csv"
            done = run_cli("measure", images, folder, "--out", out)
            assert (done.code, done.err.count(self.SAID), self.FIX in done.err) == (0, said, said)

    def test_masks_in_place_of_a_model(self, run_cli, data, phantoms, inverted) -> None:
        for folder, said in ((inverted, True), (phantoms[1], False)):
            done = run_cli("evaluate", folder, data)
            assert (done.code, self.SAID in done.out) == (0, said)
            assert ("\nthe masks: " in done.out) == said
            assert ("pass --mask-labels 255,0." in done.out) == said
            assert "the truth: " not in done.out


class TestLeftAndRight:
    NAMED = ("--labels", "0,1,2", "--label-names", "background,left,right")
    SAID = "left lies on the patient's right and right on the left"

    @pytest.fixture(autouse=True)
    def sides(self, phantoms, tmp_path: Path) -> None:
        """Masks with 1 in the left lung, and others with 2 there."""
        for path in phantoms[1].glob("*.png"):
            mask = (read_mask(path) > 0).astype(np.uint8)
            mask[:, : mask.shape[1] // 2] *= 2  # the patient's right
            write_mask(tmp_path / "truth" / path.name, mask)
            write_mask(tmp_path / "turned" / path.name, (3 - mask) * (mask > 0))

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    @pytest.mark.parametrize("verb", [("split",), ("prepare", "--size", 32)])
    def test_names_the_wrong_way_round(self, run_cli, phantoms, tmp_path: Path, verb) -> None:
        verb, *more = verb
        for number, (folder, named, said) in enumerate(
            (
                ("turned", self.NAMED, True),
                ("truth", self.NAMED, False),
                ("turned", ("--labels", "0,2,1", *self.NAMED[2:]), False),
                ("turned", (*self.NAMED[:3], "background,right lung,left lung"), False),
                ("turned", self.NAMED[:2], False),
            )
        ):
            data = tmp_path / f"{number}"
            done = run_cli(verb, phantoms[0], tmp_path / folder, data, *named, *more)
            assert (done.code, done.err.count(self.SAID)) == (0, said)
            assert ("--labels 0,2,1." in done.err) == said
            run_cli("audit", data, "--out", tmp_path / f"audit{number}")
            found = (tmp_path / f"audit{number}" / "findings.csv").read_text()
            assert ("mask-sides" in found, self.SAID in found) == (said, said)

    def test_masks_in_place_of_a_model(self, run_cli, phantoms, tmp_path: Path) -> None:
        images, _ = phantoms
        named, alone = self.NAMED, ("--val", 0, "--test", 1)
        run_cli("split", images, tmp_path / "truth", tmp_path / "data", *named, *alone)
        said = "left and right are exchanged between truth and mask in"
        fix = "--mask-labels 0,2,1 for the masks, or --labels 0,2,1 for the truth"
        for folder, more, is_said in (
            ("turned", (), True),
            ("truth", (), False),
            ("turned", ("--mask-labels", "0,2,1"), False),
        ):
            done = run_cli("evaluate", tmp_path / folder, tmp_path / "data", *more)
            assert (done.code, said in done.out, fix in done.out) == (0, is_said, is_said)


def _has_lung(path: Path) -> bool:
    return bool(read_mask(path).any())


class TestScans:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[Path, Path]:
        """One scan and its mask of 0 and 1."""
        made = [phantom_slice(0, z, size=64) for z in np.linspace(0.2, 0.7, 6)]
        hu = np.stack([item.image[:60] for item in made])
        lung = np.stack([item.mask[:60] for item in made]) // 255
        scan = Volume(hu, Path("a.nii"), "a", Grid.axial(hu.shape, (15.0, 5.5, 5.5)))
        write_volume(tmp_path / "scans" / "a.nii.gz", hu, like=scan)
        write_volume(tmp_path / "truth" / "a.nii.gz", lung, like=scan)
        return tmp_path / "scans", tmp_path / "truth"

    def test_masks_for_scans(self, run_cli, folders, tmp_path: Path) -> None:
        _, masks = folders
        out = tmp_path / "out"
        said = "0, 1 and nothing else: a mask, no CT scan"
        for verb in (
            ("predict", "lungs", masks, "--out", out),
            ("evaluate", "threshold", masks, "--truth", masks, "--labels", "0,1", "--out", out),
            ("slices", masks, masks, out, "--labels", "0,1"),
            ("measure", masks, masks, "--labels", "0,1", "--out", out / "out.csv"),
        ):
            done = run_cli(*verb)
            assert (done.code, said in done.err) == (1, True), done.err
        assert not list(tmp_path.glob("out/**/*.nii*"))

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_lung_as_background(self, run_cli, folders, tmp_path: Path) -> None:
        scans, masks = folders
        volume = read_volume(masks / "a.nii.gz")
        turned = tmp_path / "turned"
        write_volume(turned / "a.nii.gz", 1 - volume.array, like=volume)
        said = "1 of 1 mask with lung has it on most of the picture"
        for folder, is_said in ((turned, True), (masks, False)):
            done = run_cli("measure", scans, folder, "--out", tmp_path / f"{folder.name}.csv")
            assert (said in done.err, "pass --labels 1,0" in done.err) == (is_said, is_said)
            done = run_cli("evaluate", folder, scans, "--truth", masks)
            assert f"the masks: {said}" in done.out if is_said else said not in done.out
            assert ("pass --mask-labels 1,0" in done.out) == is_said
        done = run_cli("evaluate", masks, scans, "--truth", turned)
        assert f"the truth: {said}" in done.out
        assert "pass --labels 1,0" in done.out

    def test_scans_for_masks(self, run_cli, folders, tmp_path: Path) -> None:
        scans, _ = folders
        out = tmp_path / "out"
        for verb in (
            ("evaluate", "threshold", scans, "--truth", scans, "--labels", "0,1", "--out", out),
            ("slices", scans, scans, out, "--labels", "0,1"),
            ("measure", scans, scans, "--labels", "0,1=1,*=0", "--out", out / "out.csv"),
        ):
            done = run_cli(*verb)
            assert (done.code, NO_MASK in done.err) == (1, True), done.err
