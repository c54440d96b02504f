"""Masks as DICOM, read back by pydicom and highdicom, and judged by dciodvfy."""

import re
import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import AXIAL, HU, SPACING, dicom_slice, edit, enhanced, save
from skimage.draw import polygon2mask

import lungunet
from lungunet.errors import DataError, GeometryError, LungUNetWarning, MissingExtraError
from lungunet.volumes.dicom_out import refuse_unreferable

TURN = np.radians(20)
ORIENTATIONS = {
    "axial": AXIAL,
    "prone": (-1, 0, 0, 0, -1, 0),
    "negated": (-1, 0, 0, 0, 1, 0),
    "oblique": (np.cos(TURN), 0, np.sin(TURN), 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
}
FRAME = "1.2.826.0.1.9"
NAMES = ("left lung", "right lung")
UIDS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("SOPClassUID", "SOPInstanceUID"),
)
BOTH = [".seg.dcm", ".rtstruct.dcm"]


def series(folder, *, orientation=AXIAL, step_mm=SPACING[0], **tags):
    """A series as scanners write it; with a step below 0 from head to feet."""
    folder.mkdir()
    normal = np.cross(orientation[:3], orientation[3:])
    for i, plane in enumerate(HU):
        position = np.array([-30.5, -20.25, 100]) + normal * (i * step_mm)
        tags = {"FrameOfReferenceUID": FRAME, "InstanceNumber": i + 1, **tags}
        ds = dicom_slice(plane, position, orientation=np.round(orientation, 9), **tags)
        save(ds, folder / f"{(i * 3) % 5}.dcm")  # names are in no order
    return folder


def classes_of(volume):
    """Two structures that touch, with a hole, in an array of any order of axes."""
    rng = np.random.default_rng(7)
    classes = np.zeros(volume.array.shape, np.uint8)
    box = tuple(slice(n // 5, n - n // 5) for n in classes.shape)
    classes[box] = rng.integers(0, 3, classes[box].shape)
    return classes


def edit_all(folder, tags):
    """Set tags of each file by its number; None takes a tag away."""
    for number, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        for keyword, value in tags(number).items():
            delattr(ds, keyword) if value is None else setattr(ds, keyword, value)
        ds.save_as(path)


def refused_before_a_model(folder, ending, match):
    with pytest.raises(DataError, match=match):
        refuse_unreferable(lungunet.read_volume(folder))
    with pytest.raises(DataError, match=match):
        write(folder.parent / f"m{ending}", folder)


def write(path, folder, classes=None, **options):
    volume = lungunet.read_volume(folder)
    classes = classes_of(volume) if classes is None else classes
    options = {"names": NAMES, "model": "lungs", "weights_sha256": "ab" * 32, **options}
    lungunet.write_segmentation(path, classes, like=volume, **options)
    return volume, classes


def stored(folder):
    """The series and its voxels by pydicom alone: SOPInstanceUID -> header."""
    return {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, folder.iterdir())}


def by_instance(volume, classes):
    """What of the mask belongs to the pixels of each file, found by the values of its pixels."""
    planes = volume.grid.to_file(classes)
    scan = volume.grid.to_file(volume.array)
    found = {}
    for item, plane, pixels in zip(volume.slices, planes, scan, strict=True):
        raw = pydicom.dcmread(item.path).pixel_array.astype(int) - 1024
        assert np.array_equal(raw, pixels)
        found[item.instance] = plane
    return found


@pytest.mark.parametrize("step_mm", [SPACING[0], -SPACING[0]], ids=["rising", "falling"])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
class TestBack:
    def test_a_seg_has_every_voxel_on_the_pixels_it_was_seen_in(
        self, tmp_path, orientation, step_mm
    ):
        folder = series(tmp_path / "ct", orientation=orientation, step_mm=step_mm)
        volume, classes = write(tmp_path / "m.seg.dcm", folder)
        seg = highdicom.seg.segread(tmp_path / "m.seg.dcm")
        wanted = by_instance(volume, classes)
        planes = seg.get_pixels_by_source_instance(
            list(wanted), combine_segments=True, ignore_spatial_locations=False
        )
        assert np.array_equal(planes, np.stack(list(wanted.values())))

    def test_a_seg_lies_where_the_series_lies(self, tmp_path, orientation, step_mm):
        folder = series(tmp_path / "ct", orientation=orientation, step_mm=step_mm)
        write(tmp_path / "m.seg.dcm", folder)
        seg, sources = pydicom.dcmread(tmp_path / "m.seg.dcm"), stored(folder)
        shared = seg.SharedFunctionalGroupsSequence[0]
        assert shared.PixelMeasuresSequence[0].PixelSpacing == [SPACING[1], SPACING[2]]
        turned = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert turned == pytest.approx(orientation, abs=1e-6)
        for frame in seg.PerFrameFunctionalGroupsSequence:
            named = frame.DerivationImageSequence[0].SourceImageSequence[0]
            source = sources[named.ReferencedSOPInstanceUID]
            place = frame.PlanePositionSequence[0].ImagePositionPatient
            assert place == pytest.approx(source.ImagePositionPatient, abs=1e-6)

    def test_an_rtstruct_holds_every_voxel(self, tmp_path, orientation, step_mm):
        folder = series(tmp_path / "ct", orientation=orientation, step_mm=step_mm)
        volume, classes = write(tmp_path / "m.rtstruct.dcm", folder)
        assert_outlines(tmp_path / "m.rtstruct.dcm", stored(folder), by_instance(volume, classes))


def assert_outlines(path, sources, wanted):
    found = {uid: np.zeros_like(plane) for uid, plane in wanted.items()}
    for roi in pydicom.dcmread(path).ROIContourSequence:
        for contour in roi.ContourSequence:
            source = sources[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            away = points - np.array(source.ImagePositionPatient, float)
            axes = np.reshape(np.array(source.ImageOrientationPatient, float), (2, 3))
            assert np.abs(away @ np.cross(*axes)).max() < 1e-3  # in the plane of its slice
            rows = away @ axes[1] / float(source.PixelSpacing[0])
            columns = away @ axes[0] / float(source.PixelSpacing[1])
            inside = polygon2mask(source.pixel_array.shape, np.stack([rows, columns], axis=1))
            found[source.SOPInstanceUID][inside] = roi.ReferencedROINumber
    assert all(np.array_equal(found[uid], plane) for uid, plane in wanted.items())


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("ending", BOTH)
@pytest.mark.parametrize("kind", ["bare", "full", "empty", "of one slice", "unknown names"])
def test_dciodvfy_finds_no_error(tmp_path, ending, kind):
    tags = {} if kind != "full" else {"StudyDate": "20260301", "StudyTime": "101500"}
    tags |= {"StudyID": "1", "PatientBirthDate": "19600101"} if kind == "full" else {}
    folder = series(tmp_path / "ct", **tags)
    if kind == "of one slice":
        for path in list(folder.iterdir())[1:]:
            path.unlink()
    names = NAMES if kind != "unknown names" else ("nodule", "what else")
    classes = np.zeros(HU.shape, np.uint8) if kind == "empty" else None
    path = tmp_path / f"m{ending}"
    write(path, folder, classes, names=names)
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
    assert "Segmentation" in said or "RTStructureSet" in said
    assert "Error" not in said


@pytest.mark.parametrize("ending", BOTH)
class TestWhatItSays:
    def test_structures_are_coded_and_coloured(self, tmp_path, ending):
        write(tmp_path / f"m{ending}", series(tmp_path / "ct"))
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        if ending == ".seg.dcm":
            types = [item.SegmentedPropertyTypeCodeSequence[0] for item in ds.SegmentSequence]
            names = [item.SegmentLabel for item in ds.SegmentSequence]
            colours = {tuple(item.RecommendedDisplayCIELabValue) for item in ds.SegmentSequence}
        else:
            observed = ds.RTROIObservationsSequence
            types = [item.RTROIIdentificationCodeSequence[0] for item in observed]
            names = [item.ROIName for item in ds.StructureSetROISequence]
            colours = {tuple(item.ROIDisplayColor) for item in ds.ROIContourSequence}
        said = [(one.CodeValue, one.CodingSchemeDesignator, one.CodeMeaning) for one in types]
        assert said == [("44029006", "SCT", "Left lung"), ("3341006", "SCT", "Right lung")]
        assert names == ["Left lung", "Right lung"]
        assert len(colours) == 2

    def test_what_made_it_is_said_with_its_weights(self, tmp_path, ending):
        write(tmp_path / f"m{ending}", series(tmp_path / "ct"))
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        parts = ds.get("SegmentSequence") or ds.StructureSetROISequence
        keyword = (
            "SegmentationAlgorithmIdentificationSequence"
            if ending == ".seg.dcm"
            else "ROIDerivationAlgorithmIdentificationSequence"
        )
        for part in parts:
            algorithm = part[keyword].value[0]
            assert algorithm.AlgorithmName == "lungunet lungs"
            assert algorithm.AlgorithmVersion == lungunet.__version__
            assert algorithm.AlgorithmParameters == f"weights_sha256={'ab' * 32}"

    def test_every_slice_is_referred_to(self, tmp_path, ending):
        folder = series(tmp_path / "ct")
        classes = np.zeros(HU.shape, np.uint8)
        classes[2, 5:9, 5:9] = 1  # in one slice alone
        write(tmp_path / f"m{ending}", folder, classes)
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        if ending == ".seg.dcm":
            items = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        else:
            frame = ds.ReferencedFrameOfReferenceSequence[0]
            series_ = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
            items = series_.ContourImageSequence
        assert {item.ReferencedSOPInstanceUID for item in items} == set(stored(folder))

    def test_patient_and_study_are_those_of_the_source(self, tmp_path, ending):
        tags = {"PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"}
        tags |= {"PatientBirthDate": "19600101", "StudyDate": "20260301", "PatientSex": "M"}
        folder = series(tmp_path / "ct", **tags, AccessionNumber="A17")
        write(tmp_path / f"m{ending}", folder)
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        assert str(ds.PatientName) == "Müller^Jürgen"
        assert (ds.PatientID, ds.StudyInstanceUID, ds.AccessionNumber) == ("4711", "1.2.3", "A17")
        assert (ds.PatientBirthDate, ds.PatientSex, ds.StudyDate) == ("19600101", "M", "20260301")
        assert ds.FrameOfReferenceUID == FRAME
        assert ds.SeriesInstanceUID != next(iter(stored(folder).values())).SeriesInstanceUID

    def test_an_empty_mask_is_written(self, tmp_path, ending):
        write(tmp_path / f"m{ending}", series(tmp_path / "ct"), np.zeros(HU.shape, np.uint8))
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        if ending == ".seg.dcm":
            assert not ds.pixel_array.any()
        else:
            assert not any("ContourSequence" in item for item in ds.ROIContourSequence)

    def test_values_above_eight_bits(self, tmp_path, ending):
        names = [f"nodule {number}" for number in range(1, 261)]
        classes = np.zeros(HU.shape, np.int64)
        classes[1, 10:20, 30:40], classes[2, 5:9, 7:9] = 4, 260  # which in eight bits is 4
        write(tmp_path / f"m{ending}", series(tmp_path / "ct"), classes, names=names)
        ds = pydicom.dcmread(tmp_path / f"m{ending}")
        if ending == ".seg.dcm":
            sizes = {
                frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber: plane.sum()
                for frame, plane in zip(
                    ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True
                )
            }
            assert sizes == {4: 100, 260: 8}
        else:
            drawn = [item for item in ds.ROIContourSequence if "ContourSequence" in item]
            assert [item.ReferencedROINumber for item in drawn] == [4, 260]

    def test_frames_of_one_file_are_referred_to_by_number(self, tmp_path, ending):
        path = enhanced(tmp_path / "mf.dcm", FrameOfReferenceUID=FRAME)
        volume, classes = write(tmp_path / f"m{ending}", path)
        order = [item.frame for item in volume.slices]
        assert order != sorted(order)
        if ending == ".seg.dcm":
            seg = highdicom.seg.segread(tmp_path / f"m{ending}")
            uid = volume.slices[0].instance
            numbers = [frame + 1 for frame in order]
            planes = seg.get_pixels_by_source_frame(uid, numbers, combine_segments=True)
            assert np.array_equal(planes, classes)
        else:
            ds = pydicom.dcmread(tmp_path / f"m{ending}")
            for contour in ds.ROIContourSequence[0].ContourSequence:
                frame = contour.ContourImageSequence[0].ReferencedFrameNumber - 1
                height = float(contour.ContourData[2])
                assert height == pytest.approx(volume.slices[order.index(frame)].position[2])


@pytest.mark.parametrize("ending", BOTH)
class TestRefused:
    def test_a_scan_that_was_resampled(self, tmp_path, ending):
        folder = series(tmp_path / "ct")
        for number, path in enumerate(sorted(folder.iterdir())):
            place = pydicom.dcmread(path).ImagePositionPatient
            edit(path, ImagePositionPatient=[place[0], place[1] + float(place[2]) / 5, place[2]])
            assert number < 5
        with pytest.warns(LungUNetWarning, match="Resampled"):
            volume = lungunet.read_volume(folder, resample=True)
        classes = np.zeros(volume.array.shape, np.uint8)
        with pytest.raises(GeometryError, match="not those of DICOM slices"):
            lungunet.write_segmentation(tmp_path / f"m{ending}", classes, like=volume)

    def test_a_scan_of_another_format(self, tmp_path, ending):
        volume = lungunet.read_volume(series(tmp_path / "ct"))
        lungunet.write_volume(tmp_path / "ct.nii.gz", volume.array, like=volume)
        volume = lungunet.read_volume(tmp_path / "ct.nii.gz")
        with pytest.raises(GeometryError, match="not those of DICOM slices"):
            lungunet.write_segmentation(
                tmp_path / f"m{ending}", np.zeros(HU.shape, np.uint8), like=volume
            )

    @pytest.mark.parametrize("keyword", UIDS)
    @pytest.mark.parametrize("empty", ["", None])
    def test_slices_that_an_anonymiser_emptied(self, tmp_path, ending, keyword, empty):
        folder = series(tmp_path / "ct")
        edit_all(folder, lambda number: {keyword: empty})
        refused_before_a_model(folder, ending, f"ct: its slices do not all state {keyword}, by wh")

    def test_all_that_is_missing_is_named_at_once(self, tmp_path, ending):
        folder = series(tmp_path / "ct")
        edit_all(folder, lambda number: dict.fromkeys(UIDS[: 3 + number], ""))
        refused_before_a_model(folder, ending, f"state {', '.join(UIDS)}, by which")

    def test_slices_that_share_one_uid(self, tmp_path, ending):
        folder = series(tmp_path / "ct", SOPInstanceUID="1.2.3.4.5")
        refused_before_a_model(folder, ending, "share one SOPInstanceUID")

    def test_slices_that_do_not_hold_together(self, tmp_path, ending):
        folder = series(tmp_path / "ct")
        edit_all(folder, lambda number: {"FrameOfReferenceUID": f"1.2.{number // 2 + 3}"})
        refused_before_a_model(folder, ending, "differ in FrameOfReferenceUID, and")

    def test_what_nobody_foresaw_is_said_without_values(self, tmp_path, ending, monkeypatch):
        def fail(*args):
            raise ValueError("no 'PatientName' like\n'Doe^Jane' in the world.")

        monkeypatch.setattr("lungunet.volumes.dicom_out._refuse_ambiguous", fail)
        wanted = r"\(ValueError: no 'PatientName' like '\.\.\.' in the world\)\. Export"
        refused_before_a_model(series(tmp_path / "ct"), ending, wanted)

    def test_values_without_a_name(self, tmp_path, ending):
        with pytest.raises(DataError, match="values 2 have no name among lung"):
            write(tmp_path / f"m{ending}", series(tmp_path / "ct"), names=("lung",))

    def test_no_highdicom(self, tmp_path, ending, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'lungunet\[dicom\]'"):
            write(tmp_path / f"m{ending}", series(tmp_path / "ct"))


@pytest.mark.parametrize("ending", BOTH)
def test_tags_that_are_no_values_are_left_empty_and_said_by_nobody(tmp_path, ending, caplog, capfd):
    tags = {"PatientSex": "female", "PatientBirthDate": "1960-01", "StudyTime": "noon"}
    with pydicom.config.disable_value_validation():
        folder = series(tmp_path / "ct", PatientName="Jane Doe=a=b=c=d", **tags)
    write(tmp_path / f"m{ending}", folder)
    ds = pydicom.dcmread(tmp_path / f"m{ending}")
    assert (ds.PatientSex, ds.PatientBirthDate, ds.StudyTime) == ("", "", "")
    captured = capfd.readouterr()
    assert "Doe" not in caplog.text + captured.out + captured.err


@pytest.mark.parametrize("ending", BOTH)
def test_the_lines_of_the_docs_fill_in_what_an_anonymiser_emptied(tmp_path, ending, monkeypatch):
    folder = series(tmp_path / "study")
    edit_all(folder, lambda number: dict.fromkeys(UIDS, "" if number else None))
    page = Path(__file__).parents[2] / "docs" / "howto" / "pacs.md"
    (lines,) = re.findall(r"```python\n(from pathlib.*?)```", page.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    volume, _ = write(tmp_path / f"m{ending}", tmp_path / "with-uids")
    assert np.array_equal(volume.array, lungunet.read_volume(folder).array)
    assert len(stored(tmp_path / "with-uids")) == len(HU)


@pytest.mark.parametrize("thickness", [None, ""])
def test_a_series_without_slice_thickness_has_its_spacing_in_a_seg(tmp_path, thickness):
    folder = series(tmp_path / "ct", SliceThickness=thickness)
    write(tmp_path / "m.seg.dcm", folder)
    shared = pydicom.dcmread(tmp_path / "m.seg.dcm").SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SliceThickness == SPACING[0]


def test_a_single_slice_without_thickness_has_a_seg(tmp_path):
    folder = series(tmp_path / "ct", SliceThickness=None)
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    write(tmp_path / "m.seg.dcm", folder)
    assert pydicom.dcmread(tmp_path / "m.seg.dcm").NumberOfFrames == 2
