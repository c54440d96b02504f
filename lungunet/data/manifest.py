"""Pairs of image and mask, and the text files that list them.

Owns file names and lists; reads headers, never pixels. Knows nothing of splits.
"""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lungunet.data.ct import SUFFIXES, read_header
from lungunet.data.files import write_text
from lungunet.errors import DataError, GeometryError, counted, listed

# Lone surrogates are how Python spells bytes of a file name that are not UTF-8.
_UNLISTABLE = re.compile(r"[\t\n\r\ud800-\udfff]|\A\s|\s\Z")


@dataclass(frozen=True)
class Pair:
    """One image and the mask drawn on it; the mask is None where there is only an image."""

    image: Path
    mask: Path | None = None

    def __post_init__(self) -> None:
        """Take text as paths too."""
        object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "mask", None if self.mask is None else Path(self.mask))

    @property
    def name(self) -> str:
        """The file stem: what tables and messages call this pair."""
        return self.image.stem

    def require_mask(self) -> Path:
        """Return the mask, where there must be one.

        Raises
        ------
        DataError
            When there is only an image.
        """
        if self.mask is None:
            raise DataError("no mask to compare with.", where=self.image)
        return self.mask


def find_images(folder: str | Path) -> list[Path]:
    """List the image files of a folder (not of its subfolders), sorted by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder. Check the path.", where=folder)
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise DataError(f"holds no image ({', '.join(SUFFIXES)}). Check the path.", where=folder)
    return found


def list_images(source: str | Path) -> list[Path]:
    """List the images that a person means by a file, a folder, a glob or a manifest (.txt)."""
    path = Path(source)
    if path.is_dir():
        return find_images(path)
    if path.suffix.lower() == ".txt":
        found = list_named(path)
        if not found:
            raise DataError("names no image. Give a list that does.", where=path)
        return found
    if path.exists() or not glob.has_magic(str(source)):
        return [path]
    # glob.glob takes absolute patterns, Path.glob does not.
    found = sorted(Path(name) for name in glob.glob(str(source), recursive=True))  # noqa: PTH207
    found = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError("no image matches. Check the pattern; quote it in the shell.", where=source)
    return found


def find_pairs(images: str | Path, masks: str | Path) -> list[Pair]:
    """Pair the images of one folder with the masks of another by file stem.

    Parameters
    ----------
    images, masks : folders; extensions may differ, ``a.tif`` pairs with ``a.png``

    Returns
    -------
    list of Pair
        Sorted by stem.

    Raises
    ------
    DataError
        One error that lists every unpaired, ambiguous, unreadable or mis-sized file.
    """
    named = ([(path.stem, path) for path in find_images(folder)] for folder in (images, masks))
    pairs, problems = pair_by_name(*named)
    for pair in pairs:
        problems += _header_problems(pair)
    if problems:
        raise DataError(
            f"{images} and {masks} do not pair up, "
            f"{counted(len(problems), 'problem')}:\n  {listed(problems)}\n"
            "Rename, re-export or remove them; nothing was written."
        )
    return pairs


def pair_by_name(
    images: Iterable[tuple[str, Path]], masks: Iterable[tuple[str, Path]]
) -> tuple[list[Pair], list[str]]:
    """Pair files that have one name, given as (name, path).

    Returns pairs, sorted by name, and in words what has no partner, or too many.
    """
    by_stem: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for side, named in enumerate((images, masks)):
        for name, path in named:
            by_stem[name][side].append(path)
    problems: list[str] = []
    pairs: list[Pair] = []
    for stem, (image_files, mask_files) in sorted(by_stem.items()):
        if len(image_files) == 1 and len(mask_files) == 1:
            pairs.append(Pair(image_files[0], mask_files[0]))
            continue
        problems += [f"{path}: no mask of that stem" for path in image_files if not mask_files]
        problems += [f"{path}: no image of that stem" for path in mask_files if not image_files]
        for files in (image_files, mask_files):
            if len(files) > 1:
                problems.append(f"{stem}: {' and '.join(str(path) for path in files)} share a stem")
    return pairs, problems


def _header_problems(pair: Pair) -> list[str]:
    try:
        image, mask = read_header(pair.image), read_header(pair.mask or pair.image)
    except DataError as err:
        return [str(err)]
    if (image.height, image.width) != (mask.height, mask.width):
        return [
            f"{pair.name}: mask is {mask.height}x{mask.width}, "
            f"image is {image.height}x{image.width}"
        ]
    return []


def require_same_size(image: tuple[int, ...], mask: tuple[int, ...], where: str) -> None:
    """Refuse a mask of another shape than its image."""
    if mask != image:
        sizes = ["x".join(map(str, shape)) for shape in (mask, image)]
        raise GeometryError(
            f"mask is {sizes[0]}, image is {sizes[1]}. "
            "A mask must be drawn on the image it labels: re-export it, or drop the pair.",
            where=where,
        )


def write_manifest(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write one line ``image<TAB>mask`` per pair, sorted, atomically.

    Paths are POSIX and relative to the manifest's folder, so the folder can move with its data.

    Raises
    ------
    DataError
        When a path cannot stand in a list: it holds a tab or a line break, begins or ends with a
        blank, or is not UTF-8.
    """
    path = Path(path)
    write_text(path, render_manifest(path.parent, pairs))


def render_manifest(folder: Path, pairs: Iterable[Pair]) -> str:
    """Return the text of a manifest that lies in ``folder``; see :func:`write_manifest`."""
    lines = []
    for pair in pairs:
        fields = [_relative(file, folder) for file in (pair.image, pair.mask) if file]
        for text in fields:
            if _UNLISTABLE.search(text):
                raise DataError(
                    f"{text!r}: a tab, a line break, a blank at either end or a byte that is not "
                    "UTF-8 cannot stand in a list of paths. Rename it."
                )
        lines.append("\t".join(fields) + "\n")
    return "".join(sorted(lines))


def _relative(file: Path, folder: Path) -> str:
    # Links to folders are followed, for ".." to mean the same; a link to a file keeps its own name.
    file = file.parent.resolve() / file.name
    try:
        return Path(os.path.relpath(file, folder.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return file.as_posix()


def list_named(path: str | Path) -> list[Path]:
    """Return the images that a list names, there or not; masks beside them do not matter."""
    path = Path(path)
    images = []
    for number, fields in _read_fields(path):
        if len(fields) > 2 or not fields[0]:
            raise DataError(
                f"{counted(len(fields), 'column')}, the first is "
                f"'{fields[0]}'. Write an image, or image, one tab, mask.",
                where=f"{path}, line {number}",
            )
        images.append(_locate(fields[0], path.parent) or path.parent / fields[0])
    return images


def read_manifest(path: str | Path) -> list[Pair]:
    """Read a list of pairs.

    Parameters
    ----------
    path : UTF-8 text, one ``image<TAB>mask`` per line. Both kinds of slashes and line ends, a BOM
        and blank lines are read; relative paths are taken from the file's folder, then from the
        current one.

    Raises
    ------
    DataError
        When a line has another number of columns, or names a missing or repeated file: says which
        line.
    """
    path = Path(path)
    pairs: list[Pair] = []
    seen: dict[Path, int] = {}
    missing: list[str] = []
    for number, fields in _read_fields(path):
        if len(fields) != 2:
            raise DataError(
                f"{counted(len(fields), 'column')}. Write image, one tab, mask; nothing else.",
                where=f"{path}, line {number}",
            )
        files = [_locate(text, path.parent) for text in fields]
        missing += [
            f"line {number}: {text or 'an empty column'}"
            for text, file in zip(fields, files, strict=True)
            if file is None
        ]
        if None in files:
            continue
        pair = Pair(*(file for file in files if file))
        first = seen.setdefault(pair.image.resolve(), number)
        if first != number:
            raise DataError(
                f"{pair.image} stands in line {first} already. Remove one of the lines.",
                where=f"{path}, line {number}",
            )
        pairs.append(pair)
    if missing:
        raise DataError(
            f"{counted(len(missing), 'file')} missing:\n  {listed(missing)}\n"
            f"Paths are taken from {path.parent}, then from the current folder. Mend the paths, "
            "put the files there, or run 'lungunet split' again.",
            where=path,
        )
    return pairs


def _read_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the columns of each line that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as err:
        raise DataError("no such list. 'lungunet split' writes it.", where=path) from err
    except OSError as err:
        raise DataError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    except UnicodeDecodeError as err:
        raise DataError(
            f"byte {err.start} is not UTF-8. Save the list as UTF-8 text.", where=path
        ) from err
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if line.strip():
            yield number, [text.strip() for text in line.split("\t")]


def _locate(text: str, folder: Path) -> Path | None:
    if not text or "\0" in text:
        return None
    for name in dict.fromkeys((text, text.replace("\\", "/"))):
        for base in (folder, Path()):
            candidate = base / name
            try:
                if candidate.is_file():
                    return candidate
            except OSError:  # a name that is too long
                return None
    return None
