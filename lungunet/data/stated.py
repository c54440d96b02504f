"""What NRRD and MetaImage headers leave out and SimpleITK fills in: 1 mm, and an orientation.

Reads the text of the header alone, which is a file of its own in .nhdr and .mhd.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from lungunet.data.volume_files import volume_suffix
from lungunet.errors import GeometryError

_SPACES = (
    *("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"),
    *("ras", "las", "lps"),
)
"""Of NRRD's spaces those that name sides of the patient and not of a scanner or a room."""


def check_stated(path: Path) -> None:
    """Refuse an NRRD or MetaImage file that does not say where its voxels lie; pass others.

    A MetaImage without a TransformMatrix is read as axial, from the patient's right to the left,
    from front to back, from feet to head: the format defines the identity as what is meant where
    nothing is said, and many programs leave it out. NRRD defines no such thing.

    Raises
    ------
    GeometryError
        When no spacing is stated, or of an NRRD no patient's orientation.
    """
    suffix = volume_suffix(path)
    if suffix in (".mha", ".mhd"):
        names = {name for name, _ in _fields(path, "=:", last="ElementDataFile")}
        if not names & {"ElementSpacing", "ElementSize"}:
            raise GeometryError(_no_spacing(path, "ElementSpacing"))
    elif suffix in (".nrrd", ".nhdr"):
        fields = {name.lower(): value.lower() for name, value in _fields(path, ":", last="")}
        if "space directions" not in fields and "spacings" not in fields:
            raise GeometryError(_no_spacing(path, "space directions"))
        space = fields.get("space", "")
        if space not in _SPACES:  # with one, SimpleITK insists on directions
            said = f"space '{space}'" if space else "no 'space'"
            raise GeometryError(
                f"{path}: states no orientation ({said}), so left and right, front and back are a "
                "guess. Export it again from the DICOM series."
            )


def _no_spacing(path: Path, field: str) -> str:
    return (
        f"{path}: states no spacing (no '{field}'), so all sizes are a guess. "
        "Export it again from the DICOM series."
    )


def _fields(path: Path, separators: str, *, last: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of the header's fields, up to the name before the voxels."""
    with path.open("rb") as file:
        for line in file:
            name, *value = re.split(f"[{separators}]", line.decode("latin-1"), maxsplit=1)
            if name.strip() == last:
                return
            yield name.strip(), "".join(value).strip()
