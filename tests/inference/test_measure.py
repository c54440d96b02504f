"""Areas, volumes and HU: by hand, and against loops and scikit-image."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

import lungunet
from lungunet import (
    ConfigError,
    DataError,
    GeometryError,
    LabelCodec,
    LabelError,
    LungUNetWarning,
    Volume,
    measure_files,
    measure_slice,
    measure_volume,
    write_image,
    write_mask,
    write_volume,
)
from lungunet.inference.measure import COLUMNS, Measurement, write_measurements
from lungunet.volumes.grid import Grid

HU_FIELDS = ("mean_hu", "hu_p05", "hu_p95", "emphysema_index")


def made(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1024, 200, shape).astype(np.int16)
    return hu, rng.random(shape) < 0.3


def percentile_by_hand(values: list[float], percent: float) -> float:
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


def by_loops(hu: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Look at each pixel of a slice in turn."""
    values = [
        float(hu[row, column])
        for row in range(hu.shape[0])
        for column in range(hu.shape[1])
        if mask[row, column]
    ]
    return {
        "area_px": len(values),
        "mean_hu": sum(values) / len(values),
        "hu_p05": percentile_by_hand(values, 5),
        "hu_p95": percentile_by_hand(values, 95),
        "emphysema_index": sum(value < -950 for value in values) / len(values),
    }


class TestSlice:
    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
    @pytest.mark.parametrize("seed", range(3))
    def test_as_by_loops(self, dtype: type, seed: int) -> None:
        hu, mask = made((13, 29), seed)
        found = measure_slice(hu.astype(dtype), mask, spacing_mm=(0.8, 0.7))
        for field, value in by_loops(hu, mask).items():
            assert getattr(found, field) == pytest.approx(value, rel=1e-6)
        assert found.area_mm2 == pytest.approx(found.area_px * 0.56)

    def test_as_by_scikit_image(self) -> None:
        hu, mask = made((40, 31))
        found = measure_slice(hu, mask, spacing_mm=(1.5, 0.5))
        (region,) = regionprops(mask.astype(int), intensity_image=hu, spacing=(1.5, 0.5))
        assert found.area_mm2 == pytest.approx(region.area)
        assert found.mean_hu == pytest.approx(region.intensity_mean)

    def test_emphysema_is_below_minus_950_and_not_at_it(self) -> None:
        hu = np.array([[-951, -950, -949, -2000]], np.int16)
        assert measure_slice(hu, np.array([[1, 1, 1, 0]])).emphysema_index == pytest.approx(1 / 3)

    def test_the_mean_does_not_overflow(self) -> None:
        hu = np.full((600, 700), -32768, np.int16)
        assert measure_slice(hu, hu < 0).mean_hu == -32768

    def test_percentiles_do_not_overflow(self) -> None:
        hu = np.full((4, 5), -32768, np.int16)
        hu[0, 0] = 3000
        expected = percentile_by_hand([float(value) for value in hu.ravel()], 95)
        assert measure_slice(hu, hu < 9999).hu_p95 == pytest.approx(expected)

    def test_any_value_above_0_is_inside(self) -> None:
        hu, mask = made((9, 8))
        assert measure_slice(hu, mask * 255).to_dict() == measure_slice(hu, mask).to_dict()

    def test_without_spacing_millimetres_are_undefined(self) -> None:
        found = measure_slice(*made((9, 8)), name="a")
        assert found.name == "a"
        assert found.area_px > 0
        for field in ("area_mm2", "volume_ml", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm"):
            assert math.isnan(getattr(found, field))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_pictures_hold_no_hu(self, dtype: type) -> None:
        found = measure_slice(np.full((4, 5), 7, dtype), np.ones((4, 5)), spacing_mm=(2.0, 3.0))
        assert found.area_mm2 == 120
        assert all(math.isnan(getattr(found, field)) for field in HU_FIELDS)

    def test_an_empty_mask_has_no_hu(self) -> None:
        found = measure_slice(made((4, 5))[0], np.zeros((4, 5)), spacing_mm=(1.0, 1.0))
        assert (found.area_px, found.area_mm2) == (0, 0)
        assert all(math.isnan(getattr(found, field)) for field in HU_FIELDS)

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 999), y=st.floats(0.2, 5), x=st.floats(0.2, 5))
    def test_two_parts_add_up(self, seed: int, y: float, x: float) -> None:
        hu, mask = made((11, 12), seed)
        half = np.arange(12) < 5
        whole, one, other = (
            measure_slice(hu, part, spacing_mm=(y, x)) for part in (mask, mask & half, mask & ~half)
        )
        assert one.area_px + other.area_px == whole.area_px
        assert one.area_mm2 + other.area_mm2 == pytest.approx(whole.area_mm2)
        assert whole.hu_p05 <= whole.mean_hu <= whole.hu_p95


class TestVolume:
    HU, MASK = made((5, 12, 17))
    SPACING = (2.5, 0.8, 0.7)

    def test_slices_are_measured_one_by_one(self) -> None:
        found = measure_volume(self.HU, self.MASK, name="scan", spacing_mm=self.SPACING)
        assert [row.slice for row in found.slices] == [0, 1, 2, 3, 4]
        for row, hu, mask in zip(found.slices, self.HU, self.MASK, strict=True):
            alone = measure_slice(hu, mask, name="scan", spacing_mm=self.SPACING[1:])
            for field in ("name", "region", "area_px", "area_mm2", *HU_FIELDS):
                assert getattr(row, field) == getattr(alone, field)
            assert math.isnan(row.volume_ml)
            assert row.spacing_z_mm == 2.5

    def test_the_scan_is_measured_over_all_voxels(self) -> None:
        lungs = measure_volume(self.HU, self.MASK, spacing_mm=self.SPACING).lungs
        flat = measure_slice(self.HU.reshape(5, -1), self.MASK.reshape(5, -1))
        for field in ("area_px", *HU_FIELDS):
            assert getattr(lungs, field) == getattr(flat, field)
        assert lungs.volume_ml == pytest.approx(self.MASK.sum() * 2.5 * 0.8 * 0.7 / 1000)
        assert math.isnan(lungs.area_mm2)
        assert (lungs.slice, lungs.name, lungs.region) == (None, "scan", "lungs")

    def test_each_lung_where_the_mask_tells(self) -> None:
        sides = self.MASK * np.where(np.arange(17) < 9, 2, 1)
        found = measure_volume(self.HU, sides, spacing_mm=self.SPACING, sides=True)
        assert found.left is not None
        assert found.right is not None
        left = measure_volume(self.HU, sides == 1, spacing_mm=self.SPACING).lungs
        right = measure_volume(self.HU, sides == 2, spacing_mm=self.SPACING).lungs
        assert found.left.volume_ml == left.volume_ml
        assert found.right.mean_hu == right.mean_hu
        assert found.left.area_px + found.right.area_px == found.lungs.area_px
        assert [row.region for row in found.rows[:4]] == [
            *("lungs", "left lung", "right lung", "lungs")
        ]
        assert len(found.rows) == 8

    def test_without_sides_and_spacing(self) -> None:
        found = measure_volume(self.HU, self.MASK)
        assert found.left is found.right is None
        assert math.isnan(found.lungs.volume_ml)
        assert len(found.rows) == 6

    def test_an_absent_lung_has_no_volume_but_a_row(self) -> None:
        found = measure_volume(self.HU, self.MASK, spacing_mm=self.SPACING, sides=True)
        assert found.right is not None
        assert (found.right.area_px, found.right.volume_ml) == (0, 0)
        assert math.isnan(found.right.mean_hu)


class TestFile:
    def test_full_precision_and_empty_where_undefined(self, tmp_path: Path) -> None:
        rows = [
            measure_slice(*made((9, 8)), name="a, b"),
            *measure_volume(*made((2, 5, 6)), spacing_mm=(0.1, 1 / 3, 0.7)).rows,
        ]
        write_measurements(tmp_path / "new" / "m.csv", iter(rows))
        with (tmp_path / "new" / "m.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert len(read) == 4
        for row, line in zip(rows, read, strict=True):
            for column, value in row.to_dict().items():
                if value is None:
                    assert line[column] == ""
                elif isinstance(value, float):
                    assert float(line[column]) == value
                else:
                    assert line[column] == str(value)

    def test_columns(self, tmp_path: Path) -> None:
        write_measurements(tmp_path / "m.csv", [])
        assert (tmp_path / "m.csv").read_text() == ",".join(COLUMNS) + "\n"
        first = ("name", "area_px", "area_mm2", "mean_hu", "hu_p05", "hu_p95", "emphysema_index")
        assert COLUMNS[:7] == first

    def test_plain_values_hold_no_nan(self) -> None:
        plain = measure_slice(*made((9, 8))).to_dict()
        assert plain["area_mm2"] is None
        assert plain["slice"] is None
        assert isinstance(plain["mean_hu"], float)
        assert isinstance(plain["area_px"], int)


class TestRefusals:
    def test_shapes_that_differ(self) -> None:
        hu, mask = made((9, 8))
        with pytest.raises(GeometryError, match=r"a: mask is 9x7, image is 9x8\. A mask must"):
            measure_slice(hu, mask[:, 1:], name="a")
        with pytest.raises(GeometryError, match="scan: mask is 1x9x7, image is 1x9x8"):
            measure_volume(hu[None], mask[None, :, 1:])

    def test_other_axes(self) -> None:
        hu, mask = made((9, 8))
        for image in (hu[None], hu[0], hu[:0]):
            with pytest.raises(DataError, match=r"Pass \(H, W\)"):
                measure_slice(image, np.ones_like(image))
        with pytest.raises(DataError, match=r"Pass \(D, H, W\)"):
            measure_volume(hu, mask)

    @pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (0.0, 1.0), (1.0, np.nan), 1.0])
    def test_spacings(self, spacing: tuple[float, float], tmp_path: Path) -> None:
        with pytest.raises(DataError, match="not two lengths above 0"):
            measure_slice(*made((9, 8)), spacing_mm=spacing)
        with pytest.raises(DataError, match="not two lengths above 0"):
            next(measure_files(tmp_path, tmp_path, spacing_mm=spacing))
        with pytest.raises(DataError, match="not three lengths above 0"):
            measure_volume(*(each[None] for each in made((9, 8))), spacing_mm=(np.inf, 1.0, 1.0))

    def test_what_is_no_number(self) -> None:
        hu, mask = made((9, 8))
        hu = hu.astype(np.float32)
        hu[4, 4] = np.nan
        with pytest.raises(DataError, match="a: holds NaN or infinite values"):
            measure_slice(hu, mask, name="a")
        with pytest.raises(DataError, match="a: holds NaN or infinite values"):
            measure_volume(np.stack([hu * 0, hu]), np.stack([mask, mask]), name="a")


def test_a_spacing_of_numpy() -> None:
    hu, mask = made((9, 8))
    row = measure_slice(hu, mask, spacing_mm=np.array([2.0, 0.5]))  # type: ignore[arg-type]
    assert row == measure_slice(hu, mask, spacing_mm=(2.0, 0.5))
    spacing = np.array([3.0, 2.0, 0.5])
    scan = measure_volume(hu[None], mask[None], spacing_mm=spacing)  # type: ignore[arg-type]
    assert scan == measure_volume(hu[None], mask[None], spacing_mm=(3.0, 2.0, 0.5))


def test_rows_cannot_be_changed() -> None:
    row: Measurement = measure_slice(*made((9, 8)))
    with pytest.raises(AttributeError):
        row.area_px = 3  # type: ignore[misc]


class TestMeasureFiles:
    @pytest.fixture
    def slices(self, tmp_path: Path) -> tuple[Path, Path]:
        """Three slices with their masks, 0 and 1."""
        for number, name in enumerate("abc"):
            hu, mask = made((6, 7), seed=number)
            write_image(tmp_path / "images" / f"{name}.tif", hu)
            write_mask(tmp_path / "masks" / f"{name}.png", mask.astype(np.uint8))
        return tmp_path / "images", tmp_path / "masks"

    def test_measures_each_and_writes_one_table(self, slices, tmp_path: Path) -> None:
        seen = []

        def progress(items, *, desc, total):
            seen.append((desc, total))
            return items

        results = list(
            measure_files(*slices, tmp_path / "m.csv", spacing_mm=(2.0, 0.5), progress=progress)
        )
        assert seen == [("labels", 3), ("measure", 3)]
        assert [one.name for one in results] == ["a", "b", "c"]
        assert {str(one.codec) for one in results} == {"0,1"}
        for number, one in enumerate(results):
            hu, mask = made((6, 7), seed=number)
            expected = measure_slice(hu, mask, name=one.name, spacing_mm=(2.0, 0.5))
            assert one.rows[0].to_dict() == expected.to_dict()
        write_measurements(tmp_path / "same.csv", [row for one in results for row in one.rows])
        assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "same.csv").read_bytes()

    def test_equal_stems_in_two_folders_are_named_with_the_folder(self, slices) -> None:
        for folder in slices:
            (folder / "p2").mkdir()
            for path in list(folder.glob("a.*")):
                (folder / "p2" / path.name).write_bytes(path.read_bytes())
        assert [one.name for one in measure_files(*slices)] == ["a", "b", "c", "p2_a"]

    def test_sides_are_those_that_the_mask_names(self, slices) -> None:
        for path in slices[1].iterdir():
            write_mask(path, np.eye(6, 7, dtype=np.uint8) + np.eye(6, 7, 1, dtype=np.uint8) * 2)
        first = next(measure_files(*slices))
        assert (str(first.codec), [row.region for row in first.rows]) == (
            "0,1,2",
            ["lungs", "left lung", "right lung"],
        )
        assert [row.area_px for row in first.rows] == [12, 6, 6]

    def test_a_bad_pair_has_its_error_and_the_others_go_on(self, slices, tmp_path: Path) -> None:
        write_mask(slices[1] / "b.png", np.full((6, 7), 9, np.uint8))
        a, b, c = measure_files(*slices, tmp_path / "m.csv")
        assert isinstance(b.error, LabelError)
        assert (a.error, b.rows, c.error) == (None, (), None)
        with (tmp_path / "m.csv").open(newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["a", "c"]

    def test_finished_rows_are_not_lost_where_the_loop_ends_early(self, slices, tmp_path) -> None:
        results = measure_files(*slices, tmp_path / "m.csv")
        assert next(results).name == "a"
        results.close()
        with (tmp_path / "m.csv").open(newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == ["a"]

    def test_without_a_path_nothing_is_written(self, slices, tmp_path: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        assert len(list(measure_files(*slices))) == 3
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_scan(self, tmp_path: Path) -> None:
        hu, mask = made((3, 6, 7))
        like = Volume(hu, tmp_path / "x.nii", "x", Grid.axial(hu.shape, (2.5, 0.8, 0.7)))
        write_volume(tmp_path / "scan" / "x.nii.gz", hu, like=like)
        write_volume(tmp_path / "mask" / "x.nrrd", mask.astype(np.uint8), like=like)
        with pytest.warns(LungUNetWarning, match=r"x: not a whole chest: 3 slices, 7\.5 mm of"):
            (one,) = measure_files(tmp_path / "scan", tmp_path / "mask")
        assert [row.slice for row in one.rows] == [None, 0, 1, 2]
        assert one.rows[0].area_px == mask.sum()
        assert math.isnan(one.rows[0].volume_ml)

    def test_refusals(self, slices, tmp_path: Path) -> None:
        (tmp_path / "m.csv").touch()
        with pytest.raises(ConfigError, match="already there"):
            next(measure_files(*slices, tmp_path / "m.csv"))
        files = slices[0] / "a.tif", slices[1] / "a.png"
        with pytest.raises(ConfigError, match="while it is read"):
            next(measure_files(*files, files[1], overwrite=True))
        with pytest.raises(ConfigError, match=r"^labels '0,1,2,3': 4 classes\. Name lung alone"):
            next(measure_files(*slices, codec=LabelCodec.parse("0,1,2,3")))

    def test_what_is_for_the_other_kind_is_refused(self, slices, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^series: for volumes, these are slices\. Leave"):
            next(measure_files(*slices, series="x"))
        (tmp_path / "scan.nii").touch()
        with pytest.raises(ConfigError, match=r"^spacing_mm: for slices, these are volumes"):
            next(measure_files(tmp_path / "scan.nii", tmp_path / "mask.nii", spacing_mm=(1, 1)))


def test_masks_pair_with_the_files_that_they_were_predicted_from(phantoms, tmp_path: Path) -> None:
    """Masks that lie among the slices have no mask of their own: by names not all pair up."""
    for image in sorted(phantoms[0].iterdir())[:2]:
        mask = phantoms[1] / f"{image.stem}.png"
        for file, kind in ((image, "img"), (mask, "gt")):
            copy = tmp_path / "cohort" / image.stem / kind / f"1{file.suffix}"
            copy.parent.mkdir(parents=True)
            copy.write_bytes(file.read_bytes())
    model = lungunet.Predictor.load("lungs")
    list(lungunet.predict_slices(model, tmp_path / "cohort", tmp_path / "m"))
    found = [file.name for file in lungunet.measure_files(tmp_path / "cohort", tmp_path / "m")]
    assert found == sorted(path.stem for path in (tmp_path / "m").glob("*_img_1.png"))
    assert len(found) == 2
    (tmp_path / "m" / "predicted.jsonl").unlink()
    with pytest.raises(lungunet.DataError, match="do not pair up"):
        list(lungunet.measure_files(tmp_path / "cohort", tmp_path / "m"))
