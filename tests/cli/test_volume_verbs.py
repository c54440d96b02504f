import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import dicom_slice, save

from lungunet.data.ct import read_image, read_mask
from lungunet.data.manifest import read_manifest
from lungunet.data.split import read_split
from lungunet.errors import DataError
from lungunet.inference import scan_files
from lungunet.inference.sides import split_sides
from lungunet.inference.threshold import segment_lungs
from lungunet.models.builtin import BUILTIN
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, read_volume, write_volume

SPACING = (15.0, 5.5, 5.5)

# Of the folder of scans below, to most tests only what lies in it itself matters.
pytestmark = pytest.mark.filterwarnings("ignore:.* deeper in it left out")


@pytest.fixture(scope="module")
def chest():
    """Twelve slices from below the lungs to above them, and their truth."""
    made = [phantom_slice(0, z, size=64) for z in np.linspace(0.02, 0.9, 12)]
    hu = np.stack([item.image[:60] for item in made])
    truth = np.stack([item.mask[:60] for item in made]) // 255
    return Volume(hu, Path("chest.nii"), "chest", Grid.axial(hu.shape, SPACING)), truth


@pytest.fixture
def scans(chest, tmp_path):
    """Two scans of one name, one in another format, and one that is damaged."""
    scan, truth = chest
    folder = tmp_path / "scans"
    for name in ("a/ct.nii.gz", "b/ct.nii.gz", "c.mha"):
        write_volume(folder / name, scan.array, like=scan)
    for name in ("a_ct.nii.gz", "b_ct.nii.gz", "c.mha"):
        write_volume(tmp_path / "truth" / name, truth, like=scan)
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestPredict:
    def test_masks_tables_and_pictures(self, run_cli, scans, chest, tmp_path):
        out = tmp_path / "out"
        done = run_cli(
            "predict", "threshold", f"{scans}/*/ct.nii.gz", scans, "--out", out, "--preview"
        )
        assert (done.code, done.err) == (0, "")
        scan, _ = chest
        lungs = segment_lungs(scan.array, spacing_mm=SPACING)
        for name in ("a_ct.nii.gz", "b_ct.nii.gz", "c.mha"):
            mask = read_volume(out / name)
            assert np.array_equal(mask.array, lungs)
            assert mask.grid.matches(scan.grid)
        for name in ("a_ct", "b_ct", "c"):
            picture = out / "previews" / f"{name}.png"
            assert picture.stat().st_size > 10_000
            assert name in done.out
        whole = [row for row in rows_of(out / "measurements.csv") if not row["slice"]]
        assert [row["name"] for row in whole] == ["a_ct", "b_ct", "c"]
        ml = lungs.sum() * np.prod(SPACING) / 1000
        assert float(whole[0]["volume_ml"]) == pytest.approx(ml)
        assert f"a_ct: lungs {ml:.0f} mL" in done.out
        assert {row["name"] for row in rows_of(out / "triage.csv")} == {"a_ct", "b_ct", "c"}
        assert "3 masks in" in done.out

    def test_by_a_network(self, run_cli, scans, run, tmp_path):
        out = tmp_path / "out"
        done = run_cli("predict", run, scans / "c.mha", "--out", out, "--device", "cpu", "--raw")
        assert done.code == 0
        assert set(np.unique(read_volume(out / "c.mha").array)) <= {0, 1}

    def test_sides(self, run_cli, scans, chest, tmp_path):
        out = tmp_path / "out"
        assert run_cli("predict", "threshold", scans, "--out", out, "--sides").code == 0
        lungs = segment_lungs(chest[0].array, spacing_mm=SPACING)
        sides = split_sides(lungs, spacing_mm=SPACING)
        assert set(np.unique(sides)) == {0, 1, 2}
        assert np.array_equal(read_volume(out / "c.mha").array, sides)
        regions = {row["region"] for row in rows_of(out / "measurements.csv")}
        assert regions == {"lungs", "left lung", "right lung"}

    def test_masks_say_which_side_is_which(self, run_cli, scans, tmp_path):
        out = tmp_path / "out"
        done = run_cli("predict", "threshold", scans, "--out", out, "--sides", "--format", "nrrd")
        assert (done.code, sorted(path.name for path in out.glob("*.*"))) == (
            *(0, ["c.seg.nrrd", "measurements.csv", "predicted.jsonl", "triage.csv"]),
        )
        image = SimpleITK.ReadImage(out / "c.seg.nrrd")
        names = [image.GetMetaData(f"Segment{index}_Name") for index in (0, 1)]
        assert names == ["left lung", "right lung"]
        out = tmp_path / "nifti"
        assert run_cli("predict", "threshold", scans, "--out", out, "--sides").code == 0
        table = (out / "labels.txt").read_text().splitlines()
        assert [line.split('"')[1] for line in table[1:]] == [
            *("background", "left lung", "right lung", "lung of unknown side"),
        ]

    @pytest.mark.parametrize("format", ["dicom-seg", "rtstruct"])
    def test_masks_in_dicom(self, run_cli, chest, tmp_path, format):
        scan, _ = chest
        (folder := tmp_path / "study").mkdir()
        for index, plane in enumerate(scan.array):
            place = (0, 0, index * SPACING[0])
            tags = {"FrameOfReferenceUID": "1.9", "PixelSpacing": list(SPACING[1:])}
            tags["PatientID"] = "MRN-4711"
            save(dicom_slice(plane, place, SliceThickness=15, **tags), folder / f"{index}.dcm")
        out = tmp_path / "out"
        done = run_cli("predict", "lungs", folder, "--out", out, "--sides", "--format", format)
        assert (done.code, done.err) == (0, "")
        assert "The masks name patient and study, as the scans do." in done.out
        name = {"dicom-seg": "study.seg.dcm", "rtstruct": "study.rtstruct.dcm"}[format]
        assert sorted(path.name for path in out.iterdir()) == [
            *sorted(["measurements.csv", "predicted.jsonl", "triage.csv", name]),
        ]
        written = ("measurements.csv", "triage.csv", "predicted.jsonl")
        tables = "".join((out / each).read_text() for each in written)
        assert "Doe" not in tables + done.out
        assert "MRN" not in tables + done.out
        assert str(pydicom.dcmread(out / name).PatientName) == "Doe^Jane"
        about = json.loads((BUILTIN["lungs"] / "lungunet.json").read_text())
        assert about["weights_sha256"].encode() in (out / name).read_bytes()

    def test_dicom_is_written_of_dicom_alone(self, run_cli, scans, tmp_path):
        out = tmp_path / "out"
        options = ("--out", out, "--format", "dicom-seg")
        done = run_cli("predict", "threshold", scans, *options)
        assert done.code == 1
        assert "c.mha: no series of DICOM slices" in done.err
        assert not out.exists()
        done = run_cli("predict", "threshold", scans, "--out", out, "--format", "jpeg")
        assert "format 'jpeg': not one of auto, nifti, nrrd, dicom-seg, rtstruct" in done.err

    def test_one_bad_scan_does_not_stop_the_others(self, run_cli, scans, tmp_path):
        (scans / "bad.nii").write_bytes(b"junk")
        out = tmp_path / "out"
        done = run_cli("predict", "threshold", scans, "--out", out)
        assert done.code == 1
        assert f"lungunet: skipped {scans / 'bad.nii'}: not a readable volume" in done.err
        assert "lungunet: 1 of 2 scans skipped. Mend or remove them." in done.err
        assert sorted(path.name for path in out.iterdir()) == [
            "c.mha",
            "errors.csv",
            "labels.txt",
            "measurements.csv",
            "predicted.jsonl",
            "triage.csv",
        ]

    def test_a_mask_that_cannot_be_written_fails_its_scan_alone(
        self, run_cli, scans, tmp_path, monkeypatch
    ):
        real = scan_files.write_segmentation

        def full(path, array, *, like, **options):
            if like.name == "c":
                raise DataError(f"{path}: cannot be written (no space). Choose another place.")
            real(path, array, like=like, **options)

        monkeypatch.setattr(scan_files, "write_segmentation", full)
        out = tmp_path / "out"
        done = run_cli("predict", "threshold", f"{scans}/*/*", scans, "--out", out)
        assert done.code == 1
        assert f"lungunet: skipped {out / 'c.mha'}: cannot be written" in done.err
        assert "lungunet: 1 of 3 scans skipped" in done.err
        for table in ("triage.csv", "measurements.csv"):
            assert {row["name"] for row in rows_of(out / table)} == {"a_ct", "b_ct"}

    def test_without_a_mask_there_are_no_tables(self, run_cli, tmp_path):
        (tmp_path / "bad.nii").write_bytes(b"junk")
        done = run_cli("predict", "threshold", tmp_path / "bad.nii", "--out", tmp_path / "out")
        assert (done.code, (tmp_path / "out").exists()) == (1, False)

    def test_what_is_there_stays(self, run_cli, scans, tmp_path):
        out = tmp_path / "out"
        assert run_cli("predict", "threshold", scans / "c.mha", "--out", out).code == 0
        before = (out / "c.mha").read_bytes()
        done = run_cli("predict", "threshold", scans / "c.mha", "--out", out)
        assert done.code == 1
        assert "c.mha" in done.err
        assert "already there" in done.err
        (out / "c.mha").write_bytes(b"")
        done = run_cli("predict", "threshold", scans / "c.mha", "--out", out, "--overwrite")
        assert done.code == 0
        assert (out / "c.mha").read_bytes() == before

    def test_a_scan_is_never_written_over(self, run_cli, scans):
        before = (scans / "c.mha").read_bytes()
        done = run_cli("predict", "threshold", scans, "--out", scans, "--overwrite")
        assert done.code == 1
        assert "would be written over while it is read" in done.err
        assert (scans / "c.mha").read_bytes() == before

    def test_options_of_the_other_kind_are_refused(self, run_cli, scans, phantoms, tmp_path):
        done = run_cli("predict", "threshold", scans, "--out", tmp_path / "o", "--overlay")
        assert done.code == 1
        assert "--overlay: for slices, these are scans" in done.err
        done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path / "o", "--sides")
        assert done.code == 1
        assert "--sides: for scans, these are slices" in done.err

    def test_interrupted(self, run_cli, scans, chest, tmp_path, monkeypatch):
        """What is done is whole, and in the tables."""
        real, calls = scan_files.predict_volume, []

        def once(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **options)

        monkeypatch.setattr(scan_files, "predict_volume", once)
        out = tmp_path / "out"
        done = run_cli("predict", "threshold", f"{scans}/*/*", scans, "--out", out)
        assert done.code == 130
        assert "interrupted: 1 of 3 scans done" in done.err
        assert [path.name for path in out.glob("*.nii.gz")] == ["a_ct.nii.gz"]
        assert {row["name"] for row in rows_of(out / "triage.csv")} == {"a_ct"}
        assert "The same command with --skip-existing goes on." in done.err
        again = run_cli(
            "predict", "threshold", f"{scans}/*/*", scans, "--out", out, "--skip-existing"
        )
        assert again.code == 0
        assert f"3 masks in {out}, 1 from before" in again.out
        assert "a_ct: lungs" not in again.out
        assert {row["name"] for row in rows_of(out / "triage.csv")} == {"a_ct", "b_ct", "c"}


class TestSlices:
    def test_from_scans_to_lists_that_keep_patients_together(self, run_cli, scans, chest, tmp_path):
        cut, truth = tmp_path / "cut", tmp_path / "truth"
        for name in ("a_ct", "b_ct"):  # one folder, as masks have it
            (scans / name.split("_")[0] / "ct.nii.gz").rename(scans / f"{name}.nii.gz")
        done = run_cli("slices", scans, truth, cut, "--every", "2", "--max-empty", "1")
        assert (done.code, done.err) == (0, "")
        assert "18 slices in" in done.out
        image = read_image(cut / "images" / "a_ct_z-0004.tif")
        assert image.dtype == np.int16
        assert np.array_equal(image, chest[0].array[4])
        assert len(read_manifest(cut / "pairs.txt")) == 18
        command = done.out.split("next:")[1].split()
        assert command[:2] == ["lungunet", "split"]
        data = tmp_path / "data"
        words = [data if word == "data" else word for word in command[1:]]
        done = run_cli(*words, "--val", "0.34", "--test", "0.34")
        assert done.code == 0, done.err
        lists = read_split(data)
        patients = [
            {pair.name.split("_z-")[0] for pair in pairs}
            for pairs in (lists.train, lists.val, lists.test)
        ]
        assert sorted(len(found) for found in patients) == [1, 1, 1]
        assert set.union(*patients) == {"a_ct", "b_ct", "c"}

    def test_scans_of_one_patient(self, run_cli, scans, tmp_path):
        done = run_cli(
            *("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut"),
            *("--group", "(.)"),
        )
        assert done.code == 0
        assert {row["patient"] for row in rows_of(tmp_path / "cut" / "groups.csv")} == {"c"}

    def test_masks_of_predict_say_how_they_are_coded(self, run_cli, scans, tmp_path):
        masks, scan = tmp_path / "masks", scans / "c.mha"
        done = run_cli("predict", "threshold", scan, "--out", masks, "--sides")
        assert done.code == 0, done.err
        drawn = read_volume(masks / "c.mha").array
        assert {1, 2} <= set(np.unique(drawn))
        done = run_cli("slices", scan, masks / "c.mha", tmp_path / "cut")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("masks are read as 0=0,1=1,2=1,3=1; if that is wrong, say how")
        assert "--labels" not in done.out.split("next:")[1]
        for pair in read_manifest(tmp_path / "cut" / "pairs.txt"):
            place = int(pair.name.rsplit("-", 1)[1])
            assert np.array_equal(read_mask(pair.mask), (drawn[place] > 0) * 255)
        apart = ("slices", scan, masks, tmp_path / "apart", "--labels", "0,1,2", "--json")
        assert json.loads(run_cli(*apart).out)["labels"] == "0,1,2"
        values = [read_mask(mask) for mask in (tmp_path / "apart" / "masks").iterdir()]
        assert set(np.unique(values)) == {0, 1, 2}

    def test_json_is_alone(self, run_cli, scans, tmp_path):
        done = run_cli(
            "slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut", "--json"
        )
        said = json.loads(done.out)
        count = len(list((tmp_path / "cut" / "images").iterdir()))
        assert said["scans"] == [{"name": "c", "slices": count}]
        assert said["labels"] == "0,1"
        assert said["failed"] == []

    @pytest.mark.filterwarnings("always::lungunet.errors.LungUNetWarning")
    def test_another_grid_is_said(self, run_cli, scans, chest, tmp_path):
        _, truth = chest
        fine = truth.repeat(2, 1).repeat(2, 2)
        grid = Grid(fine.shape[::-1], (2.75, 2.75, 15.0), (-1.375, -1.375, 0.0))
        mask = Volume(fine.astype(np.int16), Path("m.nii"), "m", grid)
        write_volume(tmp_path / "m.nii", fine, like=mask)
        done = run_cli("slices", scans / "c.mha", tmp_path / "m.nii", tmp_path / "cut")
        assert done.code == 0
        assert done.err.startswith(f"lungunet: {tmp_path / 'm.nii'}: is on another grid than its ")

    def test_what_cannot_be_used_is_named_and_skipped(self, run_cli, scans, chest, tmp_path):
        scan, truth = chest
        write_volume(scans / "far.mha", scan.array, like=scan)
        grid = Grid(scan.grid.size, scan.grid.spacing, (900.0, 0.0, 0.0))
        far = Volume(scan.array, Path("far.mha"), "far", grid)
        write_volume(tmp_path / "truth" / "far.mha", truth, like=far)
        for name in ("a_ct.nii.gz", "b_ct.nii.gz"):
            (tmp_path / "truth" / name).unlink()
        done = run_cli("slices", scans, tmp_path / "truth", tmp_path / "cut")
        assert done.code == 1
        assert "far.mha: lies elsewhere than" in done.err
        assert "lungunet: 1 of 2 scans skipped" in done.err
        names = {pair.name.split("_z-")[0] for pair in read_manifest(tmp_path / "cut/pairs.txt")}
        assert names == {"c"}

    def test_old_slices_do_not_stay_between_new_ones(self, run_cli, scans, tmp_path):
        words = ("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut")
        assert run_cli(*words).code == 0
        (tmp_path / "cut" / "images" / "mine.tif").touch()
        done = run_cli(*words, "--every", "5")
        assert done.code == 1
        assert "already there" in done.err
        assert run_cli(*words, "--every", "5", "--overwrite").code == 0
        images = sorted(path.name for path in (tmp_path / "cut" / "images").iterdir())
        assert images == ["c_z-0005.tif", "c_z-0010.tif", "mine.tif"]

    def test_two_series_in_a_folder_do_not_stop_the_others(self, run_cli, scans, two_series):
        shutil.rmtree(scans / "a")
        shutil.rmtree(scans / "b")
        two_series.rename(scans / "a_ct")
        (scans.parent / "truth" / "b_ct.nii.gz").unlink()
        cut = scans.parent / "cut"
        done = run_cli("slices", scans, scans.parent / "truth", cut)
        assert done.code == 1
        assert f"lungunet: skipped {scans / 'a_ct'}: 2 series:" in done.err
        assert "lungunet: 1 of 2 scans skipped" in done.err
        pairs = read_manifest(cut / "pairs.txt")
        assert {pair.name.split("_z-")[0] for pair in pairs} == {"c"}
        assert {row["patient"] for row in rows_of(cut / "groups.csv")} == {"c"}

    def test_nothing_is_lost_where_nothing_takes_its_place(self, run_cli, scans, tmp_path):
        words = ("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut")
        assert run_cli(*words).code == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.*")}
        (scans / "c.mha").write_bytes(b"junk")
        done = run_cli(*words, "--overwrite")
        assert (done.code, "1 of 1 scan skipped" in done.err) == (1, True)
        assert done.out.endswith("no slice was written\n")
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("*.*")}
        assert after == before

    @pytest.mark.filterwarnings("always::lungunet.LungUNetWarning")
    def test_a_scan_without_lung_takes_no_place(self, run_cli, scans, chest, tmp_path):
        mask, cut = tmp_path / "truth" / "c.mha", tmp_path / "cut"
        assert run_cli("slices", scans / "c.mha", mask, cut).code == 0
        before = sorted(cut.rglob("*"))
        write_volume(mask, np.zeros_like(chest[1]), like=chest[0])
        done = run_cli("slices", scans / "c.mha", mask, cut, "--overwrite")
        assert (done.code, "no slice was written" in done.out) == (0, True)
        assert "c.mha: no lung in the mask, read as 0,1. Look at" in done.err
        assert sorted(cut.rglob("*")) == before

    def test_lists_go_before_the_slices_that_they_name(self, run_cli, scans, tmp_path, monkeypatch):
        words = ("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut")
        assert run_cli(*words).code == 0
        gone = []
        real = Path.unlink
        with monkeypatch.context() as patch:
            patch.setattr(
                Path, "unlink", lambda self, **how: (gone.append(self), real(self, **how))
            )
            assert run_cli(*words, "--overwrite").code == 0
        names = [path.name for path in gone if not path.name.startswith(".")]
        assert sorted(names[:2]) == ["groups.csv", "pairs.txt"]
        shutil.rmtree(tmp_path / "cut" / "images")
        shutil.rmtree(tmp_path / "cut" / "masks")
        assert "pairs.txt" in run_cli(*words).err

    def test_labels_that_cannot_be_written_back_are_refused_first(self, run_cli, scans, tmp_path):
        words = ("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut")
        done = run_cli(*words, "--labels", "0,1=1,2=1,3=2")
        assert done.code == 1
        assert done.err.startswith("lungunet: label codec 0=0,1=1,2=1,3=2: several raw values sh")
        assert not (tmp_path / "cut").exists()

    def test_usage(self, run_cli, scans, tmp_path):
        words = ("slices", scans / "c.mha", tmp_path / "truth" / "c.mha", tmp_path / "cut")
        assert run_cli(*words, "--every", "0").code == 2
        assert run_cli(*words, "--max-empty", "2").code == 2


class TestEvaluate:
    @pytest.fixture
    def two(self, chest, tmp_path):
        """Two scans and their truth."""
        scan, truth = chest
        for name in ("p1", "p2"):
            write_volume(tmp_path / "ct" / f"{name}.nii.gz", scan.array, like=scan)
            write_volume(tmp_path / "truth" / f"{name}.nii.gz", truth, like=scan)
        return tmp_path

    def test_table_and_json_agree(self, run_cli, two):
        command = ("evaluate", "threshold", two / "ct", "--truth", two / "truth")
        table = run_cli(*command, "--out", two / "out")
        assert table.code == 0, table.err
        assert "threshold on 2 scans" in table.out
        assert "--group); of 2 scans they are too narrow (fewer than 20)\n" in table.out
        scores = json.loads(run_cli(*command, "--json").out)
        hd95 = next(line.split() for line in table.out.splitlines() if line.startswith("HD95, mm"))
        assert hd95[2] == f"{scores['per_case']['hd95_mm']['mean']:.2f}"
        assert scores["cases"] == json.loads((two / "out" / "scores.json").read_text())["cases"]
        assert {"report.html", "cases.csv", "pictures"} <= {
            file.name for file in (two / "out").iterdir()
        }

    def test_a_bad_scan_is_named_and_ends_with_1(self, run_cli, two):
        (two / "ct" / "p2.nii.gz").write_bytes(b"no scan")
        done = run_cli("evaluate", two / "truth", two / "ct", "--truth", two / "truth")
        assert done.code == 1
        assert "skipped" in done.err
        assert "p2.nii.gz" in done.err
        assert "1 of 2 scans skipped" in done.err
        assert "on 1 scan of" in done.out

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--truth", "truth", "--split", "val"), "--split: for lists, these are scans"),
            (("--group", "p"), "--group: for scans, these are lists"),
            (("--tolerance-mm", "3"), "--tolerance-mm: for scans"),
            ((), "Say where their true masks are: --truth MASKS"),
        ],
    )
    def test_options_that_do_not_fit(self, run_cli, two, monkeypatch, options, said):
        monkeypatch.chdir(two)
        done = run_cli("evaluate", "threshold", "ct", *options)
        assert done.code == 1
        assert said in done.err


def test_probabilities_of_a_scan_are_those_of_its_mask(run_cli, chest, tmp_path):
    scan, _ = chest
    write_volume(tmp_path / "ct.nii.gz", scan.array, like=scan)
    options = ("--raw", "--probabilities", "--uncertainty")
    done = run_cli("predict", "lungs", tmp_path / "ct.nii.gz", "--out", tmp_path / "out", *options)
    assert done.code == 0, done.err
    lung, unsure = (
        read_volume(tmp_path / "out" / name / "ct.nii.gz")
        for name in ("probabilities", "uncertainty")
    )
    assert lung.grid.matches(scan.grid)
    mask = read_volume(tmp_path / "out" / "ct.nii.gz").array
    assert np.array_equal(mask > 0, lung.array > 0.5)
    assert np.allclose(unsure.array, 1 - np.abs(2 * lung.array - 1), atol=1e-6)
    rule = run_cli(
        "predict", "threshold", tmp_path / "ct.nii.gz", "--out", tmp_path / "r", options[1]
    )
    assert rule.code == 0
    said = read_volume(tmp_path / "r" / "probabilities" / "ct.nii.gz").array
    assert np.array_equal(said, read_volume(tmp_path / "r" / "ct.nii.gz").array)
