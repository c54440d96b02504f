"""``lungunet slices``: slices to train on, from scans and their masks."""

from pathlib import Path
from typing import Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Json,
    LabelThreshold,
    Names,
    Overwrite,
    Quiet,
    Resample,
    Series,
    parse_codec,
)


def slices(
    scans: Annotated[
        Path,
        typer.Argument(
            help="Folder of scans (NIfTI, NRRD, MHA, folders of DICOM), or one.", metavar="SCANS"
        ),
    ],
    masks: Annotated[
        Path, typer.Argument(help="Folder of masks; paired by name. Or one.", metavar="MASKS")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder for the slices.", metavar="DIR")],
    every: Annotated[int, typer.Option(help="Take one slice of so many.", min=1)] = 1,
    max_empty: Annotated[
        float,
        typer.Option(
            help="Share of a scan's slices that may be without lung; 1 keeps all.", min=0, max=1
        ),
    ] = 0.1,
    group: Annotated[
        str | None,
        typer.Option(
            help="Which scans are of one patient: a regular expression on their names (its first "
            "group is the patient), or a CSV with the columns name and patient. Without it, each "
            "scan is a patient."
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            help="Mask values in class order: 0,1 or 0,255 or 0,3=1,4=1. auto: as predicted masks "
            "say, left and right as one lung; else 0,1."
        ),
    ] = "auto",
    label_threshold: LabelThreshold = -1,
    names: Names = None,
    series: Series = None,
    resample: Resample = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Cut axial slices from scans and masks: int16 TIFF in HU, and PNG with 0 and 255.

    DIR/groups.csv says which slices are of one patient, so that a split keeps them together. A scan
    that cannot be used is named and skipped, and the exit code is 1 in the end.

    Examples
    --------
    - `lungunet slices scans masks sliced --every 5`
    - `lungunet split sliced/images sliced/masks data --group sliced/groups.csv`
    """
    from lungunet import SliceConfig, slice_files

    given = parse_codec(labels, label_threshold)
    results = slice_files(
        scans,
        masks,
        folder,
        config=SliceConfig(given, every, max_empty),
        group=group,
        names=names,
        series=series,
        resample=resample,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    failed: list[str] = []
    cut = list(console.going_on(results, failed))
    rows = [(scan.name, len(scan.pairs)) for scan in cut if scan.error is None]
    codec = cut[0].codec
    if as_json:
        scans_cut = [{"name": name, "slices": count} for name, count in rows]
        facts = {"folder": str(folder), "labels": str(codec), "scans": scans_cut, "failed": failed}
        console.say_json(facts)
    else:
        if given is None and rows:
            console.say(f"masks are read as {codec}; if that is wrong, say how with --labels\n")
        _report(folder, rows, labels=str(codec.for_truth))
    console.refuse_skipped(failed, len(cut), "scan")


def _report(folder: Path, rows: list[tuple[str, int]], *, labels: str) -> None:
    console.show_table(("scan", "slices"), rows)
    images, masks, groups = folder / "images", folder / "masks", folder / "groups.csv"
    coded = [] if labels == "0,255" else ["--labels", labels]
    command = console.command("split", images, masks, "data", "--group", groups, *coded)
    total = sum(count for _, count in rows)
    console.say(f"\n{total} slices in {folder}" if total else "\nno slice was written")
    if total:
        console.say(f"next:   {command}")
