"""The run folder: which file is written when, so that a kill between any two loses nothing.

Knows file names and their order; neither trains nor measures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.files import write_text
from lungunet.errors import ConfigError, DataError
from lungunet.models.folder import save_model
from lungunet.training.checkpoint import load_checkpoint, save_checkpoint
from lungunet.training.config import TrainConfig
from lungunet.training.tracking import EpochResult, write_history

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

# The checkpoint goes first: without it nothing can be taken for a run to resume.
_WORTH_KEEPING = ("last.ckpt", "history.csv", "best/lungunet.json")
_REST = ("best/*", "events.out.tfevents.*")  # all that a run leaves that ends in its first epoch
# Scores and pictures of the best model, and the page about them: wrong as soon as it is another.
_OF_THE_BEST = (
    *("evaluation/*/scores.json", "evaluation/*/cases.csv", "evaluation/*/pictures/*.png"),
    "report.html",
)

_TORN = (".*.tmp", "best/.*.tmp")  # a kill leaves the temporary file that was being written


class RunFolder:
    """What one training leaves behind.

    Parameters
    ----------
    path : made when something is written
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from training in this folder inside the block.

        Raises
        ------
        ConfigError
            When another one does.
        DataError
            When the folder cannot be made or written.
        """
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("a", encoding="utf-8")
        except OSError as err:
            raise DataError(
                f"cannot be written ({err.strerror}). Choose another --out.", where=self.path
            ) from err
        with file:
            if not _is_free(file):
                raise ConfigError(
                    "another process trains in it. Wait for it, or choose another --out.",
                    where=self.path,
                )
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def start(self, *, overwrite: bool = False) -> None:
        """Make room for a new run.

        Raises
        ------
        ConfigError
            When a run is there and may not be overwritten.
        """
        old = [file for name in _WORTH_KEEPING for file in sorted(self.path.glob(name))]
        if old and not overwrite:
            raise ConfigError(
                f"holds a run already. Go on with it (--resume {self.path}), replace "
                "it (--overwrite), or choose another --out.",
                where=self.path,
            )
        for file in old:
            file.unlink()
        self._remove(*_REST, *_OF_THE_BEST, *_TORN)

    def reopen(self, history: Sequence[EpochResult]) -> None:
        """Tidy up after the process that was interrupted: what it began to write, and history."""
        self._remove(*_TORN)
        self.save_history(history)

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for file in self.path.glob(pattern):
                file.unlink()

    def describe(self, environment: str) -> None:
        """Write environment.json."""
        write_text(self.path / "environment.json", environment)

    def save_config(self, config: TrainConfig) -> None:
        """Write config.toml."""
        config.save(self.path / "config.toml")

    def save_best(
        self,
        model: nn.Module,
        *,
        contract: InputContract,
        codec: LabelCodec,
        result: EpochResult,
        slices: Mapping[str, int],
    ) -> None:
        """Write best/, the model folder.

        Parameters
        ----------
        slices : how many there are in train and in val
        """
        counts = {f"{name}_slices": count for name, count in slices.items()}
        scores: dict[str, Any] = {"epoch": result.epoch, **counts}
        for name in ("loss", "accuracy", "iou", "miou", "dice"):
            value = getattr(result.val, name)
            scores[f"val_{name}"] = value if math.isfinite(value) else None
        self._remove(*_OF_THE_BEST)
        save_model(self.path / "best", model, contract=contract, codec=codec, scores=scores)

    def save_last(self, state: Mapping[str, Any], history: Sequence[EpochResult]) -> None:
        """Write last.ckpt with the history in it, then history.csv, which resuming can rebuild."""
        rows = [result.to_dict() for result in history]
        save_checkpoint(self.path / "last.ckpt", {**state, "history": rows})
        self.save_history(history)

    def save_history(self, history: Sequence[EpochResult]) -> None:
        """Write history.csv."""
        write_history(self.path / "history.csv", history)

    @property
    def kept(self) -> str:
        """What a failing run can say about its checkpoint."""
        if (self.path / "last.ckpt").exists():
            return "last.ckpt keeps the last good checkpoint"
        return "no checkpoint has been written yet"

    def load_last(self) -> dict[str, Any]:
        """Read last.ckpt.

        Raises
        ------
        ModelError
            When it is missing or damaged.
        """
        return load_checkpoint(self.path / "last.ckpt")


def _is_free(file: TextIO) -> bool:
    """Lock a file for this process: that ends with it, even by a kill, and workers have none."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        pass
    return True
