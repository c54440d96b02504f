"""Slices through a model: files in; masks, their measurements and a triage out."""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lungunet.cli import console
from lungunet.cli.options import refuse_existing, refuse_inputs
from lungunet.cli.triage import say_triage
from lungunet.errors import ConfigError, DataError, counted, listed

if TYPE_CHECKING:
    import numpy as np

    from lungunet.inference.measure import Measurement
    from lungunet.inference.predictor import Prediction, Predictor
    from lungunet.inference.quality import Plausibility

_BEHIND = 8  # slices that may wait to be written before the model waits too


@dataclass(frozen=True)
class SliceOutput:
    """What is written for slices, and where.

    Parameters
    ----------
    folder : gets the masks, and measurements.csv
    overlay : also write outlines, to its subfolder overlays
    probabilities : also write float TIFFs, to its subfolder probabilities
    triage : also write triage.csv, which says which masks to look at first
    """

    folder: Path
    overlay: bool = False
    probabilities: bool = False
    triage: bool = True

    @property
    def measurements_csv(self) -> Path:
        """Where areas and HU go."""
        return self.folder / "measurements.csv"

    @property
    def triage_csv(self) -> Path:
        """Where the table goes that says which masks to look at first."""
        return self.folder / "triage.csv"

    @property
    def tables(self) -> list[Path]:
        """List what is written once for all slices."""
        return [self.measurements_csv, *([self.triage_csv] if self.triage else [])]

    def mask(self, stem: str) -> Path:
        """Return where the mask of a slice goes."""
        return self.folder / f"{stem}.png"

    def picture(self, stem: str) -> Path:
        """Return where the outlines on a slice go."""
        return self.folder / "overlays" / f"{stem}.png"

    def maps(self, stem: str, class_names: tuple[str, ...]) -> list[Path]:
        """Return where the probabilities of each class but background go."""
        folder = self.folder / "probabilities"
        if len(class_names) == 2:
            return [folder / f"{stem}.tif"]
        return [folder / f"{stem}_{name.replace(' ', '-')}.tif" for name in class_names[1:]]

    def paths(self, stem: str, class_names: tuple[str, ...]) -> list[Path]:
        """List all that is written for a slice."""
        pictures = [self.picture(stem)] if self.overlay else []
        maps = self.maps(stem, class_names) if self.probabilities else []
        return [self.mask(stem), *pictures, *maps]


@dataclass(frozen=True)
class _Done:
    """What became of one slice: why there is no mask, or what was found in it."""

    name: str
    error: str | None = None
    measured: "Measurement | None" = None
    checked: "Plausibility | None" = None


def predict_slices(
    predictor: "Predictor",
    inputs: list[str],
    output: SliceOutput,
    *,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Write one mask per slice; a file that cannot be read is named and skipped.

    Interrupted, it leaves whole masks only, and says how many slices are done.

    Raises
    ------
    ConfigError
        When output would replace what is read, what exists, or itself.
    DataError
        In the end, when files were skipped.
    """
    from lungunet.inference.prefetch import ahead

    files = _list_files(inputs, output.folder)
    names = predictor.codec.names
    planned = [path for file in files for path in output.paths(file.stem, names)] + output.tables
    refuse_inputs(planned, files)
    refuse_existing(planned, overwrite)
    _refuse_others_masks(planned, files, output.folder)
    written: list[_Done] = []

    def finish(prediction: "Prediction") -> _Done:
        """Write what belongs to one slice, in a thread."""
        done = _finish(prediction, predictor, output)
        written.extend([] if done.error else [done])
        return done

    predictions = predictor.predict_files(files, batch_size=batch_size)
    finished: list[_Done] = []
    try:
        with closing(ahead(finish, predictions, depth=_BEHIND)) as results:
            for done in console.progress_bar(results, desc="predict", total=len(files)):
                finished.append(done)
                if done.error:
                    console.warn(f"lungunet: skipped {done.error}")
    except KeyboardInterrupt:
        console.warn(
            f"\nlungunet: interrupted: {len(written)} of {counted(len(files), 'mask')} in "
            f"{output.folder}, each of them whole. Predict again with --overwrite."
        )
        raise typer.Exit(130) from None
    checked = _write_tables(finished, output)
    console.say(f"{counted(len(written), 'mask')} in {output.folder}")
    if checked:
        say_triage(output.triage_csv, checked)
    if failed := len(files) - len(written):
        raise DataError(f"{failed} of {counted(len(files), 'file')} skipped. Mend or remove them.")


def _refuse_others_masks(planned: list[Path], files: list[Path], folder: Path) -> None:
    """Keep predictions out of a folder of masks in another format, which they would pair with."""
    from lungunet.data.ct import SUFFIXES

    stems = {file.stem for file in files}
    others = [
        str(path)
        for path in sorted(folder.glob("*"))
        if path.suffix.lower() in SUFFIXES and path.stem in stems and path not in planned
    ]
    if others:
        raise ConfigError(
            "of the same names as the masks to be written, and "
            "not written by this command. Choose another --out.",
            where=listed(others, separator=", "),
        )


def _write_tables(finished: list[_Done], output: SliceOutput) -> "dict[str, Plausibility]":
    """Write the tables of all slices; return what the triage says of each."""
    from lungunet.inference.measure import write_measurements
    from lungunet.inference.quality import write_triage

    rows = [done.measured for done in finished if done.measured]
    if not rows:  # tables that are there stay, as the masks do
        return {}
    write_measurements(output.measurements_csv, rows)
    checked = {done.name: done.checked for done in finished if done.checked}
    if output.triage:
        write_triage(output.triage_csv, checked)
    return checked


def _list_files(inputs: list[str], out: Path) -> list[Path]:
    from lungunet.data.manifest import list_images

    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in inputs):
        raise ConfigError(
            "is the folder that is read; masks would lie between the slices. Choose another --out.",
            where=out,
        )
    found = [file for source in inputs for file in list_images(source)]
    # A file named twice is one; two links to it are two slices.
    files = list({file.absolute(): file for file in found}.values())
    by_stem = defaultdict(list)
    for file in files:
        by_stem[file.stem].append(str(file))
    clashes = [" and ".join(names) for names in by_stem.values() if len(names) > 1]
    if clashes:
        raise ConfigError(
            f"files that would write the same mask:\n  {listed(clashes)}\n"
            "Predict them into different folders."
        )
    return files


def _finish(prediction: "Prediction", predictor: "Predictor", output: SliceOutput) -> _Done:
    """Write the files of one slice, then measure and check its mask."""
    from lungunet.data.ct import write_image, write_mask, write_picture
    from lungunet.data.overlay import draw_overlay
    from lungunet.inference.measure import measure_slice

    stem, image = prediction.path.stem, prediction.image
    if prediction.error or image is None or prediction.probabilities is None:
        return _Done(stem, prediction.error)
    classes = prediction.classes
    if output.overlay:
        picture = draw_overlay(predictor.to_grey(image), pred=classes)
        write_picture(output.picture(stem), picture)
    if output.probabilities:
        maps = output.maps(stem, predictor.codec.names)
        for path, probability in zip(maps, prediction.probabilities[1:], strict=True):
            write_image(path, probability)
    write_mask(output.mask(stem), predictor.codec.decode(classes))
    checked = _check(prediction, image, predictor) if output.triage else None
    return _Done(stem, None, measure_slice(image, classes, name=stem), checked)


def _check(prediction: "Prediction", image: "np.ndarray", predictor: "Predictor") -> "Plausibility":
    from lungunet.inference.quality import check_slice
    from lungunet.inference.threshold import ThresholdSegmenter

    return check_slice(
        image,
        prediction.classes,
        probabilities=prediction.probabilities,
        disagreement=prediction.disagreement,
        second_opinion=not isinstance(predictor.segmenter, ThresholdSegmenter),
    )
