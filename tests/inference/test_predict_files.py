"""Folders of slices and scans through a model, without the command line."""

import csv
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import (
    ConfigError,
    LungUNetWarning,
    Predictor,
    ScanFiles,
    SliceFiles,
    predict_scans,
    predict_slices,
)
from lungunet.inference import scan_files, slice_files
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.montage import draw_montage
from lungunet.volumes.volume import Volume, read_volume, write_volume

SPACING_MM = (30.0, 5.0, 5.5)


@pytest.fixture
def rule() -> Predictor:
    return Predictor.load("threshold")


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Three scans of five slices each, the second one damaged."""
    hu = np.stack([phantom_slice(0, z, size=64).image[:60] for z in np.linspace(0.1, 0.9, 5)])
    like = Volume(hu, Path("like.nii"), "like", Grid.axial(hu.shape, SPACING_MM))
    paths = [tmp_path / "scans" / name for name in ("a.nii", "b.mha", "c.nii")]
    for path in paths:
        write_volume(path, hu, like=like)
    paths[1].write_bytes(b"junk")
    return paths


def names_in(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


class TestSlices:
    def test_a_result_for_each_and_a_bad_one_named(self, rule, phantoms, tmp_path: Path) -> None:
        good = sorted(phantoms[0].iterdir())
        bad = tmp_path / "bad.tif"
        bad.write_bytes(b"no image")
        results = list(predict_slices(rule, [good[0], bad, good[1]], tmp_path / "out"))
        assert [result.path for result in results] == [good[0], bad, good[1]]
        assert (results[1].mask, results[1].measured, results[1].checked) == (None, None, None)
        assert str(results[1].error).startswith(f"{bad}: not a readable image")
        for result, path in zip(results[::2], good, strict=False):
            assert result.error is None
            assert result.mask == tmp_path / "out" / f"{result.name}.png"
            mask = lungunet.read_mask(result.mask)
            np.testing.assert_array_equal(mask, rule.predict(path))
            assert result.measured.area_px == (mask == 255).sum()
            assert result.checked.values["rule_difference"] is None  # it is the rule
        tables = [tmp_path / "out" / name for name in ("measurements.csv", "triage.csv")]
        assert [sorted(names_in(table)) for table in tables] == [[good[0].stem, good[1].stem]] * 2

    def test_what_else_is_written(self, rule, phantoms, tmp_path: Path) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        write = SliceFiles(overlay=True, probabilities=True, triage=False)
        (result,) = predict_slices(rule, [one], tmp_path, write=write)
        assert result.checked is None
        written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
        planned = {f"overlays/{one.stem}.png", f"probabilities/{one.stem}.tif", f"{one.stem}.png"}
        assert written == planned | {"measurements.csv", "predicted.jsonl"}
        lung = lungunet.read_image(tmp_path / "probabilities" / f"{one.stem}.tif")
        np.testing.assert_array_equal(lung, (lungunet.read_mask(result.mask) == 255) * 1.0)

    def test_a_second_opinion_on_what_is_no_rule(self, run: Path, phantoms, tmp_path: Path) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        (result,) = predict_slices(Predictor.load(run, device="cpu"), [one], tmp_path)
        assert result.checked.values["rule_difference"] is not None
        assert result.checked.values["expected_error"] is not None

    def test_nothing_is_done_before_it_is_asked_for(self, rule, phantoms, tmp_path: Path) -> None:
        predict_slices(rule, [phantoms[0]], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_who_stops_early_has_tables_of_all_masks(self, rule, phantoms, tmp_path: Path) -> None:
        results = predict_slices(rule, [phantoms[0]], tmp_path, batch_size=1)
        next(results)
        results.close()
        masks = sorted(path.stem for path in tmp_path.glob("*.png"))
        assert 0 < len(masks) < 12
        assert names_in(tmp_path / "measurements.csv") == masks
        assert sorted(names_in(tmp_path / "triage.csv")) == masks

    def test_an_error_costs_no_table(self, rule, phantoms, tmp_path: Path, monkeypatch) -> None:
        real, written = slice_files.write_mask, []

        def full(path, mask) -> None:
            if len(written) == 3:
                raise lungunet.DataError("cannot be written (no space).", where=path)
            written.append(path.stem)
            real(path, mask)

        monkeypatch.setattr(slice_files, "write_mask", full)
        with pytest.raises(lungunet.DataError, match="no space"):
            list(predict_slices(rule, [phantoms[0]], tmp_path))
        assert sorted(names_in(tmp_path / "measurements.csv")) == sorted(written)

    def test_interrupted_it_says_how_many_are_done(
        self, rule, phantoms, tmp_path: Path, monkeypatch
    ) -> None:
        real = Predictor.predict_files

        def interrupted(self, paths, *, batch_size):
            for n, prediction in enumerate(real(self, paths, batch_size=batch_size)):
                if n == 4:
                    raise KeyboardInterrupt
                yield prediction

        monkeypatch.setattr(Predictor, "predict_files", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            list(predict_slices(rule, [phantoms[0]], tmp_path))
        masks = sorted(path.stem for path in tmp_path.glob("*.png"))
        said = f"{len(masks)} of 12 masks in {tmp_path}, each of them whole"
        assert str(caught.value) == said
        assert names_in(tmp_path / "measurements.csv") == masks

    def test_progress_counts_slices(self, rule, phantoms, tmp_path: Path) -> None:
        told = []

        def progress(iterable, *, desc, total):
            told.append((desc, total))
            return iterable

        list(predict_slices(rule, phantoms[0], tmp_path, progress=progress))  # a single source
        assert told == [("predict", 12)]

    def test_what_is_there_is_replaced_on_demand(self, rule, phantoms, tmp_path: Path) -> None:
        one = sorted(phantoms[0].iterdir())[0]
        list(predict_slices(rule, [one], tmp_path))
        with pytest.raises(ConfigError, match=f"{one.stem}.png.*: already there"):
            list(predict_slices(rule, [one], tmp_path))
        assert len(list(predict_slices(rule, [one], tmp_path, overwrite=True))) == 1

    def test_never_over_what_is_read(self, rule, phantoms, tmp_path: Path) -> None:
        png = tmp_path / "s.png"
        lungunet.write_image(png, np.zeros((9, 7), np.uint8))
        with pytest.raises(ConfigError, match=r"s\.png: would be written over while it is read"):
            list(predict_slices(rule, [png], tmp_path, overwrite=True))
        with pytest.raises(ConfigError, match="is the folder that is read"):
            list(predict_slices(rule, str(phantoms[0]), phantoms[0], overwrite=True))


class TestScans:
    def test_a_result_for_each_and_a_bad_one_named(self, rule, scans, tmp_path: Path) -> None:
        out = tmp_path / "out"
        results = list(predict_scans(rule, scans, out, write=ScanFiles(sides=True, preview=True)))
        assert [(result.path, result.name) for result in results] == [
            (path, path.stem) for path in scans
        ]
        assert results[1].mask is None
        assert results[1].summary == str(results[1].error)
        assert str(results[1].error).startswith(f"{scans[1]}: not a readable volume")
        for result in results[::2]:
            assert result.mask == out / f"{result.name}.nii.gz"
            assert set(np.unique(read_volume(result.mask).array)) == {0, 1, 2}
            assert result.measured.left is not None
            assert (out / "previews" / f"{result.name}.png").exists()
            ml = f"{result.measured.lungs.volume_ml:.0f} mL"
            assert result.summary.startswith(f"{result.name}: lungs {ml}, -")
            assert f"; {result.checked.light}" in result.summary
        assert sorted(names_in(out / "triage.csv")) == ["a", "c"]
        assert set(names_in(out / "measurements.csv")) == {"a", "c"}

    def test_who_stops_early_has_tables(self, rule, scans, tmp_path: Path) -> None:
        results = predict_scans(rule, scans, tmp_path / "out")
        next(results)
        results.close()
        assert names_in(tmp_path / "out" / "triage.csv") == ["a"]

    def test_interrupted_it_says_how_many_are_done(
        self, rule, scans, tmp_path: Path, monkeypatch
    ) -> None:
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        results = predict_scans(rule, scans, tmp_path / "out")
        next(results)
        monkeypatch.setattr(scan_files, "read_volume", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"^1 of 3 scans done$"):
            next(results)
        assert names_in(tmp_path / "out" / "triage.csv") == ["a"]

    def test_as_the_model_says_it(self, run: Path, scans, tmp_path: Path) -> None:
        predictor = Predictor.load(run, device="cpu")
        (result,) = predict_scans(predictor, scans[:1], tmp_path / "out", refine=False)
        expected = lungunet.predict_volume(predictor, read_volume(scans[0]), refine=False)
        np.testing.assert_array_equal(read_volume(result.mask).array, expected.classes)

    def test_sides_of_more_classes_are_refused(self, scans, tmp_path: Path) -> None:
        model = lungunet.build_unet("unet2015", width=1, n_classes=3, seed=0)
        codec = lungunet.LabelCodec({0: 0, 1: 1, 2: 2})
        predictor = Predictor(model, lungunet.InputContract(32), codec, device="cpu")
        with pytest.raises(ConfigError, match="sides: the model has 3 classes"):
            next(predict_scans(predictor, scans, tmp_path, write=ScanFiles(sides=True)))

    @pytest.mark.filterwarnings("always::lungunet.errors.LungUNetWarning")
    def test_a_scan_of_one_lung_does_not_tell_which(self, rule, scans, tmp_path: Path) -> None:
        """The mask keeps the lung, as neither; measured from files it is the same."""
        scan = read_volume(scans[0])
        lungs = lungunet.segment_lungs(scan.array, spacing_mm=scan.spacing_mm)
        sides = lungunet.split_sides(lungs, spacing_mm=scan.spacing_mm)
        columns = np.flatnonzero((sides == 2).any(axis=(0, 1)))
        half = scan.array[..., columns[0] - 4 : columns[-1] + 2]
        grid = Grid.axial(half.shape, scan.spacing_mm)
        cut = tmp_path / "cut.nii.gz"
        write_volume(cut, half, like=Volume(half, cut, "cut", grid))
        out = tmp_path / "out"
        with pytest.warns(LungUNetWarning, match=r"cut\.nii\.gz: which lung is which is not told"):
            (result,) = predict_scans(rule, cut, out, write=ScanFiles(sides=True, preview=True))
        assert set(np.unique(read_volume(result.mask).array)) == {0, 3}
        assert (result.measured.left, result.measured.right) == (None, None)
        for options in ({}, {"sides": True, "codec": lungunet.LabelCodec({0: 0, 3: 1})}):
            with pytest.warns(LungUNetWarning, match=r"^cut: no rows of the left and the right"):
                (file,) = lungunet.measure_files(cut, result.mask, **options)
            assert file.untold
            assert {row.region for row in file.rows} == {"lungs"}
            assert file.rows[0].area_px == result.measured.lungs.area_px > 0

    def test_the_preview_shows_the_red_slices(
        self, rule, scans, tmp_path: Path, monkeypatch
    ) -> None:
        """What a user reads of a slice is drawn, and said beside it."""
        drawn = {}

        def draw(scan, classes, **kwargs):
            drawn.update(kwargs)
            return draw_montage(scan, classes, **kwargs)

        monkeypatch.setattr("lungunet.inference.scan_files.draw_montage", draw)
        scan = read_volume(scans[0])
        hu = scan.array.copy()
        hu[2, 4:-4, 4 : hu.shape[2] // 2] = 40  # no lung on one side in one slice
        path = tmp_path / "gap.nii.gz"
        write_volume(path, hu, like=scan)
        (result,) = predict_scans(rule, path, tmp_path / "out", write=ScanFiles(preview=True))
        assert result.checked.worst_slices
        assert drawn["red"] == result.checked.worst_slices
        said = [f"slice {i}: {result.checked.slices[i].reasons[0]}" for i in drawn["red"]]
        assert drawn["lines"] == [result.summary, *said]
        assert list(result.checked.reasons[-len(said) :]) == said

    def test_without_a_chest_there_is_no_volume(self, rule, scans, tmp_path: Path) -> None:
        scan = read_volume(scans[0])
        single = scan.array[4:5]
        path = tmp_path / "single.nii.gz"
        grid = Grid.axial(single.shape, scan.spacing_mm)
        write_volume(path, single, like=Volume(single, path, "single", grid))
        write = ScanFiles(sides=True, preview=True)
        with pytest.warns(LungUNetWarning, match="no whole chest. Its mask holds 3"):
            (result,) = predict_scans(rule, path, tmp_path / "out", write=write)
        assert result.summary == "single: no chest here: a single slice; red"
        assert np.isnan(result.measured.lungs.volume_ml)
        assert result.measured.lungs.area_px > 0
        assert result.measured.left is None
