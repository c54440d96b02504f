"""One HTML page about a run: made on what, how good, how sure, and where it fails.

Owns what is said and in which order (with its template, report.html). Measures nothing: each score
on the page stands in scores.json, history.csv or audit.json, and is shown there in full.
"""

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lungunet._version import __version__
from lungunet.data.files import write_text
from lungunet.evaluation.charts import CurveChart, DotChart, curve_chart, dot_chart
from lungunet.evaluation.report_files import Evaluation, Picture, RunFiles, read_run
from lungunet.evaluation.scorecard import COMPARED, Difference, verdict
from lungunet.metrics.bootstrap import Interval
from lungunet.metrics.overlap import METRICS, column

REPORT = "report.html"
_SETTINGS = (
    *(("batch", "batch_size"), ("learning rate", "lr"), ("weight decay", "weight_decay")),
    *(("precision", "precision"), ("flip", "flip")),
)
_WORDS = {"True": "yes", "False": "no"}
_CURVES = ("loss", "accuracy", "iou")
_CASES_LISTED = 5
_FINDINGS_LISTED, _RANKS_LISTED = 50, 20
_PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations", "numpy")
_UNDEFINED = Markup('<span title="undefined">\N{EN DASH}</span>')


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
    files = read_run(run)
    path = files.path / REPORT
    write_text(path, _render(files))
    return path


def _render(files: RunFiles) -> str:
    environment = Environment(
        loader=PackageLoader("lungunet", "evaluation"),
        autoescape=True,  # names of files and cases are whatever the data says
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "quote": shlex.quote, "repr": repr}
    best = _best_epoch(files)
    return environment.get_template(REPORT).render(
        files=files,
        run=str(files.path),
        facts=_training_facts(files, best),
        best=best,
        epochs=_by_epoch(files),
        curves=_curves(files, best),
        metrics={column(name): metric for name, metric in METRICS.items()},
        names={"loss": "Loss", **{name: metric.heading for name, metric in METRICS.items()}},
        differences=_differences(),
        evaluations=[_shown(evaluation) for evaluation in files.evaluations],
        audit=_shown_audit(files.audit),
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


def _training_facts(files: RunFiles, best: int | None) -> list[tuple[str, str]]:
    """Return label and text of what is known about how the model was made."""
    config, environment, about = files.config, files.environment, files.about
    contract, codec = about.get("contract") or {}, about.get("codec") or {}
    encoder = config.get("encoder") or (about.get("architecture") or {}).get("encoder")
    size = contract.get("size") or config.get("size")
    versions = environment.get("versions") or {}
    named = [("Python", "python"), *((name, name) for name in _PACKAGES)]
    labels = zip(codec.get("names", ()), codec.get("raw_values", {}).values(), strict=False)
    command = environment.get("command") or []
    epochs = max((row["epoch"] for row in files.history), default=None)
    facts = {
        "Encoder": encoder or "a model of the user's own",
        "Starting weights": config.get("weights"),
        "Input": f"{_window(contract, config)}, fitted to {size} \N{MULTIPLICATION SIGN} {size} px"
        if size
        else None,
        "Labels": ", ".join(f"{value} = {name}" for name, value in labels),
        "Epochs": epochs and f"{epochs} of {config.get('epochs')}; best: {best or 'none'}",
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
        "Command": shlex.join([Path(command[0]).name, *command[1:]]) if command else None,
        "SHA-256 of the weights": about.get("weights_sha256"),
    }
    return [(label, str(text)) for label, text in facts.items() if text]


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


def _best_epoch(files: RunFiles) -> int | None:
    """Return the epoch whose weights best/ holds: the first of the highest val IoU."""
    stored = (files.about.get("scores") or {}).get("epoch")
    if stored is not None:
        return int(stored)
    val = [row for row in files.history if row["split"] == "val" and not math.isnan(row["iou"])]
    return max(val, key=lambda row: row["iou"])["epoch"] if val else None


def _by_epoch(files: RunFiles) -> dict[int, dict[str, Mapping[str, Any]]]:
    epochs: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in files.history:
        epochs.setdefault(row["epoch"], {})[row["split"]] = row
    return epochs


def _curves(files: RunFiles, best: int | None) -> dict[str, CurveChart]:
    charts = {}
    for metric in _CURVES:
        points = {
            split: [(row["epoch"], row[metric]) for row in files.history if row["split"] == split]
            for split in ("train", "val")
        }
        marked = next((point for point in points["val"] if point[0] == best), None)
        chart = curve_chart(points, best=marked, log=metric == "loss")
        if chart is not None:
            charts[metric] = chart
    return charts


def _shown(evaluation: Evaluation) -> dict[str, Any]:
    """Arrange what the template shows of one list."""
    scores = evaluation.scores
    defined = [case for case in scores["cases"] if case["iou"] is not None]
    ranked = sorted(defined, key=lambda case: (case["iou"], case["name"]))
    threshold = scores["baselines"].get("threshold")
    against = threshold and threshold["model_minus_baseline"]
    pictures = {
        kind: [
            _shown_picture(picture, defined)
            for picture in evaluation.pictures
            if picture.kind == kind
        ]
        for kind in ("worst", "best")
    }
    return {
        "split": evaluation.split,
        "scores": scores,
        "threshold": threshold,
        "against": against,
        "verdict": against and _verdict(against["pooled_iou"]),
        "dots": _dots(scores),
        "cases": {
            "worst": ranked[: max(_CASES_LISTED, len(pictures["worst"]))],
            "best": ranked[::-1][: max(_CASES_LISTED, len(pictures["best"]))],
        },
        "pictures": pictures,
    }


def _verdict(gain: Mapping[str, Any]) -> str:
    low, high = (math.nan if end is None else end for end in gain["interval"])
    text = verdict(Difference(gain["value"], Interval(low, high)))
    return text[0].upper() + text[1:]


def _differences() -> list[tuple[str, str, str]]:
    """Return key, label and style of each difference from a baseline that scores.json holds."""
    compared = [(name, METRICS[name]) for name in COMPARED]
    pooled = [
        (f"pooled_{name}", f"{metric.heading}, pooled", f"+.{metric.digits}f")
        for name, metric in compared
        if metric.formula
    ]
    means = [
        (
            f"mean_{column(name)}",
            metric.heading + (" (less is better)" if metric.unit else ", mean per slice"),
            f"+.{metric.digits}f",
        )
        for name, metric in compared
    ]
    return pooled + means


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


def _shown_picture(picture: Picture, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": picture.name,
        "base64": base64.b64encode(picture.png).decode(),
        "iou": next((case["iou"] for case in cases if case["name"] == picture.name), None),
    }


def _shown_audit(audit: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if audit is None:
        return None
    findings = audit.get("findings") or []
    ranking = [entry for entry in audit.get("ranking") or [] if entry.get("score") != 0]
    return {
        "pairs": audit.get("pairs") or {},
        "severities": audit.get("severities") or {},
        "findings": findings[:_FINDINGS_LISTED],
        "more_findings": len(findings) - _FINDINGS_LISTED,
        "ranking": ranking[:_RANKS_LISTED],
        "more_ranking": len(ranking) - _RANKS_LISTED,
    }
