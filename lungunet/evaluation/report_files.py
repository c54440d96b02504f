"""What a run folder holds, read for its report.

Owns file names and the checks that a file is whole; knows no HTML. Parts that are not there are
None or empty: a report of half a run is a report all the same.
"""

import csv
import hashlib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungunet.data.files import read_json
from lungunet.data.split import SPLITS
from lungunet.errors import ModelError

_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURE = re.compile(r"(worst|best)-(\d+)_(.+)", re.DOTALL)
_ALWAYS = (
    *("slices", "patients", "pooled", "pooled_interval", "per_case", "per_patient"),
    *("dice_by_rule", "empty_slices", "baselines", "remarks", "cases"),
)


@dataclass(frozen=True)
class Picture:
    """One overlay of a case.

    Parameters
    ----------
    kind : worst or best
    number : counts from 1, the most extreme case first
    name : of the case, as the file says it
    png : the bytes of the file
    """

    kind: str
    number: int
    name: str
    png: bytes


@dataclass(frozen=True)
class Evaluation:
    """What ``lungunet evaluate`` left for one list.

    Parameters
    ----------
    scores : scores.json
    pictures : of both kinds, most extreme first
    """

    split: str
    scores: Mapping[str, Any]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds.

    Parameters
    ----------
    config : config.toml; a training from Python leaves no data folder and no encoder in it
    config_text : the file as it is
    environment, about : environment.json and best/lungunet.json; empty where missing
    history : rows of history.csv, numbers as floats, NaN where empty
    evaluations : test first
    audit : audit/audit.json
    """

    path: Path
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    about: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Evaluation, ...]
    audit: Mapping[str, Any] | None

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each list, as it was when the run was trained."""
        return dict(self.environment.get("manifests") or {})

    def slices(self, split: str) -> int | None:
        """Count the pairs of a list; None where it is gone, or not the one that was trained on."""
        if "data" not in self.config or split not in self.hashes:
            return None
        try:
            content = (Path(self.config["data"]) / f"{split}.txt").read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != self.hashes[split]:
            return None
        return sum(bool(line.strip()) for line in content.splitlines())


def read_run(run: str | Path) -> RunFiles:
    """Read all that a report shows.

    Raises
    ------
    ModelError
        When the folder is no run, or a file in it is damaged.
    """
    path = Path(run)
    if not path.is_dir():
        raise ModelError("no such folder. Give the folder of a run.", where=path)
    if not (path / "config.toml").is_file():
        raise ModelError(
            "no run (config.toml is missing). Give the folder that 'lungunet train' made.",
            where=path,
        )
    text = _read_text(path / "config.toml")
    try:
        config = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ModelError(
            f"damaged ({err}). Copy the run folder again.", where=path / "config.toml"
        ) from err
    return RunFiles(
        path=path,
        config=config,
        config_text=text,
        environment=_read_facts(path / "environment.json") or {},
        about=_read_facts(path / "best" / "lungunet.json") or {},
        history=_read_history(path / "history.csv"),
        evaluations=_read_evaluations(path / "evaluation"),
        audit=_read_facts(path / "audit" / "audit.json"),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ModelError(f"cannot be read ({err}). Copy the run folder again.", where=path) from err


def _read_facts(path: Path, fix: str = "Copy the run folder again.") -> dict[str, Any] | None:
    return read_json(path, error=ModelError, fix=fix) if path.is_file() else None


def _read_history(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(map(_history_row, csv.DictReader(_read_text(path).splitlines())))
    except (KeyError, ValueError, TypeError) as err:
        raise ModelError(
            f"damaged ({err}). 'lungunet train --resume {path.parent}' writes it again.", where=path
        ) from err


def _history_row(row: Mapping[str, str]) -> dict[str, Any]:
    cells = {key: cell for key, cell in row.items() if key not in ("epoch", "split")}
    numbers = {key: float(cell) if cell else math.nan for key, cell in cells.items()}
    return {"epoch": int(row["epoch"]), "split": row["split"], **numbers}


def _read_evaluations(folder: Path) -> tuple[Evaluation, ...]:
    scored = [file.parent for file in folder.glob("*/scores.json")]
    order = list(reversed(SPLITS))  # test first: that is what the run is judged by
    scored.sort(key=lambda path: (order.index(path.name) if path.name in order else 9, path.name))
    return tuple(_read_evaluation(path) for path in scored)


def _read_evaluation(folder: Path) -> Evaluation:
    file = folder / "scores.json"
    scores = _read_facts(file, "Run 'lungunet evaluate' again.") or {}
    missing = [key for key in _ALWAYS if key not in scores]
    if missing:
        raise ModelError(f"no '{missing[0]}' in it. Run 'lungunet evaluate' again.", where=file)
    pictures = [_read_picture(file) for file in folder.glob("pictures/*.png")]
    known = [picture for picture in pictures if picture is not None]
    known.sort(key=lambda picture: picture.number)
    return Evaluation(folder.name, scores, tuple(known))


def _read_picture(file: Path) -> Picture | None:
    named = _PICTURE.fullmatch(file.stem)
    if named is None:
        return None
    png = file.read_bytes()
    if not png.startswith(_PNG):
        raise ModelError("not a PNG. Run 'lungunet evaluate' again.", where=file)
    return Picture(named[1], int(named[2]), named[3], png)
