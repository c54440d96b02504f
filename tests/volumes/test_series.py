"""Which files are one scan: whatever lies in a folder is read, refused or named."""

import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import HU, SERIES, SPACING, dicom_slice, dose_report, edit, save, series

from lungunet.errors import ConfigError, DataError, GeometryError, LungUNetWarning
from lungunet.volumes.formats import find_volumes, is_volume_source
from lungunet.volumes.volume import read_volume

GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
BARE = dict.fromkeys((*GEOMETRY, "RescaleSlope", "RescaleIntercept"))
EIGHT = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
CLASSES = {"PT": "128", "SEG": "66.4", "RTSTRUCT": "481.3", "RTDOSE": "481.2", "MR": "4"}
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def without_ending(folder, hu=HU, **options):
    return series(folder, hu, names=[f"IM{i:04d}" for i in range(len(hu))], **options)


def found(*sources, **options):
    """The scans, and what was said of others."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        scans = find_volumes(sources, **options)
    return scans, [str(each.message) for each in warned]


def stored(ds, path, **tags):
    for name, value in tags.items():
        setattr(ds, name, value)
    return save(ds, path)


def colour_screen(path):
    ds = dicom_slice(HU[0], (0, 0, 0), SeriesInstanceUID="9.1", **BARE, **EIGHT)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = np.zeros((48, 64, 3), np.uint8).tobytes()
    return stored(ds, path, SOPClassUID=CAPTURE)


def grey_screen(path):
    ds = dicom_slice(HU[0], (0, 0, 0), SeriesInstanceUID="9.2", **BARE)
    return stored(ds, path, SOPClassUID=CAPTURE)


def scout(path, **tags):
    ds = dicom_slice(HU[0], (0, 0, 0), orientation=(1, 0, 0, 0, 0, -1), **tags)
    return stored(ds, path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])


def of_modality(modality):
    def make(path):
        ds = dicom_slice(HU[0], (0, 0, 0), Modality=modality, SeriesInstanceUID="9")
        return stored(ds, path, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{CLASSES[modality]}")

    return make


def report_with_icon(path):
    ds, icon = dose_report(), pydicom.Dataset()
    icon.Rows = icon.Columns = 8
    icon.SamplesPerPixel, icon.PhotometricInterpretation, icon.PixelData = 1, "X", bytes(64)
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit, icon.PixelRepresentation = 7, 0
    ds.IconImageSequence = [icon]
    return stored(ds, path, SeriesInstanceUID="9.3")


def index(path):
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.1.3.10"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.9"
    return save(ds, path)


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("make", "what"),
        [
            (colour_screen, "a picture in colour"),
            (grey_screen, "a secondary capture"),
            (scout, "a localizer"),
            (lambda path: scout(path, SeriesInstanceUID="9"), "a localizer"),
            (of_modality("PT"), "PET (PT)"),
            (of_modality("SEG"), "a segmentation (SEG)"),
            (of_modality("RTDOSE"), "a dose (RTDOSE)"),
            (of_modality("MR"), "modality MR"),
            (report_with_icon, "a report (SR)"),
            (index, "an index"),
            (lambda path: path.write_bytes(b"\xff\xd8\xff picture"), "no DICOM"),
            (lambda path: path.write_text("read me"), "no DICOM"),
        ],
    )
    @pytest.mark.parametrize("name", ["AAA", "z.dcm"])
    def test_beside_a_series_are_left_out_and_named(self, tmp_path, make, what, name):
        folder = without_ending(tmp_path / "ct")
        name = {"no DICOM": f"{name[0]}.jpg"}.get(what, name)
        make(folder / name)
        scans, said = found(folder)
        assert said == [f"{folder}: {name} left out: {what}."]
        assert [scan.name for scan in scans] == ["ct"]
        assert np.array_equal(read_volume(scans[0]).array, HU)
        scans, said = found(folder, series=SERIES)
        assert np.array_equal(read_volume(scans[0]).array, HU)
        assert said == []
        with pytest.warns(LungUNetWarning, match="left out"):
            assert np.array_equal(read_volume(folder).array, HU)

    @pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
    def test_masks_in_dicom_are_said_not_to_be_read(self, tmp_path, kind):
        (tmp_path / "m").mkdir()
        of_modality(kind)(tmp_path / "m" / "a.seg.dcm")
        text = (
            rf"\({kind}\).*\. Masks in DICOM are written and not read: give NIfTI or NRRD, as "
            r"'lungunet predict \.\.\. --format nifti' writes it\."
        )
        for path in (tmp_path / "m", tmp_path / "m" / "a.seg.dcm"):
            for read in (read_volume, lambda path: find_volumes([path])):
                with pytest.raises(DataError, match=text):
                    read(path)

    def test_alone_are_no_scan(self, tmp_path):
        (tmp_path / "pt").mkdir()
        of_modality("PT")(tmp_path / "pt" / "a")
        report_with_icon(tmp_path / "pt" / "b")
        text = r"pt: holds no slice of CT, only: PET \(PT\), a report \(SR\)\. Check the path"
        for read in (read_volume, lambda path: find_volumes([path])):
            with pytest.raises(DataError, match=text):
                read(tmp_path / "pt")

    def test_a_patient_without_ct_does_not_stop_the_others(self, tmp_path):
        (tmp_path / "all" / "p2").mkdir(parents=True)
        without_ending(tmp_path / "all" / "p1")
        of_modality("MR")(tmp_path / "all" / "p2" / "a")
        scans, said = found(tmp_path / "all")
        assert [scan.name for scan in scans] == ["p1"]
        assert said == [f"{tmp_path / 'all' / 'p2'}: a left out: modality MR."]

    def test_series_asks_for_what_is_no_ct(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        of_modality("PT")(folder / "PT1")
        with pytest.raises(ConfigError, match=r"series 9 is PET \(PT\), no CT\. Take another"):
            find_volumes([folder], series="9")

    def test_fewer_pictures_than_slices_leave_a_folder_of_slices_one(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        for name in "abcd":
            (folder / f"{name}.png").write_bytes(b"")
        assert is_volume_source(folder)
        assert found(folder)[1] == [f"{folder}: a.png, b.png, c.png, d.png left out: no DICOM."]
        (tmp_path / "logo.png").write_bytes(b"")
        assert is_volume_source(tmp_path)
        assert f"{tmp_path}: logo.png left out: no DICOM." in found(tmp_path)[1]
        (folder / "e.png").write_bytes(b"")
        with pytest.raises(ConfigError, match=r"holds slices \(a\.png\) and scans \(DICOM\)"):
            is_volume_source(folder)


class TestEndSlices:
    """A file that may be a slice, and is not read, is never passed over."""

    @pytest.mark.parametrize("at", [0, 2, 4])
    @pytest.mark.parametrize(
        ("harm", "why"),
        [
            (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
            (lambda path: path.write_bytes(bytes(9000)), "begins with zeros alone"),
            (lambda path: path.write_bytes(path.read_bytes()[:100]), "zeros alone"),
            (lambda path: path.write_bytes(path.read_bytes()[:200]), "damaged or truncated"),
            (lambda path: path.write_bytes(path.read_bytes()[:600]), "damaged or truncated"),
            (lambda path: path.write_bytes(b"\xfe" * 5000), "does not begin as a DICOM file"),
            (lambda path: path.unlink() or path.symlink_to("gone"), "a link to nothing"),
        ],
    )
    def test_is_refused(self, tmp_path, harm, why, at):
        folder = without_ending(tmp_path / "ct")
        harm(folder / f"IM{at:04d}")
        scans, said = found(folder)
        assert said == []
        assert [scan.name for scan in scans] == ["ct"]
        for what in (scans[0], folder):
            with pytest.raises(DataError, match=rf"ct/IM{at:04d}: .*{why}"):
                read_volume(what)

    @pytest.mark.parametrize(
        "tags",
        [
            {"Modality": "XX"},
            {"PhotometricInterpretation": "MONOCHRON"},
            {"SamplesPerPixel": 3},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.92"},
        ],
    )
    def test_that_contradicts_itself_is_refused(self, tmp_path, tags):
        """A CT image by its class: a bit that flipped does not make another kind of it."""
        folder = without_ending(tmp_path / "ct")
        edit(folder / "IM0004", **tags)
        with pytest.raises(DataError, match=r"IM0004: not a readable"):
            read_volume(folder)

    def test_pixels_that_are_cut_are_refused(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        path = folder / "IM0004"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(DataError, match=r"IM0004: not a readable volume"):
            read_volume(folder)

    @pytest.mark.parametrize("implicit", [False, True])
    @pytest.mark.parametrize("meta", [False, True])
    def test_without_preamble_is_read(self, tmp_path, implicit, meta):
        folder = without_ending(tmp_path / "ct", implicit=implicit)
        for name in ("IM0000", "IM0004"):
            content = (folder / name).read_bytes()[132:]
            if not meta:
                content = content[12 + int.from_bytes(content[8:12], "little") :]
            (folder / name).write_bytes(content)
        assert np.array_equal(read_volume(folder).array, HU)

    def test_a_folder_of_which_nothing_is_left_is_named(self, tmp_path):
        root = tmp_path / "all"
        root.mkdir()
        without_ending(root / "p1")
        lost = without_ending(root / "p2")
        for path in lost.iterdir():
            path.write_bytes(b"")
        scans, _ = found(root)
        assert [scan.name for scan in scans] == ["p1", "p2"]
        assert scans[0].error is None
        assert str(scans[1].error).endswith(
            "IM0000: empty (0 bytes). Copy it again, or remove it. "
            "4 files beside it cannot be used either."
        )

    def test_the_only_one_of_its_series_is_said(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        path = save(dicom_slice(HU[0], (0, 0, 0), SeriesInstanceUID="9"), folder / "other.1")
        edit(path, ImagePositionPatient=None)
        scans, _ = found(folder)
        assert [scan.name for scan in scans] == ["ct", "other.1"]
        assert np.array_equal(read_volume(scans[0]).array, HU)
        with pytest.raises(GeometryError, match=r"other\.1: states no position"):
            read_volume(scans[1])

    def test_of_another_series_does_not_stop_this_one(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        series(folder, names=[f"B{i}" for i in range(5)], SeriesInstanceUID="9.8")
        edit(folder / "B0", ImagePositionPatient=None)
        scans, _ = found(folder)
        assert sorted(scan.error is None for scan in scans) == [False, True]
        assert np.array_equal(read_volume(folder, series=SERIES).array, HU)

    @pytest.mark.parametrize("named", [True, False])
    def test_files_of_a_glob_are_members_too(self, tmp_path, named):
        folder = without_ending(tmp_path / "ct")
        (folder / "IM0000").write_bytes(b"")
        sources = sorted(folder.iterdir()) if named else [folder / "IM*"]
        (scan,) = find_volumes(sources)
        with pytest.raises(DataError, match="IM0000: empty"):
            read_volume(scan)

    def test_unread_folders_are_said(self, tmp_path, monkeypatch):
        root = tmp_path / "all"
        root.mkdir()
        without_ending(root / "p1")
        without_ending(root / "p2")
        real = os.scandir

        def scandir(path):
            if str(path).endswith("p2"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        scans, _ = found(root)
        assert [scan.name for scan in scans] == ["p1", "p2"]
        with pytest.raises(DataError, match=r"p2: cannot be opened \(Permission denied\)"):
            read_volume(scans[1])


class TestJoining:
    def parts(self, folder, *places, **tags):
        """Folders 0, 1, ... with slices of these numbers."""
        for part, numbers in enumerate(places):
            where = folder / str(part)
            where.mkdir(parents=True)
            for i in numbers:
                at = (-30.5, -20.25, 100 + i * SPACING[0])
                save(dicom_slice(HU[i], at, **tags), where / f"IM{i:04d}")
        return folder

    @pytest.mark.parametrize(
        "places", [[(0, 1, 2), (3, 4)], [(0, 2, 4), (1, 3)], [(4, 3), (0, 1, 2)]]
    )
    def test_two_folders(self, tmp_path, places):
        folder = self.parts(tmp_path / "DICOM", *places)
        (scan,) = find_volumes([folder])
        assert (scan.name, scan.path) == ("DICOM", folder)
        assert np.array_equal(read_volume(scan).array, HU)
        assert np.array_equal(read_volume(folder).array, HU)
        (scan,) = find_volumes([folder / "0", folder / "1"])
        assert np.array_equal(read_volume(scan).array, HU)

    def test_a_gap_between_them_is_refused(self, tmp_path):
        (scan,) = find_volumes([self.parts(tmp_path / "ct", (0, 1), (3, 4))])
        with pytest.raises(GeometryError, match=r"IM0001 and IM0003: .*5\.00 apart"):
            read_volume(scan)

    def test_one_uid_for_two_scans(self, tmp_path):
        """As a careless anonymiser leaves it: each is whole."""
        folder = self.parts(tmp_path / "ct", range(5), range(5))
        scans = find_volumes([folder])
        assert [scan.name for scan in scans] == ["0", "1"]
        assert all(np.array_equal(read_volume(scan).array, HU) for scan in scans)

    @pytest.mark.parametrize("uid", ["", "1.2.3"])
    @pytest.mark.parametrize("first", [0.0, 12.5, 1.25, 100.0])
    @pytest.mark.parametrize(
        "patients", [{"PatientID": ("A1", "B2")}, {"PatientID": "", "PatientName": ("A^B", "C^D")}]
    )
    def test_two_patients_are_two_scans_whatever_their_uids(self, tmp_path, uid, first, patients):
        self.two(tmp_path / "all", first, StudyInstanceUID=uid, SeriesInstanceUID=uid, **patients)
        scans, said = found(tmp_path / "all")
        assert ([scan.name for scan in scans], said) == (["p1", "p2"], [])
        for scan, planes in zip(scans, (HU, HU[::-1]), strict=True):
            assert np.array_equal(read_volume(scan).array, planes)
        with pytest.raises(ConfigError, match="Some share their UID, so give the folder of one"):
            read_volume(tmp_path / "all")

    @pytest.mark.parametrize("patient", ["", "ANON"])
    @pytest.mark.parametrize(
        "uids", [{"SeriesInstanceUID": ""}, {"SOPInstanceUID": "1"}, {"SOPInstanceUID": ""}]
    )
    def test_folders_are_scans_where_uids_say_nothing(self, tmp_path, uids, patient):
        tags = {"PatientID": patient, "PatientName": patient, **uids}
        folder = self.two(tmp_path / "all", 12.5, **tags)
        scans, said = found(folder)
        assert [scan.name for scan in scans] == ["p1", "p2"]
        assert np.array_equal(read_volume(scans[1]).array, HU[::-1])
        (text,) = said
        assert text.startswith(f"{folder / 'p1'}, {folder / 'p2'}: UIDs are empty or repeat")
        assert np.array_equal(read_volume(folder / "p1").array, HU)

    def test_two_patients_in_one_folder_are_refused(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        edit(folder / "IM0003", PatientID="4712")
        with pytest.raises(GeometryError, match="of one series, but differ in patient") as caught:
            read_volume(folder)
        assert not any(word in str(caught.value) for word in ("471", "Doe"))

    def test_what_an_axial_series_of_another_patient_shows_is_no_reason(self, tmp_path):
        coronal = {"orientation": (1, 0, 0, 0, 0, -1), "SeriesInstanceUID": "9.8"}
        (tmp_path / "all").mkdir()
        without_ending(tmp_path / "all" / "p1", StudyInstanceUID="")
        without_ending(tmp_path / "all" / "p2", StudyInstanceUID="", PatientID="2", **coronal)
        scans, said = found(tmp_path / "all")
        assert ([scan.name for scan in scans], said) == (["p1", "p2"], [])

    def two(self, root, first, **tags):
        """Folders p1 and p2, of patients with other tags where a tag is two values."""
        for part, (planes, z) in enumerate(((HU, 0.0), (HU[::-1], first))):
            mine = {name: v[part] if isinstance(v, tuple) else v for name, v in tags.items()}
            where = root / f"p{part + 1}"
            where.mkdir(parents=True)
            for i, plane in enumerate(planes):
                at = (-30.5, -20.25, z + i * SPACING[0])
                save(dicom_slice(plane, at, **mine), where / f"IM{i:04d}")
        return root

    def test_files_one_by_one(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        (scan,) = find_volumes(sorted(folder.iterdir()))
        assert scan.name == "ct"
        assert np.array_equal(read_volume(scan).array, HU)
        (scan,) = find_volumes([folder / "IM0002"])
        assert scan.name == "IM0002"
        assert np.array_equal(read_volume(scan).array, HU[2:3])

    def test_copies_are_dropped_and_named(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        for name in ("IM0000", "IM0001"):
            shutil.copy(folder / name, folder / f"{name}-again")
        scans, said = found(folder)
        assert said == [f"{folder}: IM0000-again, IM0001-again left out: a copy."]
        assert np.array_equal(read_volume(scans[0]).array, HU)

    def test_a_copied_folder(self, tmp_path):
        root = tmp_path / "all"
        root.mkdir()
        without_ending(root / "a")
        shutil.copytree(root / "a", root / "b")
        scans, said = found(root)
        assert [scan.name for scan in scans] == ["a"]
        assert len(said) == 1
        assert "b: IM0000, " in said[0]

    def test_a_slice_that_another_scan_has_too_stays(self, tmp_path):
        """One UID for two scans that share an object: neither loses its end."""
        root = tmp_path / "all"
        root.mkdir()
        without_ending(root / "a")
        without_ending(root / "b", HU[::-1])
        shutil.copy(root / "a" / "IM0000", root / "b" / "IM0000")
        scans, said = found(root)
        assert (len(scans), said) == (2, [])
        assert np.array_equal(read_volume(scans[0]).array, HU)
        assert np.array_equal(read_volume(scans[1]).array[1:], HU[::-1][1:])

    def test_one_object_uid_for_all_is_no_copy(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        for path in folder.iterdir():
            edit(path, SOPInstanceUID="1.1")
        assert np.array_equal(read_volume(folder).array, HU)

    def test_other_pixels_at_one_place_are_no_copy(self, tmp_path):
        folder = without_ending(tmp_path / "ct")
        shutil.copy(folder / "IM0000", folder / "other")
        edit(folder / "other", PixelData=bytes(48 * 64 * 2))
        with pytest.raises(GeometryError, match="1 slice at the place of another one"):
            read_volume(folder)

    def test_links(self, tmp_path):
        """To folders and files; one that leads back into itself is followed once."""
        store, root = tmp_path / "store", tmp_path / "scans"
        root.mkdir()
        store.mkdir()
        without_ending(store / "x", SeriesInstanceUID="1.1")
        without_ending(store / "y", SeriesInstanceUID="1.2")
        (root / "p1").symlink_to(store / "x")
        (root / "p2").mkdir()
        for path in (store / "y").iterdir():
            (root / "p2" / path.name).symlink_to(path)
        (store / "x" / "loop").symlink_to(root)
        scans = find_volumes([root])
        assert [scan.name for scan in scans] == ["p1", "p2"]
        assert all(np.array_equal(read_volume(scan).array, HU) for scan in scans)


class TestSeveralSeries:
    def test_each_is_a_scan_and_told_apart(self, tmp_path):
        folder = without_ending(tmp_path / "ct", SeriesDescription="Lung", ConvolutionKernel="B70f")
        soft = {"SeriesInstanceUID": "9.8", "ConvolutionKernel": "B30f", "SliceThickness": 5}
        series(folder, HU // 2, names=[f"B{i}" for i in range(5)], **soft)
        scans = find_volumes([folder])
        assert [scan.name for scan in scans] == [f"ct_{scan.id}" for scan in scans]
        with pytest.raises(ConfigError) as caught:
            read_volume(folder)
        said = str(caught.value).splitlines()[1:3]
        assert "3.5 mm thick, kernel B70f, 'Lung'" in "".join(said)
        assert "5 mm thick, kernel B30f" in "".join(said)
        (scan,) = find_volumes([folder], series=scans[0].id)
        assert scan.name == "ct"

    @pytest.mark.parametrize(
        ("tags", "what"),
        [
            ({"orientation": (1, 0, 0, 0, 0, -1)}, "a coronal or sagittal series"),
            ({"step_mm": 0}, "one place again and again"),
            ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "a projection (MIP)"),
        ],
    )
    def test_what_an_axial_series_of_the_study_shows_too_is_left_out(self, tmp_path, tags, what):
        folder = without_ending(tmp_path / "ct")
        series(folder, names=[f"B{i}" for i in range(5)], SeriesInstanceUID="9.8", **tags)
        scans, said = found(folder)
        assert [scan.name for scan in scans] == ["ct"]
        assert said == [f"{folder}: B0, B1, B2, B3, B4 left out: {what}."]
        (scan,) = find_volumes([folder], series="9.8")
        assert {item.series for item in scan.slices} == {"9.8"}

    def test_names_take_no_folder_that_is_called_as_the_patient(self, tmp_path):
        for i, patient in enumerate(("DOE_JANE", "ROE_RICHARD")):
            name = "^".join(patient.split("_"))
            (tmp_path / "all" / patient).mkdir(parents=True)
            without_ending(
                tmp_path / "all" / patient / "ct", PatientName=name, SeriesInstanceUID=f"1.{i}"
            )
        scans = find_volumes([tmp_path / "all"])
        assert [scan.name for scan in scans] == [f"{scan.id}_ct" for scan in scans]

    def test_names_take_no_folder_above_the_scans(self, tmp_path):
        patient = tmp_path / "DOE_JANE"
        patient.mkdir()
        (patient / "old").mkdir()
        without_ending(patient / "ct", SeriesInstanceUID="1.1")
        without_ending(patient / "old" / "ct", SeriesInstanceUID="1.2")
        assert [scan.name for scan in find_volumes([patient])] == ["ct", "old_ct"]

    def test_a_pseudonym_is_no_name(self, tmp_path):
        for i, patient in enumerate(("LIDC-1", "LIDC-2")):
            (tmp_path / patient).mkdir()
            tags = {"PatientName": patient, "PatientID": patient, "SeriesInstanceUID": f"1.{i}"}
            without_ending(tmp_path / patient / "ct", **tags)
        assert [scan.name for scan in find_volumes([tmp_path])] == ["LIDC-1_ct", "LIDC-2_ct"]


def process_wide():
    """What readers could leave changed for the whole program."""
    modes = pydicom.config.settings
    return (
        list(warnings.filters),
        (modes._reading_validation_mode, modes._writing_validation_mode),
        sitk.ProcessObject.GetGlobalWarningDisplay(),
    )


def test_threads_that_read_lose_no_warning_and_leave_all_as_it_was(tmp_path):
    """Warnings of the library come once for each read, and the program's own all get through."""
    folders = [series(tmp_path / f"{i}", step_mm=10, SliceThickness=2) for i in range(2)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        before = process_wide()
        with ThreadPoolExecutor(4) as pool:
            reads = [pool.submit(read_volume, folder) for folder in folders * 15]
            own = 0
            while not all(read.done() for read in reads):
                warnings.warn("of the program", stacklevel=1)
                own += 1
        after = process_wide()
    texts = [str(one.message) for one in said]
    assert texts.count("of the program") == own
    for folder in folders:
        assert sum(text.startswith(f"{folder}: ") for text in texts) == 15
    assert len(texts) == own + 30
    assert after == before


def test_what_pydicom_warns_of_stays_unsaid_in_every_thread(tmp_path):
    folder = series(tmp_path / "ct", SpecificCharacterSet="ISO_IR 100", PatientName="A^B")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Unknown encoding"):
            pydicom.dcmread(folder / "0.dcm").PatientName  # noqa: B018
        with ThreadPoolExecutor(4) as pool:
            for volume in pool.map(read_volume, [folder] * 12):
                assert volume.array.shape == HU.shape
