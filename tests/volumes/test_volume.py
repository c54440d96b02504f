import dataclasses
import gzip
import itertools
import os
import struct
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from dicom_files import dicom_slice, save

import lungunet
from lungunet.data.hu import require_hu
from lungunet.errors import DataError, GeometryError, LungUNetWarning, MissingExtraError
from lungunet.volumes import itk, voxels
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import put_on_grid, read_volume, write_volume

SHAPE, SPACING = (5, 48, 64), (2.5, 0.8, 0.7)
HU = np.random.default_rng(3).integers(-1024, 1500, SHAPE).astype(np.int16)
TURNS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def rotation(degrees):
    """Turn about an axis that is none of the patient's."""
    axis = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine(axes=(0, 1, 2), signs=(1, 1, 1), *, degrees=0.0):
    """RAS affine of a NIfTI file whose axis i runs along world axis ``axes[i]``."""
    spacing = np.array(SPACING[::-1])[list(axes)]
    columns = np.zeros((3, 3))
    columns[list(axes), range(3)] = signs
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees) @ columns * spacing
    matrix[:3, 3] = (-37.25, 12.5, -801.125)
    return matrix


def save_nifti(path, array, matrix, *, sform=1, qform=1):
    """Write ``array``, whose axes are the file's, the fastest first."""
    image = nib.Nifti1Image(array, matrix)
    image.set_sform(matrix, sform)
    image.set_qform(matrix, qform)
    nib.save(image, path)
    return path


def seen_by_nibabel(path):
    """(z, y, x): feet to head, front to back, right to left, by nibabel's own reorientation."""
    return nib.as_closest_canonical(nib.load(path)).get_fdata()[::-1, ::-1].transpose(2, 1, 0)


def save_mha(path, array, matrix, spacing, *, offset=(-1.5, 2.25, 300.0), kind="MET_SHORT"):
    """Write a MetaImage by hand; the matrix has the directions of the file's axes as rows."""
    numbers = [" ".join(repr(float(v)) for v in part) for part in (matrix, offset, spacing)]
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = {numbers[0]}\nOffset = {numbers[1]}\nElementSpacing = {numbers[2]}\n"
        f"DimSize = {' '.join(map(str, array.shape[::-1]))}\nElementType = {kind}\n"
        "ElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + array.tobytes())
    return path


def save_nrrd(path, array, directions, *, space="left-posterior-superior", kind="short"):
    vectors = " ".join("(" + ",".join(repr(float(v)) for v in row) + ")" for row in directions)
    header = (
        f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: {space}\n"
        f"sizes: {' '.join(map(str, array.shape[::-1]))}\nspace directions: {vectors}\n"
        "endian: little\nencoding: raw\nspace origin: (10,20,30)\n\n"
    )
    path.write_bytes(header.encode() + array.tobytes())
    return path


@pytest.fixture
def scan(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz", HU.transpose(2, 1, 0), affine(signs=(-1, -1, 1)))
    return read_volume(path)


class TestOrder:
    @pytest.mark.parametrize("degrees", [0.0, 20.0])
    @pytest.mark.parametrize(("axes", "signs"), TURNS)
    def test_nifti_comes_as_nibabel_turns_it_and_masks_go_back(
        self, tmp_path, axes, signs, degrees
    ):
        # The file's axes differ in length, so that a wrong turn cannot go unseen.
        array = HU.transpose(2, 1, 0).transpose(axes)
        path = save_nifti(tmp_path / "a.nii", array, affine(axes, signs, degrees=degrees))
        volume = read_volume(path)
        assert np.array_equal(volume.array, seen_by_nibabel(path))
        assert volume.array.shape == SHAPE
        assert volume.array.flags.c_contiguous
        assert volume.spacing_mm == pytest.approx(SPACING, rel=1e-6)
        mask = (volume.array > 0).astype(np.uint8)
        write_volume(tmp_path / "mask.nii.gz", mask, like=volume)
        written = nib.load(tmp_path / "mask.nii.gz")
        assert written.get_data_dtype() == np.uint8
        assert np.array_equal(written.get_fdata(), array > 0)
        assert np.allclose(written.affine, nib.load(path).affine, atol=1e-5)

    def test_by_hand(self, tmp_path):
        """One voxel, placed in the patient, is found where radiologists look for it."""
        array = np.full((64, 48, 5), -1000, np.int16)  # NIfTI: to the right, front, head
        array[0, -1, -1] = 7  # most left, most in front, most to the head
        volume = read_volume(save_nifti(tmp_path / "a.nii", array, affine()))
        assert [int(i) for i in np.argwhere(volume.array == 7)[0]] == [4, 0, 63]

    @pytest.mark.parametrize(("axes", "signs"), TURNS[::5])
    def test_mha_and_nrrd(self, tmp_path, axes, signs):
        """File axis i runs along LPS axis ``axes[i]``, forwards or backwards."""
        turned = HU[tuple(slice(None, None, s) for s in np.array(signs)[np.argsort(axes)][::-1])]
        array = np.ascontiguousarray(turned.transpose([2 - axis for axis in axes[::-1]]))
        rows = np.eye(3)[list(axes)] * np.array(signs)[:, None]
        spacing = np.array(SPACING[::-1])[list(axes)]
        mha = save_mha(tmp_path / "a.mha", array, rows.ravel(), spacing)
        nrrd = save_nrrd(tmp_path / "a.nrrd", array, rows * spacing[:, None])
        for path in (mha, nrrd):
            volume = read_volume(path)
            assert np.array_equal(volume.array, HU)
            assert volume.spacing_mm == pytest.approx(SPACING)
            written = tmp_path / f"mask{path.suffix}"
            write_volume(written, (HU > 0).astype(np.uint8), like=volume)
            again = read_volume(written)
            assert again.grid == volume.grid
            assert np.array_equal(again.array, HU > 0)

    def test_nrrd_in_the_other_space(self, tmp_path):
        directions = np.diag([-0.7, -0.8, 2.5])
        path = save_nrrd(tmp_path / "a.nrrd", HU, directions, space="right-anterior-superior")
        assert np.array_equal(read_volume(path).array, HU)

    def test_origin_and_direction_survive_in_the_world(self, tmp_path, scan):
        """The same voxel lies at the same millimetres, as nibabel counts them."""
        write_volume(tmp_path / "m.nii", (scan.array > 0).astype(np.uint8), like=scan)
        first, second = nib.load(scan.path), nib.load(tmp_path / "m.nii")
        corner = np.array([3, 40, 60, 1])[[2, 1, 0, 3]]
        assert np.allclose(first.affine @ corner, second.affine @ corner, atol=1e-5)

    def test_the_turned_grid_keeps_every_voxel_in_place(self):
        for axes, signs in TURNS:
            cosines = np.zeros((3, 3))
            cosines[list(axes), range(3)] = signs
            grid = Grid((7, 6, 5), (0.7, 0.8, 2.5), (1.0, 2.0, 3.0), tuple(cosines.ravel()))
            steps = grid.matrix * grid.spacing
            indices = np.indices(grid.size[::-1]).reshape(3, -1)[::-1]
            places = (steps @ indices).T + grid.origin
            coded = np.arange(5 * 6 * 7).reshape(5, 6, 7)
            turned = grid.turned
            order = grid.to_axial(coded).ravel()
            steps = turned.matrix * turned.spacing
            indices = np.indices(turned.size[::-1]).reshape(3, -1)[::-1]
            assert np.allclose((steps @ indices).T + turned.origin, places[order])
            assert np.allclose(turned.matrix, np.eye(3))
            assert np.array_equal(grid.to_file(grid.to_axial(coded)), coded)


class TestValues:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
    def test_whole_numbers_of_any_dtype_become_int16(self, tmp_path, dtype):
        low = 0 if dtype.startswith("u") else -1024
        array = np.linspace(low, 255 if dtype == "uint8" else 3071, HU.size).round()
        array = array.reshape(SHAPE).astype(dtype)
        volume = read_volume(
            save_nifti(tmp_path / "a.nii", array.transpose(2, 1, 0), affine(signs=(-1, -1, 1)))
        )
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array, array)

    @pytest.mark.parametrize(
        "value", [0.5, np.iinfo(np.int16).max + 1.0, np.iinfo(np.int16).min - 1.0]
    )
    def test_what_int16_cannot_hold_becomes_float32(self, tmp_path, value):
        array = HU.astype(np.float32)
        array[4, 40, 60] = value
        path = save_nifti(tmp_path / "a.nii", array.transpose(2, 1, 0), affine(signs=(-1, -1, 1)))
        volume = read_volume(path)
        assert volume.array.dtype == np.float32
        assert np.array_equal(volume.array, array)

    def test_the_ends_of_int16(self, tmp_path):
        array = HU.astype(np.int32)
        array[0, 0, :2] = -32768, 32767
        path = save_nifti(tmp_path / "a.nii", array.transpose(2, 1, 0), affine(signs=(-1, -1, 1)))
        assert read_volume(path).array.dtype == np.int16

    def test_slope_and_intercept_of_nifti(self, tmp_path):
        image = nib.Nifti1Image((HU + 1024).transpose(2, 1, 0), affine(signs=(-1, -1, 1)))
        image.header.set_slope_inter(1, -1024)
        nib.save(image, tmp_path / "a.nii")
        raw = (tmp_path / "a.nii").read_bytes()
        # nibabel rescales what it is given; the stored values are put back by hand
        stored = (HU + 1024).astype("<i2").tobytes()
        (tmp_path / "a.nii").write_bytes(raw[:352] + stored)
        volume = read_volume(tmp_path / "a.nii")
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array, HU)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan(self, tmp_path, value):
        array = HU.astype(np.float32)
        array[1, 2, 3:5] = value
        path = save_nifti(tmp_path / "a.nii", array.transpose(2, 1, 0), affine())
        with pytest.raises(DataError, match=r"a\.nii: 2 voxels NaN or infinite\. Replace them by"):
            read_volume(path)

    def test_nan_in_other_formats_and_byte_orders(self, tmp_path, monkeypatch):
        array = HU.astype(np.float32)
        array[1, 2, 3:5] = np.nan
        path = save_mha(tmp_path / "a.mha", array, np.eye(3).ravel(), SPACING, kind="MET_FLOAT")
        with pytest.raises(DataError, match=r"a\.mha: 2 voxels NaN or infinite\. Replace them by"):
            read_volume(path)
        monkeypatch.setattr(voxels, "_PIECE_BYTES", 1000)
        for name, values in (("bad.nii.gz", array), ("good.nii.gz", HU + np.float32(0.5))):
            image = nib.Nifti1Image(values.transpose(2, 1, 0).astype(">f4"), affine())
            nib.save(
                nib.Nifti1Image(image.dataobj, affine(), nib.Nifti1Header(endianness=">")),
                tmp_path / name,
            )
        with pytest.raises(DataError, match="2 voxels NaN or infinite"):
            read_volume(tmp_path / "bad.nii.gz")
        good = tmp_path / "good.nii.gz"
        assert np.array_equal(read_volume(good).array, seen_by_nibabel(good))

    def test_a_scan_without_air_holds_no_hu(self, tmp_path):
        path = save_nifti(tmp_path / "a.nii", (HU + 1024).transpose(2, 1, 0), affine())
        with pytest.raises(DataError, match=r"a\.nii: values from 0 to 2523 are no HU, air is ne"):
            require_hu(read_volume(path).array, path)

    def test_a_scan_with_air(self, scan):
        require_hu(scan.array, scan.path)


class TestRefusals:
    def test_gantry_tilt_of_a_file(self, tmp_path):
        tilted = affine()
        tilted[1, 2] = 2.5 * np.tan(np.radians(12))
        path = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), tilted, qform=0)
        with pytest.raises(GeometryError, match=r"a\.nii: its axes are 12\.0 degrees off right an"):
            read_volume(path)
        tilt = np.radians(12)
        rows = np.array([1, 0, 0, 0, 1, 0, 0, np.sin(tilt), np.cos(tilt)])
        path = save_mha(tmp_path / "a.mha", HU, rows, SPACING[::-1])
        with pytest.raises(GeometryError, match=r"a\.mha: its axes are 12\.0 degrees off right an"):
            read_volume(path)
        directions = rows.reshape(3, 3) * np.array(SPACING[::-1])[:, None]
        path = save_nrrd(tmp_path / "a.nrrd", HU, directions)
        with pytest.raises(GeometryError, match=r"a\.nrrd: its axes are 12\.0 degrees off right a"):
            read_volume(path)

    def test_a_nifti_that_contradicts_itself(self, tmp_path):
        image = nib.Nifti1Image(HU.transpose(2, 1, 0), affine())
        image.set_sform(affine(degrees=10), 2)
        image.set_qform(affine(), 1)
        nib.save(image, tmp_path / "a.nii")
        with pytest.raises(GeometryError, match=r"sform and its qform put voxels up to \d+"):
            read_volume(tmp_path / "a.nii")

    def test_a_sheared_sform_is_a_tilt_and_no_contradiction(self, tmp_path, capfd):
        """Converters write gantry tilt so; a qform cannot hold it."""
        tilted = affine()
        tilted[1, 2] = 0.6
        image = nib.Nifti1Image(HU.transpose(2, 1, 0), affine())
        image.set_sform(tilted, 1)
        image.set_qform(affine(), 1)
        nib.save(image, tmp_path / "a.nii")
        with pytest.raises(
            GeometryError, match=r"a\.nii: its axes are 13\.5 degrees off.*gantry ti"
        ):
            read_volume(tmp_path / "a.nii")
        assert capfd.readouterr() == ("", "")

    def test_an_sform_of_zeros(self, tmp_path, capfd):
        path = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), affine())
        content = bytearray(path.read_bytes())
        content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
        path.write_bytes(content)
        with pytest.raises(GeometryError, match=r"a\.nii: its sform has no extent"):
            read_volume(path)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("grid", "text"),
        [
            (Grid((4, 4, 4), (1.0, 0.0, 1.0), (0.0,) * 3), "a: spacing 1 x 0 x 1 mm is no grid"),
            (Grid((4, 4, 4), (1.0, -1.0, 1.0), (0.0,) * 3), "spacing 1 x -1 x 1 mm is no grid"),
            (Grid((4, 4, 4), (1.0,) * 3, (0.0, np.nan, 0.0)), "is no grid of voxels"),
        ],
    )
    def test_no_grid(self, grid, text):
        with pytest.raises(GeometryError, match=text):
            grid.check("a")

    def test_a_nifti_without_orientation(self, tmp_path):
        path = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), affine(), sform=0, qform=0)
        with pytest.raises(GeometryError, match=r"states no orientation \(sform_code and qform_co"):
            read_volume(path)

    @pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 2), (1, 1)])
    def test_one_of_the_two_is_enough(self, tmp_path, codes):
        path = save_nifti(
            tmp_path / "a.nii", HU.transpose(2, 1, 0), affine(), sform=codes[0], qform=codes[1]
        )
        assert np.array_equal(read_volume(path).array, seen_by_nibabel(path))

    def test_time_points_and_planes_and_colours(self, tmp_path):
        series = np.zeros((6, 5, 4, 3), np.int16)
        path = save_nifti(tmp_path / "t.nii", series, affine())
        with pytest.raises(DataError, match=r"t\.nii: 4 axes \(6x5x4x3\), a volume has three"):
            read_volume(path)
        path = save_nifti(tmp_path / "p.nii", series[..., 0, 0], affine())
        with pytest.raises(DataError, match=r"p\.nii: 2 axes \(6x5\), a volume has three"):
            read_volume(path)
        colours = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(nib.Nifti1Image(colours, affine()), tmp_path / "c.nii")
        with pytest.raises(DataError, match=r"c\.nii: 3 values in each voxel, a CT volume has one"):
            read_volume(tmp_path / "c.nii")

    def test_a_name_that_is_no_text(self, tmp_path):
        """SimpleITK, which writes all formats and reads DICOM, would end the whole program."""
        good = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), affine())
        path = tmp_path / os.fsdecode(b"sc\xe9.nii")
        path.write_bytes(good.read_bytes())
        assert np.array_equal(read_volume(path).array, read_volume(good).array)
        with pytest.raises(DataError, match=r"sc\\udce9\.dcm: the name is no UTF-8\. Rename it"):
            read_volume(save(dicom_slice(HU[0], (0, 0, 0)), path.with_suffix(".dcm")))
        with pytest.raises(DataError, match="the name is no UTF-8"):
            write_volume(path, HU, like=read_volume(good))

    @pytest.mark.parametrize(
        ("at", "fields", "error", "said"),
        [
            (123, struct.pack("<B", 3), GeometryError, "its lengths are in micrometres"),
            (123, struct.pack("<B", 1), GeometryError, "its lengths are in metres"),
            (
                112,
                struct.pack("<ff", 0, -1024),
                DataError,
                "states an offset of -1024 with a scale",
            ),
        ],
    )
    def test_headers_that_programs_read_differently(self, tmp_path, at, fields, error, said):
        path = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), affine())
        content = bytearray(path.read_bytes())
        content[at : at + len(fields)] = fields
        path.write_bytes(content)
        with pytest.raises(error, match=rf"a\.nii: {said}"):
            read_volume(path)

    def test_a_single_time_point_is_a_volume(self, tmp_path):
        path = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0)[..., None], affine())
        assert read_volume(path).array.shape == SHAPE

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd", ".dcm"])
    def test_missing_empty_and_no_volume(self, tmp_path, ending, capfd):
        path = tmp_path / f"a{ending}"
        with pytest.raises(DataError, match=rf"a\{ending}: no such file\. Check the path"):
            read_volume(path)
        for content in (b"", b"junk" * 300):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"damaged, truncated|empty|not begin as"):
                read_volume(path)
        assert capfd.readouterr() == ("", "")

    def test_truncated(self, tmp_path):
        plain = save_nifti(tmp_path / "a.nii", HU.transpose(2, 1, 0), affine())
        packed = save_nifti(tmp_path / "a.nii.gz", HU.transpose(2, 1, 0), affine())
        mha = save_mha(tmp_path / "a.mha", HU, np.eye(3).ravel(), SPACING)
        nrrd = save_nrrd(tmp_path / "a.nrrd", HU, np.diag(SPACING))
        for path, reason in (
            (plain, r"a\.nii: truncated, 50 voxels missing\. Copy it again"),
            (packed, r"a\.nii\.gz: damaged or truncated \(.*\)\. Copy it again"),
            (mha, r"a\.mha: truncated, 50 voxels missing\. Copy it again"),
            (nrrd, r"a\.nrrd: truncated, 50 voxels missing\. Copy it again"),
        ):
            path.write_bytes(path.read_bytes()[:-100])
            with pytest.raises(DataError, match=reason):
                read_volume(path)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(DataError, match="holds no DICOM file"):
            read_volume(tmp_path)

    def test_no_simpleitk(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "SimpleITK", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'lungunet\[volumes\]'"):
            read_volume(tmp_path / "a.nii")


class TestWriting:
    def test_nothing_but_voxels_and_grid(self, tmp_path):
        """A remark in the scan, such as a patient's name, does not reach the mask."""
        image = nib.Nifti1Image(HU.transpose(2, 1, 0), affine())
        image.header["descrip"] = b"Doe^Jane"
        image.header["intent_name"] = b"Doe^Jane"
        image.header["aux_file"] = b"Doe^Jane"
        nib.save(image, tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        assert "Doe" not in repr(volume)
        for name in ("m.nii", "m.nii.gz", "m.nrrd", "m.mha"):
            write_volume(tmp_path / name, np.zeros(SHAPE, np.uint8), like=volume)
            content = (tmp_path / name).read_bytes()
            assert b"Doe" not in (gzip.decompress(content) if name.endswith("gz") else content)

    @pytest.mark.parametrize("dtype", [">i2", ">f4", "<i2"])
    @pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.mha"])
    def test_values_of_either_byte_order(self, tmp_path, scan, name, dtype):
        write_volume(tmp_path / name, HU.astype(dtype), like=scan)
        assert np.array_equal(read_volume(tmp_path / name).array, HU)

    def test_refuses_another_shape_ending_or_dtype(self, tmp_path, scan):
        with pytest.raises(
            GeometryError, match=r"the array is \(5, 48, 63\), scan is \(5, 48, 64\)"
        ):
            write_volume(tmp_path / "m.nii", np.zeros((5, 48, 63), np.uint8), like=scan)
        with pytest.raises(
            DataError, match=r"m\.tif: volumes are written as \.nii\.gz, \.nii, \.seg\.n"
        ):
            write_volume(tmp_path / "m.tif", np.zeros(SHAPE, np.uint8), like=scan)
        with pytest.raises(DataError, match="this is bool"):
            write_volume(tmp_path / "m.nii", np.zeros(SHAPE, bool), like=scan)
        assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]

    def test_whole_or_not_at_all(self, tmp_path, scan, monkeypatch):
        path = tmp_path / "out" / "m.nii.gz"
        write_volume(path, np.ones(SHAPE, np.uint8), like=scan)
        before = path.read_bytes()
        write = itk.simpleitk().WriteImage

        def half(image, name, **options):
            write(image, name, **options)
            raise RuntimeError("disk full")

        monkeypatch.setattr(itk.simpleitk(), "WriteImage", half)
        with pytest.raises(DataError, match=r"m\.nii\.gz: cannot be written\. Choose another plac"):
            write_volume(path, np.zeros(SHAPE, np.uint8), like=scan)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("name", ["m.nii.gz", "m.nrrd", "m.mha"])
    def test_masks_are_small(self, tmp_path, scan, name):
        write_volume(tmp_path / name, np.zeros(SHAPE, np.uint8), like=scan)
        assert (tmp_path / name).stat().st_size < HU.size / 10

    def test_a_folder_that_cannot_be_made(self, tmp_path, scan):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="cannot be written"):
            write_volume(tmp_path / "file" / "m.nii", np.zeros(SHAPE, np.uint8), like=scan)


class TestOtherGrid:
    def mask_on(self, tmp_path, scan, *, factor=2, shift_mm=0.0):
        """A box of ones on a grid ``factor`` times as fine, all of one corner on."""
        fine = np.zeros([side * factor for side in SHAPE], np.uint8)
        fine[1 * factor : 3 * factor, 10 * factor : 20 * factor, 30 * factor : 50 * factor] = 1
        matrix = nib.load(scan.path).affine.copy()
        matrix[:3, 3] += matrix[:3, :3] @ np.full(3, (1 / factor - 1) / 2)
        matrix[:3, :3] /= factor
        matrix[0, 3] += shift_mm
        path = save_nifti(tmp_path / "mask.nii", fine.transpose(2, 1, 0), matrix)
        return read_volume(path)

    def test_the_same_grid_is_taken_as_it_is(self, tmp_path, scan):
        mask = read_volume(
            save_nifti(
                tmp_path / "m.nii",
                (HU > 0).astype(np.uint8).transpose(2, 1, 0),
                nib.load(scan.path).affine,
            )
        )
        assert put_on_grid(mask, scan) is mask.array

    def test_the_same_voxels_in_another_order_too(self, tmp_path, scan):
        """A mask stored to the right and to the front: no resampling, no warning."""
        turned = (HU > 0).astype(np.uint8).transpose(2, 1, 0)[::-1, ::-1]
        matrix = nib.load(scan.path).affine.copy()
        matrix[:3, 3] += matrix[:3, :3] @ np.array([63, 47, 0])
        matrix[:3, :2] *= -1
        mask = read_volume(save_nifti(tmp_path / "m.nii", turned, matrix))
        assert np.array_equal(put_on_grid(mask, scan), HU > 0)

    @pytest.mark.parametrize("factor", [2, 3])
    def test_a_finer_mask_is_looked_up(self, tmp_path, scan, factor):
        expected = np.zeros(SHAPE, np.int16)
        expected[1:3, 10:20, 30:50] = 1
        with pytest.warns(LungUNetWarning, match=r"on another grid than its scan \(\d+x\d+x\d+ of"):
            found = put_on_grid(self.mask_on(tmp_path, scan, factor=factor), scan)
        assert found.dtype == np.int16
        assert found.shape == SHAPE
        # Between fine voxels at equal distance either may be taken: half a voxel at the edge.
        assert np.abs(found - expected).sum() <= (0 if factor == 3 else 300)
        assert found[2, 15, 40] == 1

    def test_labels_of_either_byte_order(self, tmp_path, scan):
        mask = self.mask_on(tmp_path, scan)
        swapped = dataclasses.replace(mask, array=mask.array.astype(">i2"))
        with pytest.warns(LungUNetWarning, match="on another grid"):
            assert np.array_equal(put_on_grid(swapped, scan), put_on_grid(mask, scan))

    def test_beyond_the_mask_is_background(self, tmp_path, scan):
        with pytest.warns(LungUNetWarning, match="taken, 0 where it does not reach"):
            found = put_on_grid(self.mask_on(tmp_path, scan, factor=3, shift_mm=-7), scan)
        assert set(np.unique(found)) == {0, 1}

    @pytest.mark.parametrize("shift_mm", [1000, 44])
    def test_elsewhere(self, tmp_path, scan, shift_mm):
        mask = self.mask_on(tmp_path, scan, shift_mm=shift_mm)
        with pytest.raises(GeometryError, match=r"lies elsewhere than .*scan\.nii\.gz\. Check"):
            put_on_grid(mask, scan)

    def test_fractions_are_no_labels(self, tmp_path, scan):
        path = save_nifti(tmp_path / "m.nii", np.full(SHAPE[::-1], 0.5, np.float32), affine())
        with pytest.raises(DataError, match="holds float32 values, labels are integers"):
            put_on_grid(read_volume(path), scan)


def test_names_and_paths(tmp_path, scan):
    assert scan.name == "scan"
    assert scan.path == tmp_path / "scan.nii.gz"
    assert lungunet.read_volume(str(scan.path)).name == "scan"


def test_reading_needs_no_torch():
    code = "import sys, lungunet; lungunet.read_volume; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_grids_of_other_sizes_do_not_match():
    grid = Grid((7, 6, 5), (0.7, 0.8, 2.5), (1.0, 2.0, 3.0))
    assert grid.matches(Grid((7, 6, 5), (0.7, 0.8, 2.5), (1.0, 2.001, 3.0)))
    assert not grid.matches(Grid((7, 6, 5), (0.7, 0.8, 2.5), (1.0, 2.01, 3.0)))
    # The same corners, and twice as many voxels between them.
    assert not grid.matches(Grid((13, 6, 5), (0.35, 0.8, 2.5), (1.0, 2.0, 3.0)))


def test_leaves_the_warnings_of_simpleitk_as_they_were(scan):
    sitk = itk.simpleitk()
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
    assert read_volume(scan.path).array.shape == SHAPE
    assert sitk.ProcessObject.GetGlobalWarningDisplay()
