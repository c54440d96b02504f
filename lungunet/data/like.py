"""The lists of another data folder, kept: each slice goes where it stands there.

By name, since masks may be mended copies and files may have moved. Reads no image.
"""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from lungunet.data.manifest import Pair, find_images, list_named, name_files
from lungunet.data.split import (
    SPLITS,
    Split,
    SplitConfig,
    SplitRecord,
    check_split_folder,
    folds_of_lists,
    read_split_record,
)
from lungunet.errors import ConfigError, DataError, LungUNetWarning, SplitError, counted, listed

DRAWN_BY = ("val", "test", "seed", "group", "guard")
"""The settings that decide which list a slice goes into."""


@dataclass(frozen=True)
class ListPlan:
    """Which slice goes into which list.

    Parameters
    ----------
    whole : the three lists
    folds : the lists of each fold folder
    record : what split.json says of how they were drawn: settings, patients, what was left out
    """

    whole: Split
    folds: list[Split]
    record: SplitRecord


def keep_lists(
    pairs: Mapping[str, Pair], config: SplitConfig, excluded: Collection[str]
) -> ListPlan:
    """Put each pair into the list in which its name stands in ``config.like``.

    Parameters
    ----------
    pairs : by name
    excluded : names that go into no list, and need not stand in one

    Raises
    ------
    ConfigError
        When a setting asks for other lists.
    SplitError
        When a pair stands in none of the lists, for nobody knows whether it is of a patient in one
        of them; or a list would be empty that is not there.
    """
    folder = Path(str(config.like))
    owners, record = _read_owners(folder), read_split_record(folder)
    folds = [_read_owners(place) for place in folds_of_lists(folder)]
    _refuse_other_settings(config, record, len(folds))
    _refuse_new({*pairs} - {*owners, *excluded, *(record.excluded or ())}, folder)
    whole = _deal(pairs, owners)
    _check_missing(whole, {name: owners[name] for name in sorted({*owners} - {*pairs})}, folder)
    return ListPlan(whole, [_deal(pairs, owned) for owned in folds], record)


def pair_as_listed(images: str | Path, masks: str | Path, folder: str | Path) -> list[Pair]:
    """Pair masks with the images of a data folder, as its lists call and place these.

    So copies pair that a review called ``p1_slice1``, however ``p1/ct/slice1.tif`` and its mask
    were told to be paired. Images without a mask are left out.

    Returns
    -------
    list of Pair
        Sorted by name; none where its lists call images by their stems, which says no more than
        these do, or do not have an image among ``images`` for every mask.
    """
    files = [Path(folder) / f"{name}.txt" for name in SPLITS]
    listed_pairs = [pair for file in files if file.exists() for pair in list_named(file)]
    if all(pair.name == pair.image.stem for pair in listed_pairs):
        return []
    there = {path.resolve(): path for path in find_images(images, but=Path(masks))}
    image_of = {pair.name: there.get(pair.image.resolve()) for pair in listed_pairs}
    pairs = []
    for mask, name in name_files(find_images(masks)).items():
        image = image_of.get(name)
        if image is None:
            return []
        pairs.append(Pair(image, mask, name))
    return sorted(pairs, key=attrgetter("name"))


def _deal(pairs: Mapping[str, Pair], owners: Mapping[str, str]) -> Split:
    return Split(
        *([pairs[name] for name in sorted(pairs) if owners.get(name) == split] for split in SPLITS)
    )


def _read_owners(folder: Path) -> dict[str, str]:
    """Return in which list of a data folder each name stands."""
    check_split_folder(folder)
    files = {name: folder / f"{name}.txt" for name in SPLITS}
    if not any(file.exists() for file in files.values()):
        raise DataError(
            "no train.txt, val.txt or test.txt. Give the folder that 'lungunet split' wrote.",
            where=folder,
        )
    owners: dict[str, str] = {}
    for name, file in files.items():
        for pair in list_named(file) if file.exists() else ():
            if owners.setdefault(pair.name, name) != name:
                raise SplitError(
                    f"{pair.name}: in {owners[pair.name]} and {name}. Lists that share a slice "
                    "cannot be kept: leave it out of one.",
                    where=folder,
                )
    return owners


def _refuse_other_settings(config: SplitConfig, record: SplitRecord, folds: int) -> None:
    """Refuse what asks for other lists. A default says nothing: it may not have been given."""
    usual = SplitConfig()
    others = [
        f"{name} {getattr(config, name)}"
        for name in DRAWN_BY
        if getattr(config, name) not in (getattr(usual, name), getattr(record, name))
    ]
    if folds and config.folds not in (0, folds):
        others.append(f"folds {config.folds} (it has {folds})")
    if others:
        raise ConfigError(
            f"its lists are kept as they are, and {', '.join(others)} asks for others. Leave that "
            f"out, or like='{config.like}'.",
            where=config.like,
        )


def _refuse_new(names: set[str], folder: Path) -> None:
    if names:
        raise SplitError(
            f"{counted(len(names), 'slice')} in none of its lists: "
            f"{listed(sorted(names), separator=', ')}. They may be of patients in any list: "
            f"exclude them, or leave out like='{folder}' and train anew.",
            where=folder,
        )


def _check_missing(whole: Split, missing: Mapping[str, str], folder: Path) -> None:
    for name in SPLITS:
        if name in missing.values() and not getattr(whole, name):
            raise SplitError(
                f"no slice of its {name}.txt is among the images. Check the folder of images.",
                where=folder,
            )
    if missing:
        warnings.warn(
            f"{folder}: {counted(len(missing), 'slice')} of its lists not among the images, left "
            f"out: {listed([*missing], separator=', ')}.",
            LungUNetWarning,
            stacklevel=4,
        )
