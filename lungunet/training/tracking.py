"""What an epoch measured, and where it is written: history.csv and TensorBoard.

The only place that imports TensorBoard. Knows numbers and pictures, no models.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from lungunet.data.codec import IGNORE
from lungunet.data.dataset import EightBitSamples, LungCTDataset
from lungunet.data.files import write_csv
from lungunet.data.overlay import draw_overlay
from lungunet.models.original import crop_centre

SCORES = ("loss", "accuracy", "iou", "miou", "dice")
"""What is measured of train and of val: columns, charts, and what the best model's folder keeps."""

HISTORY_COLUMNS = ("epoch", "split", *SCORES, "lr", "seconds", "images_per_second")
_PICTURES = 4


@dataclass(frozen=True)
class Measured:
    """One pass over one list, at the training size; metrics are pooled over its pixels.

    Parameters
    ----------
    loss : mean over slices
    accuracy, iou, miou, dice : as :class:`lungunet.ConfusionMeter` defines them; NaN is undefined
    seconds : wall clock, reading included
    class_iou : IoU of each class, background first
    """

    loss: float
    accuracy: float
    iou: float
    miou: float
    dice: float
    seconds: float
    images_per_second: float
    class_iou: tuple[float, ...] = ()


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did.

    Parameters
    ----------
    epoch : counts from 1
    train : on augmented slices, while the weights were moving
    val : afterwards, without augmentation
    lr : of the epoch's last step
    is_best : whether ``score`` is the best so far, and ``best/`` holds these weights
    class_names : of the codec, background first; empty where an older version measured
    val_ill : likewise on val with painted disease; None where there is none
    """

    epoch: int
    train: Measured
    val: Measured
    lr: float
    is_best: bool
    class_names: tuple[str, ...] = ()
    val_ill: Measured | None = None

    @property
    def passes(self) -> dict[str, Measured]:
        """What was measured, by the name of its rows and curves."""
        ill = {} if self.val_ill is None else {"val_ill": self.val_ill}
        return {"train": self.train, "val": self.val, **ill}

    @property
    def score(self) -> float:
        """What the best epoch is chosen by: val IoU, or its mean with that of val_ill."""
        return self.val.iou if self.val_ill is None else (self.val.iou + self.val_ill.iou) / 2

    @property
    def class_iou(self) -> dict[str, float]:
        """Val IoU of each class by its name, where there is more than lung; else empty."""
        classes = dict(zip(self._names, self.val.class_iou, strict=True))
        return classes if len(classes) > 2 else {}

    @property
    def _names(self) -> Sequence[str]:
        return self.class_names or [f"class {i}" for i in range(len(self.val.class_iou))]

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of history.csv, one per pass."""
        rows = []
        for name, measured in self.passes.items():
            row = {"epoch": self.epoch, "split": name, "lr": self.lr, **asdict(measured)}
            classes = row.pop("class_iou")
            if len(classes) > 2:  # with two, IoU of lung says it
                row |= {f"iou_{name}": iou for name, iou in zip(self._names, classes, strict=True)}
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; :meth:`from_dict` reads them."""
        values = asdict(self)
        return values if self.val_ill else {k: v for k, v in values.items() if k != "val_ill"}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a result from :meth:`to_dict`."""
        names = [name for name in ("train", "val", "val_ill") if name in stored]
        passes = {name: Measured(**stored[name]) for name in names}
        classes = tuple(stored.get("class_names", ()))
        return cls(**{**stored, **passes, "class_names": classes})


def write_history(path: str | Path, results: Iterable[EpochResult]) -> None:
    """Write history.csv: a row per pass and epoch, full precision, undefined values empty."""
    rows = [row for result in results for row in result.rows()]
    more = [key for key in (rows[0] if rows else {}) if key not in HISTORY_COLUMNS]
    write_csv(path, rows, [*HISTORY_COLUMNS, *more])


@torch.no_grad()
def val_pictures(
    val: LungCTDataset, predict: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and overlay of the same few val slices, spread over the list.

    ``predict`` takes (1, 1, H, W) float32 and returns logits (1, C, h, w) of its centre.
    """
    count = min(_PICTURES, len(val))
    for index in np.linspace(0, len(val) - 1, count).round().astype(int):
        if EightBitSamples.serve(val):
            grey, truth = val.augment((0, index))
            image = torch.from_numpy(val.contract.normalise(grey))
        else:  # of a subclass, whose pictures need not be grey
            image, mask = val[0, index]
            grey, truth = _as_grey(image[0].numpy()), mask.numpy().astype(np.uint8)
        logits = predict(image[None])
        pred = torch.zeros(truth.shape, dtype=torch.uint8)
        crop_centre(pred, *logits.shape[-2:])[:] = logits[0].argmax(0)
        name = f"val/{val.pairs[index].name} (truth blue, prediction orange)"
        yield name, draw_overlay(grey, truth=truth, pred=pred.numpy(), ignore_index=IGNORE)


def _as_grey(image: np.ndarray) -> np.ndarray:
    """Show the smallest value black and the largest white."""
    low, high = float(image.min()), float(image.max())
    grey: np.ndarray = ((image - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return grey


class TensorBoardLog:
    """The TensorBoard events of one run, train and val of each metric on one chart.

    Parameters
    ----------
    folder : of the run; all events go into it, none into subfolders
    first_epoch : events of this epoch and later ones, left by an interrupted run, are dropped
    about : shown in the Text tab; hyper-parameters go here, as add_hparams makes folders
    passes : names of the curves on each chart
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        first_epoch: int = 1,
        about: str = "",
        passes: Sequence[str] = ("train", "val"),
    ) -> None:
        _wait_for_a_later_name(Path(folder))
        begins = first_epoch == 1
        # What is not of an epoch stands at step 0: a run that begins again writes it anew.
        self._writer = SummaryWriter(str(folder), purge_step=0 if begins else first_epoch)
        if begins:
            layout = {s: ["Multiline", [f"{s}/{name}$" for name in passes]] for s in SCORES}
            self._writer.add_custom_scalars({"train and val": layout})
            about = about.encode("utf-8", "backslashreplace").decode()
            self._writer.add_text("config", f"```\n{about}\n```", 0)

    def close(self) -> None:
        """Write what is left, and end."""
        self._writer.close()

    def add_epoch(self, result: EpochResult) -> None:
        """Write one point per curve and flush them to disk."""
        for name in SCORES:
            for split, measured in result.passes.items():
                value = getattr(measured, name)
                if math.isfinite(value):  # TensorBoard draws no gap for NaN
                    self._writer.add_scalar(f"{name}/{split}", value, result.epoch)
        self._writer.add_scalar("lr", result.lr, result.epoch)
        self._writer.flush()

    def add_picture(self, name: str, rgb: np.ndarray, epoch: int) -> None:
        """Show an (H, W, 3) uint8 picture in the Images tab."""
        # A file name need not be UTF-8, a tag must be.
        name = name.encode("utf-8", "backslashreplace").decode()
        self._writer.add_image(name, rgb, epoch, dataformats="HWC")


def _wait_for_a_later_name(folder: Path) -> None:
    """Let the second pass in which the newest event file began, a moment at most.

    Readers sort event files by name, which holds the second: one that a resumed run wrote must not
    come before the one that it goes on with.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(second) for second in seconds if second.isdigit()), default=0)
    while newest <= time.time() < newest + 1:
        time.sleep(0.01)
