"""Slices to a volume: what is uneven, sheared or sparse, and how values become HU."""

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import HU, SPACING, dicom_slice, edit, enhanced, save, series

from lungunet.errors import DataError, GeometryError, LungUNetWarning
from lungunet.volumes.formats import find_volumes
from lungunet.volumes.volume import read_volume

TILT = np.radians(15)


def smooth(shape, spacing, origin=(0, 0, 0)):
    """A field that is linear in the patient, by which resampling is exact, sampled on a grid."""
    z, y, x = (o + s * np.arange(n) for o, s, n in zip(origin, spacing, shape, strict=True))
    return z[:, None, None] * 7 + y[:, None] * 3 - x * 2


def at(folder, planes, positions, **options):
    folder.mkdir()
    for i, (plane, position) in enumerate(zip(planes, positions, strict=True)):
        save(dicom_slice(np.rint(plane), position, **options), folder / f"{i:02d}")
    return folder


def world(volume):
    """The positions of its voxels, (D, H, W, 3), from SimpleITK's own geometry."""
    image = SimpleITK.GetImageFromArray(volume.array)
    grid = volume.grid
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    places = SimpleITK.PhysicalPointSource(
        SimpleITK.sitkVectorFloat64, image.GetSize(), grid.origin, grid.spacing, grid.direction
    )
    return SimpleITK.GetArrayFromImage(places)


class TestUneven:
    HEIGHTS = np.cumsum([0, 4, 4, 4, 7, 7, 7])

    @pytest.fixture
    def folder(self, tmp_path):
        planes = [smooth((1, 12, 16), SPACING, (z, 0, 0))[0] for z in self.HEIGHTS]
        return at(tmp_path / "ct", planes, [(0, 0, z) for z in self.HEIGHTS], SliceThickness=4)

    def test_is_said_as_what_it_is(self, folder):
        with pytest.raises(GeometryError) as caught:
            read_volume(folder)
        assert "unevenly spaced: 4 mm (3 times), then 7 mm (3 times). Have it" in str(caught.value)

    def test_many_steps_are_counted(self, tmp_path):
        heights = np.cumsum([0, *[2.5, 7.5] * 6])
        planes = [smooth((1, 12, 16), SPACING, (z, 0, 0))[0] for z in heights]
        folder = at(tmp_path / "ct", planes, [(0, 0, z) for z in heights])
        with pytest.raises(GeometryError) as caught:
            read_volume(folder)
        said = "slices are unevenly spaced: 2.5 to 7.5 mm apart, changing 11 times. Have it"
        assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("steps", "said"),
        [
            ([2.5, 2.5], "2.5 mm apart"),
            ([2.5, 7.5], "unevenly spaced (2.5 to 7.5 mm)"),
            ([4] * 15 + [4.36] * 15, "unevenly spaced (4 to 4.36 mm)"),
            ([4, 4, 0], "unevenly spaced (0 to 4 mm)"),
        ],
    )
    def test_a_series_is_described_as_what_it_is(self, tmp_path, steps, said):
        heights = np.cumsum([0, *steps])
        planes = [smooth((1, 12, 16), SPACING, (z, 0, 0))[0] for z in heights]
        folder = at(tmp_path / "ct", planes, [(0, 0, z) for z in heights])
        (scan,) = find_volumes([folder])
        assert scan.describe().split(" mm, ", 1)[1].removesuffix(", 3.5 mm thick") == said

    def test_is_resampled_when_asked(self, folder):
        with pytest.warns(LungUNetWarning) as warned:
            volume = read_volume(folder, resample=True)
        said = " ".join(str(each.message) for each in warned)
        assert "Resampled to a straight grid of 9x12x16, 4.12x0.8x0.7 mm: its mask lies" in said
        assert volume.array.dtype == np.int16
        place = world(volume)
        assert place[-1, 0, 0, 2] == pytest.approx(33)  # nothing is lost at an end
        expected = place @ np.array([-2, 3, 7])
        assert np.abs(volume.array - expected).max() <= 1

    def test_small_differences_that_add_up(self, tmp_path):
        heights = np.cumsum([0] + [4] * 15 + [4.36] * 15)
        planes = [smooth((1, 12, 16), SPACING, (z, 0, 0))[0] for z in heights]
        places = [(0, 0, z) for z in heights]
        folder = at(tmp_path / "ct", planes, places, SliceThickness=4)
        text = r"steps of 4 to 4\.36 mm add up, and 15 lies 2\.7 mm off an even grid\. Have it"
        with pytest.raises(GeometryError, match=text):
            read_volume(folder)
        with pytest.warns(LungUNetWarning, match=r"add up.* Resampled to a straight grid"):
            volume = read_volume(folder, resample=True)
        assert np.abs(volume.array - world(volume) @ np.array([-2, 3, 7])).max() <= 1

    def test_small_differences_that_stay_small(self, tmp_path):
        heights = np.cumsum([0] + [4, 4.36] * 15)
        planes = [smooth((1, 12, 16), SPACING, (z, 0, 0))[0] for z in heights]
        folder = at(tmp_path / "ct", planes, [(0, 0, z) for z in heights], SliceThickness=5)
        assert read_volume(folder).spacing_mm[0] == pytest.approx(4.18)

    def test_a_hole_is_not_filled_either(self, tmp_path):
        folder = series(tmp_path / "ct")
        (folder / "2.dcm").unlink()
        with pytest.raises(GeometryError, match="Slices are missing"):
            read_volume(folder, resample=True)


class TestTilt:
    @pytest.fixture
    def folder(self, tmp_path):
        """Slices tilted against the table, which moves along z."""
        axes = (1, 0, 0, 0, np.cos(TILT), -np.sin(TILT))
        planes, places = [], []
        for i in range(8):
            first = np.array([0, 0, 5.0 * i])
            rows = first + 0.8 * np.arange(40)[:, None] * np.array(axes[3:])
            planes.append((rows @ [0, 3, 7])[:, None] - 2 * 0.7 * np.arange(16))
            places.append(first)
        return at(tmp_path / "ct", planes, places, orientation=axes, SliceThickness=5)

    def test_is_refused_with_the_way_out(self, folder):
        text = (
            r"15\.0 degrees off right angles \(gantry tilt\)\. Have it resampled with resample=True"
        )
        with pytest.raises(GeometryError, match=text):
            read_volume(folder)

    def test_is_straightened_when_asked(self, folder):
        with pytest.warns(LungUNetWarning, match="gantry tilt.* its mask lies on that grid"):
            volume = read_volume(folder, resample=True)
        inside = volume.array != -1024
        assert inside.mean() > 0.7
        expected = world(volume) @ np.array([-2, 3, 7])
        edge = np.abs(volume.array - expected) > 2  # half air, at the border of a slice
        assert (edge & inside).sum() <= 2 * inside.any(axis=1).sum()
        assert volume.spacing_mm == pytest.approx((5 * np.cos(TILT), 0.8, 0.7))
        # Every pixel of every slice is there.
        assert inside.sum() >= 8 * 40 * 16


class TestSparse:
    @pytest.mark.parametrize(("step", "thick"), [(10, 1.25), (2.5, 1.5), (30, 5)])
    def test_is_warned_of(self, tmp_path, step, thick):
        folder = series(tmp_path / "ct", step_mm=step, SliceThickness=thick)
        text = f"{step:g} mm apart and {thick:g} mm thick: nobody saw what lies between"
        with pytest.warns(LungUNetWarning, match=text):
            assert read_volume(folder).spacing_mm[0] == step

    @pytest.mark.parametrize("thick", [7.5, None])
    def test_is_refused_where_it_is_no_volume(self, tmp_path, thick):
        folder = series(tmp_path / "ct", HU[:2], step_mm=100, SliceThickness=thick)
        with pytest.raises(GeometryError, match=r"100 mm apart.*: too far apart for a volume\."):
            read_volume(folder)


class TestValues:
    def test_monochrome1_is_about_display(self, tmp_path):
        folder = series(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1")
        edit(folder / "2.dcm", RescaleSlope=0.5)
        expected = HU.astype(np.float32)
        expected[2] = (expected[2] + 1024) * 0.5 - 1024
        assert np.array_equal(read_volume(folder).array, expected)

    def test_twelve_bits_of_monochrome1(self, tmp_path):
        stored = np.random.default_rng(0).integers(0, 4096, (1, 48, 64)).astype("<u2")
        tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
        tags |= {"PhotometricInterpretation": "MONOCHROME1", "PixelData": stored.tobytes()}
        folder = series(tmp_path / "ct", HU[:1], **tags)
        assert np.array_equal(read_volume(folder).array, stored.astype(int) - 1024)

    def test_an_intercept_that_some_slices_lack(self, tmp_path):
        folder = series(tmp_path / "ct")
        save(
            dicom_slice(HU[3], (-30.5, -20.25, 107.5), RescaleIntercept=None, RescaleSlope=None),
            folder / "3.dcm",
        )
        text = r"1 of 5 slices do not say how their values become HU \(no RescaleIntercept: 3\.dcm"
        with pytest.raises(DataError, match=text):
            read_volume(folder)

    def test_pixels_of_another_size_than_the_header_says(self, tmp_path, monkeypatch):
        from lungunet.volumes import dicom

        folder = series(tmp_path / "ct")
        monkeypatch.setattr(dicom, "read_values", lambda path: np.zeros((1, 4, 4), np.int16))
        with pytest.raises(DataError, match=r"0\.dcm: its pixels are 1x4x4, other than its header"):
            read_volume(folder)


class TestFrames:
    def test_are_put_where_each_says(self, tmp_path):
        volume = read_volume(enhanced(tmp_path / "mf.dcm"))
        assert np.array_equal(volume.array, HU)
        assert volume.spacing_mm == pytest.approx(SPACING)
        assert volume.grid.origin == (-30.5, -20.25, 100.0)

    def test_a_rescale_of_their_own(self, tmp_path):
        path = enhanced(tmp_path / "same.dcm", intercepts=[-1024] * 5)
        assert np.array_equal(read_volume(path).array, HU)
        path = enhanced(tmp_path / "other.dcm", intercepts=[-1024] * 4 + [0])
        with pytest.raises(DataError, match="its frames are rescaled each in its own way"):
            read_volume(path)

    def test_twice_one_place(self, tmp_path):
        path = enhanced(tmp_path / "mf.dcm", order=(0, 1, 2, 2, 3))
        with pytest.raises(GeometryError, match=r"mf\.dcm \(frame 3\) and mf\.dcm \(frame 4\)"):
            read_volume(path)

    def test_without_places(self, tmp_path):
        path = enhanced(tmp_path / "mf.dcm")
        ds = pydicom.dcmread(path)
        del ds.PerFrameFunctionalGroupsSequence
        ds.save_as(path)
        with pytest.raises(DataError, match="5 frames in one file, 0 with a place"):
            read_volume(path)
