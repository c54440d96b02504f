"""Scans through a model: a mask for each, on the scan's own grid."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lungunet.cli import console
from lungunet.cli.options import refuse_existing, refuse_inputs
from lungunet.errors import ConfigError, DataError, counted

if TYPE_CHECKING:
    from lungunet.inference.measure import Measurement, VolumeMeasurement
    from lungunet.inference.predictor import Predictor
    from lungunet.inference.quality import Plausibility
    from lungunet.inference.scans import VolumePrediction


@dataclass(frozen=True)
class VolumeOutput:
    """What is written for scans, and where.

    Parameters
    ----------
    folder : gets the masks
    sides : masks hold 1 for the left and 2 for the right lung, instead of 1 for both
    preview : also write a picture of three planes, to its subfolder previews
    """

    folder: Path
    sides: bool = False
    preview: bool = False

    @property
    def triage(self) -> Path:
        """Where the table goes that says which masks to look at first."""
        return self.folder / "triage.csv"

    @property
    def measurements(self) -> Path:
        """Where the table of volumes and HU goes."""
        return self.folder / "measurements.csv"

    def mask(self, scan: Path, name: str) -> Path:
        """Return where the mask of a scan goes: NRRD and MHA stay what they are, else NIfTI."""
        from lungunet.volumes.formats import written_suffix

        return self.folder / f"{name}{written_suffix(scan)}"

    def picture(self, name: str) -> Path:
        """Return where the planes of a scan go."""
        return self.folder / "previews" / f"{name}.png"

    def paths(self, scan: Path, name: str) -> list[Path]:
        """List all that is written for a scan alone."""
        return [self.mask(scan, name), *([self.picture(name)] if self.preview else [])]


def predict_volumes(
    predictor: "Predictor",
    inputs: list[str],
    output: VolumeOutput,
    *,
    batch_size: int,
    series: str | None,
    raw: bool,
    overwrite: bool,
) -> None:
    """Write one mask per scan; a scan that cannot be used is named and skipped.

    Volumes carry class indices, 0 and 1, and not 0 and 255: so do those of other programs, and
    viewers number and colour labels by them.

    Raises
    ------
    ConfigError
        When output would replace what is read or what exists, or sides cannot be told.
    DataError
        When a source holds no volume; in the end, when scans were skipped.
    """
    from lungunet.inference.measure import write_measurements
    from lungunet.inference.quality import write_triage
    from lungunet.volumes.formats import find_volumes, unique_names

    if output.sides and predictor.codec.n_classes > 2:
        raise ConfigError(
            f"the model has {predictor.codec.n_classes} classes, sides are told of lung "
            "against background. Leave out --sides.",
            where="sides",
        )
    scans = find_volumes(inputs)
    named = dict(zip(unique_names(scans), scans, strict=True))
    planned = [path for name, scan in named.items() for path in output.paths(scan, name)]
    refuse_inputs(planned, scans)
    refuse_existing([*planned, output.triage, output.measurements], overwrite)
    checked: dict[str, Plausibility] = {}
    measured: list[Measurement] = []
    interrupted = False
    try:
        for name, scan in named.items():
            try:
                found = _predict(
                    predictor, scan, name, batch_size=batch_size, series=series, raw=raw
                )
                trust = _check(predictor, found)
                numbers = _write(found, trust, output)
            except (DataError, ConfigError) as err:
                console.warn(f"lungunet: skipped {err}")
                continue
            checked[name] = trust
            measured += numbers.rows
            console.say(_line(trust, numbers))
    except KeyboardInterrupt:
        interrupted = True
    finally:  # whatever stops it, the masks that are there have their tables
        if checked:
            write_measurements(output.measurements, measured)
            write_triage(output.triage, checked)
    console.say(f"\n{counted(len(checked), 'mask')} in {output.folder}")
    if interrupted:
        console.warn(
            f"lungunet: interrupted: {len(checked)} of {counted(len(named), 'scan')} done. "
            "Predict the others into another folder, or all again with --overwrite."
        )
        raise typer.Exit(130)
    failed = len(named) - len(checked)
    if failed:
        raise DataError(f"{failed} of {counted(len(named), 'scan')} skipped. Mend or remove them.")


def _predict(
    predictor: "Predictor", path: Path, name: str, *, batch_size: int, series: str | None, raw: bool
) -> "VolumePrediction":
    from lungunet.inference.scans import predict_volume
    from lungunet.volumes.volume import read_volume

    volume = replace(read_volume(path, series=series), name=name)
    return predict_volume(
        predictor, volume, batch_size=batch_size, refine=not raw, progress=console.progress_bar
    )


def _check(predictor: "Predictor", found: "VolumePrediction") -> "Plausibility":
    from lungunet.inference.quality_volume import check_volume
    from lungunet.inference.threshold import ThresholdSegmenter

    return check_volume(
        found.volume.array,
        found.classes,
        found.volume.spacing_mm,
        disagreement=found.disagreement,
        second_opinion=not isinstance(predictor.segmenter, ThresholdSegmenter),
    )


def _write(
    found: "VolumePrediction", trust: "Plausibility", output: VolumeOutput
) -> "VolumeMeasurement":
    """Write the files of one scan; return what was measured."""
    from lungunet.data.ct import write_picture
    from lungunet.inference.measure import measure_volume
    from lungunet.inference.sides import split_sides
    from lungunet.volumes.montage import draw_montage
    from lungunet.volumes.volume import write_volume

    volume, classes = found.volume, found.classes
    if output.sides:
        classes = split_sides(classes, spacing_mm=volume.spacing_mm)
    numbers = measure_volume(
        volume.array,
        classes,
        name=volume.name,
        spacing_mm=volume.spacing_mm,
        sides=output.sides,
    )
    if output.preview:
        lines = [_line(trust, numbers), *map(_numbers, (numbers.right, numbers.left))]
        picture = draw_montage(volume, classes, lines=[line for line in lines if line])
        write_picture(output.picture(volume.name), picture)
    write_volume(output.mask(volume.path, volume.name), classes, like=volume)
    return numbers


def _line(trust: "Plausibility", numbers: "VolumeMeasurement") -> str:
    """Say in one line what was found in a scan, and whether to look at it."""
    why = f" ({trust.reasons[0]})" if trust.reasons else ""
    return f"{numbers.lungs.name}: {_numbers(numbers.lungs)}; {trust.light}{why}"


def _numbers(lung: "Measurement | None") -> str:
    if lung is None:
        return ""
    density = "" if math.isnan(lung.mean_hu) else f", {lung.mean_hu:.0f} HU on average"
    return f"{lung.region} {lung.volume_ml:.0f} mL{density}"
