"""Which pairs train, which choose the model, which judge it: whole patients at a time.

Owns the three lists and split.json beside them; reads no image.
"""

import csv
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.codec import LUNG_CODEC, LabelCodec
from lungunet.data.ct import SUFFIXES
from lungunet.data.files import json_text, read_json, write_text
from lungunet.data.kinds import check_whole
from lungunet.data.manifest import (
    Pair,
    list_named,
    read_manifest,
    refuse_equal_names,
    refuse_shared_files,
    render_manifest,
)
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError, counted, listed

SPLITS = ("train", "val", "test")
"""The names of the three lists."""

_FAR_OFF = 0.1  # of all pairs: a list that misses its share by more is worth a warning
_NAME = attrgetter("name")  # of a pair: the order of every list


@dataclass(frozen=True)
class Split:
    """Three lists of pairs that share no case."""

    train: list[Pair]
    val: list[Pair]
    test: list[Pair]


@dataclass(frozen=True)
class SplitConfig:
    """How pairs are split.

    Parameters
    ----------
    val, test : share of the pairs, in [0, 1); 0 leaves that list empty. val=0 with test=1 makes a
        test list alone, of pairs that only judge
    seed : another seed, another split
    group : which pairs are of one patient, as :func:`read_groups` takes it; None: each is its own
    guard : keep slices that look like neighbours of one patient in one list, patients named or not
    folds : split train and val also into so many folds, for :func:`cross_validate`; 0 for none
    exclude : slices to leave out, a file: one slice a line, the ``review.jsonl`` of a review for
        what was dropped, or the ``ranking.csv`` of an audit with the score from which on they go,
        as ``audit/ranking.csv:0.2``. All others stay in the list where they would be without this,
        by the same settings
    like : a data folder whose lists, folds and patients are kept, and the coding of its masks where
        none is given: each slice goes where its name stands there, and what it left out is left
        out. So a model trained on it can be judged on the new test list. Draws nothing: settings
        that ask for other lists are refused, and slices that it does not list
    """

    val: float = 0.1
    test: float = 0.2
    seed: int = 0
    group: str | None = None
    guard: bool = False
    folds: int = 0
    exclude: str | None = None
    like: str | None = None


@dataclass(frozen=True)
class SplitRecord:
    """What split.json says of the three lists beside it; None where it does not say.

    Parameters
    ----------
    val, test, seed, group, guard : as in :class:`SplitConfig`
    patients : stem to number of the patient, where patients were named; numbers, so that no name
        is kept
    labels : how masks are coded, as :meth:`LabelCodec.to_dict` gives it
    dtypes : dtype of the slices to how many
    sizes : "512x512" to how many
    empty_masks : how many masks hold no lung
    lung_share : mean share of lung pixels per slice, in [0, 1]; not in the file, known where the
        lists were just made
    counts : name of a list to how many pairs it holds
    prepared_size : longer side in px, where the slices were written anew
    fold : number of the fold, from 1, in a fold folder
    excluded : stems of the slices that were left out, here and in the folder that this one is like
    version : of lungunet
    """

    val: float | None = None
    test: float | None = None
    seed: int | None = None
    group: str | None = None
    guard: bool | None = None
    patients: Mapping[str, int] | None = None
    labels: Mapping[str, Any] | None = None
    dtypes: Mapping[str, int] | None = None
    sizes: Mapping[str, int] | None = None
    empty_masks: int | None = None
    lung_share: float | None = None
    counts: Mapping[str, int] | None = None
    prepared_size: int | None = None
    fold: int | None = None
    excluded: Sequence[str] | None = None
    version: str | None = None

    @property
    def codec(self) -> LabelCodec | None:
        """The codec of the masks; None where there is none.

        Raises
        ------
        ConfigError
            When it is damaged.
        """
        return None if self.labels is None else LabelCodec.from_dict(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return what split.json holds; :meth:`from_dict` reads it."""
        stored = asdict(self)
        del stored["lung_share"]
        for name in ("counts", "prepared_size", "fold", "excluded"):  # a null would say nothing
            if stored[name] is None:
                del stored[name]
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "SplitRecord":
        """Rebuild a record from :meth:`to_dict`; what else stands there is left out."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in names})


def read_groups(pairs: Sequence[Pair], rule: str) -> dict[str, str]:
    """Find the patient of every pair.

    Parameters
    ----------
    rule : path of a CSV file with the columns name and patient, or a regular expression that is
        searched in each name, see :class:`Pair`: its first group, or the whole match, is the
        patient

    Returns
    -------
    dict
        Name to patient, for exactly the given pairs.

    Raises
    ------
    SplitError
        When a pair has no patient, or a slice two in the CSV.
    ConfigError
        When the rule is no regular expression, or the CSV lacks a column.
    """
    if rule.lower().endswith(".csv"):
        table = _read_group_table(Path(rule), pairs)
        groups = {pair.name: table.get(pair.name) for pair in pairs}
    else:
        try:
            pattern = re.compile(rule)
        except (re.error, OverflowError, RecursionError) as err:  # a{9999999999}, (((((
            raise ConfigError(
                f"not a regular expression ({err}). Write one such as "
                "'^(patient-[0-9]+)', or the path of a .csv file.",
                where=f"group '{rule}'",
            ) from err
        matches = {pair.name: pattern.search(pair.name) for pair in pairs}
        groups = {
            name: match and match.group(min(1, pattern.groups)) for name, match in matches.items()
        }
    missing = sorted(pair.name for pair in pairs if not groups[pair.name])
    if missing:
        raise SplitError(
            f"no patient for {counted(len(missing), 'pair')}: "
            f"{listed(missing, separator=', ')}. Extend the rule to cover them.",
            where=f"group '{rule}'",
        )
    return {name: str(patient) for name, patient in groups.items()}


def number_patients(groups: Mapping[str, str] | None) -> dict[str, int] | None:
    """Replace patients by numbers, so that split.json can keep who is who without any name.

    Examples
    --------
    >>> number_patients({"a1": "Ann", "b1": "Bob", "a2": "Ann"})
    {'a1': 1, 'a2': 1, 'b1': 2}
    """
    if groups is None:
        return None
    numbers = {patient: n for n, patient in enumerate(sorted(set(groups.values())), start=1)}
    return {name: numbers[patient] for name, patient in sorted(groups.items())}


def _read_group_table(path: Path, pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the patient of each slice; what is the name of no pair is taken as a file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as err:
        raise ConfigError(f"cannot be read ({err.strerror}). Check the path.", where=path) from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"cannot be read as CSV ({err}). Save it as UTF-8.", where=path) from err
    if not rows or not {"name", "patient"} <= set(rows[0][1]):
        raise ConfigError(
            "no columns name and patient. Begin it with the line 'name,patient', then a "
            "line for each slice.",
            where=path,
        )
    names, of_file = {pair.name for pair in pairs}, _names_of_files(pairs)
    table: dict[str, str] = {}
    for number, row in rows:
        name, patient = (row["name"] or "").strip(), (row["patient"] or "").strip()
        if name not in names:
            entry = _as_file(name)
            name = of_file.get(entry, entry.replace("/", "_"))
        if table.setdefault(name, patient) != patient:
            # Patients are not named: messages end up in logs and mails.
            raise SplitError(
                f"{name} has another patient in a line above. Keep one.",
                where=f"{path}, line {number}",
            )
    return table


def _names_of_files(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the name of a pair by its image without suffix, with as many folders as may be."""
    names: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        parts = pair.image.absolute().with_suffix("").parts[1:]
        for at in range(len(parts)):
            names["/".join(parts[at:])].add(pair.name)
    return {file: name for file, (name, *others) in names.items() if not others}


def _as_file(entry: str) -> str:
    suffix = Path(entry).suffix
    file = entry.removesuffix(suffix) if suffix.lower() in SUFFIXES else entry
    return file.replace("\\", "/").lstrip("/")


def split_pairs(
    pairs: Iterable[Pair],
    *,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> Split:
    """Part pairs into train, val and test, whole patients at a time.

    The result depends on stems, patients, ratios and seed alone, not on the order of ``pairs``.

    Parameters
    ----------
    val, test : share of the pairs, in [0, 1); 0 leaves that list empty. val=0 with test=1 makes a
        test list alone, of pairs that only judge
    groups : stem -> patient, as :func:`read_groups` gives it; None takes every pair as a patient
        of its own

    Raises
    ------
    SplitError
        When there are too few pairs or patients to fill a list that was asked for, or two pairs
        share a name or an image.
    ConfigError
        When the ratios leave nothing for train.
    """
    _check_ratios(val, test)
    patients = _by_patient(pairs, groups)
    sizes = {patient: len(members) for patient, members in patients.items()}
    total = sum(sizes.values())
    wanted = {"test": round(total * test), "val": round(total * val)}
    if test == 1:
        wanted["train"] = 0
    lists: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for patient, name in _deal(sizes, wanted, seed).items():
        lists[name] += patients[patient]
    for name, share in (("train", 1 - test), ("val", val), ("test", test)):
        if share and not lists[name]:
            few = "Add pairs or change the ratios."
            if groups is not None and len(patients) < 1 + sum(s > 0 for s in (val, test)):
                few = (
                    "A patient is in one list alone: add patients, check how they are told, or "
                    "leave a list empty by a share of 0."
                )
            raise SplitError(
                f"{counted(total, 'pair')} of {counted(len(patients), 'patient')} cannot fill "
                f"train, val and test at val={val:g}, test={test:g}: {name} is empty. {few}"
            )
    usual = float(np.median([*sizes.values()]))  # of few patients no list can be nearer than that
    far = [
        f"{name} {len(lists[name]) / total:.0%} instead of {share:.0%}"
        for name, share in (("val", val), ("test", test))
        if abs(len(lists[name]) - wanted[name]) > max(_FAR_OFF * total, usual)
    ]
    if far:
        warnings.warn(
            f"{', '.join(far)} of the pairs: patients stay whole, and the largest has "
            f"{max(sizes.values())} of {total}.",
            LungUNetWarning,
            stacklevel=2,
        )
    return Split(*(sorted(lists[name], key=_NAME) for name in SPLITS))


def _deal(sizes: Mapping[str, int], wanted: Mapping[str, int], seed: int) -> dict[str, str]:
    """Say which list each patient goes into: by lot, then one at a time where it fits better.

    Parameters
    ----------
    sizes : patient -> pairs
    wanted : of each list but train, how many pairs; train gets the rest, and shall get some unless
        it is among them
    """
    into: dict[str, str] = {}
    held = dict.fromkeys((*wanted, "train"), 0)
    for patient in _shuffled(sizes, seed):
        # Take the patient where that brings the list nearer to its share.
        fits = (name for name in wanted if wanted[name] - held[name] > sizes[patient] / 2)
        into[patient] = next(fits, "train")
        held[into[patient]] += sizes[patient]
    while True:
        # An empty list is worse than any that is too large.
        best, move = _distance(held, wanted), None
        first: dict[tuple[str, int], str] = {}
        for patient, name in into.items():
            first.setdefault((name, sizes[patient]), patient)
        for (source, size), patient in first.items():
            for name in held:
                if name != source:
                    moved = {**held, source: held[source] - size}
                    moved[name] += size
                    if (far := _distance(moved, wanted)) < best:
                        best, move = far, (patient, name, moved)
        if move is None:
            return into
        patient, name, held = move
        into[patient] = name


def _distance(held: Mapping[str, int], wanted: Mapping[str, int]) -> tuple[int, int]:
    """Return how many lists are empty that should not be, then how many pairs are misplaced."""
    empty = sum(not held[name] for name in held if wanted.get(name, 1))
    return empty, sum(abs(held[name] - n) for name, n in wanted.items())


def fold_pairs(
    pairs: Iterable[Pair], *, folds: int, seed: int = 0, groups: Mapping[str, str] | None = None
) -> list[Split]:
    """Part pairs into ``folds`` pairs of train and val; each pair is in one val.

    Raises
    ------
    SplitError
        When there are fewer patients than folds, or two pairs share a name or an image.
    """
    folds = check_whole("folds", folds, least=2)
    patients = _by_patient(pairs, groups)
    if len(patients) < folds:
        raise SplitError(f"{len(patients)} patients cannot fill {folds} folds. Use fewer folds.")
    parts: list[list[Pair]] = [[] for _ in range(folds)]
    # Large patients first, each to the smallest fold: even folds whatever the sizes.
    order = _shuffled(patients, seed)
    for patient in sorted(order, key=lambda name: -len(patients[name])):
        min(parts, key=len).extend(patients[patient])
    splits = []
    for part in parts:
        others = [pair for other in parts if other is not part for pair in other]
        splits.append(Split(sorted(others, key=_NAME), sorted(part, key=_NAME), []))
    return splits


def _check_ratios(val: float, test: float) -> None:
    for name, share in (("val", val), ("test", test)):
        if not 0 <= share < 1 and (name, share) != ("test", 1):
            raise ConfigError(
                f"{name}={share:g}: not a share of the pairs. Write 0 or more and less than 1; "
                "0.1 is usual."
            )
    if val + test >= 1 and (val, test) != (0, 1):
        raise ConfigError(
            f"val={val:g} and test={test:g} leave nothing for train. Lower them; a test list alone "
            "is val=0 with test=1."
        )


def _by_patient(pairs: Iterable[Pair], groups: Mapping[str, str] | None) -> dict[str, list[Pair]]:
    patients: dict[str, list[Pair]] = defaultdict(list)
    pairs = sorted(pairs, key=_NAME)
    refuse_equal_names(pairs, SplitError)
    refuse_shared_files(pairs, SplitError)
    for pair in pairs:
        if groups is not None and pair.name not in groups:
            raise SplitError("no patient in the groups. Name one for every pair.", where=pair.name)
        patients[pair.name if groups is None else groups[pair.name]].append(pair)
    return dict(sorted(patients.items()))


def _shuffled(patients: Mapping[str, Any], seed: int) -> list[str]:
    names, rng = sorted(patients), np.random.default_rng(check_whole("seed", seed))
    return [names[i] for i in rng.permutation(len(names))]


def render_split(
    folder: str | Path, split: Split, facts: SplitRecord | Mapping[str, Any]
) -> dict[Path, str]:
    """Return what :func:`write_split` would write: path -> text."""
    folder = Path(folder)
    stored = facts.to_dict() if isinstance(facts, SplitRecord) else facts
    counts = count_pairs(split)
    manifests = {
        folder / f"{name}.txt": render_manifest(folder, getattr(split, name)) for name in SPLITS
    }
    record = json_text({**stored, "counts": counts}, sort_keys=True)
    return {**manifests, folder / "split.json": record}


def without(split: Split, names: Collection[str]) -> Split:
    """Return the lists without some slices; the others stay where they are.

    Raises
    ------
    SplitError
        When that leaves a list empty that was not.
    """
    lists = {
        name: [pair for pair in getattr(split, name) if pair.name not in names] for name in SPLITS
    }
    for name, left in lists.items():
        if getattr(split, name) and not left:
            raise SplitError("all of its slices are excluded. Exclude fewer.", where=name)
    return Split(**lists)


def count_pairs(split: Split) -> dict[str, int]:
    """Return how many pairs each list holds."""
    return {name: len(getattr(split, name)) for name in SPLITS}


def write_split(folder: str | Path, split: Split, facts: SplitRecord | Mapping[str, Any]) -> None:
    """Write train.txt, val.txt, test.txt and split.json, each atomically.

    Parameters
    ----------
    facts : what split.json records beside the counts, such as the seed and the label codec
    """
    for path, text in render_split(folder, split, facts).items():
        write_text(path, text)


def read_split(folder: str | Path, *names: str) -> Split:
    """Read the lists of a data folder; a missing list counts as empty.

    Parameters
    ----------
    names : the lists that are wanted, of train, val and test; the others are not opened and come
        back empty. None given means all.

    Raises
    ------
    SplitError
        When a file stands in two of the lists.
    DataError
        When the folder or all lists are missing, or a line is wrong.
    """
    folder = Path(folder)
    check_split_folder(folder)
    if not any((folder / f"{name}.txt").exists() for name in SPLITS):
        raise DataError(
            "no train.txt, val.txt or test.txt. 'lungunet split' makes them.", where=folder
        )
    files = {name: folder / f"{name}.txt" for name in SPLITS}
    lists = {
        name: read_manifest(file) if name in (names or SPLITS) and file.exists() else []
        for name, file in files.items()
    }
    _refuse_leaks(folder, {name: [pair.image for pair in lists[name]] for name in lists})
    return Split(**lists)


def fold_folders(folder: str | Path) -> list[Path]:
    """List the folders fold-1, fold-2 and so on in a folder, by number."""
    numbers = {
        place: int(place.name.removeprefix("fold-"))
        for place in Path(folder).glob("fold-*")
        if re.fullmatch("fold-[0-9]+", place.name) and place.is_dir()
    }
    return sorted(numbers, key=numbers.__getitem__)


def folds_of_lists(folder: str | Path) -> list[Path]:
    """List the fold folders that hold lists, by number: others are no folds of a data folder."""
    return [
        place
        for place in fold_folders(folder)
        if any((place / f"{name}.txt").exists() for name in SPLITS)
    ]


def check_split_folder(folder: Path) -> None:
    """Refuse what is no folder."""
    if folder.is_file():
        raise DataError(f"is a file. Give the folder it lies in: {folder.parent}.", where=folder)
    if not folder.is_dir():
        raise DataError("no such folder. 'lungunet split' makes it.", where=folder)


def _refuse_leaks(folder: Path, images: Mapping[str, Sequence[Path]]) -> None:
    owners: dict[Path, str] = {}
    leaks = []
    for name, files in images.items():
        for file in files:
            owner = owners.setdefault(file.resolve(), name)
            if owner != name:
                leaks.append(f"{file.stem}: in {owner} and {name}")
    if leaks:
        raise SplitError(
            f"{len(leaks)} slices stand in two lists:\n  {listed(leaks)}\n"
            "A score on slices the model has seen means nothing: run 'lungunet split' again.",
            where=folder,
        )


def read_list(folder: str | Path, name: str) -> list[Pair]:
    """Read one list of a data folder, and check by name that it shares no slice with the others.

    The files of the other lists need not be there: a test set can travel alone.
    """
    folder = Path(folder)
    pairs: list[Pair] = getattr(read_split(folder, name), name)
    others = [other for other in SPLITS if other != name and (folder / f"{other}.txt").exists()]
    _refuse_leaks(
        folder,
        {other: [pair.image for pair in list_named(folder / f"{other}.txt")] for other in others}
        | {name: [pair.image for pair in pairs]},
    )
    return pairs


def choose_codec(
    data: str | Path, labels: str = "auto", threshold: int = -1, *, names: Sequence[str] = ()
) -> LabelCodec:
    """Return the codec of a data folder's masks: as said, else as split.json says, else 0,255.

    Parameters
    ----------
    labels : auto, or as :meth:`LabelCodec.parse` reads it
    threshold : raw values from here on are lung; -1 is off
    names : one per class; none takes those that split.json says, where it says the classes
    """
    record = read_split_record(data)
    if labels == "auto" and threshold < 0:
        try:
            codec = record.codec or LUNG_CODEC
        except ConfigError as err:
            path = Path(data) / "split.json"
            raise DataError(f"{err} Or run 'lungunet split' again.", where=path) from err
        return replace(codec, names=tuple(names)) if names else codec
    text = "0,255" if labels == "auto" else labels
    return LabelCodec.parse(text, threshold=threshold if threshold >= 0 else None, names=names)


def read_split_record(folder: str | Path) -> SplitRecord:
    """Return what the split.json of a data folder records: nothing where there is none.

    Raises
    ------
    DataError
        When the file is damaged.
    """
    path = Path(folder) / "split.json"
    if not path.exists():
        return SplitRecord()
    fix = "Run 'lungunet split' again."
    stored = read_json(path, fix=fix)
    if not isinstance(stored.get("patients"), dict | None):
        raise DataError(f"patients is no JSON object. {fix}", where=path)
    return SplitRecord.from_dict(stored)


def read_patients(folder: str | Path) -> Mapping[str, int] | None:
    """Return the number of the patient of each slice, as split.json records it.

    What :func:`evaluate` takes as ``patients``, so that its intervals know which slices belong
    together.

    Returns
    -------
    stem to number, or None
        None where the split was made without groups.

    Raises
    ------
    DataError
        When split.json is damaged.
    """
    return read_split_record(folder).patients
