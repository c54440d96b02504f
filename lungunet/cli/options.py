"""Options that mean the same in every verb that has them."""

from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console

if TYPE_CHECKING:
    from lungunet import LabelCodec

Labels = Annotated[
    str,
    typer.Option(
        help="Raw mask values in class order: 0,255 or 0,1 or 0,3=1,4=1. 255=ignore leaves pixels "
        "out of every loss and score. auto: as a folder of predicted or mended masks says, else as "
        "--like, else 0,255."
    ),
]
LabelNames = Annotated[
    str | None,
    typer.Option(
        help="Names of the classes, background first: background,left,right.", show_default=False
    ),
]
LabelThreshold = Annotated[
    int,
    typer.Option(
        help="For smeared masks: raw values from here on are lung, as with --labels '>=128'. -1 is "
        "off."
    ),
]
Names = Annotated[
    str | None,
    typer.Option(
        help="How masks are called beside their images: `*=*_mask` where a.tif has a_mask.png, "
        "`ct/*=seg/*` where p1/ct/a.tif has p1/seg/a.png. Default: alike, or by a usual ending, "
        "which is said."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu, cuda:N (or N) or mps.")]
Devices = Annotated[
    str,
    typer.Option(
        help="auto, cpu, gpu, cuda:N (or N) or mps; or several, cuda:0,1,2,3: a process for each."
    ),
]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Series = Annotated[
    str | None,
    typer.Option(help="Of DICOM this series alone: its short id, or SeriesInstanceUID."),
]
Resample = Annotated[
    bool,
    typer.Option(
        "--resample",
        help="Put DICOM slices of uneven steps, or tilted by the gantry, on a straight grid.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=console.be_quiet, help="Print warnings and errors alone."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


def parse_labels(labels: str, threshold: int, names: str | None = None) -> "LabelCodec":
    """Read ``--labels``, ``--label-threshold`` and ``--label-names`` of verbs that guess none."""
    from lungunet import LabelCodec

    named = [name.strip() for name in names.split(",")] if names else ()
    return LabelCodec.parse(
        labels, threshold=threshold if threshold >= 0 else None, names=tuple(named)
    )


def parse_codec(labels: str, threshold: int, names: str | None = None) -> "LabelCodec | None":
    """Read the options of labels where auto is known; None where all is auto."""
    if labels != "auto":
        return parse_labels(labels, threshold, names)
    return parse_labels("0,255", threshold, names) if threshold >= 0 or names else None


def typed_labels(labels: str, threshold: int) -> tuple[object, ...]:
    """Return the options of labels that were given, for a command to go on with."""
    typed: tuple[object, ...] = () if labels == "auto" else ("--labels", labels)
    return typed if threshold < 0 else (*typed, "--label-threshold", threshold)
