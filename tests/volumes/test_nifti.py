"""NIfTI of every kind, against nibabel: places and values, and what is refused."""

import bz2
import gzip
import struct
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lungunet.errors import DataError, GeometryError, LungUNetWarning
from lungunet.volumes.formats import find_volumes, is_volume_source, volume_name, written_suffix
from lungunet.volumes.volume import read_volume

SHAPE = (5, 48, 64)
HU = np.random.default_rng(3).integers(-1024, 1500, SHAPE).astype(np.int16)
AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2.5, 100], [0, 0, 0, 1.0]])
AT = {"dim": 40, "datatype": 70, "bitpix": 72, "vox_offset": 108, "slope": 112, "inter": 116}


def save(path, cls=nib.Nifti1Image, array=HU, affine=AFFINE, *, sform=1, qform=1, header=None):
    image = cls(array.T, affine, header)
    if hasattr(image, "set_sform"):
        image.set_sform(affine, sform)
        image.set_qform(affine, qform)
    nib.save(image, path)
    return path


def patched(path, at, kind, value):
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, at, value)
    path.write_bytes(content)
    return path


class TestKinds:
    @pytest.mark.parametrize(
        ("cls", "name"),
        [
            (nib.Nifti1Image, "a.nii"),
            (nib.Nifti1Image, "a.nii.gz"),
            (nib.Nifti2Image, "a.nii"),
            (nib.Nifti2Image, "a.nii.gz"),
            (nib.Nifti1Pair, "a.hdr"),
            (nib.Nifti1Pair, "a.img"),
            (nib.Nifti2Pair, "a.hdr"),
        ],
    )
    def test_is_read(self, tmp_path, cls, name):
        save(tmp_path / name, cls)
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, HU)
        assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
        assert volume.grid.origin == pytest.approx((-30, -20, 100))
        assert volume.name == "a"

    @pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_every_number(self, tmp_path, cls, dtype, order):
        array = (np.arange(60).reshape(3, 4, 5)).astype(dtype)
        header = cls.header_class(endianness=order)
        header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
        save(tmp_path / "a.nii", cls, array, header=header)
        head = (tmp_path / "a.nii").read_bytes()[:4]
        assert int.from_bytes(head, "big" if order == ">" else "little") in (348, 540)
        read = read_volume(tmp_path / "a.nii").array
        assert read.dtype == np.int16
        assert np.array_equal(read, array)

    def test_packed_as_its_name_does_not_say(self, tmp_path):
        content = save(tmp_path / "a.nii").read_bytes()
        for name, spelt in (
            ("packed.nii", gzip.compress(content)),
            ("plain.nii.gz", content),
            ("two.nii.gz", gzip.compress(content[:999]) + gzip.compress(content[999:])),
            ("b.nii", bz2.compress(content)),
        ):
            (tmp_path / name).write_bytes(spelt)
            assert np.array_equal(read_volume(tmp_path / name).array, HU), name

    def test_a_pair_is_one_scan(self, tmp_path):
        save(tmp_path / "a.img", nib.Nifti1Pair)
        (tmp_path / "sky.hdr").write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n")
        (tmp_path / "disk.img").write_bytes(bytes(999))
        for sources in ([tmp_path], [tmp_path / "a.img", tmp_path / "a.hdr"], [tmp_path / "a.*"]):
            assert [scan.path for scan in find_volumes(sources)] == [tmp_path / "a.hdr"]
        assert is_volume_source(tmp_path / "a.img")
        assert not is_volume_source(tmp_path / "disk.img")
        assert (volume_name("a.hdr"), written_suffix("a.hdr")) == ("a", ".nii.gz")

    @pytest.mark.parametrize("name", ["a.img", "A.IMG"])
    def test_half_a_pair(self, tmp_path, name):
        save(tmp_path / "a.img", nib.Nifti1Pair)
        if name.isupper():
            for suffix in (".hdr", ".img"):
                (tmp_path / f"a{suffix}").rename(tmp_path / f"A{suffix.upper()}")
        (tmp_path / name).unlink()
        (header,) = tmp_path.iterdir()
        with pytest.raises(DataError, match=rf"its voxels, {name}, are missing\. Copy both files"):
            read_volume(header)

    def test_analyze_knows_no_sides(self, tmp_path):
        save(tmp_path / "a.img", nib.AnalyzeImage)
        for name in ("a.hdr", "a.img"):
            with pytest.raises(
                GeometryError, match=r"a\.hdr: is Analyze 7\.5, which states no ori"
            ):
                read_volume(tmp_path / name)


class TestPlaces:
    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(data=st.data(), cls=st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]))
    def test_both_orientations_are_those_of_nibabel(self, tmp_path, data, cls):
        """Any rotation, mirrored or not, by quaternion and by matrix."""
        numbers = data.draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9))
        rotation, _ = np.linalg.qr(np.reshape(numbers, (3, 3)) + 1e-3 * np.eye(3))
        affine = np.eye(4)
        affine[:3, :3] = rotation * (0.7, 0.8, 2.5)
        affine[:3, 3] = data.draw(st.lists(st.floats(-500, 500), min_size=3, max_size=3))
        codes = data.draw(st.sampled_from([(1, 0), (0, 1), (2, 1)]))
        path = save(tmp_path / "a.nii", cls, HU[:3, :4, :5], affine, sform=codes[0], qform=codes[1])
        grid = read_volume(path).grid
        seen = np.diag([-1, -1, 1, 1]) @ nib.load(path).affine
        assert np.allclose(grid.matrix * grid.spacing, seen[:3, :3], atol=2e-3)
        assert np.allclose(grid.origin, seen[:3, 3], atol=1e-3)
        assert grid.matrix.T @ grid.matrix == pytest.approx(np.eye(3), abs=1e-6)

    @pytest.mark.parametrize(
        ("at", "kind", "value", "said"),
        [
            (252, "h", 77, "damaged: qform_code 77 is none"),
            (254, "h", -1, "damaged: sform_code -1 is none"),
            (256, "f", 2.0, r"its qform is no rotation \(quaternion 2, "),
            (256, "f", np.nan, "its qform is no rotation"),
            (80, "f", -0.7, "spacing -0.7 x 0.8 x 2.5 mm is no grid"),
            (80, "f", 0.0, "spacing 0 x 0.8 x 2.5 mm is no grid"),
            (280, "f", np.nan, "spacing nan x 0.8 x 2.5 mm is no grid of voxels"),
            (280, "f", 1e30, r"its sform and its qform put voxels up to 6.3e\+31 mm apart"),
        ],
    )
    def test_what_is_no_place(self, tmp_path, at, kind, value, said):
        path = patched(save(tmp_path / "a.nii"), at, kind, value)
        with pytest.raises(GeometryError, match=rf"a\.nii: {said}"):
            read_volume(path)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("qform", [0, 1])
    def test_an_sform_of_no_numbers(self, tmp_path, value, qform):
        path = save(tmp_path / "a.nii", qform=qform)
        for at in (280, 292):
            with pytest.raises(GeometryError, match=r"a\.nii: .*is no grid of voxels"):
                read_volume(patched(path, at, "f", value))

    def test_axes_that_lie_along_each_other(self, tmp_path):
        flat = AFFINE.copy()
        flat[:3, 1] = flat[:3, 0] * 1.01
        path = save(tmp_path / "a.nii", affine=flat, qform=0)
        with pytest.raises(GeometryError, match="its axes do not span a volume"):
            read_volume(path)


class TestValues:
    @pytest.mark.parametrize(
        ("slope", "inter", "expected"),
        [(0.5, -1024, True), (2, 0, True), (1, -1024, True), (np.nan, np.nan, True), (0, 0, True)],
    )
    def test_scaling_is_that_of_nibabel(self, tmp_path, slope, inter, expected):
        path = save(tmp_path / "a.nii")
        patched(patched(path, AT["slope"], "f", slope), AT["inter"], "f", inter)
        assert np.allclose(read_volume(path).array, np.asarray(nib.load(path).dataobj).T)

    @pytest.mark.parametrize("at", ["slope", "inter"])
    @pytest.mark.parametrize("value", [np.inf, -np.inf])
    def test_scaling_by_no_number(self, tmp_path, at, value):
        path = patched(save(tmp_path / "a.nii"), AT["slope"], "f", 1)
        with pytest.raises(DataError, match="are no numbers to rescale by"):
            read_volume(patched(path, AT[at], "f", value))

    def test_one_fraction_in_the_last_voxel_keeps_them_all(self, tmp_path):
        array = HU.astype(np.float32)
        array[-1, -1, -1] = 0.25
        volume = read_volume(save(tmp_path / "a.nii", array=array))
        assert volume.array.dtype == np.float32
        assert np.array_equal(volume.array, array)

    def test_what_float32_cannot_hold(self, tmp_path):
        array = HU.astype(np.float64)
        array[0, 0, :2] = 1e300
        with pytest.raises(DataError, match="2 voxels NaN or infinite"):
            read_volume(save(tmp_path / "a.nii", array=array))


class TestDamage:
    def test_a_wrong_checksum(self, tmp_path):
        """Unpacked without complaint, and not what was packed."""
        content = bytearray(gzip.compress(save(tmp_path / "a.nii").read_bytes()))
        content[-6] ^= 1
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"damaged or truncated \(.*incorrect data check"):
            read_volume(tmp_path / "a.nii.gz")

    def test_more_than_the_header_tells_of(self, tmp_path):
        """As where a number in the header is wrong: read, but not in silence."""
        path = patched(save(tmp_path / "a.nii"), AT["dim"] + 6, "h", 4)
        with pytest.warns(LungUNetWarning, match=r"holds 6144 bytes more than its header tells of"):
            read_volume(path)

    def test_a_line_end_more_is_nothing(self, tmp_path):
        path = save(tmp_path / "a.nii")
        path.write_bytes(path.read_bytes() + b"\n")
        with warnings.catch_warnings(action="error"):
            read_volume(path)

    @pytest.mark.parametrize(
        ("at", "kind", "value", "said"),
        [
            (344, "4s", b"abcd", "its header has no mark of NIfTI"),
            (0, "i", 347, "not a readable volume: damaged, truncated, or no NIfTI"),
            (AT["dim"], "h", 0, "it states 0 axes"),
            (AT["dim"], "h", 9, "it states 9 axes"),
            (AT["dim"] + 2, "h", -3, r"it states 3 axes of \[-3, 48, 5\] voxels"),
            (AT["dim"] + 2, "h", 32767, r"truncated, \d+ voxels missing"),
            (AT["datatype"], "h", 1, "datatype 1, a CT volume holds integers or floats"),
            (AT["datatype"], "h", 16, "contradicts itself: float32 in 16 bits"),
            (AT["vox_offset"], "f", 0, "voxels begin at byte 0, the header ends at 352"),
            (AT["vox_offset"], "f", np.nan, "voxels begin at byte nan"),
            (AT["vox_offset"], "f", 1e15, "truncated, "),
        ],
    )
    def test_a_damaged_header(self, tmp_path, at, kind, value, said):
        path = patched(save(tmp_path / "a.nii"), at, kind, value)
        with pytest.raises(DataError, match=rf"a\.nii: .*{said}"):
            read_volume(path)

    def test_cut_within_the_header(self, tmp_path):
        path = save(tmp_path / "a.nii")
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match="truncated within its header"):
            read_volume(path)

    def test_a_claim_that_no_file_of_this_size_can_keep(self, tmp_path):
        """Refused before memory is asked for."""
        path = save(tmp_path / "a.nii.gz", nib.Nifti2Image)
        content = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<3q", content, 24, 1 << 40, 1 << 40, 1 << 40)
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=r"truncated, \d+ voxels missing"):
            read_volume(path)


class TestTilt:
    """A sheared sform is what converters make of a gantry tilt."""

    @pytest.fixture
    def tilted(self, tmp_path):
        """A cube that stands straight in the world, in slices that are shifted by 2 rows each."""
        array = np.full((5, 30, 20), -1000, np.int16)
        for z in range(5):
            array[z, 15 - 2 * z : 21 - 2 * z, 6:12] = 40
        affine = AFFINE.copy()
        affine[1, 2] = -1.6
        return save(tmp_path / "a.nii", array=array, affine=affine, qform=0)

    def test_is_straightened_when_asked(self, tilted):
        with pytest.raises(GeometryError, match=r"its axes are 32\.6 degrees off right angles"):
            read_volume(tilted)
        with pytest.warns(
            LungUNetWarning, match=r"32\.6 degrees .*Resampled to a straight grid of "
        ):
            volume = read_volume(tilted, resample=True)
        assert volume.array.shape == (5, 38, 20)
        assert volume.array.dtype == np.int16
        assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
        body = volume.array == 40
        assert (body.sum(axis=(1, 2)) == 36).all()
        assert (body == body[0]).all()
        z, row, column = np.argwhere(body)[0]
        place = volume.grid.turned.origin + np.array([column * 0.7, row * 0.8, z * 2.5])
        first = (np.diag([-1, -1, 1, 1]) @ nib.load(tilted).affine) @ [6, 15, 0, 1]
        assert place == pytest.approx(first[:3])

    def test_by_parts_of_a_pixel(self, tmp_path):
        affine = AFFINE.copy()
        affine[0, 2], affine[1, 2] = 0.7 * 0.25, 0.8 * 0.5
        ramp = np.add.outer(np.arange(30) * 10, np.arange(20)).astype(np.float32)
        path = save(tmp_path / "a.nii", array=np.stack([ramp + 0.125] * 5), affine=affine, qform=0)
        with pytest.warns(LungUNetWarning, match="gantry tilt"):
            array = read_volume(path, resample=True).array
        inner = array[:, 5:-5, 5:-5]
        assert np.diff(inner, axis=0) == pytest.approx(np.full_like(inner[1:], 5.25), abs=1e-3)

    def test_a_straight_file_is_as_it_was(self, tmp_path):
        with warnings.catch_warnings(action="error"):
            assert np.array_equal(read_volume(save(tmp_path / "a.nii"), resample=True).array, HU)

    def test_no_two_axes_at_right_angles(self, tmp_path):
        affine = AFFINE.copy()
        affine[:3, :3] += 0.2
        path = save(tmp_path / "a.nii", affine=affine, qform=0)
        with pytest.raises(GeometryError, match=r"a\.nii: no two of its axes are at right angles"):
            read_volume(path, resample=True)
