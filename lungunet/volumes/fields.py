"""Headers that are lines of text, as NRRD and MetaImage have them: fields by name, each once.

Not read through SimpleITK: a wrong number in such a header ends the whole process in its reader of
MetaImage, and voxels that are missing there come back as whatever memory held. What a header leaves
open is refused here, not guessed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungunet.errors import DataError, GeometryError
from lungunet.volumes.signatures import refuse_foreign

_MOST_HEADER_BYTES = 1 << 20
_NUMBER_BREAKS = re.compile(r"[\s,()]+")


@dataclass(frozen=True)
class Fields:
    """The fields of a header by name, and the byte at which it ends."""

    path: Path
    values: dict[str, str]
    end: int

    def __contains__(self, name: str) -> bool:
        """Whether the header has a field."""
        return name in self.values

    def text(self, name: str, default: str | None = None) -> str:
        """Return the value of a field; without a default it must be there."""
        value = self.values.get(name, default)
        if value is None:
            raise DataError(f"its header has no '{name}'. Export it again.", where=self.path)
        return value

    def numbers(self, name: str, count: int) -> list[float]:
        """Return the numbers of a field, of which there must be so many."""
        return self.parse(name, self.text(name), count)

    def parse(self, name: str, text: str, count: int) -> list[float]:
        """Return the numbers in a part of a field."""
        try:
            numbers = [float(word) for word in _NUMBER_BREAKS.split(text.strip(" ()"))]
        except ValueError:
            numbers = []
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise self.wrong(name)
        return numbers

    def sizes(self, name: str, count: str) -> list[int]:
        """Return how many voxels there are along each axis; ``count`` says of how many axes."""
        words = self.text(name).split()
        if [self.text(count)] != [str(len(words))] or not all(map(_is_size, words)):
            raise DataError(
                f"contradicts itself: '{count}' is {self.text(count)[:20]}, '{name}' "
                f"{self.text(name)[:60]}. Export it again.",
                where=self.path,
            )
        return [int(word) for word in words]

    def choice(self, name: str, choices: Mapping[str, str], default: str | None = None) -> str:
        """Return what the word in a field stands for."""
        word = self.text(name, default)
        if word not in choices:
            raise self.wrong(name)
        return choices[word]

    def wrong(self, name: str) -> DataError:
        """Return an error about the value of a field."""
        return DataError(
            f"'{name}' is '{self.text(name)[:60]}' in its header, which cannot be. "
            "Export it again.",
            where=self.path,
        )

    def beside(self, name: str) -> Path:
        """Return the file of voxels that a field names."""
        voxels = self.path.parent / self.text(name)
        try:
            there = voxels.is_file()
        except (OSError, ValueError):  # no name at all
            there = False
        if not there:
            raise DataError(
                f"its voxels, {self.text(name)[:200]}, are missing. Copy both files.",
                where=self.path,
            )
        return voxels


def add_field(values: dict[str, str], name: str, value: str, path: Path) -> None:
    """Add a field; which one counts where there are two, programs do not agree on."""
    if values.setdefault(name, value) != value:
        raise DataError(f"states '{name[:60]}' twice. Keep the right one.", where=path)


def read_lines(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the lines of a header, and the byte at which each ends."""
    try:
        with path.open("rb") as file:
            for line in iter(lambda: file.readline(_MOST_HEADER_BYTES), b""):
                if not line.endswith(b"\n") or file.tell() > _MOST_HEADER_BYTES:
                    return
                yield line.decode("latin-1").rstrip("\r\n"), file.tell()
    except FileNotFoundError as err:
        raise DataError("no such file. Check the path.", where=path) from err
    except OSError as err:
        raise DataError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err


def unreadable(path: Path, kind: str) -> DataError:
    """Return the error about a file that does not even begin as one of its kind.

    Raises it itself where it can be said what the file is instead.
    """
    refuse_foreign(path)
    return DataError(
        f"not a readable volume: damaged, truncated, or no {kind}. Copy or export it again.",
        where=path,
    )


def no_spacing(path: Path, field: str) -> GeometryError:
    """Return the error about a file without spacing."""
    return GeometryError(
        f"states no spacing (no '{field}'), so all sizes are a guess. "
        "Export it again from the DICOM series.",
        where=path,
    )


def refuse_other_axes(sizes: list[int], values: int, path: Path) -> None:
    """Refuse what is no volume with one value in each voxel."""
    if values != 1:
        raise DataError(
            f"{values} values in each voxel, a CT volume has one. Convert it.", where=path
        )
    if len(sizes) != 3:
        raise DataError(
            f"{len(sizes)} axes ({'x'.join(map(str, sizes))}), a volume has "
            "three. Save each time point, or the slice as an image, in a file of its own.",
            where=path,
        )


def _is_size(word: str) -> bool:
    return word.isascii() and word.isdigit() and 0 < len(word) < 12 and int(word) > 0
