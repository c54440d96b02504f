import tracemalloc

import numpy as np
import pydicom
import pytest
from dicom_files import (
    HU,
    SERIES,
    SPACING,
    dicom_slice,
    dose_report,
    edit,
    save,
    series,
)
from pydicom.uid import DeflatedExplicitVRLittleEndian

from lungunet.errors import ConfigError, DataError, GeometryError, LungUNetWarning
from lungunet.volumes.formats import find_volumes
from lungunet.volumes.volume import read_volume, write_volume


class TestReading:
    @pytest.mark.parametrize("implicit", [False, True])
    @pytest.mark.parametrize("modality", ["CT", None])
    @pytest.mark.parametrize(
        "names",
        [None, ["e", "CT.1.2", "a.dcm", "zz.IMA", "0003"]],
        ids=["in order", "shuffled, some without ending"],
    )
    def test_a_series(self, tmp_path, implicit, modality, names):
        folder = series(tmp_path / "ct", names=names, implicit=implicit, Modality=modality)
        (folder / "README.txt").write_text("not a slice")
        (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
        with pytest.warns(LungUNetWarning) as warned:
            volume = read_volume(folder)
        assert [str(each.message) for each in warned] == [
            f"{folder}: DICOMDIR left out: an index.",
            f"{folder}: README.txt left out: no DICOM.",
        ]
        assert volume.name == "ct"
        assert volume.array.dtype == np.int16
        assert np.array_equal(volume.array, HU)
        assert volume.spacing_mm == pytest.approx(SPACING)
        assert volume.grid.origin == (-30.5, -20.25, 100.0)

    def test_a_dose_report_among_the_slices_is_left_out_and_named(self, tmp_path):
        folder = series(tmp_path / "ct")
        save(dose_report(), folder / "dose.dcm")
        with pytest.warns(LungUNetWarning, match=r"ct: dose\.dcm left out: a report \(SR\)"):
            volume = read_volume(folder)
        assert np.array_equal(volume.array, HU)

    def test_headers_are_read_without_their_pixels(self, tmp_path):
        folder = series(tmp_path / "ct")
        for path in folder.iterdir():
            edit(path, PixelData=bytes(1 << 22))
        find_volumes([folder])
        tracemalloc.start()
        try:
            find_volumes([folder])
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_an_empty_file_is_a_slice_that_is_lost(self, tmp_path):
        folder = series(tmp_path / "ct")
        max(folder.iterdir()).write_bytes(b"")
        with pytest.raises(DataError, match=r"\.dcm: empty \(0 bytes\)\. Copy it again"):
            read_volume(folder)

    def test_a_report_alone_is_no_scan(self, tmp_path):
        save(dose_report(), tmp_path / "dose.dcm")
        with pytest.raises(DataError, match=r"dose\.dcm: is a report \(SR\), no slice of CT"):
            read_volume(tmp_path / "dose.dcm")

    def test_from_head_to_feet_on_disk(self, tmp_path):
        folder = series(tmp_path / "ct", HU[::-1], step_mm=-2.5)
        assert np.array_equal(read_volume(folder).array, HU)

    @pytest.mark.parametrize(
        ("orientation", "turn"),
        [
            ((1, 0, 0, 0, 1, 0), lambda a: a),
            ((-1, 0, 0, 0, -1, 0), lambda a: a[:, ::-1, ::-1]),  # prone
            ((0, 1, 0, 1, 0, 0), lambda a: a.transpose(0, 2, 1)),
        ],
    )
    def test_rows_and_columns_go_where_the_header_says(self, tmp_path, orientation, turn):
        """pydicom's pixels, placed by hand."""
        normal = np.cross(orientation[:3], orientation[3:])
        folder = tmp_path / "ct"
        folder.mkdir()
        for i in range(5):
            ds = dicom_slice(HU[i], normal * 2.5 * i, orientation=orientation)
            save(ds, folder / f"{i}.dcm")
        up = 1 if normal[2] > 0 else -1
        stored = np.stack([pydicom.dcmread(folder / f"{i}.dcm").pixel_array for i in range(5)])
        expected = turn(stored.astype(int) - 1024)[::up]
        assert np.array_equal(read_volume(folder).array, expected)

    def test_a_coronal_series_is_turned(self, tmp_path):
        """Columns to the left, rows to the feet: slices run from back to front along -y or +y."""
        folder = tmp_path / "ct"
        folder.mkdir()
        for i in range(5):
            ds = dicom_slice(HU[i], (0, 2.5 * i, 0), orientation=(1, 0, 0, 0, 0, -1))
            save(ds, folder / f"{i}.dcm")
        volume = read_volume(folder)
        assert np.array_equal(volume.array, HU.transpose(1, 0, 2)[::-1])
        assert volume.spacing_mm == pytest.approx((0.8, 2.5, 0.7))

    def test_oblique(self, tmp_path):
        c, s = np.cos(0.2), np.sin(0.2)
        folder = tmp_path / "ct"
        folder.mkdir()
        for i in range(5):
            position = np.array([0, -s, c]) * 2.5 * i
            save(dicom_slice(HU[i], position, orientation=(1, 0, 0, 0, c, s)), folder / f"{i}.dcm")
        volume = read_volume(folder)
        assert np.array_equal(volume.array, HU)
        assert volume.spacing_mm == pytest.approx(SPACING)
        assert volume.grid.matrix[:, 1] == pytest.approx((0, c, s), abs=1e-6)

    def test_a_fractional_slope_anywhere_makes_floats(self, tmp_path):
        """The slope of the last slice alone is fractional; the first must not decide the dtype."""
        folder = series(tmp_path / "ct")
        edit(folder / "4.dcm", RescaleSlope=0.5)
        volume = read_volume(folder)
        expected = HU.astype(np.float32)
        expected[4] = (HU[4].astype(np.float32) + 1024) * 0.5 - 1024
        assert volume.array.dtype == np.float32
        assert np.array_equal(volume.array, expected)

    def test_a_file_without_the_preamble(self, tmp_path):
        """As old archives hold it: the data set alone, known by its ending."""
        ds = dicom_slice(HU[0], (1, 2, 3), implicit=True)
        path = tmp_path / "a.dcm"
        with path.open("wb") as file:
            raw = pydicom.filebase.DicomIO(file)
            raw.is_implicit_VR, raw.is_little_endian = True, True
            pydicom.filewriter.write_dataset(raw, ds)
        assert np.array_equal(read_volume(path).array, HU[:1])

    def test_one_file(self, tmp_path):
        path = save(dicom_slice(HU[0], (1, 2, 3)), tmp_path / "slice.0")
        volume = read_volume(path)
        assert np.array_equal(volume.array, HU[:1])
        assert volume.spacing_mm == pytest.approx((3.5, 0.8, 0.7))
        assert volume.name == "slice.0"
        path = save(dicom_slice(HU[0], (1, 2, 3), SliceThickness=None), tmp_path / "b.dcm")
        assert read_volume(path).spacing_mm == pytest.approx((1, 0.8, 0.7))

    def test_rounded_positions_are_even_enough(self, tmp_path):
        folder = series(tmp_path / "ct")
        edit(folder / "2.dcm", ImagePositionPatient=[-30.5, -20.25, 105.1])
        assert read_volume(folder).spacing_mm == pytest.approx(SPACING)

    def test_a_mask_goes_back_as_nifti_without_the_patient(self, tmp_path):
        volume = read_volume(series(tmp_path / "ct"))
        write_volume(tmp_path / "m.nii", (HU > 0).astype(np.uint8), like=volume)
        again = read_volume(tmp_path / "m.nii")
        assert again.grid.matches(volume.grid)
        assert np.array_equal(again.array, HU > 0)
        content = (tmp_path / "m.nii").read_bytes()
        assert not any(word in content for word in (b"Doe", b"4711", SERIES.encode()))


class TestSeries:
    @pytest.fixture
    def folder(self, tmp_path):
        series(tmp_path / "ct")
        names = [f"second{i}" for i in range(3)]
        return series(tmp_path / "ct", HU[:3] // 2, names=names, SeriesInstanceUID="9.8.7")

    def test_several_are_listed_without_their_uid(self, folder):
        with pytest.raises(ConfigError) as caught:
            read_volume(folder)
        lines = str(caught.value).splitlines()
        assert lines[0] == f"{folder}: 2 series:"
        assert [line.split(": ")[1] for line in lines[1:3]] == [
            "5 slices of 48x64, pixels of 0.8x0.7 mm, 2.5 mm apart, 3.5 mm thick",
            "3 slices of 48x64, pixels of 0.8x0.7 mm, 2.5 mm apart, 3.5 mm thick",
        ]
        short = lines[1].split(":")[0].strip()
        assert len(short) == 8
        assert lines[3] == (
            f"Say which one, as series='{short}' ('lungunet ... --series {short}')."
        )
        assert not any(word in str(caught.value) for word in ("Doe", "4711", SERIES, "9.8.7"))

    def test_one_is_taken_by_its_short_id_or_its_uid(self, folder):
        with pytest.raises(ConfigError) as caught:
            read_volume(folder)
        first, second = (line.split(":")[0].strip() for line in str(caught.value).split("\n")[1:3])
        assert np.array_equal(read_volume(folder, series=first).array, HU)
        assert np.array_equal(read_volume(folder, series=second).array, HU[:3] // 2)
        assert np.array_equal(read_volume(folder, series="9.8.7").array, HU[:3] // 2)

    def test_another_one(self, folder, tmp_path):
        with pytest.raises(ConfigError, match="2 series, none is 'x'"):
            read_volume(folder, series="x")
        with pytest.raises(ConfigError, match="1 series, none is 'x'"):
            read_volume(series(tmp_path / "one"), series="x")


class TestRefusals:
    def test_a_missing_slice(self, tmp_path):
        folder = series(tmp_path / "ct")
        (folder / "2.dcm").unlink()
        with pytest.raises(GeometryError) as caught:
            read_volume(folder)
        assert str(caught.value) == (
            f"{folder}: slices are 2.50 mm apart, but not between\n"
            "  1.dcm and 3.dcm: 102.50 mm and 107.50 mm, 5.00 apart\n"
            "Slices are missing: copy the series again, or leave out the part beyond the gap."
        )

    def test_doubled_slices(self, tmp_path):
        folder = series(tmp_path / "ct")
        series(folder, names=[f"again{i}.dcm" for i in range(5)])
        with pytest.raises(GeometryError, match="5 slices at the place of another one") as caught:
            read_volume(folder)
        assert "0.dcm and again0.dcm, at 100.00 mm" in str(caught.value)

    def test_uneven_slices(self, tmp_path):
        folder = series(tmp_path / "ct")
        edit(folder / "4.dcm", ImagePositionPatient=[-30.5, -20.25, 110.3])
        with pytest.raises(GeometryError) as caught:
            read_volume(folder)
        assert str(caught.value) == (
            f"{folder}: slices are unevenly spaced: 2.5 mm (3 times), then 2.8 mm (1 time). "
            "Have it resampled with resample=True ('lungunet ... --resample'), or take the part "
            "with one spacing."
        )

    @pytest.mark.parametrize("shift", [(5, 0), (0, -8)])
    def test_a_slice_that_lies_beside_the_others(self, tmp_path, shift):
        folder = series(tmp_path / "ct")
        at = (-30.5 + shift[0], -20.25 + shift[1], 100 + 2 * SPACING[0])
        save(dicom_slice(HU[2], at), folder / "2.dcm")
        with pytest.raises(
            GeometryError, match=r"2\.dcm is shifted by [58]\.0 mm against the slices"
        ):
            read_volume(folder)

    def test_gantry_tilt(self, tmp_path):
        """Slices stay parallel and drift to the front as the table moves."""
        folder = tmp_path / "ct"
        folder.mkdir()
        for i in range(5):
            drift = -2.5 * i * np.tan(np.radians(15))
            save(dicom_slice(HU[i], (0, drift, 2.5 * i)), folder / f"{i}.dcm")
        with pytest.raises(GeometryError, match=r"15\.0 degrees off right angles \(gantry tilt\)"):
            read_volume(folder)

    @pytest.mark.parametrize(
        ("what", "tags"),
        [
            ("pixel spacing", {"PixelSpacing": [0.9, 0.7]}),
            ("orientation", {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
            ("size", {"Rows": 24, "PixelData": HU[0, :24].tobytes()}),
        ],
    )
    def test_slices_that_differ(self, tmp_path, what, tags):
        folder = series(tmp_path / "ct")
        edit(folder / "3.dcm", **tags)
        with pytest.raises(
            GeometryError, match=rf"0\.dcm and 3\.dcm are of one series, but differ in {what}\."
        ):
            read_volume(folder)

    @pytest.mark.parametrize(
        "name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
    )
    def test_geometry_that_is_not_stated(self, tmp_path, name):
        path = save(dicom_slice(HU[0], (0, 0, 0), **{name: None}), tmp_path / "a.dcm")
        with pytest.raises(GeometryError, match="states no position, orientation or pixel spacin"):
            read_volume(path)

    def test_another_modality(self, tmp_path):
        ds = dicom_slice(HU[0], (0, 0, 0), Modality="MR")
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        path = save(ds, tmp_path / "a.dcm")
        with pytest.raises(DataError, match=r"a\.dcm: is modality MR, no slice of CT"):
            read_volume(path)

    def test_pixels_without_extent(self, tmp_path):
        path = save(dicom_slice(HU[0], (0, 0, 0), PixelSpacing=[0, 0.7]), tmp_path / "a.dcm")
        with pytest.raises(GeometryError, match=r"a\.dcm: spacing .* mm is no grid of voxels"):
            read_volume(path)

    def test_several_frames(self, tmp_path):
        ds = dicom_slice(HU[0], (0, 0, 0))
        ds.NumberOfFrames, ds.PixelData = 5, HU.tobytes()
        with pytest.raises(DataError, match=r"a\.dcm: 5 frames in one file, 1 with a place"):
            read_volume(save(ds, tmp_path / "a.dcm"))

    def test_colours(self, tmp_path):
        ds = dicom_slice(HU[0], (0, 0, 0), RescaleSlope=None, RescaleIntercept=None)
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = np.zeros((48, 64, 3), np.uint8).tobytes()
        with pytest.raises(DataError, match=r"a\.dcm: is a picture in colour, no slice of CT"):
            read_volume(save(ds, tmp_path / "a.dcm"))

    def test_a_damaged_slice_is_named(self, tmp_path, capfd):
        folder = series(tmp_path / "ct")
        content = (folder / "3.dcm").read_bytes()
        (folder / "3.dcm").write_bytes(content[:200])
        with pytest.raises(DataError, match=r"3\.dcm: not a readable slice: damaged or truncated"):
            read_volume(folder)
        (folder / "3.dcm").write_bytes(content[:-1000])
        with pytest.raises(DataError, match=r"3\.dcm: not a readable volume: damaged, truncated"):
            read_volume(folder)
        assert capfd.readouterr() == ("", "")


class TestPassedOver:
    """What SimpleITK reads without a word, and others do not."""

    @pytest.mark.parametrize("damage", [b"\0", b"\x01", b"\x9b"])
    def test_a_position_with_a_byte_that_is_no_text(self, tmp_path, damage):
        path = save(dicom_slice(HU[0], (-30.5, -20.25, 100)), tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes().replace(b"-20.25", b"-2" + damage + b".25"))
        with pytest.raises(DataError, match="states no position"):
            read_volume(path)

    @pytest.mark.parametrize("damage", [b"\0", b"\x01"])
    def test_a_rescale_with_a_byte_that_is_no_text(self, tmp_path, damage):
        """SimpleITK takes what stands before it, and values are 922 off."""
        path = save(dicom_slice(HU[0], (0, 0, 0)), tmp_path / "a.dcm")
        path.write_bytes(path.read_bytes().replace(b"-1024", b"-102" + damage))
        with pytest.raises(DataError, match="its RescaleIntercept "):
            read_volume(path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("RescaleIntercept", value) for value in ("inf", "nan", "x", "1e999")),
            *(("RescaleSlope", value) for value in ("inf", "nan", "x", "0")),
        ],
    )
    def test_a_rescale_that_is_no_number(self, tmp_path, name, value):
        path = save(dicom_slice(HU[0], (0, 0, 0)), tmp_path / "a.dcm")
        tag = b"\x28\x00\x52\x10DS" if name == "RescaleIntercept" else b"\x28\x00\x53\x10DS"
        content = bytearray(path.read_bytes())
        at = content.index(tag) + 6
        length = int.from_bytes(content[at : at + 2], "little")
        text = value.encode().ljust(len(value) + len(value) % 2)
        content[at : at + 2 + length] = len(text).to_bytes(2, "little") + text
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"its {name} is (no number|'{value}'), so"):
            read_volume(path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("PhotometricInterpretation", value) for value in (None, "", "GREY")),
            *(("PixelRepresentation", value) for value in (None, 2)),
            *(("BitsStored", value) for value in (None, 0, 17)),
            ("SamplesPerPixel", None),
        ],
    )
    def test_pixels_of_which_nobody_knows_how_they_are_stored(self, tmp_path, name, value):
        """Without some of these tags SimpleITK does not rescale, and says nothing."""
        path = save(dicom_slice(HU[0], (0, 0, 0), **{name: value}), tmp_path / "a.dcm")
        with pytest.raises(DataError, match=r"does not say as it must how its pixels are|readable"):
            read_volume(path)

    def test_a_little_padding_behind_the_pixels(self, tmp_path):
        ds = dicom_slice(HU[0], (0, 0, 0))
        ds.PixelData += bytes(120)
        assert np.array_equal(read_volume(save(ds, tmp_path / "a.dcm")).array[0], HU[0])

    @pytest.mark.parametrize("implicit", [False, True])
    @pytest.mark.parametrize("shape", [(24, 64), (48, 32)])
    def test_more_pixels_than_the_header_says(self, tmp_path, implicit, shape):
        ds = dicom_slice(HU[0], (0, 0, 0), implicit=implicit, Rows=shape[0], Columns=shape[1])
        with pytest.raises(DataError, match="holds other pixels than its header says, more or few"):
            read_volume(save(ds, tmp_path / "a.dcm"))

    @pytest.mark.parametrize("rows", [24, 96])
    def test_so_too_where_the_file_is_packed_as_a_whole(self, tmp_path, rows):
        ds = dicom_slice(HU[0], (0, 0, 0), Rows=rows)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        with pytest.raises(DataError, match="holds other pixels than its header says"):
            read_volume(save(ds, tmp_path / "a.dcm"))

    @pytest.mark.parametrize("implicit", [False, True])
    def test_an_icon_before_the_pixels_is_none_of_them(self, tmp_path, implicit):
        icon = pydicom.Dataset()
        icon.Rows = icon.Columns = 4
        icon.BitsAllocated, icon.PixelData = 8, bytes(16)
        icon["PixelData"].VR = "OB"
        ds = dicom_slice(HU[0], (0, 0, 0), implicit=implicit, IconImageSequence=[icon])
        assert np.array_equal(read_volume(save(ds, tmp_path / "a.dcm")).array[0], HU[0])

    def test_an_odd_number_of_bytes_is_padded(self, tmp_path):
        plane = HU[0, :5, :5].clip(-1024, -800)
        ds = dicom_slice(plane, (0, 0, 0), BitsAllocated=8, BitsStored=8, HighBit=7)
        ds.PixelRepresentation = 0
        ds.PixelData = (plane + 1024).astype(np.uint8).tobytes() + b"\0"
        assert np.array_equal(read_volume(save(ds, tmp_path / "a.dcm")).array[0], plane)
