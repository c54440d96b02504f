"""A tree as a hospital exports it: every CT series done, every other file named, tables written."""

import csv
import shutil

import numpy as np
import pydicom
import pytest
from dicom_files import dicom_slice, dose_report, save

from lungunet.inference.threshold import segment_lungs
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.volume import read_volume

SPACING = (15.0, 5.5, 5.5)
CLASSES = {"CT": "2", "PT": "128", "SEG": "66.4"}

# What is left out is said, and warnings are errors elsewhere.
pytestmark = pytest.mark.filterwarnings("always::lungunet.errors.LungUNetWarning")


@pytest.fixture(scope="module")
def chest():
    return np.stack([phantom_slice(0, z, size=64).image[:60] for z in np.linspace(0.02, 0.9, 12)])


def put(folder, hu, uid, *, names="IM{}", of=range(12), **tags):
    folder.mkdir(parents=True, exist_ok=True)
    tags = {"PixelSpacing": list(SPACING[1:]), "SliceThickness": SPACING[0], **tags}
    tags |= {"SeriesInstanceUID": uid, "StudyInstanceUID": uid[:3]}
    for i in of:
        plane = dicom_slice(hu[i], (0, 0, i * SPACING[0]), **tags)
        plane.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{CLASSES[plane.Modality]}"
        save(plane, folder / names.format(f"{i:03d}"))
    return folder


@pytest.fixture
def tree(tmp_path, chest):
    """Five patients, six series of CT, and all that comes along."""
    root, store = tmp_path / "export", tmp_path / "store"
    # One folder for all that was made, with two kernels.
    flat = put(root / "p1", chest, "1.1", names="S{}", ConvolutionKernel="B30f")
    put(flat, chest, "1.1.2", names="L{}", ConvolutionKernel="B70f")
    put(flat, chest, "1.1.3", names="PT{}", of=range(3), Modality="PT")
    put(flat, chest, "1.1.4", names="SEG{}", of=[0], Modality="SEG")
    scout = dicom_slice(chest[0], (0, 0, 0), orientation=(1, 0, 0, 0, 0, -1))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(scout, flat / "SCOUT")
    save(dose_report(), flat / "DOSE")
    screen = dicom_slice(chest[0], (0, 0, 0), SeriesInstanceUID="1.1.9", ImagePositionPatient=None)
    screen.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    save(screen, flat / "SCREEN")
    (flat / "preview.jpg").write_bytes(b"\xff\xd8\xff")
    # One series in two folders, and a copy of a part of it.
    put(root / "p2" / "000", chest, "1.2", of=range(7))
    put(root / "p2" / "001", chest, "1.2", of=range(7, 12))
    shutil.copytree(root / "p2" / "001", root / "p2" / "002")
    # Links, one of them back to the top.
    put(store / "x", chest, "1.3")
    (root / "p3").symlink_to(store / "x")
    (store / "x" / "loop").symlink_to(root)
    # Without preambles.
    put(root / "p4", chest, "1.4")
    for path in (root / "p4").iterdir():
        path.write_bytes(path.read_bytes()[132:])
    put(root / "p5", chest, "1.5")
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    return root


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def whole(rows):
    return {row["name"]: float(row["volume_ml"]) for row in rows if not row["slice"]}


def test_every_series_is_done_and_the_rest_is_named(run_cli, tree, chest, tmp_path):
    out = tmp_path / "masks"
    done = run_cli("predict", "threshold", tree, "--out", out)
    assert done.code == 0, done.err
    masks = sorted(path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz"))
    assert [name[:3] for name in masks] == ["p1_", "p1_", "p2", "p3", "p4", "p5"]
    lungs = segment_lungs(chest, spacing_mm=SPACING)
    for name in masks:
        assert np.array_equal(read_volume(out / f"{name}.nii.gz").array, lungs)
    said = done.err
    for left_out in (
        "PT000, PT001, PT002 left out: PET (PT)",
        "SEG000 left out: a segmentation (SEG)",
        "SCOUT left out: a localizer",
        "DOSE left out: a report (SR)",
        "SCREEN left out: a secondary capture",
        "preview.jpg left out: no DICOM",
        "002: IM007, IM008, IM009, IM010, IM011 left out: a copy",
    ):
        assert said.count(left_out) == 1
    assert "p1: 2 series, a mask for each" in said
    assert {"kernel B30f", "kernel B70f"} <= {
        part.strip() for part in said.replace("\n", ",").split(",")
    }
    for table in ("measurements.csv", "triage.csv"):
        assert {row["name"] for row in rows_of(out / table)} == set(masks)
    done = run_cli("measure", tree, out, "--out", tmp_path / "volumes.csv")
    assert done.code == 0, done.err
    assert whole(rows_of(tmp_path / "volumes.csv")) == whole(rows_of(out / "measurements.csv"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"PatientID": "4712"}, "ct: 2 series of 2 patients, a mask for each"),
        ({"PatientID": "", "PatientName": "Roe"}, "ct: 2 series of 2 patients, a mask for each"),
        ({"StudyInstanceUID": "1.9"}, "ct: 2 series of 2 studies, a mask for each"),
    ],
)
def test_two_patients_in_one_folder_and_uneven_slices_are_said_first(
    run_cli, chest, tmp_path, other, said
):
    folder = put(tmp_path / "ct", chest, "1.1", names="A{}")
    put(folder, chest, "1.2", names="B{}")
    for number, path in enumerate(sorted(folder.glob("B*"))):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID = "1.1"
        ds.ImagePositionPatient = [0, 0, 5 * number + 3 * max(0, number - 6)]
        for name, value in other.items():
            setattr(ds, name, value)
        ds.save_as(path)
    done = run_cli("predict", "threshold", folder, "--out", tmp_path / "masks")
    first, *_ = done.err.split("skipped")
    assert done.code == 1
    assert said in first
    assert "unevenly spaced (5 to 8 mm)" in first
    assert not any(word in done.err for word in ("Doe", "Roe", "4711", "4712", "1.9"))
    (row,) = rows_of(tmp_path / "masks" / "errors.csv")
    assert "with resample=True ('lungunet ... --resample'), or" in row["error"]
    assert "Have it resampled with --resample, or" in done.err


def test_a_damaged_file_takes_its_own_series_alone(run_cli, tree, tmp_path):
    (tree / "p5" / "IM011").write_bytes(b"")
    (tree / "p4" / "IM004").unlink()
    out = tmp_path / "masks"
    done = run_cli("predict", "threshold", tree, "--out", out)
    assert done.code == 1
    assert f"skipped {tree / 'p5' / 'IM011'}: empty (0 bytes)" in done.err
    assert f"skipped {tree / 'p4'}: slices are 15.00 mm apart, but not between" in done.err
    assert "lungunet: 2 of 6 scans skipped" in done.err
    masks = {path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz")}
    assert {name[:2] for name in masks} == {"p1", "p2", "p3"}
    assert {row["name"] for row in rows_of(out / "measurements.csv")} == masks
    done = run_cli("measure", tree, out, "--out", tmp_path / "volumes.csv")
    assert done.code == 1
    assert "p4: no mask is called p4" in done.err
    assert {row["name"] for row in rows_of(tmp_path / "volumes.csv")} == masks


def test_one_series_by_its_id(run_cli, tree, tmp_path):
    out = tmp_path / "masks"
    done = run_cli("predict", "threshold", tree, "--out", out, "--series", "1.1.2")
    assert (done.code, done.err) == (0, "")
    assert [path.name for path in out.glob("*.nii.gz")] == ["p1.nii.gz"]
    done = run_cli("predict", "threshold", tree, "--out", tmp_path / "no", "--series", "x")
    assert done.code == 1
    assert "6 series, none is 'x'" in done.err
    assert done.err.count("B70f") == 1
    # Masks of all series, and one of them measured.
    assert run_cli("predict", "threshold", tree, "--out", tmp_path / "all").code == 0
    measured = tmp_path / "one.csv"
    words = ("measure", tree, tmp_path / "all", "--out", measured, "--series", "1.1.2")
    assert run_cli(*words).code == 0
    assert {row["name"] for row in rows_of(measured)} == {"p1"}


def test_a_tilted_scan_is_measured_as_it_was_predicted(run_cli, chest, tmp_path):
    """Both put it on the straight grid."""
    folder = put(tmp_path / "ct", chest, "1.1")
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient[1] = ds.ImagePositionPatient[2] * 0.2
        ds.save_as(path)
    out, table = tmp_path / "masks", tmp_path / "volumes.csv"
    done = run_cli("predict", "threshold", folder, "--out", out)
    assert (done.code, "--resample" in done.err) == (1, True)
    done = run_cli("predict", "threshold", folder, "--out", out, "--resample")
    assert done.code == 0
    assert "its mask lies on that grid" in done.err
    assert run_cli("measure", folder, out, "--out", table, "--resample").code == 0
    assert whole(rows_of(table)) == whole(rows_of(out / "measurements.csv"))
    assert run_cli("slices", folder, out, tmp_path / "cut", "--resample").code == 0
    assert list((tmp_path / "cut" / "images").iterdir())
