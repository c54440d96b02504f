"""Pairs of image and mask, and the text files that list them.

Owns file names and lists; reads headers, never pixels. Knows nothing of splits.
"""

import glob
import os
import re
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

from lungunet.data.ct import SUFFIXES, read_header
from lungunet.data.files import write_text
from lungunet.data.names import (
    NameRule,
    find_rule,
    folder_rule,
    leave_out_masks,
    match_by_rule,
    match_names,
    usual_rules,
)
from lungunet.errors import DataError, GeometryError, LungUNetWarning, counted, listed

RECORD = "predicted.jsonl"
"""What ``predict`` leaves in a folder of its masks: how each was made."""
PARTS = "parts"
"""The folder beside them in which each part of a job that is divided has a record of its own."""
_BESIDE_MASKS = ("overlays", "previews", "probabilities", "uncertainty")
_LISTS = ("test.txt", "val.txt", "train.txt")
_OF_SCANS = (".dcm", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# Lone surrogates are how Python spells bytes of a file name that are not UTF-8.
_UNLISTABLE = re.compile(r"[\t\n\r\ud800-\udfff]|\A\s|\s\Z")


@dataclass(frozen=True)
class Pair:
    """One image and the mask drawn on it; the mask is None where there is only an image.

    Parameters
    ----------
    name : what tables, messages and files that are written call this pair; empty takes the stem of
        the image. :func:`find_pairs` puts folders before it where stems repeat
    """

    image: Path
    mask: Path | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Take text as paths too."""
        object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "mask", None if self.mask is None else Path(self.mask))
        object.__setattr__(self, "name", self.name or self.image.stem)

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


def find_images(folder: str | Path, *, but: Path | None = None) -> list[Path]:
    """List the image files of a folder and of the folders in it, sorted.

    Links are followed, hidden files and folders left out, and what lies beside predicted masks.

    Parameters
    ----------
    but : a folder in it that holds something else

    Raises
    ------
    DataError
        When there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder. Check the path.", where=folder)
    files = sorted(_walk(folder, but))
    found = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not found:
        scan = next((path for path in files if path.name.lower().endswith(_OF_SCANS)), None)
        fix = (
            "It holds no scans either (NIfTI, NRRD, MHA, DICOM). Check the path."
            if scan is None
            else f"It holds scans ({scan.name}): 'lungunet slices' cuts slices from them."
        )
        raise DataError(f"holds no image ({', '.join(SUFFIXES)}). {fix}", where=folder)
    return found


def _walk(folder: Path, but: Path | None) -> Iterator[Path]:
    """Yield the files at any depth; a folder that links lead to again is gone into once.

    Links that lead nowhere too, for whoever reads them to say so.
    """
    left_out = None if but is None else but.resolve()
    seen: set[Path] = set()
    for place, inner, files in os.walk(folder, followlinks=True, onerror=_refuse_closed):
        real = Path(place).resolve()
        if real in seen or (real == left_out and Path(place) != folder):
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        inner[:] = [name for name in inner if not is_beside_masks(Path(place, name))]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def _refuse_closed(err: OSError) -> None:
    raise DataError(
        f"cannot be looked into ({err.strerror}). Open it, or move it elsewhere.",
        where=err.filename,
    ) from err


def name_files(files: Iterable[Path]) -> dict[Path, str]:
    """Name files by their stems; where stems repeat, with the folders before that tell all apart.

    Last folders that are called alike for all do not.

    Examples
    --------
    >>> list(name_files([Path("ct/p1/slice1.tif"), Path("ct/p2/slice1.tif")]).values())
    ['p1_slice1', 'p2_slice1']
    >>> list(name_files([Path("p1/ct/slice1.tif"), Path("p2/ct/slice1.tif")]).values())
    ['p1_slice1', 'p2_slice1']
    """
    files = list(dict.fromkeys(files))
    names = {file: file.stem for file in files}
    if len(set(names.values())) == len(files):
        return names
    common = os.path.commonpath([file.absolute().parent for file in files])
    parts = {file: (*file.absolute().relative_to(common).parts[:-1], file.stem) for file in files}
    while len(last := {some[-2:-1] for some in parts.values()}) == 1 and last != {()}:
        parts = {file: (*some[:-2], some[-1]) for file, some in parts.items()}
    for depth in range(2, 1 + max(map(len, parts.values()))):
        named = {file: "_".join(some[-depth:]) for file, some in parts.items()}
        if len(set(named.values())) == len(files):
            return named
    return names  # two endings in one folder: refuse_equal_names names them


def find_records(masks: Path) -> Iterator[Path]:
    """Yield the records of masks that were predicted into a folder: of the whole, of its parts."""
    yield from (path for path in [masks / RECORD] if path.exists())
    for part in sorted(masks.glob(f"{PARTS}/*-of-*")):
        yield from list_records(part)


def list_records(folder: Path) -> list[Path]:
    """List the records that lie in a folder, in the order in which they were begun."""
    found = folder.glob(f"{Path(RECORD).stem}*.jsonl")
    return sorted(found, key=lambda path: (len(path.name), path))


def is_beside_masks(folder: Path) -> bool:
    """Whether a folder holds what was predicted besides masks: pictures and maps."""
    return folder.name in _BESIDE_MASKS and any(find_records(folder.parent))


def list_images(source: str | Path, *, but: Path | None = None) -> list[Path]:
    """List the images that a person means by a file, a folder, a glob or a manifest (.txt).

    ``but`` is a folder that holds something else, as for :func:`find_images`.
    """
    return [pair.image for pair in list_slices([source], but=but)]


def list_slices(sources: Iterable[str | Path], *, but: Path | None = None) -> list[Pair]:
    """List the images that a person means, as :func:`list_images` takes each, with their names.

    A file that is meant twice is one; two links to it are two. Lists (.txt) name theirs; others
    are named by :func:`name_files`.
    """
    files: dict[Path, Path] = {}
    told: dict[Path, str] = {}
    for source in sources:
        path = Path(source)
        if path.suffix.lower() == ".txt" and not path.is_dir():
            pairs = list_named(path)
            if not pairs:
                raise DataError("names no image. Give a list that does.", where=path)
            told |= {p.image.absolute(): p.name for p in pairs if p.name != p.image.stem}
            found = [pair.image for pair in pairs]
        else:
            found = _list_files(source, but)
        for file in found:
            files.setdefault(file.absolute(), file)
    names = name_files(files[at] for at in files if at not in told)
    return [Pair(file, None, told.get(at) or names[file]) for at, file in files.items()]


def _list_files(source: str | Path, but: Path | None) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        _refuse_lists_alone(path, but)
        return find_images(path, but=but)
    if path.exists() or not glob.has_magic(str(source)):
        return [path]
    # glob.glob takes absolute patterns, Path.glob does not.
    matched = sorted(Path(name) for name in glob.glob(str(source), recursive=True))  # noqa: PTH207
    files = chain(*(_walk(path, but) if path.is_dir() else [path] for path in matched))
    found = [file for file in dict.fromkeys(files) if file.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError("no image matches. Check the pattern; quote it in the shell.", where=source)
    return found


def _refuse_lists_alone(folder: Path, but: Path | None) -> None:
    """Name the list that is meant where a folder of lists stands in its place."""
    lists = [str(path) for name in _LISTS if (path := folder / name).is_file()]
    if not lists:
        return
    files = (path for path in _walk(folder, but) if not path.is_relative_to(folder / "audit"))
    if not any(path.suffix.lower() in SUFFIXES for path in files):
        raise DataError(
            f"holds lists of slices, and none itself. Give a list: {' or '.join(lists)}.",
            where=folder,
        )


def find_pairs(images: str | Path, masks: str | Path, *, names: str | None = None) -> list[Pair]:
    """Pair the images of one folder with the masks of another by file stem.

    Parameters
    ----------
    images, masks : folders, with folders in them as may be; extensions may differ, ``a.tif`` pairs
        with ``a.png``. Masks may lie among the images, of which they are none: in one folder for
        both, or others than those in ``masks``, as the ones that a review left as they were. Where
        stems repeat in several folders, masks in one folder are called ``p1_slice1``
    names : how the stems differ, as ``*=*_mask`` where ``a.tif`` has ``a_mask.png``, or the last
        folders too, as ``ct/*=seg/*`` where ``p1/ct/1.tif`` has ``p1/seg/1.png``. None takes them
        alike, else by an ending or a beginning that fits all, with a warning that says which

    Returns
    -------
    list of Pair
        Sorted by name: the stem, and where stems repeat in several folders, as ``p1/slice1.tif``
        and ``p2/slice1.tif``, the folders too, as ``p1_slice1``.

    Raises
    ------
    DataError
        One error that lists every unpaired, ambiguous, unreadable or mis-sized file.
    ConfigError
        When the rule for names is none.
    """
    images, masks = Path(images), Path(masks)
    rule = None if names is None else NameRule.parse(names)
    named = (_named(images, but=masks), _named(masks, but=images))
    if not any("/" in name for name, _ in named[1]):  # as copies are called that a review wrote
        flat = name_files(path for _, path in named[0])
        named = ([(name, path) for path, name in flat.items()], named[1])
    if images.samefile(masks):
        named = _part(named[0], rule, images)
    else:
        named = (without_masks(*named, names=names), named[1])
    pairs, problems = pair_by_name(*named, names=names)
    called = name_files(pair.image for pair in pairs)
    pairs = [replace(pair, name=called[pair.image]) for pair in pairs]
    unfit = [problem for pair in pairs for problem in _header_problems(pair)]
    if unfit and not problems:
        does = "pair does" if len(unfit) == 1 else "pairs do"
        raise DataError(
            f"{images} and {masks}: {len(unfit)} {does} not fit:\n  {listed(unfit)}\n"
            "Re-export or remove them; nothing was written."
        )
    problems += unfit
    if problems:
        raise DataError(
            f"{images} and {masks} do not pair up, "
            f"{counted(len(problems), 'problem')}:\n  {listed(problems)}\n"
            f"Rename, re-export or remove them; nothing was written.{_hint(pairs, names)}"
        )
    return sorted(pairs, key=attrgetter("name"))


def _named(folder: Path, *, but: Path) -> list[tuple[str, Path]]:
    """List the images of a folder with their names: stems, with folders before them."""
    files = find_images(folder, but=but)
    return [(path.relative_to(folder).with_suffix("").as_posix(), path) for path in files]


def _part(
    named: list[tuple[str, Path]], rule: NameRule | None, folder: Path
) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Part the files of one folder into images and masks."""
    for each in [rule] if rule else usual_rules():
        if not each.tells_masks:
            continue
        masks = [item for item in named if each.common(item[0], each.mask)]
        images = [item for item in named if not each.common(item[0], each.mask)]
        if rule or (images and masks and not match_names(images, masks, each)[1]):
            return images, masks
    example = folder_rule(named) or "*=*_mask"
    raise DataError(
        "is the folder of the images and that of the masks. Give two; where both lie in it, say "
        f"how masks are called, as names='{example}'.",
        where=folder,
    )


def without_masks(
    images: Sequence[tuple[str, Path]],
    masks: Sequence[tuple[str, Path]],
    *,
    names: str | None = None,
) -> list[tuple[str, Path]]:
    """Leave out masks that lie among their images, where other masks are to be paired with these.

    Files are given as (name, path). What is left out is said in a warning, if not by the rule for
    names that was given; see :func:`find_pairs` for that rule.
    """
    rule = None if names is None else NameRule.parse(names)
    left, by = leave_out_masks(images, masks, rule)
    if by not in (None, rule):
        kept = {*left}
        first = next(path for name, path in images if (name, path) not in kept)
        warnings.warn(
            f"{len(images) - len(left)} of the {len(images)} images are masks of others, as by "
            f"names='{by}', and left out: {first} and the like.",
            LungUNetWarning,
            stacklevel=3,
        )
    return left


def _hint(pairs: Sequence[Pair], names: str | None) -> str:
    if pairs or names is not None:
        return ""
    return (
        " If masks are called otherwise than images, say how: names='*=*_mask' where "
        "a.tif has a_mask.png."
    )


def pair_by_name(
    images: Iterable[tuple[str, Path]],
    masks: Iterable[tuple[str, Path]],
    *,
    names: str | None = None,
) -> tuple[list[Pair], list[str]]:
    """Pair files by their names, given as (name, path); see :func:`find_pairs`.

    Returns pairs, sorted by name, and in words what has no partner, or too many.
    """
    found, problems = _match(list(images), list(masks), names)
    return [Pair(image, mask, name) for name, image, mask in found], problems


def image_names(
    images: Iterable[str],
    masks: Iterable[str],
    *,
    names: str | None = None,
    argument: str = "names",
) -> dict[str, str]:
    """Return for the name of each mask that of its image, where a rule pairs them.

    See :func:`find_pairs` for the rule; here some may be left alone. ``argument`` is what the
    caller calls the rule.
    """
    of_images, of_masks = ([(name, Path(name)) for name in side] for side in (images, masks))
    return {str(mask): name for name, _, mask in _match(of_images, of_masks, names, argument)[0]}


def _match(
    images: list[tuple[str, Path]],
    masks: list[tuple[str, Path]],
    names: str | None,
    argument: str = "names",
) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    if names is not None:
        return match_by_rule(images, masks, NameRule.parse(names))
    found, problems, rule = find_rule(images, masks)
    if found and rule != NameRule():
        warnings.warn(
            f"masks pair with images as by {argument}='{rule}'; give another where that is wrong.",
            LungUNetWarning,
            stacklevel=4,
        )
    return found, problems


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


def refuse_equal_names(pairs: Iterable[Pair], error: type[DataError] = DataError) -> None:
    """Refuse two pairs of one name: tables, patients and files that are written go by it."""
    of: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        of[pair.name].append(pair)
    twice = [
        f"{name} ({listed([str(pair.image) for pair in some], separator=', ')})"
        for name, some in of.items()
        if len(some) > 1
    ]
    if twice:
        raise error(
            f"names that occur twice:\n  {listed(twice)}\nRename them, so that each has its own."
        )


def refuse_shared_files(pairs: Iterable[Pair], error: type[DataError] = DataError) -> None:
    """Refuse two pairs of one image, as a link makes them: in two lists they would leak."""
    names: dict[Path, list[str]] = defaultdict(list)
    for pair in pairs:
        names[pair.image.resolve()].append(pair.name)
    shared = [f"{' and '.join(some)} ({file})" for file, some in names.items() if len(some) > 1]
    if shared:
        raise error(
            f"slices that are one file:\n  {listed(shared)}\nKeep one of them, and remove the "
            "other links with their masks."
        )


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
    """Write one line ``image<TAB>mask`` per pair, sorted, atomically; ``<TAB>name`` if need be.

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
        if pair.mask and pair.name != pair.image.stem:
            fields.append(pair.name)
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


def list_named(path: str | Path) -> list[Pair]:
    """Return the images that a list names, there or not; masks beside them do not matter."""
    path = Path(path)
    pairs = []
    for number, fields in _read_fields(path):
        if len(fields) > 3 or not fields[0]:
            raise DataError(
                f"{counted(len(fields), 'column')}, the first is "
                f"'{fields[0]}'. Write an image, or image, one tab, mask.",
                where=f"{path}, line {number}",
            )
        image = _locate(fields[0], path.parent) or path.parent / fields[0]
        pairs.append(Pair(image, None, *fields[2:]))
    return pairs


def read_manifest(path: str | Path) -> list[Pair]:
    """Read a list of pairs.

    Parameters
    ----------
    path : UTF-8 text, one ``image<TAB>mask`` per line, or ``image<TAB>mask<TAB>name`` where the
        stem of the image does not name the pair. Both kinds of slashes and line ends, a BOM and
        blank lines are read; relative paths are taken from the file's folder, then from the
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
        if len(fields) not in (2, 3):
            raise DataError(
                f"{counted(len(fields), 'column')}. Write image, one tab, mask; then a tab and a "
                "name if it has one.",
                where=f"{path}, line {number}",
            )
        files = [_locate(text, path.parent) for text in fields[:2]]
        missing += [
            f"line {number}: {text or 'an empty column'}"
            for text, file in zip(fields[:2], files, strict=True)
            if file is None
        ]
        if None in files:
            continue
        pair = Pair(files[0] or Path(), files[1], *fields[2:])
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
    slashed = text.replace("\\", "/")
    spelt = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    for name in dict.fromkeys((text, slashed, *spelt)):
        for base in (folder, Path()):
            candidate = base / name
            try:
                if candidate.is_file():
                    return _shortened(candidate) if ".." in candidate.parts else candidate
            except OSError:  # a name that is too long
                return None
    return None


def _shortened(path: Path) -> Path:
    """Return a path without the folders that it enters and leaves, unless a link is among them."""
    short = Path(os.path.normpath(path))
    try:
        return short if short.samefile(path) else path
    except OSError:
        return path
