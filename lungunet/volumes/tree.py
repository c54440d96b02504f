"""Goes through folders: links are followed, each is seen once, and none passes in silence."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lungunet.data.ct import SUFFIXES as IMAGE_SUFFIXES
from lungunet.volumes.dicom import first_bytes, is_dicom


@dataclass
class Tree:
    """What lies in a folder, at any depth; hidden files and folders do not count.

    Parameters
    ----------
    files : of each folder, in order; links to nothing among them
    unread : folders that cannot be opened, each with the reason
    """

    files: dict[Path, list[Path]] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Tree":
        """Go through a folder."""
        tree = cls()
        tree.files = dict(walk(folder, tree.unread))
        return tree

    def slice_folders(self) -> dict[Path, list[Path]]:
        """Return the folders that hold DICOM, each with all its files.

        Where there is one, also those of which nothing is left but files of nothing or zeros.
        """
        found = {where: files for where, files in self.files.items() if any(map(is_slice, files))}
        for where, files in self.files.items() if found else ():
            lost = [file for file in files if _is_lost(file)]
            if lost and where not in found:
                found[where] = lost
        return {where: found[where] for where in self.files if where in found}


def walk(folder: Path, unread: dict[Path, str]) -> Iterator[tuple[Path, list[Path]]]:
    """Yield folders with their files; where links make a loop, or meet, each is visited once."""
    seen: set[tuple[int, int]] = set()

    def is_new(path: Path) -> bool:
        state = path.stat()
        known = (state.st_dev, state.st_ino) in seen
        seen.add((state.st_dev, state.st_ino))
        return not known

    def keep(err: OSError) -> None:
        unread[Path(err.filename)] = str(err.strerror)

    is_new(folder)
    for where, below, names in os.walk(folder, followlinks=True, onerror=keep):
        visible = [name for name in sorted(below) if not name.startswith(".")]
        below[:] = [name for name in visible if is_new(Path(where, name))]
        paths = [Path(where, name) for name in sorted(names) if not name.startswith(".")]
        yield Path(where), [path for path in paths if path.is_file() or is_dead_link(path)]


def is_slice(path: Path) -> bool:
    """Whether a file is DICOM; images are not opened, for there may be thousands."""
    return path.suffix.lower() not in IMAGE_SUFFIXES and is_dicom(path)


def is_dead_link(path: Path) -> bool:
    """Whether a path is a link to what is not there."""
    return path.is_symlink() and not path.exists()


def _is_lost(path: Path) -> bool:
    """Whether a file may have been a slice, and is empty or zeros."""
    if any(letter.isalpha() for letter in path.suffix):
        return False
    try:
        return not first_bytes(path).strip(b"\0")
    except OSError:
        return True
