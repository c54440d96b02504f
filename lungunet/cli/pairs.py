"""``lungunet split`` and ``lungunet prepare``: from two folders to three lists."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Json,
    LabelNames,
    Labels,
    LabelThreshold,
    Names,
    Overwrite,
    Quiet,
    parse_codec,
)
from lungunet.errors import counted

if TYPE_CHECKING:
    from lungunet import SplitRecord

Images = Annotated[Path, typer.Argument(help="Folder of CT slices.", metavar="IMAGES")]
Masks = Annotated[Path, typer.Argument(help="Folder of masks; paired by stem.", metavar="MASKS")]
Data = Annotated[Path, typer.Argument(help="Folder for the lists.", metavar="DATA")]
Val = Annotated[float, typer.Option(help="Share of the pairs for val; 0 leaves it empty.")]
Test = Annotated[
    float,
    typer.Option(
        help="Share of the pairs for test; 0 leaves it empty. 1 with --val 0: a test list alone, "
        "to score a model that was trained on other slices."
    ),
]
Seed = Annotated[int, typer.Option(help="Another seed, another split.")]
Group = Annotated[
    str | None,
    typer.Option(
        help="Keep each patient in one list: a regular expression on names (its first "
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
Exclude = Annotated[
    str | None,
    typer.Option(
        help="Leave slices out: a .txt with one a line, what was dropped in a review.jsonl, or an "
        "audit's ranking with a bound, as audit/ranking.csv:0.2. With --like the others stay in "
        "their lists."
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        help="Keep the lists, folds, patients and labels of this data folder: each slice goes "
        "where its name stands there, so that models trained on it can be judged on the new test "
        "list. Slices that it does not list are refused.",
        metavar="DATA",
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
    labels: Labels = "auto",
    label_threshold: LabelThreshold = -1,
    names: Names = None,
    exclude: Exclude = None,
    like: Like = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    label_names: LabelNames = None,
) -> None:
    """Pair slices with masks and write train.txt, val.txt and test.txt.

    Every file is read once, so that a wrong one is named now and not in the middle of training.

    Example: `lungunet split 2d_images 2d_masks data`
    """
    from lungunet import SplitConfig, write_data_folder

    record = write_data_folder(
        images,
        masks,
        data,
        config=SplitConfig(val, test, seed, group, guard, folds, exclude, like),
        codec=parse_codec(labels, label_threshold, label_names),
        names=names,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    _report(data, record, as_json)


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
    labels: Labels = "auto",
    label_threshold: LabelThreshold = -1,
    names: Names = None,
    exclude: Exclude = None,
    like: Like = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    label_names: LabelNames = None,
) -> None:
    """Write slices and label images anew: resized, labels as classes 0/1, with the three lists.

    Not needed for training, which reads the originals. The dtype of the slices is kept.

    Example: `lungunet prepare 2d_images 2d_masks data --size 256`
    """
    from lungunet import SplitConfig, write_data_folder

    record = write_data_folder(
        images,
        masks,
        data,
        config=SplitConfig(val, test, seed, group, guard, folds, exclude, like),
        codec=parse_codec(labels, label_threshold, label_names),
        names=names,
        size=size,
        raw=raw,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    _report(data, record, as_json)


def _report(data: Path, record: "SplitRecord", as_json: bool) -> None:
    stored = record.to_dict()
    patients = None if record.patients is None else len({*record.patients.values()})
    if as_json:
        shown = {name: stored[name] for name in ("counts", "dtypes", "sizes", "empty_masks")}
        console.say_json({"data": str(data), **shown, "patients": patients})
        return
    console.show_table(("list", "pairs"), stored["counts"].items())
    dtypes = ", ".join(f"{n} {name}" for name, n in stored["dtypes"].items())
    sizes = ", ".join(f"{n} of {size}" for size, n in stored["sizes"].items())
    console.say(f"\nslices: {dtypes}; {sizes}")
    console.say(
        f"lung:   {record.lung_share:.1%} of the pixels; {record.empty_masks} slices without"
    )
    console.say(
        "patients: not known, each slice counts as one; --group keeps theirs together"
        if patients is None
        else f"patients: {patients}, each in one list"
    )
    if record.excluded:
        console.say(f"left out: {counted(len(record.excluded), 'slice')}, named in split.json")
    console.say(f"\nnext:   {console.command('audit', data, '--out', data / 'audit')}")
    if record.counts is not None and (then := _next_verb(data, record.counts)):
        console.say(f"then:   {console.command(*then)}")


def _next_verb(data: Path, counts: Mapping[str, int]) -> tuple[object, ...]:
    """Return what can be done with the lists: train needs two of them, evaluate one."""
    if counts["train"] and counts["val"]:
        return ("train", data)
    if (data / "fold-1" / "train.txt").exists():
        return ("train", data, "--cross-validate")
    return ("evaluate", "MODEL", data, "--out", data / "scores") if counts["test"] else ()
