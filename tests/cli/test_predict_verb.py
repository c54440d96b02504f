"""``lungunet predict`` on slices: tables, what stands in the way, and Ctrl-C."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet.inference import predictor as predictor_module


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_measurements_and_triage_lie_beside_the_masks(
    run_cli, phantoms: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(phantoms[0], tmp_path / "in"))
    (folder / "bad.tif").write_bytes(b"II*\x00")
    done = run_cli("predict", "threshold", folder, "--out", tmp_path / "out", "--tta")
    assert done.code == 1
    assert "12 masks in " in done.out
    stems = sorted(path.stem for path in phantoms[0].iterdir())
    rows = read(tmp_path / "out" / "measurements.csv")
    assert [row["name"] for row in rows] == stems  # in the order of the files
    for row in rows:
        mask = lungunet.read_mask(tmp_path / "out" / f"{row['name']}.png")
        assert int(row["area_px"]) == (mask == 255).sum()
    checked = read(tmp_path / "out" / "triage.csv")
    assert sorted(row["name"] for row in checked) == stems
    worries = [float(row["worry"]) for row in checked]
    assert worries == sorted(worries, reverse=True)
    assert all(row["mirror_difference"] for row in checked)
    lights = [sum(row["light"] == light for row in checked) for light in ("red", "amber", "green")]
    assert "{} red, {} amber, {} green".format(*lights) in done.out


def test_triage_can_be_left_out(run_cli, phantoms: tuple[Path, Path], tmp_path: Path) -> None:
    done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path, "--no-triage")
    table = f"{tmp_path / 'measurements.csv'}; what its columns are: lungunet measure --help"
    assert (done.code, done.out) == (0, f"12 masks in {tmp_path}\nmeasured: {table}\n")
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".csv", ".jsonl"}
    assert not (tmp_path / "triage.csv").exists()


@pytest.mark.parametrize(
    "name", ["measurements.csv", "triage.csv", "overlays/{}.png", "probabilities/{}.tif"]
)
def test_nothing_that_is_there_is_replaced_unasked(
    run_cli, phantoms: tuple[Path, Path], name: str, tmp_path: Path
) -> None:
    one = sorted(phantoms[0].iterdir())[0]
    there = tmp_path / name.format(one.stem)
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    arguments = ("predict", "threshold", one, "--out", tmp_path, "--overlay", "--probabilities")
    done = run_cli(*arguments)
    assert (done.code, f"{there}: already there" in done.err) == (1, True)
    assert there.read_text() == "mine"
    assert not (tmp_path / f"{one.stem}.png").exists()
    assert run_cli(*arguments, "--overwrite").code == 0
    assert there.read_bytes() != b"mine"


def test_interrupted_it_leaves_whole_masks_and_counts_them(
    run_cli, phantoms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_files = predictor_module.Predictor.predict_files

    def interrupted(self, paths, *, batch_size):
        for n, prediction in enumerate(predict_files(self, paths, batch_size=batch_size)):
            if n == 5:
                raise KeyboardInterrupt
            yield prediction

    with monkeypatch.context() as patch:
        patch.setattr(predictor_module.Predictor, "predict_files", interrupted)
        done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path)
    masks = sorted(tmp_path.glob("*.png"))
    assert done.code == 130
    assert f"interrupted: {len(masks)} of 12 masks in {tmp_path}, each of them whole" in done.err
    assert "The same command with --skip-existing goes on." in done.err
    assert 0 < len(masks) <= 5
    tables = [tmp_path / "measurements.csv", tmp_path / "triage.csv"]
    there = [*masks, *tables, tmp_path / "predicted.jsonl"]
    assert sorted(tmp_path.iterdir()) == sorted(there)  # no temporary file
    for table in tables:  # whole masks are never without their lines
        assert sorted(row["name"] for row in read(table)) == [mask.stem for mask in masks]
    for mask in masks:
        assert lungunet.read_mask(mask).shape == (48, 48)
    arguments = ("predict", "threshold", phantoms[0], "--out", tmp_path)
    done = run_cli(*arguments, "--skip-existing")
    assert done.code == 0
    assert f"12 masks in {tmp_path}, {len(masks)} from before\n" in done.out
    assert len(read(tables[0])) == len(read(tables[1])) == len(list(tmp_path.glob("*.png"))) == 12
    done = run_cli(*arguments, "--skip-existing", "--overwrite")
    assert (done.code, "--overwrite and --skip-existing: one replaces" in done.err) == (1, True)
    assert run_cli(*arguments, "--overwrite").code == 0


def test_a_disk_that_is_full_ends_it_with_a_line(
    run_cli, phantoms: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path / "out")
    assert done.code == 1
    assert "cannot be written" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_name_that_is_no_text_costs_no_table(run_cli, phantoms, tmp_path: Path) -> None:
    source = next(phantoms[0].iterdir())
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a.tif", b"sl\xe9.tif"):
        (folder / os.fsdecode(name)).write_bytes(source.read_bytes())
    done = run_cli("predict", "threshold", folder, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    for table in ("measurements.csv", "triage.csv"):
        text = (tmp_path / "out" / table).read_text(encoding="utf-8")
        assert r"sl\udce9" in text


def test_two_links_to_a_slice_are_two_slices(run_cli, phantoms, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("p1.tif", "p2.tif"):
        (folder / name).symlink_to(next(phantoms[0].iterdir()).resolve())
    inputs = (folder, folder / "p1.tif")  # one of them twice
    done = run_cli("predict", "threshold", *inputs, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["p1.png", "p2.png"]


@pytest.mark.parametrize("stdout", ["closed", "full"])
def test_tables_are_written_before_anything_is_said(phantoms, tmp_path: Path, stdout: str) -> None:
    words = [sys.executable, "-m", "lungunet", "predict", "threshold", phantoms[0]]
    command = shlex.join([*map(str, words), "--out", str(tmp_path / "out")])
    end = "| true" if stdout == "closed" else "> /dev/full"
    done = subprocess.run(
        ["bash", "-c", f"{command} {end}"], capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "triage.csv").exists()
    assert (tmp_path / "out" / "measurements.csv").exists()
    if stdout == "full":
        assert done.returncode == 1
        assert "lungunet: No space left on device" in done.stderr


SPOILT = {
    "tissue near 1024": lambda hu: hu + np.int16(1024),
    "scaled or standardised": lambda hu: ((hu - hu.mean()) / hu.std()).astype(np.float32),
}


def _hu_slices(folder: Path, *, spoil, count: int, good: int = 0) -> Path:
    hu = np.full((40, 48), -1000, np.int16)
    hu[4:36, 4:44] = 40
    hu[8:30, 8:18] = hu[8:30, 28:38] = -850
    for index in range(count):
        lungunet.write_image(folder / f"s{index}.tif", hu if index < good else spoil(hu))
    return folder


@pytest.mark.parametrize("why", SPOILT)
def test_slices_that_cannot_be_hu_are_refused_before_any_mask(run_cli, tmp_path, why: str) -> None:
    slices = _hu_slices(tmp_path / "bad", spoil=SPOILT[why], count=3)
    done = run_cli("predict", "threshold", slices, "--out", tmp_path / "o")
    assert (done.code, why in done.err, str(slices) in done.err) == (1, True, True)
    assert not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:these masks mean little")
@pytest.mark.parametrize("why", SPOILT)
def test_the_ones_among_others_are_red(run_cli, tmp_path: Path, why: str) -> None:
    slices = _hu_slices(tmp_path / "some", spoil=SPOILT[why], count=5, good=3)
    done = run_cli("predict", "threshold", slices, "--out", tmp_path / "o", "--json")
    masks = json.loads(done.out)["masks"]
    red = [Path(one["path"]).stem for one in masks if why in "".join(one["reasons"][:1])]
    assert (done.code, sorted(red)) == (0, ["s3", "s4"])
    assert all(one["light"] == "red" for one in masks if Path(one["path"]).stem in red)


@pytest.mark.filterwarnings("ignore:these masks mean little")
def test_tta_is_refused_where_sides_would_swap(run_cli, tmp_path: Path) -> None:
    model = lungunet.build_unet("unet2015", width=1, n_classes=3, seed=0)
    contract = lungunet.InputContract(32)
    codec = lungunet.LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "left", "right"))
    lungunet.save_model(tmp_path / "m", model, contract=contract, codec=codec)
    lungunet.write_image(tmp_path / "s.tif", np.zeros((40, 30), np.int16))
    arguments = ("predict", tmp_path / "m", tmp_path / "s.tif", "--out", tmp_path / "o")
    done = run_cli(*arguments, "--tta")
    assert (done.code, "tta: the model has 3 classes" in done.err) == (1, True)
    assert run_cli(*arguments, "--probabilities").code == 0
    written = sorted(path.name for path in (tmp_path / "o" / "probabilities").iterdir())
    assert written == ["s_left.tif", "s_right.tif"]


@pytest.mark.parametrize("option", [("--device", "gpu"), ("--precision", "fp8")])
def test_a_rule_takes_no_device(run_cli, phantoms: tuple[Path, Path], tmp_path, option) -> None:
    done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path / "o", *option)
    assert (done.code, f"'{option[1]}'" in done.err) == (1, True)
    assert "threshold: computes on the CPU in fp32" in done.err
    assert not (tmp_path / "o").exists()


def test_without_a_mask_no_table_of_before_stays(run_cli, tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\x00")
    out = tmp_path / "out"
    out.mkdir()
    (out / "triage.csv").write_text("of before")
    done = run_cli("predict", "threshold", tmp_path / "bad.tif", "--out", out, "--overwrite")
    assert done.code == 1
    assert not list(out.iterdir())


class TestKinds:
    """Scans and slices are told apart by what is given."""

    @pytest.fixture
    def scan(self, tmp_path: Path) -> Path:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(b"never read")
        return path

    def test_not_both_at_once(
        self, run_cli, scan: Path, phantoms: tuple[Path, Path], tmp_path: Path
    ) -> None:
        done = run_cli("predict", "threshold", scan, phantoms[0], "--out", tmp_path / "o")
        assert (done.code, f"{scan}: scans, others are none (" in done.err) == (1, True)

    @pytest.mark.parametrize("option", ["--overlay", "--no-triage"])
    def test_options_of_slices(self, run_cli, scan: Path, option: str, tmp_path: Path) -> None:
        done = run_cli("predict", "threshold", scan, "--out", tmp_path / "o", option)
        assert done.code == 1
        assert f"{option}: for slices, these are scans. Leave it out." in done.err

    @pytest.mark.parametrize(
        "option", ["--sides", "--preview", "--raw", "--series=1.2", "--resample"]
    )
    def test_options_of_scans(
        self, run_cli, phantoms: tuple[Path, Path], option: str, tmp_path: Path
    ) -> None:
        done = run_cli("predict", "threshold", phantoms[0], "--out", tmp_path / "o", option)
        assert done.code == 1
        assert f"{option.split('=')[0]}: for scans, these are slices. Leave it out." in done.err
