"""Going on where a run ended: by the same model, on the same scans, to the same tables."""

import csv
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

import lungunet
from lungunet import (
    ConfigError,
    DataError,
    Predictor,
    ScanFiles,
    Sharing,
    SliceFiles,
    find_volumes,
    predict_scans,
    predict_slices,
)
from lungunet.data.made_by import FILE, read_codec
from lungunet.data.manifest import find_images
from lungunet.inference import jobs, record
from lungunet.inference.measure import measure_slice
from lungunet.inference.quality import Plausibility
from lungunet.inference.record import Record, identify_source
from lungunet.inference.segmenter import Segmented
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, write_volume

TABLES = ("measurements.csv", "triage.csv")


@pytest.fixture
def rule() -> Predictor:
    return Predictor.load("threshold")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four scans of five slices, each of another patient."""
    for patient, name in enumerate("abcd"):
        planes = [phantom_slice(patient, z, size=64).image for z in np.linspace(0.2, 0.8, 5)]
        hu = np.stack(planes)[:, :60]
        path = tmp_path / "scans" / f"{name}.nii"
        like = Volume(hu, path, name, Grid.axial(hu.shape, (30.0, 5.0, 5.5)))
        write_volume(path, hu, like=like)
    return tmp_path / "scans"


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    for patient in range(6):
        image = phantom_slice(patient, 0.5, size=64).image
        lungunet.write_image(tmp_path / "slices" / f"{patient}.tif", image)
    return tmp_path / "slices"


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.*")}


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in TABLES]


def tiny(seed: int) -> Predictor:
    network = lungunet.build_unet("unet2015", width=2, seed=seed)
    return Predictor(network, lungunet.InputContract(32), device="cpu")


@pytest.mark.parametrize("part", [None, "1/1"])
class TestBesideMasks:
    """Pictures and maps are no masks, for whoever reads the folder."""

    def test_of_slices(self, slices, tmp_path, part) -> None:
        out = tmp_path / "out"
        write = SliceFiles(overlay=True, probabilities=True, uncertainty=True)
        list(predict_slices(tiny(0), slices, out, write=write, sharing=Sharing(part=part)))
        assert find_images(out) == [out / f"{number}.png" for number in range(6)]

    def test_of_scans(self, scans, tmp_path, part) -> None:
        out = tmp_path / "out"
        write = ScanFiles(preview=True, probabilities=True, uncertainty=True)
        sharing = Sharing(part=part)
        list(predict_scans(tiny(0), scans, out, write=write, refine=False, sharing=sharing))
        assert [scan.name for scan in find_volumes([out])] == list("abcd")  # without a warning


class TestCoding:
    @pytest.mark.parametrize("part", [None, "1/1"])
    @pytest.mark.parametrize(("sides", "values"), [(True, [0, 1, 2, 3]), (False, [0, 1])])
    def test_the_folder_of_scans_says_it(self, rule, scans, tmp_path, sides, values, part) -> None:
        out, write = tmp_path / "out", ScanFiles(sides=sides)
        sharing = Sharing(part=part)
        (one,) = predict_scans(rule, scans / "a.nii", out, write=write, sharing=sharing)
        codec = read_codec(out)
        assert codec is not None
        assert list(codec.classes) == values
        assert read_codec(one.mask) == codec
        assert read_codec(scans) is None

    def test_the_folder_of_slices_says_it(self, slices, tmp_path) -> None:
        rule = Predictor.load("threshold")
        list(predict_slices(rule, slices, tmp_path / "out"))
        assert read_codec(tmp_path / "out") == rule.codec

    def test_of_earlier_versions_sides_are_known(self, rule, scans, tmp_path) -> None:
        """And a record of one goes on."""
        out, write = tmp_path / "out", ScanFiles(sides=True)
        list(predict_scans(rule, scans / "a.nii", out, write=write))
        first, *rows = (out / FILE).read_text().splitlines(keepends=True)
        said = json.loads(first)
        del said["made_by"]["labels"]
        (out / FILE).write_text("".join([json.dumps(said) + "\n", *rows]))
        assert list(read_codec(out).classes) == [0, 1, 2, 3]
        (again,) = predict_scans(rule, scans / "a.nii", out, write=write, skip_existing=True)
        assert again.skipped


class TestScans:
    @pytest.mark.parametrize("done", [1, 3, 4])
    def test_half_a_folder_becomes_the_whole(self, rule, scans, tmp_path, done) -> None:
        write = ScanFiles(sides=True, preview=True)
        whole, half = tmp_path / "whole", tmp_path / "half"
        list(predict_scans(rule, scans, whole, write=write))
        results = predict_scans(rule, scans, half, write=write)
        for _ in range(done):
            next(results)
        results.close()
        before = {path: path.stat().st_mtime_ns for path in half.glob("*.nii.gz")}
        again = list(predict_scans(rule, scans, half, write=write, skip_existing=True))
        assert [one.skipped for one in again] == [True] * done + [False] * (4 - done)
        assert [one.mask for one in again] == [half / f"{name}.nii.gz" for name in "abcd"]
        assert all(path.stat().st_mtime_ns == at for path, at in before.items())
        assert tables(half) == tables(whole)
        assert again[0].summary == "a: was there"

    def test_scans_may_be_added(self, rule, scans, tmp_path) -> None:
        out, whole = tmp_path / "out", tmp_path / "whole"
        list(predict_scans(rule, scans / "c.nii", out, skip_existing=True))
        list(predict_scans(rule, scans, whole))
        list(predict_scans(rule, scans, out, skip_existing=True))
        assert tables(out) == tables(whole)
        list(predict_scans(rule, scans / "a.nii", out, skip_existing=True))  # forgets none
        assert sorted(tables(out)[0].splitlines()) == sorted(tables(whole)[0].splitlines())

    @pytest.mark.parametrize(
        ("suffix", "beside"), [(".mhd", ".raw"), (".nhdr", ".raw"), (".hdr", ".img")]
    )
    def test_other_voxels_beside_the_same_header_are_another_scan(
        self, rule, scans, tmp_path, suffix, beside
    ) -> None:
        header = tmp_path / "headers" / f"x{suffix}"
        header.parent.mkdir()
        image = SimpleITK.ReadImage(scans / "a.nii")
        SimpleITK.WriteImage(image, header)
        out = tmp_path / "out"
        list(predict_scans(rule, header, out))
        (again,) = predict_scans(rule, header, out, skip_existing=True)
        assert again.skipped
        SimpleITK.WriteImage(image[::-1], tmp_path / f"x{suffix}")
        (tmp_path / f"x{beside}").replace(header.with_suffix(beside))
        (again,) = predict_scans(rule, header, out, skip_existing=True)
        assert not again.skipped

    def test_a_mask_that_is_gone_is_made_again(self, rule, scans, tmp_path) -> None:
        out = tmp_path / "out"
        write = ScanFiles(preview=True)
        list(predict_scans(rule, scans, out, write=write))
        before = contents(out)
        (out / "b.nii.gz").unlink()
        (out / "previews" / "d.png").unlink()
        again = list(predict_scans(rule, scans, out, write=write, skip_existing=True))
        assert [one.skipped for one in again] == [True, False, True, False]
        after = contents(out)
        assert after.pop(FILE) != before.pop(FILE)
        assert after == before

    def test_killed_between_mask_and_record(self, rule, scans, tmp_path, monkeypatch) -> None:
        """And within the last line of the record."""
        out, whole = tmp_path / "out", tmp_path / "whole"
        list(predict_scans(rule, scans, whole))
        results = predict_scans(rule, scans, out)
        next(results), next(results)
        results.close()
        (out / "c.nii.gz").write_bytes((whole / "c.nii.gz").read_bytes())
        with (out / FILE).open("ab") as file:
            file.write(b'{"name": "c", "sour')
        for name in TABLES:
            (out / name).unlink()
        again = list(predict_scans(rule, scans, out, skip_existing=True))
        assert [one.skipped for one in again] == [True, True, False, False]
        assert tables(out) == tables(whole)
        assert list(predict_scans(rule, scans, out, skip_existing=True))[3].skipped

    def test_tables_are_mended_where_all_masks_are_there(self, rule, scans, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_scans(rule, scans, out))
        before = contents(out)
        (out / "triage.csv").unlink()
        assert all(one.skipped for one in predict_scans(rule, scans, out, skip_existing=True))
        assert contents(out) == before

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"tta": True}, "tta off, not on"),
            ({"refine": False}, "mending on, not off"),
            ({"write": ScanFiles(sides=True)}, "sides off, not on"),
        ],
    )
    def test_other_settings_are_refused(self, rule, scans, tmp_path, change, said) -> None:
        out = tmp_path / "out"
        list(predict_scans(rule, scans / "a.nii", out))
        before = contents(out)
        other = Predictor.load("threshold", tta=change.pop("tta", False))
        with pytest.raises(ConfigError, match=f"out: its masks were made with {said}"):
            list(predict_scans(other, scans, out, skip_existing=True, **change))
        assert contents(out) == before

    def test_another_scan_of_the_same_name_is_not_there(self, rule, scans, tmp_path) -> None:
        """Its patient would be lost without a word."""
        out = tmp_path / "out"
        list(predict_scans(rule, scans / "a.nii", out))
        moved = tmp_path / "elsewhere" / "a.nii"
        moved.parent.mkdir()
        (scans / "a.nii").rename(moved)
        (one,) = predict_scans(rule, moved, out, skip_existing=True)
        assert one.skipped
        (scans / "b.nii").rename(scans / "a.nii")
        (one,) = predict_scans(rule, scans / "a.nii", out, skip_existing=True)
        assert "out/a: a mask of this name is there, of another scan" in str(one.error)

    def test_masks_that_nobody_recorded_are_refused(self, rule, scans, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_scans(rule, scans / "a.nii", out))
        (out / FILE).unlink()
        with pytest.raises(ConfigError, match="already there"):
            list(predict_scans(rule, scans, out, skip_existing=True))

    def test_replace_and_keep_at_once(self, rule, scans, tmp_path) -> None:
        with pytest.raises(ConfigError, match="one replaces what the other keeps"):
            list(predict_scans(rule, scans, tmp_path / "o", overwrite=True, skip_existing=True))


class TestModels:
    @pytest.mark.parametrize("model", ["threshold", "lungs"])
    def test_another_version_is_refused(self, slices, tmp_path, monkeypatch, model) -> None:
        """Its rules may make other masks of the same network."""
        out, predictor = tmp_path / "out", Predictor.load(model, device="cpu")
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "__version__", "9.1")
            list(predict_slices(predictor, slices / "1.tif", out))
        with pytest.raises(ConfigError) as caught:
            list(predict_slices(predictor, slices, out, skip_existing=True))
        assert str(caught.value) == (
            f"{out}: its masks were made with lungunet 9.1, not {lungunet.__version__}. Predict as "
            "before (pip install lungunet==9.1), or choose another folder."
        )

    def test_another_network_is_refused(self, scans, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_scans(tiny(0), scans / "a.nii", out, refine=False))
        list(predict_scans(tiny(0), scans, out, refine=False, skip_existing=True))
        with pytest.raises(ConfigError, match="its masks were made with another model"):
            list(predict_scans(tiny(1), scans, out, refine=False, skip_existing=True))

    def test_a_segmenter_that_says_not_what_it_is(self, slices, tmp_path) -> None:
        class Mine:
            contract, codec = lungunet.InputContract(32), lungunet.LUNG_CODEC
            word, segment_volume = "", None

            def prepare(self, image, where="slice"):
                return image

            def __call__(self, prepared):
                return [Segmented((image < -500).view(np.uint8)) for image in prepared]

        mine = Mine()
        with pytest.raises(ConfigError, match="nobody can tell whether"):
            list(predict_slices(Predictor(mine), slices, tmp_path / "o", skip_existing=True))
        mine.weights_sha256 = "v1"
        for skipped in (False, True):
            results = predict_slices(Predictor(mine), slices, tmp_path / "o", skip_existing=True)
            assert {one.skipped for one in results} == {skipped}
        mine.weights_sha256 = ""
        with pytest.raises(ConfigError, match="would stay, made with a model that nobody can tell"):
            list(predict_slices(Predictor(mine), slices / "1.tif", tmp_path / "o", overwrite=True))


class TestSlices:
    @pytest.mark.parametrize("triage", [True, False])
    def test_half_a_folder_becomes_the_whole(self, rule, slices, tmp_path, triage) -> None:
        write = SliceFiles(overlay=True, triage=triage)
        whole, half = tmp_path / "whole", tmp_path / "half"
        list(predict_slices(rule, slices, whole, write=write))
        list(predict_slices(rule, [slices / "1.tif", slices / "4.tif"], half, write=write))
        again = list(predict_slices(rule, slices, half, write=write, skip_existing=True))
        assert [one.path.stem for one in again if one.skipped] == ["1", "4"]
        ours, theirs = contents(half), contents(whole)
        assert ours.pop(FILE) != theirs.pop(FILE)
        assert ours == theirs

    def test_another_slice_of_the_same_name(self, rule, slices, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_slices(rule, slices, out))
        (slices / "0.tif").write_bytes((slices / "1.tif").read_bytes())
        first, *others = predict_slices(rule, slices, out, skip_existing=True)
        assert "of another scan or of another state of it" in str(first.error)
        assert all(one.skipped for one in others)


class TestOverwrite:
    """Masks of one folder are of one model and one kind, whatever is made again."""

    def test_of_some_the_others_stay_with_their_rows(self, rule, slices, tmp_path) -> None:
        out, write = tmp_path / "out", SliceFiles(overlay=True)
        list(predict_slices(rule, slices, out, write=write))
        before = contents(out)
        (out / "2.png").unlink()
        list(predict_slices(rule, slices / "2.tif", out, write=write, overwrite=True))
        again = list(predict_slices(rule, slices, out, write=write, skip_existing=True))
        assert all(one.skipped for one in again)
        after = contents(out)
        for files in (before, after):
            for name in (FILE, "measurements.csv"):
                files[name] = b"".join(sorted(files[name].splitlines(keepends=True)))
        assert after == before

    def test_what_fails_leaves_no_mask_of_before(self, rule, slices, tmp_path) -> None:
        out, write = tmp_path / "out", SliceFiles(overlay=True)
        list(predict_slices(rule, slices, out, write=write))
        (slices / "2.tif").write_bytes(b"junk")
        list(predict_slices(rule, slices, out, overwrite=True))
        assert [path.stem for path in sorted(out.glob("*.png"))] == list("01345")
        assert not (out / "overlays" / "2.png").exists()
        assert [line[:2] for line in (out / "errors.csv").read_text().splitlines()[1:]] == ["2,"]
        assert "\n2," not in (out / "measurements.csv").read_text()

    def test_nor_tables_where_nobody_recorded_it(self, rule, slices, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_slices(rule, slices / "2.tif", out))
        (out / FILE).unlink()
        (slices / "2.tif").write_bytes(b"junk")
        list(predict_slices(rule, slices / "2.tif", out, overwrite=True))
        assert not contents(out)

    def test_where_all_fail_the_tables_say_so(self, rule, slices, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_slices(rule, slices, out))
        for path in slices.iterdir():
            path.write_bytes(b"junk")
        list(predict_slices(rule, slices, out, overwrite=True))
        assert sorted(contents(out)) == ["errors.csv", "measurements.csv", FILE]
        assert (out / "errors.csv").read_text().count("\n") == 7
        assert (out / "measurements.csv").read_text().count("\n") == 1

    def test_of_other_settings_none_may_stay(self, rule, scans, tmp_path) -> None:
        out, sides = tmp_path / "out", ScanFiles(sides=True)
        list(predict_scans(rule, scans, out))
        before = contents(out)
        some = [scans / f"{name}.nii" for name in "ac"]
        with pytest.raises(ConfigError) as caught:
            list(predict_scans(rule, some, out, write=sides, overwrite=True))
        files = f"{out / 'b.nii.gz'}, {out / 'd.nii.gz'}"
        assert str(caught.value).startswith(f"{files}: would stay, made with sides off, not on. ")
        assert contents(out) == before
        for name in "bd":
            (out / f"{name}.nii.gz").unlink()
        list(predict_scans(rule, some, out, write=sides, overwrite=True))
        list(predict_scans(rule, some, tmp_path / "new", write=sides))
        assert contents(out) == contents(tmp_path / "new")

    def test_of_other_settings_all_go_first(self, rule, scans, tmp_path) -> None:
        out, sides = tmp_path / "out", ScanFiles(sides=True)
        list(predict_scans(rule, scans, out, write=ScanFiles(preview=True)))
        results = predict_scans(rule, scans, out, write=sides, overwrite=True)
        next(results)
        results.close()
        assert sorted(contents(out)) == sorted(["a.nii.gz", "labels.txt", FILE, *TABLES])

    def test_nor_of_another_format(self, rule, scans, tmp_path) -> None:
        out, nrrd = tmp_path / "out", ScanFiles(format="nrrd")
        list(predict_scans(rule, scans / "a.nii", out))
        with pytest.raises(
            ConfigError, match=r"a\.nii\.gz: would stay, made with format auto, not"
        ):
            list(predict_scans(rule, scans / "a.nii", out, write=nrrd, overwrite=True))

    def test_a_record_that_is_damaged(self, rule, slices, tmp_path) -> None:
        out = tmp_path / "out"
        list(predict_slices(rule, slices, out))
        lines = (out / FILE).read_bytes().splitlines(keepends=True)
        (out / FILE).write_bytes(b"".join([*lines[:-1], b"{}\n"]))
        with pytest.raises(ConfigError, match="for their record is damaged"):
            list(predict_slices(rule, slices / "2.tif", out, overwrite=True))
        list(predict_slices(rule, slices, out, overwrite=True))
        assert all(one.skipped for one in predict_slices(rule, slices, out, skip_existing=True))

    def test_two_jobs_in_one_folder(self, rule, slices, tmp_path) -> None:
        out = tmp_path / "out"
        first = predict_slices(rule, slices / "1.tif", out)
        next(first)
        for settings in ({}, {"overwrite": True}, {"skip_existing": True}):
            with pytest.raises(ConfigError, match="out: another job writes into it"):
                list(predict_slices(rule, slices / "2.tif", out, **settings))
        first.close()
        list(predict_slices(rule, slices / "2.tif", out, skip_existing=True))
        assert sorted(path.name for path in out.glob("*.png")) == ["1.png", "2.png"]
        assert not (out / ".lock").exists()


class TestRecord:
    ROWS = (measure_slice(np.full((4, 5), -900, np.int16), np.eye(4, 5), name="x"),)

    def trust(self, worry: float) -> Plausibility:
        return Plausibility(worry, ("one", "two; three"), {"disputed": None, "lung_share": 0.25})

    def test_a_damaged_line_is_named(self, tmp_path) -> None:
        made = Record(tmp_path, {"model": "m"}, going_on=False)
        made.add("a", "s", self.ROWS, self.trust(0.1))
        made.close()
        lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
        (tmp_path / FILE).write_bytes(lines[0] + b"{}\n" + lines[1])
        with pytest.raises(DataError, match=rf"{FILE}: damaged at byte {len(lines[0])}"):
            Record(tmp_path, {"model": "m"}, going_on=True)
        (tmp_path / FILE).write_bytes(b"junk\n")
        with pytest.raises(DataError, match="no record that this version reads"):
            Record(tmp_path, {"model": "m"}, going_on=True)

    def test_measurements_are_those_of_their_writer(self, tmp_path) -> None:
        made = Record(tmp_path / "r", {}, going_on=False)
        for name in "ba":
            made.add(name, "s", self.ROWS, None)
        made.write_tables(["a", "b"])
        made.close()
        lungunet.write_measurements(tmp_path / "measurements.csv", self.ROWS * 2)
        name = "measurements.csv"
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / name).read_bytes()
        assert not (tmp_path / "r" / "triage.csv").exists()

    def test_tables_are_not_written_for_each_of_many(self, tmp_path, monkeypatch) -> None:
        written = []
        monkeypatch.setattr(record, "write_csv", lambda path, rows, columns: written.append(path))
        made = Record(tmp_path, {}, going_on=False)
        for number in range(400):
            made.add(str(number), "s", self.ROWS, self.trust(0.1))
            made.write_tables(now=False)
        made.close()
        assert 2 * 20 < len(written) < 2 * 100

    def test_memory_does_not_grow_with_what_is_measured(self, tmp_path) -> None:
        made = Record(tmp_path, {}, going_on=False)
        tracemalloc.start()
        for number in range(300):
            made.add(str(number), "s", self.ROWS * 100, self.trust(0.1))
        made.write_tables()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        made.close()
        assert (tmp_path / FILE).stat().st_size > 5_000_000
        assert peak < 1_000_000
        with (tmp_path / "measurements.csv").open(newline="") as file:
            assert sum(1 for _ in csv.DictReader(file)) == 30_000

    def test_holds_nothing_of_paths(self, rule, slices, tmp_path) -> None:
        list(predict_slices(rule, slices, tmp_path / "out"))
        text = (tmp_path / "out" / FILE).read_text()
        assert str(slices) not in text
        assert {json.loads(line).get("name") for line in text.splitlines()} == {None, *"012345"}

    def test_what_tells_files_apart(self, tmp_path) -> None:
        one, two = tmp_path / "1", tmp_path / "2"
        content = bytearray(200_000)
        one.write_bytes(content)
        found = {identify_source([one]), identify_source([one, one])}
        for place in (5, 100_005, 199_995):
            two.write_bytes(content[:place] + b"\1" + content[place + 1 :])
            found.add(identify_source([two]))
        two.write_bytes(content[:-1])
        assert len(found | {identify_source([two]), identify_source([tmp_path / "none"])}) == 7
