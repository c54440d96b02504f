"""Masks as DICOM, SEG and RTSTRUCT: the one place where tags of the patient are written.

The only door to highdicom, and to what pydicom writes. What names patient and study is copied from
the headers of the series, and goes nowhere but into such a file.
"""

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import dist
from pathlib import Path
from typing import Any

import numpy as np

from lungunet._version import __version__
from lungunet.data.files import write_bytes
from lungunet.errors import DataError, GeometryError, MissingExtraError
from lungunet.process_wide import muted_logger
from lungunet.volumes.contours import outline
from lungunet.volumes.dicom import HEADER_TAGS, Slice, reading_headers
from lungunet.volumes.labels import Label
from lungunet.volumes.volume import Volume

_MAKER = "lungunet"
_RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # of references to a study
_SERIES_NUMBERS = {"SEG": 9001, "RTSTRUCT": 9002}  # behind those of scanners
_OF_ALL = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID")
_NEEDED = (*_OF_ALL, "SOPInstanceUID")
_DATES, _TIMES, _SEXES = ("PatientBirthDate", "StudyDate"), ("StudyTime",), ("M", "F", "O")
_RULES = ("threshold",)
_MOST_LETTERS = 64  # of what DICOM calls a long string


@dataclass(frozen=True)
class Maker:
    """What made a mask.

    Parameters
    ----------
    name : of the model
    weights_sha256 : hash of its weights; empty of a rule
    """

    name: str
    weights_sha256: str = ""

    @property
    def parameters(self) -> dict[str, str] | None:
        """What tells it from others of its name."""
        return {"weights_sha256": self.weights_sha256} if self.weights_sha256 else None


def write_seg(
    path: Path, classes: np.ndarray, *, like: Volume, labels: Sequence[Label], maker: Maker
) -> None:
    """Write a mask as DICOM Segmentation: a segment for each label.

    Parameters
    ----------
    classes : (D, H, W) integer, in the order of ``like.array``
    like : the scan, of slices that it was not resampled from

    Raises
    ------
    GeometryError
        When the scan is no series of DICOM, or its voxels are not those of the slices.
    DataError
        When the slices lack what DICOM demands, or the file cannot be written.
    MissingExtraError
        When highdicom is not installed.
    """
    with _carrying(like) as (hd, headers):
        made = hd.seg.Segmentation(
            source_images=list(headers.values()),
            pixel_array=_frames(like, classes).astype(np.min_scalar_type(len(labels))),
            segmentation_type="BINARY",
            segment_descriptions=[_segment(label, maker, hd) for label in labels],
            content_label="LUNGS",
            content_description="Lungs",
            **_identity("SEG", maker, hd),
        )
        _save(made, path)


def write_rtstruct(
    path: Path, classes: np.ndarray, *, like: Volume, labels: Sequence[Label], maker: Maker
) -> None:
    """Write a mask as DICOM RT Structure Set: outlines slice by slice, a region for each label.

    See :func:`write_seg`.
    """
    with _carrying(like) as (hd, headers):
        first = next(iter(headers.values()))
        made = hd.SOPClass(
            sop_class_uid=_RTSTRUCT,
            modality="RTSTRUCT",
            study_instance_uid=first.StudyInstanceUID,
            **{name: first.get(keyword) for name, keyword in _COPIED.items()},
            **_identity("RTSTRUCT", maker, hd),
        )
        made.copy_patient_and_study_information(first)
        _fill_structures(made, classes, like=like, labels=labels, maker=maker, hd=hd, first=first)
        _save(made, path)


_COPIED = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "referring_physician_name": "ReferringPhysicianName",
}


def refuse_unreferable(volume: Volume) -> None:
    """Refuse a scan that a mask in DICOM cannot refer to: before a model is asked."""
    with _carrying(volume):
        pass


@contextmanager
def _carrying(like: Volume) -> Iterator[tuple[Any, dict[Path, Any]]]:
    """Yield highdicom and the headers of a series; no value of a tag gets into a message."""
    if not like.slices:
        raise GeometryError(
            "its voxels are not those of DICOM slices (another format, a zip, or resampled), which "
            "a mask in DICOM would have to name. Write NIfTI.",
            where=like.path,
        )
    hd = _highdicom()
    try:
        # Its log says what it thinks of names, and says them.
        with muted_logger("highdicom", logging.CRITICAL), reading_headers():
            yield hd, _headers(like.slices, like.path)
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise DataError(
            "the headers of its slices are not as DICOM demands, so no mask in DICOM can refer to "
            f"them ({_without_values(err)}). Export the series again, or write NIfTI.",
            where=like.path,
        ) from None


def _headers(slices: Sequence[Slice], where: Path) -> dict[Path, Any]:
    """Read what a mask says of its patient and study, by file; what is no value is left empty."""
    from pydicom import dcmread

    apart = f"{dist(slices[0].position, slices[1].position):.6g}" if len(slices) > 1 else ""
    headers = {}
    for path in dict.fromkeys(item.path for item in slices):
        header = dcmread(path, stop_before_pixels=True, force=True)
        if not header.get("SliceThickness"):
            header.SliceThickness = apart  # a voxel reaches to the next slice
        for keyword in _COPIED.values():
            if keyword not in header or not _is_sound(keyword, str(header[keyword].value)):
                setattr(header, keyword, "")
        headers[path] = header
    _refuse_ambiguous(list(headers.values()), where)
    if len(headers) > 1 and len(headers) < len(slices):
        raise DataError(
            "lies in several files of many frames, to which masks in DICOM cannot refer here. "
            "Write NIfTI.",
            where=where,
        )
    return headers


def _refuse_ambiguous(headers: Sequence[Any], where: Path) -> None:
    """Refuse slices that UIDs do not tell apart, or do not hold together."""
    missing = [keyword for keyword in _NEEDED if not all(ds.get(keyword) for ds in headers)]
    if missing:
        raise DataError(
            f"its slices do not all state {', '.join(missing)}, by which a mask in DICOM refers to "
            "them; some anonymisers empty these. Export the series again with them; or fill them "
            "in with pydicom: CTImageStorage for SOPClassUID, a generate_uid() for SOPInstanceUID "
            "in each slice, and for each of the others one that all slices share. Or write NIfTI.",
            where=where,
        )
    if len({ds.SOPInstanceUID for ds in headers}) < len(headers):
        raise DataError(
            "several of its slices share one SOPInstanceUID, so a mask in DICOM cannot say which "
            "it means. Export the series again; or give each slice its own with pydicom's "
            "generate_uid(). Or write NIfTI.",
            where=where,
        )
    mixed = [keyword for keyword in _OF_ALL if len({ds.get(keyword) for ds in headers}) > 1]
    if mixed:
        raise DataError(
            f"its slices differ in {', '.join(mixed)}, and a mask in DICOM refers to one. Export "
            "the series again, or write NIfTI.",
            where=where,
        )


def _without_values(err: Exception) -> str:
    """Say what went wrong in a line; what stands in quotes may be of a patient, but keywords."""
    from pydicom.datadict import tag_for_keyword

    def shown(quoted: re.Match[str]) -> str:
        return quoted[0] if tag_for_keyword(quoted[2]) else "'...'"

    line = re.sub(r"""(['"])(.*?)\1""", shown, " ".join(str(err).split())).rstrip(".")
    return f"{type(err).__name__}: {line}" if line else type(err).__name__


def _is_sound(keyword: str, text: str) -> bool:
    if keyword == "PatientSex":
        return text in _SEXES
    kind = {"Date": r"\d{8}", "Time": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"}.get(keyword[-4:], ".*")
    return re.fullmatch(kind, text.strip(), re.DOTALL) is not None


def _identity(modality: str, maker: Maker, hd: Any) -> dict[str, Any]:
    """Return what says which object this is, and what made it."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": _SERIES_NUMBERS[modality],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": _MAKER,
        "manufacturer_model_name": maker.name[:_MOST_LETTERS],
        "software_versions": __version__,
        "device_serial_number": maker.weights_sha256 or maker.name[:_MOST_LETTERS],
    }


def _frames(like: Volume, classes: np.ndarray) -> np.ndarray:
    """Return the mask plane by plane, as the slices lie in their files."""
    planes = like.grid.to_file(classes)
    if like.slices[0].path == like.slices[-1].path:  # frames of one file
        planes = planes[np.argsort([item.frame for item in like.slices])]
    return planes


def _segment(label: Label, maker: Maker, hd: Any) -> Any:
    return hd.seg.SegmentDescription(
        segment_number=label.value,
        segment_label=_shown(label)[:_MOST_LETTERS],
        segmented_property_category=_category(label, hd),
        segmented_property_type=_code(label, hd),
        algorithm_type="AUTOMATIC",
        algorithm_identification=_algorithm(maker, hd),
        display_color=hd.color.CIELabColor.from_rgb(*label.colour),
    )


def _shown(label: Label) -> str:
    """Return the name as people read it, which a code may share with another label."""
    return label.name[:1].upper() + label.name[1:]


def _algorithm(maker: Maker, hd: Any) -> Any:
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=f"{_MAKER} {maker.name}"[:_MOST_LETTERS],
        family=(
            codes.DCM.ArtificialIntelligence
            if maker.name not in _RULES
            else codes.DCM.MorphologicalOperations
        ),
        version=__version__,
        source=_MAKER,
        parameters=maker.parameters,
    )


def _category(label: Label, hd: Any) -> Any:
    code = ("91723000", "Anatomical Structure") if label.code else ("123037004", "Body structure")
    return hd.sr.CodedConcept(code[0], "SCT", code[1])


def _code(label: Label, hd: Any) -> Any:
    """Return the code of a label; of a name that we do not know one of our own."""
    if label.code:
        return hd.sr.CodedConcept(label.code, "SCT", label.meaning)
    own = sha256(label.name.encode()).hexdigest()[:12]
    return hd.sr.CodedConcept(own, "99LUNGUNET", label.name[:_MOST_LETTERS])


def _fill_structures(
    made: Any,
    classes: np.ndarray,
    *,
    like: Volume,
    labels: Sequence[Label],
    maker: Maker,
    hd: Any,
    first: Any,
) -> None:
    """Add what an RT Structure Set holds beside patient, study and series."""
    framed = like.slices[0].path == like.slices[-1].path and "NumberOfFrames" in first
    images = [_image(item, first.SOPClassUID, framed) for item in like.slices]
    made.OperatorsName = ""
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    made.StructureSetLabel, made.ApprovalStatus = "LUNGS", "UNAPPROVED"
    made.StructureSetDate, made.StructureSetTime = (
        made.InstanceCreationDate,
        made.InstanceCreationTime,
    )
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    made.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    made.StructureSetROISequence = [
        _item(
            ROINumber=label.value,
            ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            ROIName=_shown(label)[:_MOST_LETTERS],
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIDerivationAlgorithmIdentificationSequence=_algorithm(maker, hd),
        )
        for label in labels
    ]
    planes = like.grid.to_file(classes)
    made.ROIContourSequence = [
        _item(
            ReferencedROINumber=label.value,
            ROIDisplayColor=list(label.colour),
            **_contours(planes == label.value, like.slices, images),
        )
        for label in labels
    ]
    made.RTROIObservationsSequence = [
        _item(
            ObservationNumber=label.value,
            ReferencedROINumber=label.value,
            RTROIIdentificationCodeSequence=[_code(label, hd)],
            RTROIInterpretedType="ORGAN",
            ROIInterpreter="",
        )
        for label in labels
    ]


def _contours(
    planes: np.ndarray, slices: Sequence[Slice], images: Sequence[Any]
) -> dict[str, list[Any]]:
    """Return the outlines of one label, each with the slice that it lies in; none of nothing."""
    contours = []
    for plane, item, image in zip(planes, slices, images, strict=True):
        for corners in outline(plane):
            steps = np.reshape(item.axes, (2, 3)) * np.reshape(item.spacing, (2, 1))
            places = corners @ steps + item.position
            contours.append(
                _item(
                    ContourImageSequence=[image],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(places),
                    ContourData=[f"{mm:.4f}" for mm in places.ravel()],
                )
            )
    return {"ContourSequence": contours} if contours else {}


def _image(item: Slice, kind: str, framed: bool) -> Any:
    """Refer to a slice."""
    image = _item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=item.instance)
    if framed:
        image.ReferencedFrameNumber = item.frame + 1
    return image


def _item(**elements: Any) -> Any:
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _save(made: Any, path: Path) -> None:
    made.SeriesDescription = "Lungs"
    made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: whatever names the source held
    content = io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    write_bytes(path, content.getvalue())


def write_header(path: Path, elements: Mapping[str, Any]) -> None:
    """Write what is looked at in a header that came as DICOM JSON, as a file without pixels."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    wanted = {f"{tag:08X}" for tag in HEADER_TAGS}
    with reading_headers():
        header = Dataset.from_json({tag: elements[tag] for tag in wanted & set(elements)})
        header.SpecificCharacterSet = "ISO_IR 192"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.preamble = bytes(128)
        header.save_as(path)


def save_as_sent(sent: Any, path: Path) -> None:
    """Write what a server sent, as it sent it."""
    try:
        with reading_headers():
            sent.save_as(path)
    except OSError as err:
        raise DataError(
            f"cannot be written ({err.strerror}). Make room, or let TMPDIR name another folder.",
            where=path,
        ) from err


def read_whole(path: Path) -> Any:
    """Read a file that was written here, to send it."""
    from pydicom import dcmread

    return dcmread(path)


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as err:
        raise MissingExtraError(
            "highdicom is not installed. pip install 'lungunet[dicom]'", where="dicom"
        ) from err
    return highdicom
