"""``lungunet measure``: slices and scans, with and without millimetres, HU and sides."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet.cli.measure import measure
from lungunet.inference.measure import COLUMNS
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, write_volume

ROOT = Path(__file__).parents[2]
SPACING = (20.0, 5.6, 5.5)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def chest() -> tuple[np.ndarray, np.ndarray]:
    """(8, 60, 64) HU and lungs, 0 or 1."""
    made = [phantom_slice(0, z, size=64) for z in np.linspace(0.2, 0.85, 8)]
    hu, mask = (np.stack([getattr(one, name)[2:62] for one in made]) for name in ("image", "mask"))
    return hu, mask // 255


@pytest.fixture
def scan(chest: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    """A scan in a folder of its own; masks lie in others."""
    hu, lungs = chest
    volume = Volume(hu, tmp_path / "x.nii", "x", Grid.axial(hu.shape, SPACING))
    write_volume(tmp_path / "scans" / "x.nii.gz", hu, like=volume)
    write_volume(tmp_path / "ones" / "x.nii.gz", lungs, like=volume)
    write_volume(tmp_path / "raw" / "x.nii.gz", lungs * np.uint8(255), like=volume)
    sides = lungunet.split_sides(lungs, spacing_mm=SPACING)
    write_volume(tmp_path / "sides" / "x.nii.gz", sides, like=volume)
    return tmp_path / "scans"


HU = np.array([-1000, 40], np.int16)


class TestSlices:
    def test_one_row_per_slice_as_measured_by_itself(self, run_cli, phantoms, tmp_path) -> None:
        out = tmp_path / "m.csv"
        done = run_cli("measure", *phantoms, "--out", out, "--spacing-mm", "0.8,0.7")
        assert (done.code, done.err) == (0, "")
        rows = rows_of(out)
        assert len(rows) == 12
        for row, pair in zip(rows, lungunet.find_pairs(*phantoms), strict=True):
            image, mask = lungunet.read_image(pair.image), lungunet.read_mask(pair.mask)
            expected = lungunet.measure_slice(
                image, mask, name=pair.name, spacing_mm=(0.8, 0.7)
            ).to_dict()
            assert row == {key: "" if v is None else str(v) for key, v in expected.items()}
        assert "12 rows in" in done.out
        assert rows[0]["name"] in done.out
        assert "mm2 are not known" not in done.out

    def test_without_spacing_it_says_why_mm2_is_empty(self, run_cli, phantoms, tmp_path) -> None:
        done = run_cli("measure", *phantoms, "--out", tmp_path / "m.csv")
        assert {row["area_mm2"] for row in rows_of(tmp_path / "m.csv")} == {""}
        assert "mm2 are not known: add --spacing-mm" in done.out

    def test_sides_add_two_rows(self, run_cli, phantoms, tmp_path) -> None:
        out = tmp_path / "m.csv"
        assert run_cli("measure", *phantoms, "--out", out, "--sides").code == 0
        rows = rows_of(out)
        assert len(rows) == 36
        for lungs, left, right in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            regions = [row["region"] for row in (lungs, left, right)]
            assert regions == ["lungs", "left lung", "right lung"]
            assert int(left["area_px"]) + int(right["area_px"]) == int(lungs["area_px"])

    def test_two_files(self, run_cli, tmp_path) -> None:
        lungunet.write_image(tmp_path / "a.png", np.full((9, 8), 30, np.uint8))
        lungunet.write_mask(tmp_path / "other.png", np.eye(9, 8, dtype=np.uint8))
        files = tmp_path / "a.png", tmp_path / "other.png"
        done = run_cli("measure", *files, "--out", tmp_path / "m.csv")
        (row,) = rows_of(tmp_path / "m.csv")
        assert (row["name"], row["area_px"], row["mean_hu"]) == ("a", "8", "")
        assert "1 row without HU: eight-bit and uint16 pictures hold none" in done.out

    def test_the_table_is_short(self, run_cli, tmp_path) -> None:
        for number in range(23):
            lungunet.write_image(tmp_path / f"i/{number:02}.tif", np.resize(HU, (4, 5)))
            lungunet.write_mask(tmp_path / f"m/{number:02}.png", np.zeros((4, 5), np.uint8))
        folders = tmp_path / "i", tmp_path / "m"
        done = run_cli("measure", *folders, "--out", tmp_path / "m.csv")
        assert "\n19 " in done.out
        assert "\n20 " not in done.out
        assert "and 3 more" in done.out
        assert "without HU" not in done.out  # no lung, which is another thing
        assert len(rows_of(tmp_path / "m.csv")) == 23

    def test_a_bad_file_is_skipped_and_named(self, run_cli, tmp_path) -> None:
        for name, value in (("a", 255), ("b", 7)):
            lungunet.write_image(tmp_path / f"i/{name}.tif", np.resize(HU, (4, 5)))
            lungunet.write_mask(tmp_path / f"m/{name}.png", np.resize(np.uint8([0, value]), (4, 5)))
        out = tmp_path / "m.csv"
        done = run_cli("measure", tmp_path / "i", tmp_path / "m", "--out", out)
        assert done.code == 1
        assert "b.png: mask value 7" in done.err
        assert "1 of 2 pairs skipped" in done.err
        assert [row["name"] for row in rows_of(out)] == ["a"]

    def test_json_is_alone_and_holds_the_same(self, run_cli, phantoms, tmp_path) -> None:
        out = tmp_path / "m.csv"
        found = json.loads(run_cli("measure", *phantoms, "--out", out, "--json").out)
        assert found["failed"] == []
        assert len(found["measurements"]) == 12
        for row, line in zip(found["measurements"], rows_of(out), strict=True):
            assert {k: "" if v is None else str(v) for k, v in row.items()} == line

    @pytest.mark.parametrize(
        ("labels", "regions"),
        [("0,255", 0), ("0,1", 0), ("auto", 3), ("0,1,2", 3), ("0,2=1,1=2", 3), ("0,1,2=1", 1)],
    )
    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_labels(self, run_cli, tmp_path, labels: str, regions: int) -> None:
        mask = np.zeros((6, 9), np.uint8)
        mask[2:4, 1:4], mask[2:4, 6] = 2, 1
        lungunet.write_mask(tmp_path / "m.png", mask)
        lungunet.write_image(tmp_path / "i.tif", np.resize(HU, (6, 9)))
        out = tmp_path / "m.csv"
        files = tmp_path / "i.tif", tmp_path / "m.png"
        done = run_cli("measure", *files, "--out", out, "--labels", labels)
        assert (done.code == 0) == (regions > 0)
        assert out.exists() == (regions > 0)
        rows = rows_of(out) if regions else []
        assert len(rows) == regions
        if regions == 3:
            left, right = (2, 6) if labels != "0,2=1,1=2" else (6, 2)
            assert [int(row["area_px"]) for row in rows] == [8, left, right]
        swapped = "lies on the patient's right" in done.err
        assert swapped is (labels == "0,2=1,1=2")  # 1 stands on the right of the picture
        if swapped:
            assert "i: 2 lies on the patient's right and 1 on the left in 1 of 1 mask" in done.err
            assert "--labels 0,1,2." in done.err
            again = run_cli(
                "measure", *files, "--out", out, "--labels", labels, "--json", "--overwrite"
            )
            assert json.loads(again.out)["swapped_sides"] == ["i"]

    @pytest.mark.parametrize(
        ("values", "coded", "wrong"),
        [
            ((255, 255, 0), "0,255", []),
            ((1, 1, 255), "0,1", ["c"]),
            ((255, 255, 2), "0,255", ["c"]),
            ((1, 2, 0), "0,1,2", []),
            ((1, 2, 3), "0,1,2", ["c"]),
            ((255, 1, 0), "0,255", ["b"]),  # as many, and the usual one
            ((0, 0, 0), "0,255", []),
        ],
    )
    def test_one_coding_for_all_masks(self, run_cli, tmp_path, values, coded, wrong) -> None:
        for name, value in zip("abc", values, strict=True):
            lungunet.write_image(tmp_path / f"i/{name}.tif", np.resize(HU, (4, 5)))
            mask = np.eye(4, 5, dtype=np.uint8) * np.uint8(value)
            lungunet.write_mask(tmp_path / f"m/{name}.png", mask)
        words = ("measure", tmp_path / "i", tmp_path / "m", "--out", tmp_path / "m.csv")
        done = run_cli(*words)
        sides = ": 1 is taken as the left, 2 as the right lung" if coded == "0,1,2" else ""
        first = f"masks are coded {coded}{sides}; if they are not, say how with --labels"
        assert done.out.splitlines()[0] == first
        assert done.code == bool(wrong)
        for name, value in zip("abc", values, strict=True):
            assert (f"{name}.png: mask value {value} " in done.err) == (name in wrong)
        rows = rows_of(tmp_path / "m.csv")
        assert {row["name"] for row in rows} == set("abc") - set(wrong)
        assert len(rows) == (3 - len(wrong)) * (3 if sides else 1)
        found = json.loads(run_cli(*words, "--overwrite", "--json").out)
        assert found["labels"] == coded

    def test_a_mask_that_cannot_be_read_has_no_say(self, run_cli, tmp_path) -> None:
        for name in "ab":
            lungunet.write_image(tmp_path / f"i/{name}.tif", np.resize(HU, (4, 5)))
            lungunet.write_mask(tmp_path / f"m/{name}.png", np.eye(4, 5, dtype=np.uint8))
        coloured = np.zeros((4, 5, 3), np.uint8)
        coloured[1, 2, 0] = 255
        lungunet.write_picture(tmp_path / "m/a.png", coloured)
        words = ("measure", tmp_path / "i", tmp_path / "m", "--out", tmp_path / "m.csv")
        done = run_cli(*words)
        assert (done.code, done.out.startswith("masks are coded 0,1;")) == (1, True)
        assert done.err.count("a.png: a mask with 3 channels that differ") == 1
        assert [row["name"] for row in rows_of(tmp_path / "m.csv")] == ["b"]

    def test_explicit_labels_tell_sides_where_a_lung_is_absent(self, run_cli, tmp_path) -> None:
        lungunet.write_mask(tmp_path / "m.png", np.eye(5, dtype=np.uint8))
        lungunet.write_image(tmp_path / "i.tif", np.resize(HU, (5, 5)))
        files = tmp_path / "i.tif", tmp_path / "m.png"
        run_cli("measure", *files, "--out", tmp_path / "m.csv", "--labels", "0,1,2")
        assert [row["area_px"] for row in rows_of(tmp_path / "m.csv")] == ["5", "5", "0"]

    def test_smeared_masks(self, run_cli, tmp_path) -> None:
        lungunet.write_mask(tmp_path / "m.png", np.arange(0, 250, 10, np.uint8).reshape(5, 5))
        lungunet.write_image(tmp_path / "i.tif", np.resize(HU, (5, 5)))
        files = tmp_path / "i.tif", tmp_path / "m.png"
        run_cli("measure", *files, "--out", tmp_path / "m.csv", "--label-threshold", 128)
        assert [row["area_px"] for row in rows_of(tmp_path / "m.csv")] == ["12"]


class TestScans:
    @pytest.mark.parametrize("masks", ["ones", "raw"])
    def test_a_scan_and_its_slices(self, run_cli, scan, chest, tmp_path, masks: str) -> None:
        out = tmp_path / "m.csv"
        done = run_cli("measure", scan, tmp_path / masks, "--out", out)
        assert (done.code, done.err) == (0, "")
        rows = rows_of(out)
        assert [row["slice"] for row in rows] == ["", *map(str, range(8))]
        expected = lungunet.measure_volume(*chest, spacing_mm=SPACING)
        assert float(rows[0]["volume_ml"]) == pytest.approx(expected.lungs.volume_ml)
        assert rows[0]["mean_hu"] == str(expected.lungs.mean_hu)
        for row, one in zip(rows[1:], expected.slices, strict=True):
            assert float(row["area_mm2"]) == pytest.approx(one.area_mm2)
        assert f"{expected.lungs.volume_ml:.1f}" in done.out
        assert "mm2 are not known" not in done.out

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_masks_of_a_program_that_has_the_right_lung_first(
        self, run_cli, scan, tmp_path, chest
    ) -> None:
        lungs = lungunet.split_sides(chest[1], spacing_mm=SPACING)
        theirs = np.array([0, 2, 1], np.uint8)[lungs]
        volume = lungunet.read_volume(scan / "x.nii.gz")
        write_volume(tmp_path / "theirs.nii.gz", theirs, like=volume)
        out = tmp_path / "m.csv"
        words = ("measure", scan / "x.nii.gz", tmp_path / "theirs.nii.gz", "--out", out)
        assert "--labels 0,2,1" in run_cli(*words).err
        done = run_cli(*words, "--overwrite", "--labels", "0,2,1", "--json")
        assert done.err == ""
        assert json.loads(done.out)["swapped_sides"] == []
        areas = [int(row["area_px"]) for row in rows_of(out)[1:3]]
        assert areas == [(lungs == 1).sum(), (lungs == 2).sum()]

    @pytest.mark.parametrize(("masks", "flags"), [("sides", ()), ("ones", ("--sides",))])
    def test_each_lung(self, run_cli, scan, chest, tmp_path, masks: str, flags: tuple) -> None:
        run_cli("measure", scan, tmp_path / masks, "--out", tmp_path / "m.csv", *flags)
        lungs, left, right = rows_of(tmp_path / "m.csv")[:3]
        sides = lungunet.split_sides(chest[1], spacing_mm=SPACING)
        assert int(left["area_px"]) == (sides == 1).sum()
        assert int(right["area_px"]) == (sides == 2).sum()
        total = float(left["volume_ml"]) + float(right["volume_ml"])
        assert total == pytest.approx(float(lungs["volume_ml"]))

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    @pytest.mark.parametrize(
        ("piece", "slice_mm", "why"),
        [
            (slice(0, 8), 20.0, ""),
            (slice(3, 4), 50.0, "no chest here: a single slice"),
            (slice(3, 7), 5.0, "not a whole chest: 4 slices, 20 mm of the body"),
        ],
    )
    def test_volumes_are_left_empty_where_predict_does(
        self, run_cli, scan, chest, tmp_path, piece: slice, slice_mm: float, why: str
    ) -> None:
        hu, lungs = chest[0][piece], lungunet.split_sides(chest[1], spacing_mm=SPACING)[piece]
        grid = Grid.axial(hu.shape, (slice_mm, *SPACING[1:]))
        volume = Volume(hu, tmp_path / "x.nii", "x", grid)
        write_volume(tmp_path / "scans" / "x.nii.gz", hu, like=volume)
        write_volume(tmp_path / "sides" / "x.nii.gz", lungs, like=volume)
        run_cli("predict", "threshold", scan, "--out", tmp_path / "predicted")
        done = run_cli("measure", scan, tmp_path / "sides", "--out", tmp_path / "m.csv")
        assert (done.code, why in done.err) == (0, True)
        assert ("volume_ml is left empty of 1 of 1 scan:" in done.err) == bool(why)
        empty = [row["volume_ml"] == "" for row in rows_of(tmp_path / "m.csv")[:3]]
        assert empty == [bool(why)] * 3
        predicted = rows_of(tmp_path / "predicted" / "measurements.csv")
        assert (predicted[0]["volume_ml"] == "") == bool(why)

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_a_belly_has_no_volume_and_a_small_part_of_a_lung_has_one(
        self, run_cli, scan, chest, tmp_path
    ) -> None:
        hu, lungs = chest
        lobe = lungs * (np.cumsum(lungs.any(axis=(1, 2))) == 2)[:, None, None].astype(np.uint8)
        lobe[:, :, 32:] = 0  # of one lung in one slice
        lobe[:, ::2] = 0
        belly = np.where((hu > -300) | (lungs > 0), 40, hu).astype(np.int16)
        volume = Volume(hu, tmp_path / "x.nii", "x", Grid.axial(hu.shape, SPACING))
        for name, pixels in (("x", hu), ("y", belly)):
            write_volume(tmp_path / "scans" / f"{name}.nii.gz", pixels, like=volume)
            write_volume(tmp_path / "lobe" / f"{name}.nii.gz", lobe, like=volume)
        done = run_cli("measure", scan, tmp_path / "lobe", "--out", tmp_path / "m.csv", "--json")
        assert "y: not a whole chest: lung is at most" in done.err
        assert json.loads(done.out)["no_chest"] == ["y"]
        rows = {row["name"]: row["volume_ml"] for row in rows_of(tmp_path / "m.csv")[::-1]}
        assert float(rows["x"]) > 0
        assert rows["y"] == ""

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_how_predicted_masks_are_coded_is_said_as_their_folder_does(
        self, run_cli, scan, tmp_path
    ) -> None:
        done = run_cli("predict", "threshold", scan, "--sides", "--out", tmp_path / "predicted")
        assert done.code == 0
        words = ("measure", scan, tmp_path / "predicted", "--out", tmp_path / "m.csv")
        assert run_cli(*words).out.startswith(
            "masks are coded 0,1,2,3, as their folder says: 1 is the left, 2 the right lung, 3 lung"
        )
        assert json.loads(run_cli(*words, "--overwrite", "--json").out)["labels"] == "0,1,2,3"

    @pytest.mark.filterwarnings("always::lungunet.errors.LungUNetWarning")
    def test_a_mask_on_a_finer_grid_is_put_on_the_scans(
        self, run_cli, scan, chest, tmp_path
    ) -> None:
        _, lungs = chest
        finer = np.repeat(np.repeat(lungs, 2, axis=1), 2, axis=2)
        y, x = SPACING[1] / 2, SPACING[2] / 2
        shift = (-x / 2, -y / 2, 0.0)
        grid = Grid(finer.shape[::-1], (x, y, SPACING[0]), shift)
        volume = Volume(finer, Path("x"), "x", grid)
        write_volume(tmp_path / "finer" / "x.nii.gz", finer, like=volume)
        done = run_cli("measure", scan, tmp_path / "finer", "--out", tmp_path / "m.csv")
        assert done.code == 0
        assert "is on another grid than its scan" in done.err
        assert rows_of(tmp_path / "m.csv")[0]["area_px"] == str(lungs.sum())

    def test_two_series_in_a_folder_do_not_stop_the_others(
        self, run_cli, scan, two_series, tmp_path
    ) -> None:
        two_series.rename(scan / "y")
        shutil.copy(tmp_path / "ones" / "x.nii.gz", tmp_path / "ones" / "y.nii.gz")
        out = tmp_path / "m.csv"
        done = run_cli("measure", scan, tmp_path / "ones", "--out", out)
        assert done.code == 1
        assert f"lungunet: skipped {scan / 'y'}: 2 series:" in done.err
        assert "lungunet: 1 of 2 pairs skipped" in done.err
        assert {row["name"] for row in rows_of(out)} == {"x"}
        assert done.out.startswith("masks are coded 0,1; if they are not, say how with --labels\n")


class TestRefusals:
    def test_existing_output(self, run_cli, phantoms, tmp_path) -> None:
        out = tmp_path / "m.csv"
        out.write_text("mine")
        done = run_cli("measure", *phantoms, "--out", out)
        assert done.code == 1
        assert "--overwrite" in done.err
        assert out.read_text() == "mine"
        assert run_cli("measure", *phantoms, "--out", out, "--overwrite").code == 0

    def test_output_over_input(self, run_cli, tmp_path) -> None:
        lungunet.write_mask(tmp_path / "m.png", np.eye(5, dtype=np.uint8))
        files = tmp_path / "m.png", tmp_path / "m.png"
        done = run_cli("measure", *files, "--out", tmp_path / "m.png", "--overwrite")
        assert done.code == 1
        assert "while it is read" in done.err

    @pytest.mark.parametrize("spacing", ["0.7", "a,b", "0.7,0", "1,2,3", "-1,1", "nan,1", "inf,1"])
    def test_spacings(self, run_cli, phantoms, tmp_path, spacing: str) -> None:
        out = tmp_path / "m.csv"
        done = run_cli("measure", *phantoms, "--out", out, f"--spacing-mm={spacing}")
        assert done.code == 1
        assert f"--spacing-mm '{spacing}': is not two lengths" in done.err
        assert not out.exists()

    def test_options_that_would_do_nothing(self, run_cli, scan, phantoms, tmp_path) -> None:
        out = ("--out", tmp_path / "m.csv")
        done = run_cli("measure", scan, tmp_path / "ones", *out, "--spacing-mm", "1,1")
        assert "--spacing-mm: for slices, these are volumes" in done.err
        done = run_cli("measure", *phantoms, *out, "--series", "x")
        assert "--series: for volumes, these are slices" in done.err

    def test_more_classes_than_lungs(self, run_cli, phantoms, tmp_path) -> None:
        out = ("--out", tmp_path / "m.csv", "--labels", "0,1,2,3")
        done = run_cli("measure", *phantoms, *out)
        assert done.code == 1
        assert "labels '0,1,2,3': 4 classes" in done.err

    def test_files_of_two_sizes(self, run_cli, tmp_path) -> None:
        lungunet.write_mask(tmp_path / "m.png", np.eye(5, dtype=np.uint8))
        lungunet.write_image(tmp_path / "i.tif", np.resize(HU, (5, 6)))
        files = tmp_path / "i.tif", tmp_path / "m.png"
        done = run_cli("measure", *files, "--out", tmp_path / "m.csv")
        assert done.code == 1
        assert "i: mask is 5x5, image is 5x6" in done.err


def test_the_help_and_the_page_name_every_column(run_cli) -> None:
    """What ``predict`` points to, where it names its table."""
    page = (ROOT / "docs" / "howto" / "measure.md").read_text("utf-8")
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    told = [line.split(":")[0] for line in (measure.__doc__ or "").splitlines() if "- `" in line]
    for lines in (table, told):
        named = [name for line in lines for name in re.findall(r"`(\w+)`", line)]
        assert sorted(named) == sorted(COLUMNS)
    shown = run_cli("measure", "--help").out
    assert all(name in shown for name in COLUMNS)
