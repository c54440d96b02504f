"""``lungunet split`` and ``lungunet prepare``: from two folders to three lists."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Json,
    Labels,
    LabelThreshold,
    Overwrite,
    refuse_existing,
    refuse_inputs,
)

if TYPE_CHECKING:
    from lungunet.data.codec import LabelCodec
    from lungunet.data.manifest import Pair
    from lungunet.data.split import Split
    from lungunet.data.survey import Survey

Images = Annotated[Path, typer.Argument(help="Folder of CT slices.", metavar="IMAGES")]
Masks = Annotated[Path, typer.Argument(help="Folder of masks; paired by stem.", metavar="MASKS")]
Data = Annotated[Path, typer.Argument(help="Folder for the lists.", metavar="DATA")]
Val = Annotated[float, typer.Option(help="Share of the pairs for val; 0 leaves it empty.")]
Test = Annotated[float, typer.Option(help="Share of the pairs for test; 0 leaves it empty.")]
Seed = Annotated[int, typer.Option(help="Another seed, another split.")]
Group = Annotated[
    str | None,
    typer.Option(
        help="Keep each patient in one list: a regular expression on file stems (its first "
        "group is the patient), or a CSV with the columns name and patient."
    ),
]
Guard = Annotated[
    bool,
    typer.Option(
        "--guard",
        help="Keep slices that look like neighbours of one patient in one list, patients named "
        "or not.",
    ),
]
Folds = Annotated[
    int, typer.Option(help="Also write this many fold-K folders for cross-validation.")
]


def split(
    images: Images,
    masks: Masks,
    data: Data,
    val: Val = 0.1,
    test: Test = 0.2,
    seed: Seed = 0,
    group: Group = None,
    guard: Guard = False,
    folds: Folds = 0,
    labels: Labels = "0,255",
    label_threshold: LabelThreshold = -1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Pair slices with masks and write train.txt, val.txt and test.txt.

    Every file is read once, so that a wrong one is named now and not in the middle of training.

    Example: `lungunet split 2d_images 2d_masks data`
    """
    from lungunet.data.manifest import find_pairs
    from lungunet.data.split import number_patients, split_pairs
    from lungunet.data.survey import survey_pairs

    codec = _codec(labels, label_threshold)
    pairs = find_pairs(images, masks)
    groups = _groups(pairs, group, guard)
    lists = split_pairs(pairs, val=val, test=test, seed=seed, groups=groups)
    survey = survey_pairs(pairs, codec=codec, progress=console.progress_bar)
    facts = _facts(
        codec,
        survey,
        val=val,
        test=test,
        seed=seed,
        group=group,
        guard=guard,
        patients=number_patients(groups),
    )
    files = _render(data, lists, facts, folds, groups)
    # Writing what is there already changes nothing, so it needs no permission.
    stale = _stale_folds(data, files)
    changed = [path for path, text in files.items() if _differs(path, text)]
    refuse_existing([*changed, *stale], overwrite)
    _write(files, stale)
    _report(data, lists, survey, as_json)


def prepare(
    images: Images,
    masks: Masks,
    data: Data,
    size: Annotated[int, typer.Option(help="Longer side of the new files, px.")] = 512,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep mask values (0/255) instead of classes (0/1).")
    ] = False,
    val: Val = 0.1,
    test: Test = 0.2,
    seed: Seed = 0,
    group: Group = None,
    guard: Guard = False,
    folds: Folds = 0,
    labels: Labels = "0,255",
    label_threshold: LabelThreshold = -1,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write slices and label images anew: resized, labels as classes 0/1, with the three lists.

    Not needed for training, which reads the originals. The dtype of the slices is kept.

    Example: `lungunet prepare 2d_images 2d_masks data --size 256`
    """
    from lungunet.data.manifest import Pair, find_pairs, render_manifest
    from lungunet.data.prepare import prepare_pairs
    from lungunet.data.split import SPLITS, number_patients, split_pairs
    from lungunet.data.survey import survey_pairs

    codec = _codec(labels, label_threshold)
    pairs = find_pairs(images, masks)
    outputs = [data / f"{name}.txt" for name in SPLITS]
    refuse_inputs([data / "images", data / "masks"], [images, masks])
    refuse_existing([*outputs, data / "images", data / "masks"], overwrite)
    groups = _groups(pairs, group, guard)
    split_pairs(pairs, val=val, test=test, seed=seed, groups=groups)  # fails before any work
    render_manifest(data, [Pair(data / f"{pair.name}.tif") for pair in pairs])  # and odd names
    survey_pairs(pairs, codec=codec, progress=console.progress_bar)  # so do wrong files
    written, new_codec = prepare_pairs(
        pairs, data, codec=codec, size=size, raw=raw, progress=console.progress_bar
    )
    lists = split_pairs(written, val=val, test=test, seed=seed, groups=groups)
    survey = survey_pairs(written, codec=new_codec, progress=console.progress_bar)
    facts = _facts(
        new_codec,
        survey,
        val=val,
        test=test,
        seed=seed,
        group=group,
        guard=guard,
        patients=number_patients(groups),
    )
    files = _render(data, lists, {**facts, "prepared_size": size}, folds, groups)
    _write(files, _stale_folds(data, files))
    _report(data, lists, survey, as_json)


def _codec(labels: str, threshold: int) -> "LabelCodec":
    from lungunet.data.codec import LabelCodec

    return LabelCodec.parse(labels, threshold=threshold if threshold >= 0 else None)


def _groups(pairs: "Sequence[Pair]", rule: str | None, guard: bool) -> dict[str, str] | None:
    from lungunet.data.split import read_groups
    from lungunet.data.twins import find_twins, fingerprint_pairs, guard_groups

    groups = None if rule is None else read_groups(pairs, rule)
    if not guard:
        return groups
    twins = find_twins(fingerprint_pairs(pairs, progress=console.progress_bar))
    return guard_groups(pairs, twins, groups=groups)


def _facts(codec: "LabelCodec", survey: "Survey", **settings: Any) -> dict[str, Any]:
    from lungunet._version import __version__

    return {
        **settings,
        **survey.to_dict(),
        "labels": codec.to_dict(),
        "version": __version__,
    }


def _render(
    data: Path,
    lists: "Split",
    facts: dict[str, Any],
    folds: int,
    groups: dict[str, str] | None,
) -> dict[Path, str]:
    from lungunet.data.split import Split, fold_pairs, render_split

    files = render_split(data, lists, facts)
    if not folds:
        return files
    rest = [*lists.train, *lists.val]
    for number, fold in enumerate(
        fold_pairs(rest, folds=folds, seed=facts["seed"], groups=groups), start=1
    ):
        # Each fold is a data folder of its own; what was held out for test stays held out.
        whole = Split(fold.train, fold.val, lists.test)
        files |= render_split(data / f"fold-{number}", whole, {**facts, "fold": number})
    return files


def _differs(path: Path, text: str) -> bool:
    return path.exists() and path.read_bytes() != text.encode()


def _stale_folds(data: Path, files: dict[Path, str]) -> list[Path]:
    """List what an earlier split left in fold folders: beside new lists it would leak."""
    names = ("train.txt", "val.txt", "test.txt", "split.json")
    old = [fold / name for fold in data.glob("fold-[0-9]*") for name in names]
    return [path for path in old if path.exists() and path not in files]


def _write(files: dict[Path, str], stale: list[Path]) -> None:
    from lungunet.data.files import write_text

    for path in stale:
        path.unlink()
    for path, text in files.items():
        write_text(path, text)


def _report(data: Path, lists: "Split", survey: "Survey", as_json: bool) -> None:
    from lungunet.data.split import SPLITS

    counts = {name: len(getattr(lists, name)) for name in SPLITS}
    if as_json:
        console.say_json({"data": str(data), "counts": counts, **survey.to_dict()})
        return
    console.show_table(("list", "pairs"), counts.items())
    dtypes = ", ".join(f"{n} {name}" for name, n in survey.dtypes.items())
    sizes = ", ".join(f"{n} of {size}" for size, n in survey.sizes.items())
    console.say(f"\nslices: {dtypes}; {sizes}")
    console.say(f"lung:   {survey.lung_share:.1%} of the pixels; {survey.empty} slices without")
    console.say(f"\nnext:   {console.command('train', data)}")
