"""What a review is opened on: lists, masks of predictions, or pairs, in order of doubt.

Owns which masks are mended, where they are written, and that no other file is.
"""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungunet.data.codec import LUNG_CODEC, LabelCodec, is_lung
from lungunet.data.ct import encode_labels, read_mask
from lungunet.data.files import read_csv, read_json, write_bytes, write_json
from lungunet.data.made_by import read_codec
from lungunet.data.manifest import (
    Pair,
    find_images,
    name_files,
    pair_by_name,
    read_manifest,
    refuse_equal_names,
    without_masks,
)
from lungunet.data.review_log import KEPT, LOG, read_review
from lungunet.data.split import SPLITS, check_split_folder, choose_codec
from lungunet.errors import ConfigError, DataError, LungUNetError, LungUNetWarning, listed
from lungunet.inference.doubt import LabelView, doubt_label
from lungunet.models.cores import count_cores
from lungunet.progress import Progress, map_in_threads, silent
from lungunet.reviewing.cases import SliceCase
from lungunet.reviewing.desk import Entry
from lungunet.reviewing.scans import ScanCase, Shelf
from lungunet.volumes.formats import WRITTEN, written_suffix
from lungunet.volumes.masks import rewrite_mask
from lungunet.volumes.slicing import find_volume_pairs
from lungunet.volumes.volume import read_volume

_LOSSY = (".jpg", ".jpeg")
_LIGHTS = ("red", "amber", "green")
_RANKING = "doubt.json"


@dataclass(frozen=True)
class Material:
    """What a review goes over.

    Parameters
    ----------
    entries : in order of doubt
    log : where the log is, or will be
    codec : of the masks
    """

    entries: tuple[Entry, ...]
    log: Path
    codec: LabelCodec


@dataclass(frozen=True)
class Rank:
    """How doubtful a mask is; see :class:`Entry`."""

    score: float | None = None
    reasons: tuple[str, ...] = ()
    group: str = ""


def slices_to_review(
    source: str | Path | Sequence[Pair],
    out: Path | None,
    *,
    images: Path | None = None,
    codec: LabelCodec | None = None,
    names: str | None = None,
    ranking: Path | None = None,
    progress: Progress = silent,
) -> Material:
    """Find slices and masks, copy the masks to ``out`` if there is one, and rank them.

    Parameters are those of :func:`review`.
    """
    home: Path | None = None
    ranks: Mapping[str, Rank] | None = None
    groups: Mapping[str, str] = {}
    if not isinstance(source, str | Path):
        pairs = list(source)
    elif images is not None:
        home = Path(source)
        pairs = _pairs_of_masks(home, Path(images), names)
        codec = codec or read_codec(home)
        ranks = _read_triage(home / "triage.csv")
    else:
        home = Path(source)
        groups, pairs = _read_lists(home)
        codec = codec or choose_codec(home)
        ranks = _read_audit(ranking or home / "audit", asked=ranking is not None)
    codec = codec or LUNG_CODEC
    _refuse_twice(pairs)
    if out is None and home is None:
        home = _common_folder(pairs)
    log = (out or home or Path()) / LOG
    cases = _place(pairs, out, codec)
    _copy(cases, log)
    if ranks is None:
        ranks = _rank(cases, log.parent / KEPT / _RANKING, progress)
    entries = []
    for case in cases:
        rank = ranks.get(case.name, Rank())
        group = rank.group or groups.get(case.name, "")
        entries.append(Entry(case, group, rank.score, rank.reasons))
    entries.sort(key=lambda entry: (-(entry.score or 0.0), entry.case.name))
    return Material(tuple(entries), log, codec)


def scans_to_review(
    masks: Path,
    out: Path | None,
    *,
    scans: Path,
    codec: LabelCodec | None = None,
    names: str | None = None,
) -> tuple[Material, Shelf]:
    """Find scans and masks, copy the masks to ``out`` if there is one, in the order of triage.csv.

    Parameters are those of :func:`review`.
    """
    codec = codec or read_codec(masks) or LabelCodec({0: 0, 1: 1})
    shelf = Shelf()
    cases: list[ScanCase] = []
    for name, pair in find_volume_pairs(scans, masks, names=names).items():
        if pair.mask is None:
            warnings.warn(f"{name}: no mask of it, left out.", LungUNetWarning, stacklevel=2)
            continue
        path = pair.mask.path
        writable = path.name.lower().endswith(WRITTEN)
        if out is None and not writable:
            raise ConfigError(
                "a mask of this format is read and not written. Mend a copy: out='mended'.",
                where=path,
            )
        copy = (
            path
            if out is None
            else out / (path.name if writable else f"{name}{written_suffix(path)}")
        )
        if out is not None and copy.resolve() == path.resolve():
            raise _same_folder(out)
        cases.append(ScanCase(name, pair.image, path, copy, codec, shelf))
    if out is None:
        _refuse_links([case.mask for case in cases])
    log = (out or (masks if masks.is_dir() else masks.parent)) / LOG
    _copy(cases, log)
    ranks = _read_triage((masks if masks.is_dir() else masks.parent) / "triage.csv") or {}
    entries = []
    for case in cases:
        rank = ranks.get(case.name, Rank())
        entries.append(Entry(case, rank.group, rank.score, rank.reasons))
    entries.sort(key=lambda entry: (-(entry.score or 0.0), entry.case.name))
    return Material(tuple(entries), log, codec), shelf


def _refuse_links(masks: Sequence[Path]) -> None:
    """Keep a change from ending in a file of a store that others share, or beside the original."""
    links = [f"{path} to {path.resolve()}" for path in masks if path.is_symlink()]
    if links:
        raise ConfigError(
            "links. Name the folder of the files that they lead to, or mend copies: out='mended'.",
            where=listed(links, separator=", "),
        )


def _same_folder(out: Path) -> ConfigError:
    return ConfigError(
        "holds the masks that are read. Choose another folder: out='FOLDER', or mend them in "
        "place: out=None.",
        where=out,
    )


def _read_lists(folder: Path) -> tuple[dict[str, str], list[Pair]]:
    check_split_folder(folder)
    if not any((folder / f"{name}.txt").exists() for name in SPLITS):
        raise DataError(
            "holds no train.txt. Where it holds masks, name their slices: images='...', or "
            "scans='...'.",
            where=folder,
        )
    groups: dict[str, str] = {}
    pairs: list[Pair] = []
    for name in SPLITS:
        if (folder / f"{name}.txt").exists():
            listed_pairs = read_manifest(folder / f"{name}.txt")
            pairs += listed_pairs
            groups |= {pair.name: name for pair in listed_pairs}
    if not pairs:
        raise DataError("no pairs in any list. 'lungunet split' writes them.", where=folder)
    return groups, pairs


def _pairs_of_masks(masks: Path, images: Path, names: str | None) -> list[Pair]:
    """Pair masks with slices; slices without a mask may be there, masks without a slice not."""
    named, slices = (
        [(name, path) for path, name in name_files(found).items()]
        for found in (find_images(masks), find_images(images, but=masks))
    )
    slices = without_masks(slices, named, names=names)
    wanted = {name for name, _ in named}
    if names is None:  # of a large folder those alone that were predicted
        slices = [item for item in slices if item[0] in wanted] or slices
    pairs, problems = pair_by_name(slices, named, names=names)
    if problems or not pairs:
        raise DataError(
            f"{images} and {masks} do not pair up:\n  {listed(problems or ['no mask'])}\n"
            "Rename or remove them, or say how masks are called: names='*=*_mask'."
        )
    return pairs


def _refuse_twice(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise DataError("no pairs. Pass at least one.", where="pairs")
    for pair in pairs:
        pair.require_mask()
    refuse_equal_names(pairs)


def _common_folder(pairs: Sequence[Pair]) -> Path:
    return Path(os.path.commonpath([pair.require_mask().resolve().parent for pair in pairs]))


def _place(pairs: Sequence[Pair], out: Path | None, codec: LabelCodec) -> list[SliceCase]:
    """Say for each pair which mask is mended."""
    sources = [pair.require_mask() for pair in pairs]
    if out is None:
        smeared = [str(path) for path in sources if path.suffix.lower() in _LOSSY]
        if smeared:
            raise ConfigError(
                "a JPEG does not keep labels. Mend copies: out='mended'.",
                where=listed(smeared, separator=", "),
            )
        _refuse_links(sources)
        return [
            SliceCase(pair.name, pair.image, path, path, codec)
            for pair, path in zip(pairs, sources, strict=True)
        ]
    stems = [path.stem for path in sources]
    if len(set(stems)) < len(stems):
        stems = [pair.name for pair in pairs]
    cases = []
    for pair, path, stem in zip(pairs, sources, stems, strict=True):
        suffix = ".png" if path.suffix.lower() in _LOSSY else path.suffix
        copy = out / f"{stem}{suffix}"
        if copy.resolve() == path.resolve():
            raise _same_folder(out)
        cases.append(SliceCase(pair.name, pair.image, path, copy, codec))
    return cases


def _copy(cases: Sequence[SliceCase] | Sequence[ScanCase], log: Path) -> None:
    """Copy masks to where they are mended; those of this review are there already."""
    mended = read_review(log).cases if log.exists() else {}
    foreign = []
    for case in cases:
        state = mended.get(case.name)
        if case.mask == case.source or (state is not None and state.changes and case.mask.exists()):
            continue
        content = _content_of_copy(case)
        if not case.mask.exists():
            write_bytes(case.mask, content)
        elif case.mask.read_bytes() != content:
            foreign.append(str(case.mask))
    if foreign:
        idle = "" if mended else f"Nothing was decided in {log.parent} yet. "
        raise ConfigError(
            "there already, and neither the mask of this source nor mended by the review in "
            f"{log.name}. {idle}Choose another folder: out='FOLDER'.",
            where=listed(foreign, separator=", "),
        )


def _content_of_copy(case: SliceCase | ScanCase) -> bytes:
    """Return a mask in the format of its copy; that of a scan is written there at once."""
    if case.mask.suffix == case.source.suffix:
        try:
            return case.source.read_bytes()
        except OSError as err:
            raise DataError(f"cannot be read ({err.strerror}).", where=case.source) from err
    if isinstance(case, SliceCase):
        return encode_labels(case.mask, read_mask(case.source))
    if not case.mask.exists():
        volume = read_volume(case.source)
        rewrite_mask(case.mask, volume.array, like=volume)
    return case.mask.read_bytes()


def _read_audit(folder: Path, *, asked: bool) -> dict[str, Rank] | None:
    path = folder / "audit.json" if folder.is_dir() or asked else folder
    if not path.exists() and not asked:
        return None
    stored = read_json(path, fix="Give the folder that 'lungunet audit' wrote.")
    try:
        return {
            str(row["name"]): Rank(float(row["score"]), tuple(map(str, row["reasons"])))
            for row in stored["ranking"]
        }
    except (KeyError, TypeError, ValueError) as err:
        fix = "no ranking of an audit. Give the folder that 'lungunet audit' wrote."
        raise DataError(fix, where=path) from err


def _read_triage(path: Path) -> dict[str, Rank] | None:
    """Read the lights of a folder of predictions; None where there are none."""
    if not path.exists():
        return None
    fix = "Predict again, or remove it."
    ranks = {}
    for row in read_csv(path, fix=fix):
        try:
            worry = float(row["worry"] or "nan")
            reasons = tuple(reason for reason in row["reasons"].split("; ") if reason)
            light = row["light"] if row["light"] in _LIGHTS else ""
            ranks[row["name"]] = Rank(None if math.isnan(worry) else worry, reasons, light)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise DataError(f"no triage of predictions. {fix}", where=path) from err
    return ranks


def _rank(cases: Sequence[SliceCase], kept: Path, progress: Progress) -> dict[str, Rank]:
    """Judge each mask by its own slice, as an audit does; once, for the ranking is kept."""
    ranks: dict[str, Rank] = {}
    if kept.exists():
        stored = read_json(kept, fix="Remove it; it is made again.")
        ranks = {name: Rank(row[0], tuple(row[1])) for name, row in stored.items()}
    new = [case for case in cases if case.name not in ranks]
    if new:
        judged = map_in_threads(_judge, new, threads=count_cores(), desc="doubt", progress=progress)
        ranks |= {case.name: rank for case, rank in zip(new, judged, strict=True)}
        write_json(kept, {name: [rank.score, rank.reasons] for name, rank in ranks.items()})
    return ranks


def _judge(case: SliceCase) -> Rank:
    try:
        plane = case.plane(0)
    except LungUNetError as err:
        return Rank(1.0, (str(err),))
    doubt = doubt_label(LabelView(plane.image, is_lung(plane.classes)))
    return Rank(doubt.score, doubt.reasons)
