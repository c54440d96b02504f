"""A job that is divided, and joined again: to what one process writes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import ConfigError, DataError, Predictor, Sharing, merge_parts
from lungunet.data.made_by import FILE
from lungunet.inference import scan_files, slice_files
from lungunet.inference.parts import Part, keys_of
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, write_volume

HOME = {"slices": slice_files, "scans": scan_files}
PREDICT = {"slices": lungunet.predict_slices, "scans": lungunet.predict_scans}


@pytest.fixture
def rule() -> Predictor:
    return Predictor.load("threshold")


def make(kind: str, folder: Path, numbers: range) -> Path:
    for number in numbers:
        planes = [phantom_slice(number, z, size=48).image for z in (0.4, 0.6)]
        path = folder / f"{number}.nii"
        if kind == "slices":
            lungunet.write_image(path.with_suffix(".tif"), planes[0])
        else:
            like = Volume(np.stack(planes), path, path.stem, Grid.axial((2, 48, 48), (30, 6, 6.5)))
            write_volume(path, like.array, like=like)
    bad = folder / ("bad.tif" if kind == "slices" else "bad.nii")
    bad.write_bytes(b"junk")
    return folder


@pytest.fixture(params=["slices", "scans"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def items(kind, tmp_path) -> Path:
    return make(kind, tmp_path / "in", range(5))


def contents(out: Path) -> dict[str, bytes]:
    """What is in a folder but for the record, which holds the same in another order."""
    files = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    files[FILE] = b"".join(sorted(files.get(FILE, b"").splitlines(keepends=True)))
    return files


def run(kind, rule, items, out, part=None, **more):
    return list(PREDICT[kind](rule, items, out, sharing=Sharing(part=part), **more))


class TestPart:
    def test_each_item_is_of_one_part_whatever_comes_later(self) -> None:
        keys = [f"p{n}/ct.nii" for n in range(400)]
        parts = [Part(number, 16) for number in range(1, 17)]
        taken = [[key for key in keys if part.takes(key)] for part in parts]
        assert sorted(key for some in taken for key in some) == sorted(keys)
        assert min(map(len, taken)) > 10
        # The same on every machine and in every version.
        assert [Part(n, 3).takes("p0/ct.nii") for n in (1, 2, 3)] == [False, False, True]

    @pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/3", "1/0"])
    def test_what_is_no_part(self, text) -> None:
        with pytest.raises(ConfigError, match="write the number of a part and of all"):
            Part.parse(text)

    def test_keys_do_not_say_where_the_input_lies(self, tmp_path) -> None:
        below = [Path("a/ct.nii"), Path("b/ct.nii")]
        for root in (tmp_path, tmp_path / "mnt" / "other"):
            for path in below:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).touch()
            paths = [root / path for path in below]
            for inputs in ([str(root)], [f"{root}/*/ct.nii"], [f"{root}/**/*.nii"]):
                assert keys_of(paths, inputs) == ["a/ct.nii", "b/ct.nii"]
            assert keys_of(paths, map(str, paths)) == ["ct.nii", "ct.nii"]
        assert keys_of([Path("x/a.tif")], ["elsewhere/list.txt"]) == ["x/a.tif"]


class TestMerge:
    def test_it_is_what_one_process_writes(self, kind, rule, items, tmp_path) -> None:
        one, out = tmp_path / "one", tmp_path / "out"
        items = sorted(items.iterdir(), reverse=True)  # not in the order of names
        run(kind, rule, items, one)
        results = [run(kind, rule, items, out, part=f"{n}/3") for n in (3, 1, 2)]
        assert sorted(len(some) for some in results) != [0, 0, 6]
        assert sum(map(len, results)) == 6
        merged = merge_parts(out)
        assert (merged.masks, merged.failed, merged.missing) == (5, ("bad",), ())
        assert contents(out) == contents(one)
        assert (out / "errors.csv").read_text().startswith("name,error\nbad,")
        assert merge_parts(out) == merged  # once more does no harm
        assert contents(out) == contents(one)
        again = run(kind, rule, items, out, skip_existing=True)
        assert sum(one.skipped for one in again) == 5

    def test_parts_that_are_missing_are_named(self, kind, rule, items, tmp_path) -> None:
        one, out = tmp_path / "one", tmp_path / "out"
        run(kind, rule, items, one)
        run(kind, rule, items, out, part="3/3")
        record = out / "parts" / "3-of-3" / FILE
        record.write_bytes(record.read_bytes()[:-10])  # killed while it wrote
        said = merge_parts(out).missing
        assert said[:2] == ("part 1/3: not begun", "part 2/3: not begun")
        assert re.fullmatch(r"part 3/3: 1 of \d to do", said[2])
        assert (out / "measurements.csv").exists()
        for part in ("1/3", "2/3", "3/3"):
            run(kind, rule, items, out, part=part, skip_existing=True)
        assert merge_parts(out).missing == ()
        assert contents(out) == contents(one)

    def test_a_list_may_grow(self, kind, rule, items, tmp_path) -> None:
        one, out = tmp_path / "one", tmp_path / "out"
        for part in ("1/2", "2/2"):
            run(kind, rule, items, out, part=part)
        merge_parts(out)
        make(kind, items, range(5, 9))
        run(kind, rule, items, one)
        run(kind, rule, items, out, part="1/2", skip_existing=True)
        assert merge_parts(out).missing == ("part 2/2: not begun",)
        run(kind, rule, items, out, part="2/2", skip_existing=True)
        assert merge_parts(out).masks == 9
        assert contents(out) == contents(one)

    def test_no_item_is_lost_that_came_between_two_parts(self, kind, rule, items, tmp_path) -> None:
        out = tmp_path / "out"
        run(kind, rule, items, out, part="1/2")
        make(kind, items, range(5, 9))
        run(kind, rule, items, out, part="2/2")
        (said,) = merge_parts(out).missing
        assert said == "part 1/2: was done when the list was another, do it again"

    def test_two_jobs_that_are_given_one_part(
        self, kind, rule, items, tmp_path, monkeypatch
    ) -> None:
        one, out = tmp_path / "one", tmp_path / "out"
        run(kind, rule, items, one)
        with monkeypatch.context() as patch:  # both began before the other wrote
            patch.setattr(HOME[kind], "refuse_existing", lambda *_: None)
            twins = [PREDICT[kind](rule, items, out, sharing=Sharing(part="1/1")) for _ in "ab"]
            next(twins[0]), next(twins[1]), next(twins[0])
            assert len(list(twins[1])) == 5
            twins[0].close()
        with pytest.raises(ConfigError, match="already there"):
            run(kind, rule, items, out, part="1/1")
        assert merge_parts(out).missing == ()
        assert contents(out) == contents(one)

    def test_another_division_or_model_is_refused(self, kind, rule, items, tmp_path) -> None:
        out = tmp_path / "out"
        run(kind, rule, items, out, part="1/2")
        with pytest.raises(
            ConfigError, match=r"parts of a job divided by 2\. Join them with merge"
        ):
            run(kind, rule, items, out, part="1/3")
        with pytest.raises(ConfigError, match="holds parts of a job that is divided"):
            run(kind, rule, items, out, skip_existing=True)
        other = Predictor.load("threshold", tta=True)
        with pytest.raises(ConfigError, match="were made with tta off, not on"):
            run(kind, other, items, out, part="2/2")
        run(kind, other, items, tmp_path / "other", part="2/2")
        shutil.copytree(tmp_path / "other" / "parts", out / "parts", dirs_exist_ok=True)
        with pytest.raises(ConfigError, match="were made with tta"):
            merge_parts(out)

    def test_all_may_be_done_again(self, kind, rule, items, tmp_path) -> None:
        out, two = tmp_path / "out", tmp_path / "two"
        tta = Predictor.load("threshold", tta=True)
        run(kind, rule, items, out)
        run(kind, tta, items, two)
        for part in ("1/2", "2/2"):
            run(kind, tta, items, out, part=part, overwrite=True)
        merge_parts(out)
        assert contents(out) == contents(two)

    def test_none_is_forgotten_where_some_are_done_again(self, kind, rule, items, tmp_path) -> None:
        out = tmp_path / "out"
        run(kind, rule, items, out)
        before = contents(out)
        some = sorted(items.iterdir())[:4]
        with pytest.raises(ConfigError, match="would stay, without a row in the tables of the par"):
            run(kind, rule, some, out, part="1/2", overwrite=True)
        assert contents(out) == before

    def test_a_folder_without_parts(self, tmp_path) -> None:
        with pytest.raises(DataError, match="holds no parts"):
            merge_parts(tmp_path)
