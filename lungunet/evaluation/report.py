"""One HTML page about a run, or about scores alone: made on what, how good, and where it fails.

Owns what is said and in which order (with its template, report.html), and the checks that a file of
the run is whole. Measures nothing: each score on the page stands in scores.json, history.csv or
audit.json, and is shown there in full. Parts that are not there are None or empty: a report of half
a run is a report all the same.
"""

import base64
import hashlib
import math
import os
import re
import shlex
import tomllib
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lungunet._version import __version__
from lungunet.data.files import read_csv, read_json, write_text
from lungunet.data.split import SPLITS
from lungunet.errors import ModelError
from lungunet.evaluation.charts import CurveChart, DotChart, curve_chart, dot_chart
from lungunet.evaluation.scorecard import NOTHING, Difference, verdict
from lungunet.metrics.bootstrap import Interval, caution_of_few
from lungunet.metrics.overlap import SLICES, Ruler, ruler_of_scans
from lungunet.training.config import say_no_run

REPORT = "report.html"
_SETTINGS = (
    *(("batch", "batch_size"), ("learning rate", "lr"), ("weight decay", "weight_decay")),
    *(("precision", "precision"), ("flip", "flip"), ("painted disease", "disease")),
    *(("loss", "loss"), ("class weights", "class_weights")),
    *(("optimizer", "optimizer"), ("schedule", "schedule")),
)
_WORDS = {"True": "yes", "False": "no"}
_CURVES = ("loss", "accuracy", "iou")
_CASES_LISTED = 5
_FINDINGS_LISTED, _RANKS_LISTED = 50, 20
_PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy")
_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURE = re.compile(r"(worst|best)-(\d+)_(.+)", re.DOTALL)
_AUDITED = re.compile(r"worst-\d+-(.+)", re.DOTALL)
_ALWAYS = (
    *("patients", "pooled", "pooled_interval", "per_case", "per_patient"),
    *("dice_by_rule", "baselines", "remarks", "cases"),
)
_UNDEFINED = Markup('<span title="undefined">\N{EN DASH}</span>')


@dataclass(frozen=True)
class _RunFiles:
    """What a run folder holds.

    Parameters
    ----------
    config : config.toml; a training from Python leaves no data folder and no encoder in it
    config_text : the file as it is
    environment, about : environment.json and best/lungunet.json; empty where missing
    history : rows of history.csv, numbers as floats, NaN where empty
    evaluations : as the template shows them, test first
    audit, audit_folder : audit.json, and where it lies: in the run's folder, or that of its data
    """

    path: Path
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    about: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]
    audit: Mapping[str, Any] | None
    audit_folder: Path

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


def write_report(run: str | Path) -> Path:
    """Write RUN/report.html: one file without scripts and without anything fetched.

    What the run does not hold yet (scores, pictures, audit) is left out, with the command that
    adds it. An older report is replaced.

    Parameters
    ----------
    run : the folder that a training left

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    ModelError
        When the folder is no run, or a file in it is damaged.
    DataError
        When the page cannot be written.
    """
    files = _read_run(Path(run))
    path = files.path / REPORT
    write_text(path, _render(files))
    return path


def write_scores_page(folder: str | Path) -> Path:
    """Write FOLDER/report.html about the scores and pictures that a folder holds, of no run."""
    folder = Path(folder)
    shown = _read_evaluation(folder)
    scores = shown["scores"]
    on = " of ".join(filter(None, (scores.get("split"), scores.get("data")))) or folder.name
    evaluations = ({**shown, "split": on},)
    files = _RunFiles(folder, {}, "", {}, {}, (), evaluations, None, folder)
    title = str(shown["scores"].get("model") or folder)
    write_text(folder / REPORT, _render(files, scores_of=title))
    return folder / REPORT


def _render(files: _RunFiles, *, scores_of: str | None = None) -> str:
    environment = Environment(
        loader=PackageLoader("lungunet", "evaluation"),
        autoescape=True,  # names of files and cases are whatever the data says
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "quote": shlex.quote,
        "repr": repr,
        "address": urllib.parse.quote,
    }
    best = _best_epoch(files)
    return environment.get_template(REPORT).render(
        files=files,
        of_run=scores_of is None,
        run=scores_of or str(files.path),
        facts=_training_facts(files, best),
        best=best,
        epochs=_by_epoch(files),
        lists=_lists(files),
        curves=_curves(files, best),
        names={"loss": "Loss", **{name: each.heading for name, each in SLICES.metrics.items()}},
        evaluations=files.evaluations,
        audit=_shown_audit(files.audit, files.audit_folder, files.path),
        version=__version__,
    )


def _number(value: object, style: str = ".4f") -> Markup:
    """Show a number rounded, with all its digits beside it for machines and the curious.

    Parameters
    ----------
    value : None and NaN are undefined, "inf" is infinite; whole numbers are grouped by three
    style : format of what is no whole number
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _UNDEFINED
    if value in ("inf", math.inf):
        shown = "∞"
    elif isinstance(value, int):
        shown = f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    else:
        shown = f"{value:{style}}".replace("-", "\N{MINUS SIGN}")
    return Markup('<data value="{0}" title="{0}">{1}</data>').format(value, shown)


def _training_facts(files: _RunFiles, best: int | None) -> list[tuple[str, str]]:
    """Return label and text of what is known about how the model was made."""
    config, environment, about = files.config, files.environment, files.about
    contract, codec = about.get("contract") or {}, about.get("codec") or {}
    network = about.get("architecture") or {}
    encoder = config.get("encoder") or network.get("encoder")
    size = contract.get("size") or config.get("size")
    versions = environment.get("versions") or {}
    named = [("Python", "python"), *((name, name) for name in _PACKAGES)]
    labels = zip(codec.get("names", ()), codec.get("raw_values", {}).values(), strict=False)
    resumed = [_command(each) for each in environment.get("resumed") or ()]
    epochs = max((row["epoch"] for row in files.history), default=None)
    weights = config.get("weights") or environment.get("began_with")
    facts = {
        "Architecture": config.get("architecture") or network.get("name"),
        "Encoder": encoder or "a model of the user's own",
        "Starting weights": weights
        and ", which began with ".join([weights, *environment.get("ancestors", ())]),
        "Input": f"{_window(contract, config)}, fitted to {size} \N{MULTIPLICATION SIGN} {size} px"
        if size
        else None,
        "Labels": ", ".join(f"{value} = {name}" for name, value in labels),
        "Epochs": epochs and f"{epochs} of {config.get('epochs')}; best: {best or 'none'}",
        "Started": environment.get("started"),
        "Duration": _duration(files.history),
        "Seed": str(config.get("seed", "")),
        "Settings": ", ".join(
            f"{label} {_WORDS.get(str(config[name]), config[name])}"
            for label, name in _SETTINGS
            if name in config
        ),
        "Data folder": config.get("data"),
        "Device": _device(environment),
        "lungunet": versions.get("lungunet"),
        "Versions": ", ".join(
            f"{label} {versions[key]}" for label, key in named if key in versions
        ),
        "Git commit": environment.get("git_commit") or "none: not started in a git repository",
        "Command": _command(environment),
        "Resumed with": "; ".join(dict.fromkeys(filter(None, resumed))),
        "SHA-256 of the weights": about.get("weights_sha256"),
    }
    return [(label, str(text)) for label, text in facts.items() if text]


def _command(started: Mapping[str, Any]) -> str | None:
    command = started.get("command") or []
    return shlex.join([Path(command[0]).name, *command[1:]]) if command else None


def _duration(history: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how long the epochs took, train and val together."""
    seconds = sum(row["seconds"] for row in history if not math.isnan(row["seconds"]))
    if not seconds:
        return None
    shown = f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds:.0f} s"
    return f"{shown} in the epochs, about {seconds / len(_epochs(history)):.1f} s each"


def _epochs(history: Sequence[Mapping[str, Any]]) -> set[int]:
    return {row["epoch"] for row in history}


def _window(contract: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if not contract:
        return f"window {config.get('window', 'auto')}"
    window = contract.get("window")
    if window is None:
        return "8-bit grey"
    level = f"{window['level']:g}".replace("-", "\N{MINUS SIGN}")
    return f"HU window of level {level}, width {window['width']:g}"


def _device(environment: Mapping[str, Any]) -> str:
    parts = [environment.get("device"), environment.get("platform")]
    threads = environment.get("threads")
    parts.insert(1, threads and f"{threads} thread{'s' if threads > 1 else ''}")
    return ", ".join(str(part) for part in parts if part)


def _best_epoch(files: _RunFiles) -> int | None:
    """Return the epoch whose weights best/ holds: the first of the highest IoU of what is held out.

    Of val and val_ill it is the mean.
    """
    stored = (files.about.get("scores") or {}).get("epoch")
    if stored is not None:
        return int(stored)
    held_out = {
        epoch: fmean(row["iou"] for split, row in rows.items() if split != "train")
        for epoch, rows in _by_epoch(files).items()
        if "val" in rows
    }
    known = {epoch: iou for epoch, iou in held_out.items() if not math.isnan(iou)}
    return max(known, key=lambda epoch: known[epoch]) if known else None


def _lists(files: _RunFiles) -> list[str]:
    """Return what the epochs were measured on."""
    ill = any(row["split"] == "val_ill" for row in files.history)
    return ["train", "val", *(["val_ill"] if ill else [])]


def _by_epoch(files: _RunFiles) -> dict[int, dict[str, Mapping[str, Any]]]:
    epochs: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in files.history:
        epochs.setdefault(row["epoch"], {})[row["split"]] = row
    return epochs


def _curves(files: _RunFiles, best: int | None) -> dict[str, CurveChart]:
    charts = {}
    for metric in _CURVES:
        points = {
            split: [(row["epoch"], row[metric]) for row in files.history if row["split"] == split]
            for split in _lists(files)
        }
        marked = next((point for point in points["val"] if point[0] == best), None)
        chart = curve_chart(points, best=marked, log=metric == "loss")
        if chart is not None:
            charts[metric] = chart
    return charts


def _verdict(gain: Mapping[str, Any]) -> str:
    low, high = (math.nan if end is None else end for end in gain["interval"])
    text = verdict(Difference(gain["value"], Interval(low, high)))
    return text[0].upper() + text[1:]


def _dots(scores: Mapping[str, Any]) -> DotChart | None:
    """Lay out IoU per slice of the model, and of the threshold where its cases are stored."""
    threshold = scores["baselines"].get("threshold") or {}
    return dot_chart(
        {
            name: [(case["name"], case["iou"]) for case in cases if case["iou"] is not None]
            for name, cases in (("model", scores["cases"]), ("threshold", threshold.get("cases")))
            if cases
        }
    )


def _shown_audit(audit: Mapping[str, Any] | None, folder: Path, run: Path) -> dict[str, Any] | None:
    if audit is None:
        return None
    findings = audit.get("findings") or []
    ranking = [entry for entry in audit.get("ranking") or [] if entry.get("score") != 0]
    return {
        "folder": Path(os.path.relpath(folder, run)).as_posix(),
        "pairs": audit.get("pairs") or {},
        "severities": audit.get("severities") or {},
        "findings": findings[:_FINDINGS_LISTED],
        "more_findings": len(findings) - _FINDINGS_LISTED,
        "ranking": ranking[:_RANKS_LISTED],
        "pictures": {
            found[1]: file.name
            for file in sorted((folder / "pictures").glob("worst-*.png"))
            if (found := _AUDITED.fullmatch(file.stem))
        },
        "more_ranking": len(ranking) - _RANKS_LISTED,
    }


def _read_run(path: Path) -> _RunFiles:
    if not path.is_dir():
        raise ModelError("no such folder. Give the folder of a run.", where=path)
    if not (path / "config.toml").is_file():
        raise ModelError(say_no_run(path), where=path)
    text = _read_text(path / "config.toml")
    try:
        config = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ModelError(
            f"damaged ({err}). Copy the run folder again.", where=path / "config.toml"
        ) from err
    audit = path / "audit"
    if not (audit / "audit.json").is_file() and isinstance(data := config.get("data"), str):
        audit = Path(data) / "audit"  # where split says to put it, before there is a run
    return _RunFiles(
        path=path,
        config=config,
        config_text=text,
        environment=_read_facts(path / "environment.json") or {},
        about=_read_facts(path / "best" / "lungunet.json") or {},
        history=_read_history(path / "history.csv"),
        evaluations=_read_evaluations(path / "evaluation"),
        audit=_read_facts(audit / "audit.json"),
        audit_folder=audit,
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
    rows = read_csv(path, error=ModelError, fix="Copy the run folder again.")
    try:
        return tuple(map(_history_row, rows))
    except (KeyError, ValueError, TypeError) as err:
        raise ModelError(
            f"damaged ({err}). 'lungunet train --resume {path.parent}' writes it again.", where=path
        ) from err


def _history_row(row: Mapping[str, str]) -> dict[str, Any]:
    cells = {key: cell for key, cell in row.items() if key not in ("epoch", "split")}
    numbers = {key: float(cell) if cell else math.nan for key, cell in cells.items()}
    return {"epoch": int(row["epoch"]), "split": row["split"], **numbers}


def _read_evaluations(folder: Path) -> tuple[Mapping[str, Any], ...]:
    scored = [file.parent for file in folder.glob("*/scores.json")]
    order = list(reversed(SPLITS))  # test first: that is what the run is judged by
    scored.sort(key=lambda path: (order.index(path.name) if path.name in order else 9, path.name))
    return tuple(_read_evaluation(path) for path in scored)


def _read_evaluation(folder: Path) -> dict[str, Any]:
    """Return what the template shows of what ``lungunet evaluate`` left for one list."""
    file = folder / "scores.json"
    scores = _read_facts(file, "Run 'lungunet evaluate' again.") or {}
    ruler = _ruler_of(scores)
    always = [f"{ruler.noun}s", *_ALWAYS, f"empty_{ruler.noun}s"]
    missing = [key for key in always if key not in scores]
    if missing:
        raise ModelError(f"no '{missing[0]}' in it. Run 'lungunet evaluate' again.", where=file)
    defined = [case for case in scores["cases"] if case["iou"] is not None]
    ranked = sorted(defined, key=lambda case: (case["iou"], case["name"]))
    seen = scores.get(f"seen_{ruler.noun}s", 0)  # of an older version without it, and the next
    scores.setdefault("calibration", None)
    scores.setdefault("regions", {})
    threshold = scores["baselines"].get("threshold")
    against = threshold and threshold["model_minus_baseline"]
    pictures = _read_pictures(folder / "pictures", {case["name"]: case["iou"] for case in defined})
    return {
        "split": folder.name,
        "scores": scores,
        "ruler": ruler,
        "metrics": {ruler.column(name): metric for name, metric in ruler.metrics.items()},
        "n": scores[f"{ruler.noun}s"],
        "caution": caution_of_few(
            scores["patients"],
            "patient" if scores["patients"] != scores[f"{ruler.noun}s"] else ruler.noun,
        ),
        "seen": seen,
        "empty": scores[f"empty_{ruler.noun}s"],
        "tolerance": scores.get(f"surface_tolerance_{ruler.length}"),
        "threshold": threshold,
        "against": against,
        "verdict": against and _verdict(against["pooled_iou"]),
        "dots": _dots(scores),
        "furthest": {
            name: of["furthest"]
            for name, of in scores["baselines"].items()
            if name != NOTHING and of.get("furthest")
        },
        "cases": {
            "worst": ranked[: max(_CASES_LISTED, len(pictures["worst"]))],
            "best": ranked[::-1][: max(_CASES_LISTED, len(pictures["best"]))],
        },
        "pictures": pictures,
    }


def _ruler_of(scores: Mapping[str, Any]) -> Ruler:
    """Return what the cases were measured with."""
    tolerance_mm = scores.get("surface_tolerance_mm")
    return SLICES if tolerance_mm is None else ruler_of_scans(tolerance_mm)


def _read_pictures(folder: Path, iou: Mapping[str, float]) -> dict[str, list[dict[str, Any]]]:
    """Return the overlays of cases by kind, the most extreme first, with the case's IoU."""
    titles = [(_PICTURE.fullmatch(file.stem), file) for file in folder.glob("*.png")]
    named = [(title, file) for title, file in titles if title]
    pictures: dict[str, list[dict[str, Any]]] = {"worst": [], "best": []}
    for title, file in sorted(named, key=lambda item: int(item[0][2])):
        png = file.read_bytes()
        if not png.startswith(_PNG):
            raise ModelError("not a PNG. Run 'lungunet evaluate' again.", where=file)
        picture = {"name": title[3], "base64": base64.b64encode(png).decode()}
        pictures[title[1]].append({**picture, "iou": iou.get(title[3])})
    return pictures
