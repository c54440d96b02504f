"""Scans: slices of a volume are mended, and the volume keeps its grid, to the voxel."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from browser import Page
from slices import body, lungs

import lungunet
from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.errors import ConfigError, LabelError, LungUNetError
from lungunet.inference.segmenter import Segmented
from lungunet.reviewing import scans
from lungunet.reviewing.desk import Desk, StaleError
from lungunet.reviewing.opinions import Opinions
from lungunet.reviewing.review import ReviewConfig, opened_review
from lungunet.reviewing.scans import ScanCase, _Opened
from lungunet.reviewing.server import ReviewServer
from lungunet.reviewing.sources import Material, scans_to_review
from lungunet.volumes import masks
from lungunet.volumes.formats import WRITTEN
from lungunet.volumes.scan import Scan
from lungunet.volumes.volume import Volume

DEPTH = 5
AFFINE = np.array([[0.7, 0, 0, -30], [0, 0.8, 0, 20], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def to_file(array: np.ndarray) -> np.ndarray:
    """From (z, y, x), rows from front to back and columns from right to left, to RAS."""
    return array.transpose(2, 1, 0)[::-1, ::-1]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """One scan and its mask, which lost a lung in the middle slice."""
    hu = np.stack([body(seed) for seed in range(DEPTH)])
    mask = np.repeat(lungs()[None], DEPTH, axis=0).astype(np.uint8)
    mask[2, :, 48:] = 0
    mask[0] = 0
    for name, array in (("scans", hu), ("masks", mask)):
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(to_file(array), AFFINE), tmp_path / name / "ct.1.nii.gz")
    return tmp_path / "scans", tmp_path / "masks"


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)[::-1, ::-1].transpose(2, 1, 0)


def opened(folders: tuple[Path, Path], out: Path | None) -> tuple[Desk, Material]:
    material, _ = scans_to_review(folders[1], out, scans=folders[0])
    return Desk(material.entries, material.log, material.codec), material


@contextmanager
def reviewing(page: Page, folders: tuple[Path, Path], out: Path) -> Iterator[ReviewServer]:
    config = ReviewConfig(model="threshold")
    with opened_review(folders[1], out, scans=folders[0], config=config) as server:
        page.open(server.address)
        yield server
        page.tab.call("Page.navigate", url="about:blank")


def test_slices_are_mended_and_the_volume_keeps_its_grid(
    page: Page, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wanted = read(folders[1] / "ct.1.nii.gz").copy()
    with reviewing(page, folders, out):
        assert page.text("#z-of") == "1 / 4"  # the first of those with most lung
        page.key("ArrowRight")
        page.tab.wait("document.getElementById('z-of').textContent === '2 / 4'")
        page.key("t")
        page.saved()
        wanted[2] = lungunet.segment_lungs(body(2))
        page.tab.wheel(*page.at(40, 30), 45)
        page.tab.wait("document.getElementById('z-of').textContent === '3 / 4'")
        page.frame()
        page.size(1)
        page.draw((48, 70))
        page.saved()
        wanted[3, 70, 48] = 1
        page.key("ArrowLeft")
        page.tab.wait("document.getElementById('z-of').textContent === '2 / 4'")
    path = out / "ct.1.nii.gz"
    assert np.array_equal(read(path), wanted)
    assert np.allclose(nib.load(path).affine, AFFINE)
    assert nib.load(path).get_data_dtype() == np.uint8
    first = (folders[1] / "ct.1.nii.gz").read_bytes()
    assert (out / ".review" / "ct.1.orig.nii.gz").read_bytes() == first
    assert [p.name for p in (out / ".review").iterdir()] == ["ct.1.orig.nii.gz"]
    assert lungunet.compare_reviews(out, out).kept_a["ct.1"] < 1
    assert list(lungunet.find_volume_pairs(folders[0], out)) == ["ct.1"]


def write_sides(folders: tuple[Path, Path], *, recorded: bool) -> None:
    """Make the mask one with sides that nobody knows, as ``predict --sides`` leaves it."""
    path = folders[1] / "ct.1.nii.gz"
    nib.save(nib.Nifti1Image(to_file(read(path) * np.uint8(3)), AFFINE), path)
    if recorded:
        head = {"format": 1, "made_by": {"model": "m", "sides": True}}
        (folders[1] / "predicted.jsonl").write_text(json.dumps(head) + "\n")


def test_predicted_masks_are_read_as_their_folder_says(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    write_sides(folders, recorded=True)
    config = ReviewConfig(model="threshold")
    with opened_review(folders[1], tmp_path / "out", scans=folders[0], config=config) as server:
        assert server.desk.plane(0, 1).classes.max() == 3
        assert server.desk.codec.names[3] == "lung of unknown side"


def test_values_that_no_mask_should_hold_end_it_before_anything_is_logged(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    write_sides(folders, recorded=False)
    out, config = tmp_path / "out", ReviewConfig(model="threshold")
    with (
        pytest.raises(LabelError, match="mask value 3"),
        opened_review(folders[1], out, scans=folders[0], config=config),
    ):
        pass
    assert not (out / "review.jsonl").exists()
    with pytest.raises(LabelError), opened_review(folders[1], out, scans=folders[0], config=config):
        pass
    right = replace(config, codec=LabelCodec.parse("0,1,2,3"))
    with opened_review(folders[1], out, scans=folders[0], config=right) as server:
        assert server.desk.plane(0, 1).classes.max() == 3


def test_scans_have_pictures_in_the_list_made_one_at_a_time(
    page: Page, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in folders:
        for name in ("ct.2", "ct.3"):
            (folder / f"{name}.nii.gz").write_bytes((folder / "ct.1.nii.gz").read_bytes())
    looked_at: list[str] = []
    read: list[object] = []
    read_volume = scans.read_volume

    class Counted(_Opened):
        def __init__(self, case: ScanCase) -> None:
            looked_at.append(case.name)
            super().__init__(case)

    def counted(path: Scan | Path) -> Volume:
        read.append(path)
        return read_volume(path)

    monkeypatch.setattr(scans, "_Opened", Counted)
    monkeypatch.setattr(scans, "read_volume", counted)
    with reviewing(page, folders, tmp_path / "out"):
        end = time.monotonic() + 20
        while not all(picture[..., :3].any() for picture in page.canvases(".row canvas")):
            assert time.monotonic() < end
            page.frame()
        pictures = np.array(page.canvases(".row canvas"), int)
        assert pictures.shape == (3, 56, 56, 4)
        assert (pictures[:, 28, 28, :3] > 150).all()  # the heart
        assert (pictures[:, 27, 17, 2] - pictures[:, 27, 17, 0] > 40).all()  # lung, in blue
        assert looked_at == ["ct.1"]
        assert len(read) == 6  # the scan that is looked at, and two more, and their masks


def test_other_planes_are_to_look_at(
    page: Page, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with reviewing(page, folders, tmp_path / "out"):
        hu = np.stack([body(seed) for seed in range(DEPTH)])
        for axis, at, value in (("coronal", 36, hu[3, 36, 20]), ("sagittal", 48, hu[3, 20, 48])):
            page.tab.js(
                f"(() => {{ const p = document.getElementById('plane'); p.value = '{axis}';"
                "p.dispatchEvent(new Event('change')); })()"
            )
            page.tab.wait(f"document.getElementById('z-of').textContent.startsWith('{at} /')")
            page.frame()
            ratio = 2.5 / (0.7 if axis == "coronal" else 0.8)
            x, y = page.at(20, (DEPTH - 1 - 3 + 0.5) * ratio - 0.5)  # head up
            page.tab.mouse("mouseMoved", x, y, button="none")
            page.frame()
            assert page.text("#value").startswith(f"20, 1   {value} HU")
            assert page.tab.js("document.querySelector('[data-act=model]').disabled")


def test_what_a_kill_kept_from_the_volume_is_finished_by_the_next_review(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(_Opened, "_start", lambda self: None)  # the kill comes before the volume
        desk, _ = opened(folders, out)
        base = desk.plane(0, 2).version
        after = desk.save(0, 2, lungs().astype(np.uint8), base=base, did="brush", who="")
    assert not read(out / "ct.1.nii.gz")[2, :, 48:].any()
    desk, material = opened(folders, out)
    assert desk.plane(0, 2).version == after
    material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    assert np.array_equal(read(out / "ct.1.nii.gz")[2], lungs())
    assert not list((out / ".review").glob("*.z*.png"))
    assert desk.log.cases["ct.1"].changes == 1  # nothing had to be set right


def write_from_outside(path: Path, z: int) -> np.ndarray:
    """Mend a slice as another program does; return what the file holds then."""
    array = read(path).copy()
    array[z] = 0
    array[z, :5, :7] = 1
    nib.save(nib.Nifti1Image(to_file(array), AFFINE), path)
    return array


def test_what_another_program_wrote_stays_and_is_shown(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "ct.1.nii.gz"
    desk, material = opened(folders, None)
    base = desk.plane(0, 2).version
    wanted = write_from_outside(path, 3)
    kept = path.read_bytes()
    wanted[2] = lungs()
    desk.save(0, 2, wanted[2], base=base, did="brush", who="")
    assert np.array_equal(desk.plane(0, 3).classes, wanted[3])
    material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    assert np.array_equal(read(path), wanted)
    assert (path.parent / ".review" / "ct.1.orig.nii.gz").read_bytes() == kept


def test_a_slice_that_another_program_changed_is_not_written_over(
    folders: tuple[Path, Path],
) -> None:
    path = folders[1] / "ct.1.nii.gz"
    desk, material = opened(folders, None)
    base = desk.plane(0, 2).version
    wanted = write_from_outside(path, 2)
    with pytest.raises(StaleError, match="changed elsewhere"):
        desk.save(0, 2, lungs().astype(np.uint8), base=base, did="brush", who="")
    assert not desk.log.cases
    assert np.array_equal(desk.plane(0, 2).classes, wanted[2])
    material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    assert np.array_equal(read(path), wanted)


def test_a_volume_that_another_program_writes_meanwhile_keeps_both(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folders[1] / "ct.1.nii.gz"
    written: list[np.ndarray] = []

    def rewrite_mask(*args: Any, **named: Any) -> None:
        if not written:
            written.append(write_from_outside(path, 3))
        masks.rewrite_mask(*args, **named)

    monkeypatch.setattr(scans, "rewrite_mask", rewrite_mask)
    desk, material = opened(folders, None)
    base = desk.plane(0, 2).version
    desk.save(0, 2, lungs().astype(np.uint8), base=base, did="brush", who="")
    material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    wanted = written[0]
    wanted[2] = lungs()
    assert np.array_equal(read(path), wanted)
    assert np.array_equal(desk.plane(0, 3).classes, wanted[3])
    assert [item.name for item in (path.parent / ".review").iterdir()] == ["ct.1.orig.nii.gz"]


def test_two_reviews_of_one_mask_keep_what_both_did(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "ct.1.nii.gz"
    wanted = read(path).copy()
    reviews = [opened(folders, None), opened(folders, None)]
    bases = [[desk.plane(0, z).version for z in range(DEPTH)] for desk, _ in reviews]
    for turn, z in enumerate((1, 2, 3, 4)):
        wanted[z] = 0
        wanted[z, turn : 20 + turn, 30:40] = 1
        desk, material = reviews[turn % 2]
        desk.save(0, z, wanted[z], base=bases[turn % 2][z], did="brush", who="")
        material.entries[0].case.shelf.opened("ct.1").finish()  # type: ignore[attr-defined]
    assert np.array_equal(read(path), wanted)


def test_the_first_version_stays_what_it_was_through_all_changes(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    desk, material = opened(folders, tmp_path / "out")
    case = material.entries[0].case
    before = read(folders[1] / "ct.1.nii.gz")
    assert np.array_equal(case.first(2), before[2])
    for z in (2, 1):
        changed = np.zeros_like(before[z]) if z == 1 else lungs().astype(np.uint8)
        desk.save(0, z, changed, base=desk.plane(0, z).version, did="brush", who="")
        assert not np.array_equal(desk.plane(0, z).classes, before[z])
        assert np.array_equal(case.first(z), before[z])
    case.shelf.close()  # type: ignore[attr-defined]


def test_a_volume_that_cannot_be_written_is_told_and_loses_nothing(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise LungUNetError("no room")

    desk, material = opened(folders, tmp_path / "out")
    monkeypatch.setattr(scans, "rewrite_mask", full)
    base = desk.plane(0, 2).version
    desk.save(0, 2, lungs().astype(np.uint8), base=base, did="brush", who="")
    with pytest.raises(LungUNetError, match="no room"):
        material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "out" / ".review").glob("*.z0002.png"))


@pytest.mark.parametrize("ending", WRITTEN)
def test_every_format_that_is_written_is_mended_in_place_and_keeps_names(
    folders: tuple[Path, Path], ending: str
) -> None:
    path = folders[1] / f"ct.1{ending}"
    scan = lungunet.read_volume(folders[0] / "ct.1.nii.gz")
    wanted = read(folders[1] / "ct.1.nii.gz").copy()
    (folders[1] / "ct.1.nii.gz").unlink()
    lungunet.write_segmentation(path, wanted, like=scan, names=["lung"])
    desk, material = opened(folders, None)
    wanted[2] = lungs()
    desk.save(0, 2, wanted[2], base=desk.plane(0, 2).version, did="brush", who="")
    material.entries[0].case.shelf.close()  # type: ignore[attr-defined]
    assert np.array_equal(lungunet.read_volume(path).array, wanted)
    assert [item.name for item in folders[1].glob("ct*")] == [path.name]
    if ending == ".seg.nrrd":
        assert SimpleITK.ReadImage(path).GetMetaData("Segment0_Name") == "lung"


def test_a_format_that_is_not_written_is_mended_as_a_copy(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    gz = folders[1] / "ct.1.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(gz), folders[1] / "ct.1.mhd")
    gz.unlink()
    with pytest.raises(ConfigError, match="read and not written"):
        opened(folders, None)
    opened(folders, tmp_path / "out")
    assert (tmp_path / "out" / "ct.1.mha").exists()


def test_masks_on_another_grid_are_refused_by_name(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 5
    path = folders[1] / "ct.1.nii.gz"
    nib.save(nib.Nifti1Image(to_file(read(path)), moved), path)
    desk, _ = opened(folders, tmp_path / "out")
    with pytest.raises(LungUNetError, match="on another grid"):
        desk.plane(0, 0)


def test_a_folder_is_not_copied_onto_itself(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="holds the masks that are read"):
        scans_to_review(folders[1], folders[1], scans=folders[0])


def test_the_model_sees_square_pixels(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = opened(folders, None)[0].plane(0, 2)
    assert plane.spacing_mm == pytest.approx((0.8, 0.7))
    shapes = []

    class Seen:
        contract, word, segment_volume = InputContract(64), "", None
        codec = LabelCodec({0: 0, 1: 1})

        def prepare(self, image: np.ndarray, where: str = "slice") -> np.ndarray:
            shapes.append(image.shape)
            return image

        def __call__(self, prepared: list[np.ndarray]) -> list[Segmented]:
            return [Segmented((image < -300).view(np.uint8)) for image in prepared]

    opinions, image = Opinions("runs/a"), body(2)
    monkeypatch.setattr(opinions, "_load", lambda: lungunet.Predictor(Seen()))
    said = opinions.of_model("p", image[::2], spacing_mm=(1.6, 0.8))
    assert shapes == [(len(image[::2]) * 2, image.shape[1])]
    assert said.classes.shape == image[::2].shape
