"""From two folders of slices and masks to a data folder: three lists, split.json, folds.

Looks at every file before anything is written, and writes slices anew where that is asked for.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from lungunet._version import __version__
from lungunet.data.codec import (
    IGNORE,
    LUNG_CODEC,
    LabelCodec,
    find_sides,
    is_lung,
    is_smeared,
    lie_swapped,
    looks_inverted,
    say_no_lung,
    suggest_codec,
    suggest_codecs,
    tell_inverted,
    tell_swapped,
)
from lungunet.data.contract import resize_classes
from lungunet.data.ct import read_mask, write_image, write_mask
from lungunet.data.dataset import read_pair
from lungunet.data.exclude import read_excluded, refuse_unknown
from lungunet.data.files import refuse_existing, refuse_inputs, write_text
from lungunet.data.like import DRAWN_BY, ListPlan, keep_lists, pair_as_listed
from lungunet.data.made_by import read_lung_codec
from lungunet.data.manifest import (
    Pair,
    find_pairs,
    refuse_equal_names,
    refuse_shared_files,
    render_manifest,
)
from lungunet.data.split import (
    SPLITS,
    Split,
    SplitConfig,
    SplitRecord,
    choose_codec,
    count_pairs,
    fold_folders,
    fold_pairs,
    number_patients,
    read_groups,
    read_split_record,
    render_split,
    split_pairs,
    without,
)
from lungunet.data.twins import find_twins, fingerprint_pairs, guard_groups
from lungunet.errors import (
    ConfigError,
    DataError,
    LabelError,
    LungUNetWarning,
    SplitError,
    listed,
)
from lungunet.progress import Progress, silent


def write_data_folder(
    images: str | Path,
    masks: str | Path,
    folder: str | Path,
    *,
    config: SplitConfig = SplitConfig(),  # noqa: B008 - frozen
    codec: LabelCodec | None = None,
    names: str | None = None,
    size: int | None = None,
    raw: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> SplitRecord:
    """Pair slices with masks and write train.txt, val.txt, test.txt and split.json.

    Every file is read once, so that a wrong one is named now and not in the middle of training, and
    nothing is written before all are found right.

    Parameters
    ----------
    images, masks : folders of slices and of masks, paired by stem. With ``config.like``, masks that
        do not pair so may be called as its lists call the slices, like those that a review mended
    folder : where the lists go
    config : how to split. With folds, ``folder/fold-1`` and so on become data folders of their own,
        with the same test list: what :func:`cross_validate` trains on
    codec : of the masks. None takes what their folder says, if they were predicted or mended into
        it, left and right as one lung; else that of the data folder ``config.like``; else 0 and 255
    names : how masks are called beside their images, as for :func:`find_pairs`
    size : writes slices and masks anew into ``folder``, their longer side so many px, as
        :func:`prepare_pairs` does, and lists these. None lists the files where they are
    raw : with a size: keep raw mask values instead of class indices
    overwrite : replace what is there. Writing what is there already needs no permission, unless
        slices are written

    Returns
    -------
    SplitRecord
        What split.json says now, and the share of lung.

    Raises
    ------
    ConfigError
        When a setting is out of range, or output would replace files.
    DataError
        One error that lists every file that is unpaired, unreadable, mis-sized or coded otherwise.
    SplitError
        When pairs cannot fill the lists, two are links to one image, a group is not known, or a
        slice stands in none of the lists that are kept.
    """
    folder = Path(folder)
    if raw and size is None:
        raise ConfigError("nothing is written anew. Give a size too.", where="raw")
    pairs = _pair(images, masks, names, config.like)
    if size is not None:
        made = [folder / "images", folder / "masks"]
        refuse_inputs(made, [Path(images), Path(masks)])
        refuse_existing([*(folder / f"{name}.txt" for name in SPLITS), *made], overwrite)
    codec = codec or _find_codec(masks, config.like)
    excluded = [] if config.exclude is None else read_excluded(config.exclude)
    refuse_unknown(excluded, {pair.name for pair in pairs}, source=config.exclude)
    if config.like is not None:
        plan = _keep(pairs, config, excluded)
    else:
        plan = _draw(pairs, folder, config, progress)
    excluded = sorted({*excluded, *(plan.record.excluded or ())})
    without(plan.whole, excluded)  # before minutes of work
    pairs = [pair for pair in pairs if pair.name not in excluded]
    survey = survey_pairs(pairs, codec=codec, progress=progress, warn=True)
    if survey.empty_masks == len(pairs):
        warnings.warn(f"{masks}: {say_no_lung(len(pairs), codec)}", LungUNetWarning, stacklevel=2)
    if size is not None:
        # An odd name would be refused when all is written.
        render_manifest(folder, [Pair(folder / f"{pair.name}.tif") for pair in pairs])
        pairs, codec = prepare_pairs(
            pairs, folder, codec=codec, size=size, raw=raw, progress=progress
        )
        survey = survey_pairs(pairs, codec=codec, progress=progress)
    written = {pair.name: pair for pair in pairs}
    record = replace(
        survey,
        **{name: getattr(plan.record, name) for name in (*DRAWN_BY, "patients")},
        labels=codec.to_dict(),
        prepared_size=size,
        excluded=excluded or None,
        version=__version__,
    )
    lists, *parts = (
        _in_place(without(part, excluded), written) for part in (plan.whole, *plan.folds)
    )
    files = render_split(folder, lists, record)
    for number, part in enumerate(parts, start=1):
        files |= render_split(folder / f"fold-{number}", part, replace(record, fold=number))
    stale = _stale_folds(folder, files)
    if size is None:
        changed = [path for path, text in files.items() if _differs(path, text)]
        refuse_existing([*changed, *stale], overwrite)
    for path in stale:
        path.unlink()
        with suppress(OSError):  # it holds more than lists
            path.parent.rmdir()
    for path, text in files.items():
        write_text(path, text)
    return replace(record, counts=count_pairs(lists))


def _pair(images: str | Path, masks: str | Path, names: str | None, like: str | None) -> list[Pair]:
    """Pair by file names; where that fails, by those of the slices in lists that are kept."""
    try:
        return find_pairs(images, masks, names=names)
    except DataError:
        pairs = [] if like is None else pair_as_listed(images, masks, like)
        if not pairs:
            raise
        return pairs


def _find_codec(masks: str | Path, like: str | None) -> LabelCodec:
    told = read_lung_codec(masks)
    if told is not None or like is None:
        return told or LUNG_CODEC
    prepared = read_split_record(like).prepared_size is not None
    # Files that were prepared have another coding than those they were made from.
    if prepared and Path(masks).resolve() != Path(like, "masks").resolve():
        return LUNG_CODEC
    return choose_codec(like)


def _draw(pairs: Sequence[Pair], folder: Path, config: SplitConfig, progress: Progress) -> ListPlan:
    """Draw lists and folds by lot, whole patients at a time."""
    if config.exclude is not None:
        _refuse_other_lists(folder, config)
    groups = _find_groups(pairs, config, progress)
    if config.exclude is not None and groups is None:
        warnings.warn(
            "patients are not known here. If a model was trained on lists that kept them together, "
            "say like='DATA', the folder of these lists: it keeps both.",
            LungUNetWarning,
            stacklevel=3,
        )
    whole = split_pairs(pairs, val=config.val, test=config.test, seed=config.seed, groups=groups)
    settings = {name: getattr(config, name) for name in DRAWN_BY}
    record = SplitRecord(**settings, patients=number_patients(groups))
    return ListPlan(whole, _fold(whole, config.folds, seed=config.seed, groups=groups), record)


def _keep(pairs: Sequence[Pair], config: SplitConfig, excluded: Sequence[str]) -> ListPlan:
    """Take the lists of another folder; its folds too, or folds of these lists."""
    refuse_equal_names(pairs, SplitError)
    refuse_shared_files(pairs, SplitError)
    plan = keep_lists({pair.name: pair for pair in pairs}, config, excluded)
    if plan.folds or not config.folds:
        return plan
    numbers = plan.record.patients
    groups = None if numbers is None else {name: str(n) for name, n in numbers.items()}
    folds = _fold(plan.whole, config.folds, seed=config.seed, groups=groups)
    return replace(plan, folds=folds)


def _refuse_other_lists(folder: Path, config: SplitConfig) -> None:
    """Keep slices where they are: with other settings, those that trained would be in test."""
    before = read_split_record(folder)
    if before.val is None:  # it says nothing of how they were drawn
        return
    said = {name: getattr(before, name) for name in DRAWN_BY}
    others = [
        f"{name} {value}"
        for name, value in said.items()
        if value != getattr(config, name) and (value is not None or name == "group")
    ]
    if others:
        raise ConfigError(
            f"was made with {', '.join(others)}. Say like='{folder}', or the slices that are not "
            "excluded go into other lists; or split into another folder.",
            where=folder / "split.json",
        )


def _find_groups(
    pairs: Sequence[Pair], config: SplitConfig, progress: Progress
) -> dict[str, str] | None:
    groups = None if config.group is None else read_groups(pairs, config.group)
    if not config.guard:
        return groups
    twins = find_twins(fingerprint_pairs(pairs, progress=progress))
    return guard_groups(pairs, twins, groups=groups)


def _fold(whole: Split, folds: int, *, seed: int, groups: Mapping[str, str] | None) -> list[Split]:
    """Make a data folder of each fold; what was held out for test stays held out."""
    rest = [*whole.train, *whole.val]
    parts = fold_pairs(rest, folds=folds, seed=seed, groups=groups) if folds else []
    return [Split(part.train, part.val, whole.test) for part in parts]


def _in_place(split: Split, pairs: Mapping[str, Pair]) -> Split:
    """Return the lists with the files that each slice has by now."""
    return Split(*([pairs[pair.name] for pair in getattr(split, name)] for name in SPLITS))


def _stale_folds(folder: Path, files: Mapping[Path, str]) -> list[Path]:
    """List what an earlier split left in fold folders: beside new lists it would leak."""
    names = (*(f"{name}.txt" for name in SPLITS), "split.json")
    old = [fold / name for fold in fold_folders(folder) for name in names]
    return [path for path in old if path.exists() and path not in files]


def _differs(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() != text.encode()


def survey_pairs(
    pairs: Sequence[Pair],
    *,
    codec: LabelCodec,
    progress: Progress = silent,
    warn: bool = False,
) -> SplitRecord:
    """Read every pair once, and record what the files hold: dtypes, sizes, and how much lung.

    Asked to, it warns where most masks have lung where background lies, and where classes named
    left and right lie on the other side.
    """
    if not pairs:
        raise SplitError("no pairs to read. Check the folders.")
    dtypes: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    problems: list[str] = []
    values: set[int] = set()
    smeared = ""
    empty, inverted, share = 0, 0, 0.0
    sides, swapped = find_sides(codec), []
    for pair in progress(pairs, desc="read", total=len(pairs)):
        try:
            image, classes = read_pair(pair, codec)
        except DataError as err:
            problems.append(str(err))
            raw = _read_labels(pair) if isinstance(err, LabelError) else None
            if raw is not None and is_smeared(raw, codec):
                smeared = suggest_codec(raw, codec)
            elif raw is not None:
                values.update(np.unique(raw).tolist())
            continue
        dtypes[image.dtype.name] += 1
        sizes[f"{image.shape[0]}x{image.shape[1]}"] += 1
        lung = float(is_lung(classes).mean())
        empty += lung == 0
        inverted += looks_inverted(classes)
        if sides is not None and lie_swapped(classes, *sides):
            swapped.append(pair.name)
        share += lung
    if problems:
        text = f"{len(problems)} of {len(pairs)} pairs are wrong:\n  {listed(problems)}"
        if values and dtypes:  # some masks fit
            values.update(codec.classes)
        if smeared or values:
            fix = smeared or suggest_codecs(values, codec)
            text += (
                f"\nIf all masks are coded so, say it: {fix}. "
                "If slices and masks are swapped, swap them."
            )
        raise DataError(text)
    for text in (
        tell_inverted(inverted, len(pairs) - empty, codec),
        tell_swapped(swapped, len(pairs), codec),
    ):
        if warn and text:
            warnings.warn(text, LungUNetWarning, stacklevel=3)
    return SplitRecord(
        dtypes=dict(sorted(dtypes.items())),
        sizes=dict(sorted(sizes.items())),
        empty_masks=empty,
        lung_share=share / len(pairs),
    )


def _read_labels(pair: Pair) -> np.ndarray | None:
    """Return a mask; None where it has colours or fractions, which no coding explains."""
    try:
        return read_mask(pair.require_mask())
    except LabelError:
        return None


def prepare_pairs(
    pairs: Sequence[Pair],
    folder: str | Path,
    *,
    codec: LabelCodec,
    size: int = 512,
    raw: bool = False,
    progress: Progress = silent,
) -> tuple[list[Pair], LabelCodec]:
    """Write resized slices and label images into ``folder/images`` and ``folder/masks``.

    Parameters
    ----------
    size : the longer side becomes this many px; proportions, and the dtype of slices, are kept.
        Slices are averaged where they shrink, labels go to the class that covers most of a pixel
    raw : keep raw mask values (0/255) instead of class indices (0/1)

    Returns
    -------
    pairs : the new files
    codec : how their labels are coded

    Raises
    ------
    DataError, GeometryError, LabelError
        When a file is wrong, or two slices have one stem, so that one would replace the other.
    ConfigError
        When a setting is out of range, or a new file would replace one of those that are read.
    """
    folder = Path(folder)
    if size < 1:
        raise ConfigError("must be at least 1 px.", where=f"size {size}")
    if raw and not codec.can_decode:
        raise ConfigError(
            "merged values cannot be kept. Leave out raw=True.", where=f"labels {codec}"
        )
    refuse_equal_names(pairs)
    written = [
        Pair(folder / "images" / f"{pair.name}.tif", folder / "masks" / f"{pair.name}.png")
        for pair in pairs
    ]
    refuse_inputs(*(_files(some) for some in (written, pairs)))
    for pair, new in progress(zip(pairs, written, strict=True), desc="prepare", total=len(pairs)):
        image, classes = read_pair(pair, codec)
        write_image(new.image, _resize(image, size))
        labels = resize_classes(classes, *_shape(classes, size))
        write_mask(new.require_mask(), codec.decode(labels) if raw else labels)
    kept = {value: index for index, value in codec.raw_values.items()}
    plain = {index: index for index in range(codec.n_classes)}
    ignored = {codec.ignored_value if raw else IGNORE: IGNORE} if codec.ignores else {}
    return written, LabelCodec({**(kept if raw else plain), **ignored}, names=codec.names)


def _files(pairs: Sequence[Pair]) -> list[Path]:
    return [file for pair in pairs for file in (pair.image, pair.require_mask())]


def _shape(array: np.ndarray, size: int) -> tuple[int, int]:
    height, width = array.shape
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    height, width = _shape(image, size)
    if (height, width) == image.shape:
        return image
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    # float64 holds every int32; OpenCV resizes no int32 itself.
    values = image.astype(np.float64) if image.dtype == np.int32 else image
    resized = cv2.resize(values, (width, height), interpolation=method)
    return np.asarray(np.rint(resized).astype(np.int32) if image.dtype == np.int32 else resized)
