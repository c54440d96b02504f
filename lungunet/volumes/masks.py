"""Masks of scans with what their values mean: formats by their endings, and the table beside.

Which ending a format has stands here alone; voxels and DICOM are written elsewhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lungunet.data.files import write_text
from lungunet.errors import ConfigError, DataError, listed
from lungunet.volumes.archive import slices_at_hand
from lungunet.volumes.formats import format_of, written_suffix
from lungunet.volumes.itk import write_values
from lungunet.volumes.labels import Label, labels_of
from lungunet.volumes.nrrd import read_nrrd_pairs
from lungunet.volumes.scan import Scan
from lungunet.volumes.volume import Volume, refuse_other_shape, write_volume

MaskFormat = Literal["auto", "nifti", "nrrd", "dicom-seg", "rtstruct"]
"""Formats of masks; auto is that of the scan where it can be, and NIfTI of DICOM."""

_ENDINGS: dict[str, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".seg.nrrd",
    "dicom-seg": ".seg.dcm",
    "rtstruct": ".rtstruct.dcm",
}
_SEG, _RTSTRUCT, _NRRD = _ENDINGS["dicom-seg"], _ENDINGS["rtstruct"], _ENDINGS["nrrd"]
_NRRDS = (".nrrd", ".nhdr")


def mask_suffix(scan: str | Path, format: MaskFormat = "auto") -> str:
    """Return the ending of the mask of a scan.

    Raises
    ------
    ConfigError
        When there is no such format.
    """
    if format not in get_args(MaskFormat):
        raise ConfigError(
            f"not one of {', '.join(get_args(MaskFormat))}. Choose one.", where=f"format '{format}'"
        )
    return _ENDINGS.get(format) or written_suffix(scan)


def holds_names(path: Path) -> bool:
    """Whether a mask of this ending says itself what its values mean."""
    return path.name.lower().endswith((_SEG, _RTSTRUCT, _NRRD))


def is_dicom(format: MaskFormat) -> bool:
    """Whether masks of this format refer to slices of DICOM, and name the patient."""
    return _ENDINGS.get(format) in (_SEG, _RTSTRUCT)


def refuse_others(scans: Iterable[Scan], format: MaskFormat) -> None:
    """Stop before any work where masks in DICOM are asked for of what is no DICOM series."""
    if not is_dicom(format):
        return
    known = (scan for scan in scans if not (scan.slices or scan.error or scan.remote))
    others = [str(scan) for scan in known if not format_of(scan.path).deep]
    if others:
        raise ConfigError(
            f"no series of DICOM slices, so no mask in DICOM ({format}) can refer to it. Leave "
            "format='auto'.",
            where=listed(others, separator=", "),
        )


@contextmanager
def referable(scan: Scan, format: MaskFormat) -> Iterator[Scan]:
    """Yield a scan whose slices such a mask can refer to; a zip is unpacked for so long."""
    is_packed = not (scan.slices or scan.error or scan.remote) and format_of(scan.path).deep
    with slices_at_hand(scan) if is_packed and is_dicom(format) else nullcontext(scan) as here:
        yield here


def refuse_unreferable(volume: Volume, format: MaskFormat) -> None:
    """Stop before a model is asked where no mask of this format can be written of a scan."""
    if is_dicom(format):
        from lungunet.volumes import dicom_out

        dicom_out.refuse_unreferable(volume)


def write_segmentation(
    path: str | Path,
    classes: np.ndarray,
    *,
    like: Volume,
    names: Sequence[str] = ("lung",),
    model: str = "lungunet",
    weights_sha256: str = "",
) -> None:
    """Write a mask with what its values mean, on the grid of a scan.

    In DICOM it names patient and study, as the standard demands, and every slice of the scan.

    Parameters
    ----------
    path : ends with .seg.dcm (DICOM Segmentation, a segment for each value), .rtstruct.dcm (DICOM
        RT Structure Set, outlines of each value), .seg.nrrd (names and colours as 3D Slicer reads
        them), or as :func:`write_volume` takes it; that holds no names, see :func:`write_labels`
    classes : (D, H, W) of any integer dtype or bool, in the order of ``like.array``
    like : the scan; for DICOM read from slices of DICOM, and not resampled
    names : of the values 1, 2, ...; "lung", "left lung", "right lung", lobes and "trachea" have
        codes of SNOMED CT and colours of their own
    model, weights_sha256 : what made the mask, for DICOM

    Raises
    ------
    GeometryError
        When the array is not of the scan's shape, or DICOM cannot refer to the scan.
    DataError
        When a value has no name, the slices lack what DICOM demands, or the file cannot be written.
    MissingExtraError
        When highdicom is not installed, for DICOM.
    """
    path, labels = Path(path), labels_of(names)
    refuse_other_shape(classes, like, path)
    values = np.unique(classes).tolist()
    nameless = sorted(set(values) - {0, *(label.value for label in labels)})
    if nameless:
        raise DataError(
            f"values {listed([str(value) for value in nameless], separator=', ')} have no name "
            f"among {', '.join(names)}. Pass one for each value from 1 on.",
            where=path,
        )
    # The narrowest that holds them: not every format keeps what numpy counts in.
    dtypes = (np.uint8, np.int16, np.int32)
    dtype = next(each for each in dtypes if max(values) <= np.iinfo(each).max)
    classes = classes.astype(dtype, copy=False)
    ending = path.name.lower()
    if ending.endswith((_SEG, _RTSTRUCT)):
        from lungunet.volumes.dicom_out import Maker, write_rtstruct, write_seg

        write = write_seg if ending.endswith(_SEG) else write_rtstruct
        write(path, classes, like=like, labels=labels, maker=Maker(model, weights_sha256))
    elif ending.endswith(_NRRD):
        facts = _slicer_fields(labels, like.grid.size)
        write_values(path, like.grid.to_file(classes), like.grid, facts=facts)
    else:
        write_volume(path, classes, like=like)


def rewrite_mask(path: Path, array: np.ndarray, *, like: Volume) -> None:
    """Write a mask anew with other values, as :func:`write_volume`.

    From NRRD to NRRD it keeps what the header says of the values: names and colours of segments,
    each of which may reach anywhere now.

    Parameters
    ----------
    array : (D, H, W) uint8, int16 or float32, in the order of ``like.array``
    like : the mask as it was read; its file is still there
    """
    if not all(file.name.lower().endswith(_NRRDS) for file in (path, like.path)):
        write_volume(path, array, like=like)
        return
    facts = read_nrrd_pairs(like.path)
    everywhere = _extent(like.grid.size)
    facts |= {name: everywhere for name in facts if re.fullmatch(r"Segment\d+_Extent", name)}
    write_values(path, like.grid.to_file(array), like.grid, facts=facts)


def write_labels(path: str | Path, names: Sequence[str]) -> None:
    """Write what the values of masks mean, for formats that do not hold it: NIfTI and MetaImage.

    A table of ITK-SNAP (Segmentation, Import Label Descriptions), which people can read too.

    Parameters
    ----------
    names : of the values 1, 2, ...
    """
    rows = ["# What the values of these masks mean: value, red, green, blue, opacity, seen, name"]
    rows.append('    0     0    0    0        0  0  0    "background"')
    for label in labels_of(names):
        red, green, blue = label.colour
        name = label.name.replace('"', "'")
        rows.append(f'{label.value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"')
    write_text(path, "\n".join(rows) + "\n")


def _slicer_fields(labels: Sequence[Label], size: Sequence[int]) -> dict[str, str]:
    """Return the fields by which 3D Slicer knows a segmentation."""
    fields = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, label in enumerate(labels):
        own = {
            "ID": f"Segment_{label.value}",
            "Name": label.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{part / 255:.6g}" for part in label.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": _extent(size),
            "Tags": _slicer_terms(label),
        }
        fields |= {f"Segment{index}_{name}": value for name, value in own.items()}
    return fields


def _extent(size: Sequence[int]) -> str:
    """Return from where to where a segment may reach: anywhere."""
    return " ".join(f"0 {side - 1}" for side in size)


def _slicer_terms(label: Label) -> str:
    if not label.code:
        return ""
    return (
        "TerminologyEntry:Segmentation category and type - DICOM master list"
        f"~SCT^91723000^Anatomical Structure~SCT^{label.code}^{label.meaning}~^^"
        "~Anatomic codes - DICOM master list~^^~^^|"
    )
