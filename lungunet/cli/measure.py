"""``lungunet measure``: areas, volumes and HU of masks, as a table."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungunet.cli import console
from lungunet.cli.options import (
    Json,
    LabelThreshold,
    Overwrite,
    Series,
    refuse_existing,
    refuse_inputs,
)
from lungunet.errors import ConfigError, DataError, LabelError, counted

if TYPE_CHECKING:
    import numpy as np

    from lungunet.data.codec import LabelCodec
    from lungunet.data.manifest import Pair
    from lungunet.inference.measure import Measurement

_SHOWN = 20


@dataclass(frozen=True)
class _How:
    """What the options say of masks.

    Parameters
    ----------
    sides : tell the lungs apart where the mask does not
    """

    codec: "LabelCodec"
    sides: bool
    spacing_mm: tuple[float, float] | None
    series: str | None

    def sides_of(
        self, classes: "np.ndarray", spacing_mm: tuple[float, ...] | None
    ) -> "np.ndarray | None":
        """Return the mask with the lungs told apart, by itself or by shape; None if neither."""
        from lungunet.inference.sides import split_sides

        if self.codec.n_classes == 3:
            return classes
        return split_sides(classes, spacing_mm=spacing_mm) if self.sides else None


def measure(
    images: Annotated[
        Path, typer.Argument(help="Folder of slices or scans, or one of them.", metavar="IMAGES")
    ],
    masks: Annotated[
        Path, typer.Argument(help="Folder of masks; paired by name. Or one.", metavar="MASKS")
    ],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
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
    series: Series = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure masks: area, volume, mean HU, 5th and 95th percentile, emphysema index.

    One row per slice, or per scan and per slice of it. The emphysema index is the share of the mask
    below -950 HU. What cannot be known is left empty: HU of eight-bit and uint16 pictures, mm2
    without a spacing. A pair that cannot be used is named and skipped, and the exit code is 1 in
    the end.

    Examples: `lungunet measure slices masks --out areas.csv --spacing-mm 0.7,0.7` |
    `lungunet measure scans masks --out volumes.csv --sides`
    """
    from lungunet.inference.measure import write_measurements
    from lungunet.volumes.formats import is_volume_source

    volumes = is_volume_source(images)
    if volumes and spacing_mm is not None:
        raise ConfigError("for slices, these are volumes. Leave it out.", where="--spacing-mm")
    if series is not None and not volumes:
        raise ConfigError("for volumes, these are slices. Leave it out.", where="--series")
    codec = _parse_labels(labels, label_threshold)
    spacing = _parse_spacing(spacing_mm)
    pairs = _find_pairs(images, masks, volumes)
    refuse_inputs(
        [out], [file for pair in pairs.values() for file in (pair.image, pair.mask) if file]
    )
    refuse_existing([out], overwrite)
    if codec is None:
        codec = _choose_codec(pairs.values(), volumes)
        if not as_json:
            _say_codec(codec)
    how = _How(codec, sides, spacing, series)
    rows: list[Measurement] = []
    failed: list[str] = []
    for name, pair in console.progress_bar(pairs.items(), desc="measure", total=len(pairs)):
        try:
            rows += _measure_scan(name, pair, how) if volumes else _measure_slice(pair, how)
        except (DataError, ConfigError) as err:
            failed.append(str(err))
            console.warn(f"lungunet: skipped {err}")
    if rows:
        write_measurements(out, rows)
    if as_json:
        measured = [row.to_dict() for row in rows]
        console.say_json({"labels": str(codec), "measurements": measured, "failed": failed})
    elif rows:
        _show(rows, out, volumes)
    if failed:
        raise DataError(f"{len(failed)} of {counted(len(pairs), 'pair')} skipped. Mend them.")


def _parse_labels(labels: str, threshold: int) -> "LabelCodec | None":
    from lungunet.data.codec import LabelCodec

    if labels == "auto" and threshold < 0:
        return None
    text = "0,255" if labels == "auto" else labels
    codec = LabelCodec.parse(text, threshold=threshold if threshold >= 0 else None)
    if codec.n_classes > 3:
        raise ConfigError(
            f"{codec.n_classes} classes. Name lung alone, as in 0,255, or the "
            "left and the right lung, as in 0,1,2.",
            where=f"labels '{labels}'",
        )
    return codec


def _choose_codec(pairs: "Collection[Pair]", volumes: bool) -> "LabelCodec":
    """Return the one of three codecs that most masks fit: no mask by itself decides."""
    from lungunet.data.codec import LabelCodec
    from lungunet.data.ct import read_mask
    from lungunet.volumes.volume import read_volume

    codecs = [LabelCodec.parse(labels) for labels in ("0,255", "0,1", "0,1,2")]
    fitting = [0, 0, 0]
    for pair in console.progress_bar(pairs, desc="labels", total=len(pairs)):
        assert pair.mask is not None
        try:
            raw = read_volume(pair.mask).array if volumes else read_mask(pair.mask)
        except (DataError, ConfigError):
            continue  # said where it is measured
        for place, codec in enumerate(codecs):
            fitting[place] += _fits(raw, codec)
    return codecs[fitting.index(max(fitting))]  # of equal ones the first


def _fits(raw: "np.ndarray", codec: "LabelCodec") -> bool:
    try:
        codec.encode(raw)
    except LabelError:
        return False
    return True


def _say_codec(codec: "LabelCodec") -> None:
    sides = ": 1 is taken as the left, 2 as the right lung" if codec.n_classes == 3 else ""
    console.say(f"masks are coded {codec}{sides}; --labels says otherwise\n")


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


def _find_pairs(images: Path, masks: Path, volumes: bool) -> "dict[str, Pair]":
    from lungunet.data.manifest import Pair, find_pairs
    from lungunet.volumes.slicing import find_volume_pairs

    if volumes:
        return find_volume_pairs(images, masks)
    if images.is_dir() or masks.is_dir():
        return {pair.name: pair for pair in find_pairs(images, masks)}
    return {images.stem: Pair(images, masks)}


def _measure_slice(pair: "Pair", how: _How) -> "list[Measurement]":
    from lungunet.data.ct import read_image, read_mask
    from lungunet.inference.measure import measure_slice
    from lungunet.inference.sides import LEFT, RIGHT

    assert pair.mask is not None
    image = read_image(pair.image)
    classes = how.codec.encode(read_mask(pair.mask), str(pair.mask))
    measured = partial(measure_slice, image, name=pair.name, spacing_mm=how.spacing_mm)
    rows = [measured(classes)]
    sides = how.sides_of(classes, how.spacing_mm)
    if sides is not None:
        rows.append(measured(sides == LEFT, region="left lung"))
        rows.append(measured(sides == RIGHT, region="right lung"))
    return rows


def _measure_scan(name: str, pair: "Pair", how: _How) -> "list[Measurement]":
    from lungunet.inference.measure import measure_volume
    from lungunet.volumes.volume import put_on_grid, read_volume, require_hu

    assert pair.mask is not None
    scan = read_volume(pair.image, series=how.series)
    require_hu(scan)
    classes = how.codec.encode(put_on_grid(read_volume(pair.mask), scan), str(pair.mask))
    sides = how.sides_of(classes, scan.spacing_mm)
    return measure_volume(
        scan.array,
        classes if sides is None else sides,
        name=name,
        spacing_mm=scan.spacing_mm,
        sides=sides is not None,
    ).rows


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
