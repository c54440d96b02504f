"""``lungunet measure``: areas, volumes and HU of masks, as a table."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from lungunet.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    from lungunet import MeasuredFile, Measurement

_SHOWN = 20


def measure(
    images: Annotated[
        Path, typer.Argument(help="Folder of slices or scans, or one of them.", metavar="IMAGES")
    ],
    masks: Annotated[
        Path, typer.Argument(help="Folder of masks; paired by name. Or one.", metavar="MASKS")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write.")],
    spacing_mm: Annotated[
        str | None,
        typer.Option(
            help="Slices: size of a pixel, mm, rows first, as in 0.7,0.7. Without it mm2 is empty. "
            "Scans know theirs.",
            metavar="Y,X",
        ),
    ] = None,
    sides: Annotated[
        bool,
        typer.Option("--sides", help="Also each lung by itself, told apart by shape."),
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            help="Raw mask values in class order: 0,255 or 0,1, or 0,1,2 where 1 is the left and 2 "
            "the right lung. auto: which of these most masks fit."
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
    """Measure masks: area, volume, mean HU, 5th and 95th percentile, emphysema index.

    One row per slice, or per scan and per slice of it. What cannot be known is left empty: HU of
    eight-bit and uint16 pictures, mm2 without a spacing, the volume of a scan that shows no whole
    chest. A pair that cannot be used is named and skipped, and the exit code is 1 in the end.

    Columns
    -------
    - `name`: the slice file or the scan
    - `area_px`, `area_mm2`: of a slice; of a whole scan its voxels, and empty
    - `mean_hu`, `hu_p05`, `hu_p95`: mean, 5th and 95th percentile of HU in the mask
    - `emphysema_index`: share of the mask below -950 HU
    - `volume_ml`: of a scan
    - `region`: lungs, left lung or right lung: the patient's
    - `slice`: of a scan, from 0 at the feet; empty in the row of the whole
    - `spacing_z_mm`, `spacing_y_mm`, `spacing_x_mm`: what areas and volumes were computed with

    Examples
    --------
    - `lungunet measure slices masks --out areas.csv --spacing-mm 0.7,0.7`
    - `lungunet measure scans masks --out volumes.csv --sides`
    """
    from lungunet import is_volume_source, measure_files

    volumes = is_volume_source(images)
    if volumes and spacing_mm is not None:
        raise ConfigError("for slices, these are volumes. Leave it out.", where="--spacing-mm")
    for option, is_given in {"--series": series is not None, "--resample": resample}.items():
        if is_given and not volumes:
            raise ConfigError("for volumes, these are slices. Leave it out.", where=option)
    given = parse_codec(labels, label_threshold)
    results = measure_files(
        images,
        masks,
        out,
        codec=given,
        names=names,
        spacing_mm=_parse_spacing(spacing_mm),
        sides=sides,
        series=series,
        resample=resample,
        overwrite=overwrite,
        progress=console.progress_bar,
    )
    failed: list[str] = []
    measured = list(console.going_on(results, failed))
    rows = [row for one in measured for row in one.rows]
    if as_json:
        shown = [row.to_dict() for row in rows]
        swapped = [one.name for one in measured if one.swapped]
        untold = [one.name for one in measured if one.untold]
        no_chest = [one.name for one in measured if one.no_chest]
        facts = {"labels": str(measured[0].codec), "measurements": shown, "failed": failed}
        sided = {"swapped_sides": swapped, "untold_sides": untold}
        console.say_json({**facts, **sided, "no_chest": no_chest})
    elif given is None and rows:  # else there is no coding that fits
        _say_codec(measured[0])
    if rows and not as_json:
        _show(rows, out, volumes)
    if failed:
        raise DataError(f"{len(failed)} of {counted(len(measured), 'pair')} skipped. Mend them.")


def _say_codec(one: "MeasuredFile") -> None:
    classes = one.codec.n_classes
    if one.noted:
        sides = ": 1 is the left, 2 the right lung" if classes > 2 else ""
        sides += ", 3 lung of which nobody knows the side" if classes > 3 else ""
        console.say(f"masks are coded {one.codec}, as their folder says{sides}\n")
        return
    sides = ": 1 is taken as the left, 2 as the right lung" if classes == 3 else ""
    console.say(f"masks are coded {one.codec}{sides}; if they are not, say how with --labels\n")


def _parse_spacing(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        y = x = math.nan
    if not (0 < y < math.inf and 0 < x < math.inf):
        raise ConfigError(
            "is not two lengths. Write rows, then columns, as in 0.7,0.7.",
            where=f"--spacing-mm '{text}'",
        )
    return y, x


def _show(rows: "list[Measurement]", out: Path, volumes: bool) -> None:
    shown = [row for row in rows if row.slice is None]
    size = "volume, mL" if volumes else "area, mm2"
    header = ("", "region", "area, px", size, "mean HU", "5 %", "95 %", "emphysema")
    console.show_table(
        header if not volumes else (*header[:2], *header[3:]),
        (_cells(row, volumes) for row in shown[:_SHOWN]),
    )
    if len(shown) > _SHOWN:
        console.say(f"and {len(shown) - _SHOWN} more")
    for remark in _remarks(shown, volumes):
        console.say(f"\n{remark}")
    console.say(f"\n{counted(len(rows), 'row')} in {out}")


def _cells(row: "Measurement", volumes: bool) -> list[object]:
    sizes = (row.volume_ml,) if volumes else (row.area_px, row.area_mm2)
    numbers = [console.short(value, 1) for value in (*sizes, row.mean_hu, row.hu_p05, row.hu_p95)]
    return [row.name, row.region, *numbers, row.emphysema_index]


def _remarks(rows: "list[Measurement]", volumes: bool) -> list[str]:
    """Say why a column is empty."""
    remarks = []
    if not volumes and any(math.isnan(row.spacing_y_mm) for row in rows):
        remarks.append("mm2 are not known: add --spacing-mm Y,X")
    without = sum(math.isnan(row.mean_hu) and row.area_px > 0 for row in rows)
    if without:
        remarks.append(
            f"{counted(without, 'row')} without HU: eight-bit and uint16 pictures hold none"
        )
    return remarks
