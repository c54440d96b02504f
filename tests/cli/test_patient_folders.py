"""A folder for each patient, with the same file names in all: no verb mixes or loses any."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet.phantom.phantom import phantom_slice
from lungunet.reviewing.review import ReviewConfig, opened_review

PATIENTS, SLICES = 6, 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """ct/PAT1/slice1.tif and drawn/PAT1/slice1_lungmask.png, and so on."""
    folder = tmp_path_factory.mktemp("hospital")
    for patient in range(PATIENTS):
        for number in range(SLICES):
            made = phantom_slice(patient, 0.35 + 0.1 * number, size=64)
            at = Path(f"PAT{patient}", f"slice{number}")
            lungunet.write_image(folder / "ct" / at.with_suffix(".tif"), made.image)
            lungunet.write_mask(folder / "drawn" / f"{at}_lungmask.png", made.mask)
    return folder / "ct", folder / "drawn"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def names(patients: int = PATIENTS) -> list[str]:
    return [f"PAT{p}_slice{n}" for p in range(patients) for n in range(SLICES)]


@pytest.fixture
def data(run_cli, folders: tuple[Path, Path], tmp_path: Path) -> Path:
    args = ("--val", 0.17, "--test", 0.34, "--group", r"^(PAT\d+)", "--names", "*=*_lungmask")
    done = run_cli("split", *folders, tmp_path / "data", *args)
    assert done.code == 0, done.err
    return tmp_path / "data"


def test_patients_stay_whole(data: Path) -> None:
    split = lungunet.read_split(data)
    lists = [split.train, split.val, split.test]
    assert sorted(pair.name for some in lists for pair in some) == names()
    patients = [{pair.name.split("_")[0] for pair in some} for some in lists]
    assert [len(some) for some in patients] == [3, 1, 2]
    assert len(set.union(*patients)) == PATIENTS
    assert len(json.loads((data / "split.json").read_text())["patients"]) == len(names())


def test_a_table_of_patients_may_name_files_or_slices(
    run_cli, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    spelt = ["PAT{}/slice{}.tif", "PAT{}_slice{}", "PAT{}/slice{}"]
    lines = [spelt[n].format(p, n) + f",{p}" for p in range(PATIENTS) for n in range(SLICES)]
    (tmp_path / "who.csv").write_text("\n".join(["name,patient", *lines]))
    args = ("--names", "*=*_lungmask", "--group", tmp_path / "who.csv")
    assert run_cli("split", *folders, tmp_path / "data", *args).code == 0


@pytest.mark.parametrize("whole", [True, False])
def test_masks_are_written_measured_and_scored_by_patient(
    run_cli, folders: tuple[Path, Path], data: Path, tmp_path: Path, whole: bool
) -> None:
    source = folders[0] if whole else data / "test.txt"
    masks = tmp_path / "masks"
    done = run_cli("predict", "threshold", source, "--out", masks, "--overlay")
    assert done.code == 0, done.err
    test = [pair.name for pair in lungunet.read_split(data).test]
    assert sorted(path.stem for path in masks.glob("*.png")) == (names() if whole else test)
    assert sorted(row["name"] for row in rows_of(masks / "measurements.csv")) == (
        names() if whole else test
    )
    again = run_cli("predict", "threshold", source, "--out", masks, "--overlay", "--skip-existing")
    there = len(list(masks.glob("*.png")))
    assert (again.code, f"{there} from before" in again.out + again.err) == (0, True)
    done = run_cli("evaluate", masks, data, "--out", tmp_path / "scores", "--no-baselines")
    assert done.code == 0, done.err
    scored = {row["name"]: float(row["iou"]) for row in rows_of(tmp_path / "scores" / "cases.csv")}
    assert sorted(scored) == test
    for pair in lungunet.read_split(data).test:  # each by its own mask
        truth = lungunet.read_mask(pair.require_mask()) > 0
        pred = lungunet.segment_lungs(lungunet.read_image(pair.image)) > 0
        iou = (truth & pred).sum() / (truth | pred).sum()
        assert scored[pair.name] == pytest.approx(iou, abs=1e-6)


def test_masks_of_another_tool_in_folders_alike(
    run_cli, folders: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    args = ("--mask-names", "*=*_lungmask", "--out", tmp_path / "scores", "--no-baselines")
    done = run_cli("evaluate", folders[1], data, *args)
    assert done.code == 0, done.err
    assert {row["iou"] for row in rows_of(tmp_path / "scores" / "cases.csv")} == {"1.0"}
    done = run_cli("measure", *folders, "--out", tmp_path / "m.csv", "--names", "*=*_lungmask")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "m.csv")
    assert [row["name"] for row in rows] == names()
    for row, pair in zip(rows, lungunet.find_pairs(*folders, names="*=*_lungmask"), strict=True):
        mask = lungunet.read_mask(pair.require_mask())
        assert float(row["area_px"]) == np.count_nonzero(mask)


def test_a_review_of_them_and_a_list_of_what_to_leave_out(
    run_cli, folders: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(folders[1], masks)
    with opened_review(
        masks, tmp_path / "mended", images=folders[0], config=ReviewConfig(names="*=*_lungmask")
    ) as server:
        assert sorted(entry.case.name for entry in server.desk.entries) == names()
    with opened_review(data, tmp_path / "copies"):
        pass
    done = run_cli("split", folders[0], tmp_path / "copies", tmp_path / "data2", "--like", data)
    assert done.code == 0, done.err
    assert lungunet.read_split(tmp_path / "data2").test[0].require_mask().parent.name == "copies"
    left = [line for line in (data / "test.txt").read_text().splitlines() if "slice2" in line]
    (tmp_path / "drop.txt").write_text("\n".join(left))
    settings = ("--val", 0.17, "--test", 0.34, "--group", r"^(PAT\d+)", "--names", "*=*_lungmask")
    args = (*settings, "--exclude", tmp_path / "drop.txt", "--overwrite")
    done = run_cli("split", *folders, data, *args)
    assert done.code == 0, done.err
    assert json.loads((data / "split.json").read_text())["excluded"] == sorted(
        line.split("\t")[2] for line in left
    )


def test_a_folder_of_each_patient_with_one_of_slices_and_one_of_masks(
    run_cli, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    cohort = tmp_path / "cohort"
    for image in folders[0].glob("*/*.tif"):
        mask = folders[1] / image.parent.name / f"{image.stem}_lungmask.png"
        for kind, file in (("ct", image), ("seg", mask)):
            (cohort / image.parent.name / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, cohort / image.parent.name / kind / f"{image.stem}{file.suffix}")
    lines = [f"PAT{p}/ct/slice{n}.tif,{p}" for p in range(PATIENTS) for n in range(SLICES)]
    (tmp_path / "who.csv").write_text("\n".join(["name,patient", *lines]))
    done = run_cli("split", cohort, cohort, tmp_path / "data")
    assert (done.code, "--names 'ct/*=seg/*'" in done.err) == (1, True), done.err
    rule = ("--names", "ct/*=seg/*")
    for group in (r"^(PAT\d+)", tmp_path / "who.csv"):
        args = (*rule, "--val", 0.17, "--test", 0.34, "--group", group, "--overwrite")
        done = run_cli("split", cohort, cohort, tmp_path / "data", *args)
        assert done.code == 0, done.err
        split = lungunet.read_split(tmp_path / "data")
        assert sorted(p.name for some in (split.train, split.val, split.test) for p in some) == (
            names()
        )
        patients = json.loads((tmp_path / "data/split.json").read_text())["patients"]
        assert len({*patients.values()}) == PATIENTS
    assert run_cli("measure", cohort, cohort, "--out", tmp_path / "m.csv", *rule).code == 0
    assert [row["name"] for row in rows_of(tmp_path / "m.csv")] == names()
    done = run_cli("prepare", cohort, cohort, tmp_path / "small", *rule, "--size", 64)
    assert done.code == 0, done.err
    assert sorted(path.stem for path in (tmp_path / "small/images").iterdir()) == names()
