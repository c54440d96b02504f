"""What a stranger's file may do: nothing runs, nothing is written elsewhere, no name leaks."""

import io
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from bad_rows import contents
from PIL import Image, PngImagePlugin

import lungunet
from lungunet import ConfigError, LabelCodec


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def raw(payload: object) -> bytes:
    return pickle.dumps({"state_dict": payload})


def zipped(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 1, "model": payload}, buffer)
    return buffer.getvalue()


def legacy(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": 1, "model": payload}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [raw, zipped, legacy])
class TestPickles:
    @pytest.fixture
    def trace(self, tmp_path: Path) -> Path:
        return tmp_path / "it-ran"

    def test_the_payload_works(self, trace: Path, pack) -> None:
        content = io.BytesIO(pack(Payload(trace)))
        if pack is raw:
            pickle.load(content)
        else:
            torch.load(content, weights_only=False)
        assert trace.exists()

    def test_a_checkpoint(self, run_cli, own_run: Path, trace: Path, pack) -> None:
        (own_run / "last.ckpt").write_bytes(pack(Payload(trace)))
        done = run_cli("train", "--resume", own_run, "--epochs", 3)
        assert done.code == 1
        assert "last.ckpt: no checkpoint of lungunet, damaged, or holds more than" in done.err
        assert not trace.exists()

    @pytest.mark.parametrize("end", [".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".pkl"])
    def test_weights(self, run_cli, data: Path, tmp_path: Path, trace: Path, pack, end) -> None:
        (tmp_path / f"w{end}").write_bytes(pack(Payload(trace)))
        out = tmp_path / "run"
        done = run_cli("train", data, "--out", out, "--weights", tmp_path / f"w{end}")
        assert done.code == 1
        known = end in (".pt", ".pth", ".safetensors")
        wanted = "w.*: damaged, or (holds more than tensors|no safetensors)"
        wanted = wanted if known else f"cannot read '{end}' as we"
        assert re.search(wanted, done.err)
        assert not trace.exists()
        assert not out.exists()

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "config.json", "lungunet.json", "README.md", "model.bin"]
    )
    def test_a_model_folder(
        self, run_cli, own_run: Path, phantoms, tmp_path: Path, trace: Path, pack, name: str
    ) -> None:
        (own_run / "best" / name).write_bytes(pack(Payload(trace)))
        done = run_cli("predict", own_run, phantoms[0], "--out", tmp_path / "out")
        refused = name in ("model.safetensors", "lungunet.json")
        assert done.code == int(refused)
        assert (f"{name}: damaged" in done.err) == refused
        assert not trace.exists()


HOSTILE = (
    *("a..b", "-rf", "$(touch ran)", "a;touch ran", "%s{0}", "'\""),
    "<img src=x onerror=alert(1)>",
)
"""Stems: of files that an unwary shell, page or path would act on."""


@pytest.fixture
def hostile(world: Path) -> Path:
    """The world with such names for its slices; each list gets two."""
    stems = sorted(path.stem for path in (world / "images").iterdir())
    for old, new in zip(stems, HOSTILE, strict=False):
        (world / "images" / f"{old}.tif").rename(world / "images" / f"{new}.tif")
        (world / "masks" / f"{old}.png").rename(world / "masks" / f"{new}.png")
    pairs = lungunet.find_pairs(world / "images", world / "masks")
    lists = lungunet.Split(train=pairs[::3], val=pairs[2::3], test=pairs[1::3])
    lungunet.write_split(world / "data", lists, {})
    return world


class TestNames:
    def test_output_stays_in_its_folder(
        self, run_cli, hostile: Path, own_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside = hostile / "deep" / "out"
        inside.mkdir(parents=True)
        monkeypatch.chdir(inside)
        before = contents(hostile).keys()
        images, masks, data = (hostile / name for name in ("images", "masks", "data"))
        for args in (
            ("predict", own_run, images, "--out", "p", "--overlay", "--probabilities"),
            ("prepare", images, masks, "q", "--size", 32),
            ("evaluate", own_run, data, "--out", "s", "--allow-seen"),
            ("audit", data, "--out", "a"),
            ("train", data, "--out", "r", "--size", 32, "--epochs", 1, "--workers", 0),
            ("evaluate", "r", data),
            ("report", "r"),
        ):
            done = run_cli(*args)
            assert (done.code, done.err) == (0, ""), args
        new = {name for name in contents(hostile) if name not in before}
        assert all(name.startswith(("deep/out/", "own-run/")) for name in new)
        assert len(list((inside / "p").glob("*.png"))) == 12
        page = (inside / "r" / "report.html").read_text(encoding="utf-8")
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page

    def test_a_list_may_point_anywhere_output_does_not(
        self, run_cli, world: Path, tmp_path: Path
    ) -> None:
        lines = "../images/../images/patient-000_slice-00.tif\n"
        (world / "data" / "some.txt").write_text(
            lines + str(world / "images/patient-003_slice-00.tif")
        )
        out = world / "a" / "b"
        assert run_cli("predict", "threshold", world / "data/some.txt", "--out", out).code == 0
        assert sorted(path.name for path in out.rglob("*")) == [
            "measurements.csv",
            "patient-000_slice-00.png",
            "patient-003_slice-00.png",
            "predicted.jsonl",
            "triage.csv",
        ]

    @pytest.mark.parametrize(
        "name", ["../x", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "\x1b[31m", "", " ", 'a"b', "a\x7f"]
    )
    def test_a_class_name_cannot_be_a_path(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"cannot be part of a file name\. Leave out slash"):
            LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "left lung", name))

    def test_two_classes_of_one_name_would_write_one_file(self) -> None:
        with pytest.raises(ConfigError, match=r"two classes are named 'lung'\. Rename one"):
            LabelCodec({0: 0, 1: 1, 2: 2}, names=("background", "lung", "lung"))

    def test_nor_in_a_model_that_somebody_sent(self, run_cli, own_run: Path, phantoms) -> None:
        path = own_run / "best" / "lungunet.json"
        about = json.loads(path.read_text())
        about["codec"]["names"] = ["background", "../../../lung"]
        path.write_text(json.dumps(about))
        out = own_run / "deep" / "masks"
        done = run_cli("predict", own_run, phantoms[0], "--out", out, "--probabilities")
        assert done.code == 1
        assert "lungunet.json: damaged (label codec: class name '../../../lung'" in done.err
        assert not out.parent.exists()


PATIENT = "DOE^JANE 1950-01-31"


def as_tiff(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(
        path, image, description=PATIENT, software=PATIENT, datetime=None,
        extratags=[(315, "s", 0, PATIENT, True)],
    )  # fmt: skip


def as_png(path: Path, mask: np.ndarray) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Patient", PATIENT)
    notes.add_itxt("Comment", PATIENT)
    Image.fromarray(mask).save(path, pnginfo=notes)


def as_jpeg(path: Path, image: np.ndarray) -> None:
    tags = Image.Exif()
    tags[0x010E] = tags[0x013B] = PATIENT  # description, artist
    Image.fromarray(image).save(path, exif=tags, comment=PATIENT.encode(), quality=95)


def holds(content: bytes, text: str) -> bool:
    return any(text.encode(code) in content for code in ("utf-8", "utf-16-le", "utf-16-be"))


class TestMetadata:
    """A scanner writes who was scanned into the file; what leaves lungunet holds pixels alone."""

    @pytest.fixture
    def named(self, world: Path) -> Path:
        for path in (world / "images").iterdir():
            as_tiff(path, lungunet.read_image(path))
            assert holds(path.read_bytes(), PATIENT)
        for path in (world / "masks").iterdir():
            as_png(path, lungunet.read_mask(path))
            assert holds(path.read_bytes(), PATIENT)
        (world / "jpeg").mkdir()
        for path in (world / "images").iterdir():
            grey = lungunet.LUNG_WINDOW.to_grey(lungunet.read_image(path))
            as_jpeg(world / "jpeg" / f"{path.stem}.jpg", grey)
            assert holds((world / "jpeg" / f"{path.stem}.jpg").read_bytes(), PATIENT)
        rows = [
            f"{path.stem},{PATIENT} of {path.stem[:11]}\n" for path in (world / "jpeg").iterdir()
        ]
        (world / "patients.csv").write_text("name,patient\n" + "".join(rows))
        return world

    def test_it_reaches_no_output(self, run_cli, named: Path) -> None:
        own = ("images/", "masks/", "jpeg/", "patients.csv")
        images, masks, out = named / "images", named / "masks", named / "out"
        group = ("--group", named / "patients.csv")
        quick = ("--size", 32, "--epochs", 1, "--batch-size", 2, "--workers", 0)
        for args in (
            ("split", images, masks, out / "data", *group, "--val", 0.25, "--folds", 2),
            ("split", images, masks, out / "json", *group, "--val", 0.25, "--json"),
            ("prepare", images, masks, out / "tif", *group, "--val", 0.25, "--size", 32),
            ("prepare", named / "jpeg", masks, out / "jpg", *group, "--val", 0.25),
            ("audit", out / "data", "--out", out / "audit"),
            ("train", out / "data", "--out", out / "run", *quick),
            ("evaluate", out / "run", out / "data"),
            ("evaluate", masks, out / "data", "--json"),
            ("predict", out / "run", images, "--out", out / "p", "--overlay", "--probabilities"),
            ("report", out / "run"),
        ):
            done = run_cli(*args)
            assert done.code == 0, (args, done.err)
            assert PATIENT[:8] not in done.out + done.err
        written = {k: v for k, v in contents(named).items() if v and not k.startswith(own)}
        assert len(written) > 60
        assert [name for name, content in written.items() if holds(content, PATIENT[:8])] == []

    def test_pictures_hold_pixels_alone(self, run_cli, named: Path) -> None:
        out = named / "out"
        done = run_cli("predict", "threshold", named / "images", "--out", out, "--overlay")
        assert done.code == 0, done.err
        slices = len(list((named / "images").iterdir()))
        pictures = list(out.rglob("*.png"))
        assert len(pictures) == 2 * slices > 0  # masks and overlays
        for path in pictures:
            with Image.open(path) as picture:
                assert picture.info == {}
                assert not picture.getexif()

    def test_a_wrong_table_names_no_patient(self, run_cli, named: Path) -> None:
        table = named / "patients.csv"
        table.write_text(table.read_text() + "patient-000_slice-00,ROE^RICHARD\n")
        done = run_cli("split", named / "images", named / "masks", named / "out", "--group", table)
        assert done.code == 1
        assert "patient-000_slice-00 has another patient in a line above" in done.err
        assert not re.search("DOE|ROE", done.err + done.out)
