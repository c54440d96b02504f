"""The run folder: which file is written when, so that a kill between any two loses nothing.

Knows file names and their order; neither trains nor measures.
"""

import itertools
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungunet._version import PACKAGES, __version__, installed
from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.data.files import json_text, plain, read_csv, read_json, refuse_existing, write_text
from lungunet.data.lock import claimed
from lungunet.data.manifest import Pair
from lungunet.data.seen import write_seen
from lungunet.errors import ConfigError, DataError, LungUNetWarning, listed
from lungunet.models.folder import FILES, save_model
from lungunet.models.hub import is_on_hub
from lungunet.training.checkpoint import load_checkpoint, save_checkpoint
from lungunet.training.config import TrainConfig
from lungunet.training.distributed import Ranks
from lungunet.training.tracking import SCORES, EpochResult, write_history

# The checkpoint goes first: without it nothing can be taken for a run to resume.
_WORTH_KEEPING = ("last.ckpt", "history.csv", "best/lungunet.json")
_ABOUT = ("environment.json", "config.toml")
# All that a run leaves, beside those, that ends in its first epoch.
_REST = (*(f"best/{name}" for name in FILES), "events.out.tfevents.*", "slices.csv")
# Scores and pictures of the best model, and the page about them: wrong as soon as it is another.
_SCORES = ("evaluation/*/scores.json", "evaluation/*/cases.csv", "evaluation/*/pictures/*.png")
_OF_THE_BEST = (*_SCORES, "report.html")

# A kill leaves the temporary file that was being written.
_TORN = tuple(
    str(Path(name).with_name(f".{Path(name).name}.*.tmp"))
    for name in (*_WORTH_KEEPING, *_ABOUT, *_REST[: len(FILES)], "slices.csv", "report.html")
)


class RunFolder:
    """What one training leaves behind; the folder is made when something is written.

    ``shown`` is its path as it was given, ``path`` where that is, whatever folder is the current
    one later.
    """

    def __init__(self, path: str | Path) -> None:
        self.shown = Path(path)
        self.path = self.shown.absolute()

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other processes from training in this folder inside the block."""
        return claimed(self.path, doing="another process trains in it")

    def start(self, *, overwrite: bool = False) -> None:
        """Make room for a new run."""
        if not overwrite:
            self.refuse_present()
        self._remove(*_WORTH_KEEPING, *_REST, *_OF_THE_BEST, *_TORN)

    def refuse_present(self) -> None:
        """Refuse a folder that holds a run, or files that a run would replace or remove.

        What a run left that ended before its first checkpoint is nobody's loss.
        """
        if any((self.path / name).exists() for name in _WORTH_KEEPING):
            fix = (
                "Go on with it (resume=True), replace"
                if (self.path / "last.ckpt").exists()
                else "It has no last.ckpt to go on from: replace"
            )
            raise ConfigError(
                f"holds a run already. {fix} it (overwrite=True), or choose another folder.",
                where=self.shown,
            )
        ours = () if self._is_begun() else (*_ABOUT, *_REST)
        present = self._find(*ours, *_OF_THE_BEST)
        refuse_existing([self.shown / file.relative_to(self.path) for file in present], False)

    def _is_begun(self) -> bool:
        """Tell whether a run began here, by the first file that it writes."""
        with suppress(DataError):
            versions = read_json(self.path / "environment.json", fix="").get("versions")
            return isinstance(versions, dict) and "lungunet" in versions
        return False

    def reopen(self, history: Sequence[EpochResult]) -> None:
        """Tidy up after the process that was interrupted, and note the command that goes on."""
        self._remove(*_TORN)
        self.save_history(history)
        with suppress(DataError):  # a run goes on without its environment.json too
            content = read_json(self.path / "environment.json", fix="")
            earlier = content.get("resumed")
            resumed = [*(earlier if isinstance(earlier, list) else ()), _this_command()]
            self._write_environment({**content, "resumed": resumed})

    def _find(self, *patterns: str) -> list[Path]:
        """List the files of these names; a folder that is called so is refused."""
        files = list(dict.fromkeys(f for pattern in patterns for f in self.path.glob(pattern)))
        folders = [str(file) for file in files if file.is_dir() and not file.is_symlink()]
        if folders:
            raise ConfigError(
                "a folder where a file of the run would be. Move it elsewhere, or choose another "
                "folder for the run.",
                where=listed(folders, separator=", "),
            )
        return files

    def _remove(self, *patterns: str) -> bool:
        """Remove files, and tell whether there were any."""
        files = self._find(*patterns)  # refuses before anything is gone
        for file in files:
            file.unlink()
            self._remove_empty(file.parent)
        return bool(files)

    def _remove_empty(self, folder: Path) -> None:
        """Remove folders of the run that hold nothing any more, from the inside out."""
        while folder != self.path and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def save_environment(self, device: torch.device, notes: Mapping[str, Any]) -> None:
        """Write environment.json: what the run is made with, so that it can be made again."""
        content = {
            "versions": {
                "lungunet": __version__,
                "python": platform.python_version(),
                **{name: installed(name) for name in PACKAGES},
            },
            "platform": platform.platform(),
            "device": _device_name(device),
            "threads": torch.get_num_threads(),
            "git_commit": _git_commit(),
            **_this_command(),
            **notes,
        }
        self._write_environment(content)

    def _write_environment(self, content: Mapping[str, Any]) -> None:
        write_text(self.path / "environment.json", json_text(content, sort_keys=True))

    def save_slices(
        self, lists: Mapping[str, Sequence[Pair]], inherited: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """Write slices.csv, which tells later what the model has seen; once, at the start."""
        if not (self.path / "slices.csv").exists():  # as of a run that is gone on with
            write_seen(self.path / "slices.csv", lists, inherited)

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
        began_with: str = "none",
    ) -> None:
        """Write best/, the model folder, with how many slices there are in train and in val."""
        counts: dict[str, Any] = {f"{name}_slices": count for name, count in slices.items()}
        about: dict[str, Any] = {}
        with suppress(DataError):
            about = read_json(self.path / "environment.json", fix="")
        # A run that is gone on with need not be given again what it began with.
        began_with = str(about.get("began_with", began_with))
        if began_with != "none":
            counts["began_with"] = _without_place(began_with)
            counts |= {"ancestors": about["ancestors"]} if "ancestors" in about else {}
        values = {
            f"{split}_{name}": plain(getattr(measured, name))
            for split, measured in result.passes.items()
            for name in SCORES
            if split != "train"
        }
        scores = {"epoch": result.epoch, **counts, **values}
        scored = self._remove(*_SCORES)
        self._remove(*_OF_THE_BEST)
        if scored:
            warnings.warn(
                f"{self.shown}: its scores were those of the best model so far, and are gone with "
                "it. Evaluate again when training is done.",
                LungUNetWarning,
                stacklevel=2,
            )
        save_model(
            self.path / "best",
            model,
            contract=contract,
            codec=codec,
            scores=scores,
            overwrite=True,  # what a kill left; the start refused what is of others
        )

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
        """Read last.ckpt."""
        return load_checkpoint(self.path / "last.ckpt")


def count_epochs(run: str | Path) -> int:
    """Count the epochs of a run, by its history.csv; 0 where that is missing or damaged."""
    with suppress(DataError, LookupError, ValueError):  # resuming writes it again
        return int(read_csv(Path(run, "history.csv"), fix="")[-1]["epoch"])
    return 0


@contextmanager
def next_run_folder(parent: str | Path = "runs") -> Iterator[Path]:
    """Make the next free folder of 001, 002 and so on, for the run inside the block.

    Two that start together get one each. It goes again where nothing came of it.

    Raises
    ------
    ConfigError
        When several processes train together: each would make its own.
    """
    if Ranks.from_environment().count > 1:
        raise ConfigError(
            "each process would take a number of its own. Name the folder, out='RUN'.", where="out"
        )
    Path(parent).mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = Path(parent) / f"{number:03d}"
        with suppress(FileExistsError):
            folder.mkdir()
            break
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()  # empty: nothing came of it


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return f"{device} {name}".strip()


def _without_place(weights: str) -> str:
    """Return words and addresses as they are, of a path its end: a card is there to be shared."""
    place = Path(weights)
    return weights if is_on_hub(weights) or place.name == weights else f".../{place.name}"


def _this_command() -> dict[str, Any]:
    now = datetime.now().astimezone()
    return {"command": sys.argv, "started": now.isoformat(timespec="seconds")}


def _git_commit() -> str | None:
    """Return the commit of the folder the run was started in, if it is in a repository."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
