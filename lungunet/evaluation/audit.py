"""Can the files and the labels of a data folder be trusted? One reading, one ranking, worst first.

Owns the order of work and what an audit leaves behind. The checks themselves are in
``file_checks``, ``set_checks`` and ``inference.doubt``. Knows no command line.
"""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lungunet.data.codec import IGNORE, LabelCodec, is_lung, say_no_lung
from lungunet.data.ct import write_picture
from lungunet.data.dataset import read_pair
from lungunet.data.files import plain, refuse_existing, write_csv, write_json
from lungunet.data.hu import NO_WINDOW, can_hold_hu
from lungunet.data.manifest import Pair, read_manifest, require_same_size
from lungunet.data.overlay import add_lines, draw_overlay, show_grey, tile_pictures
from lungunet.data.split import SPLITS, check_split_folder, choose_codec, read_patients
from lungunet.data.twins import Twins, fingerprint, guard_groups
from lungunet.errors import (
    ConfigError,
    DataError,
    GeometryError,
    LungUNetWarning,
    SplitError,
    counted,
)
from lungunet.evaluation.crossval import predict_out_of_fold
from lungunet.evaluation.file_checks import (
    Finding,
    Verdict,
    check_image,
    check_inverted,
    check_mask,
)
from lungunet.evaluation.report import write_report
from lungunet.evaluation.set_checks import PairFacts, check_set, twins_of
from lungunet.inference.doubt import Doubt, DoubtKind, LabelView, doubt_label
from lungunet.models.cores import count_cores
from lungunet.progress import Progress, map_in_threads, silent

_SEVERITIES = ("error", "warning", "note")
_OUTPUTS = ("audit.json", "findings.csv", "ranking.csv", "pictures")
_DOUBTFUL = 0.005  # lower scores round to 0.00
# Right masks are allowed to differ from models by 8 % along their edges: of models with less than
# this every second one would be doubted by its edges alone.
_TAUGHT_IOU = 0.92
# Of a rule that sees the lung the median is 0.85 and more, of ill lungs too, and 0.44 where every
# mask lacks a lung; of one that was given grey for HU it is 0.0.
_SEEING_IOU, _ENOUGH = 0.3, 10
_INVERTED = "lung is drawn as background, and background as lung"
_ROWS = 5  # pairs on a sheet
_PANEL = 400  # px


@dataclass(frozen=True)
class Suspect:
    """A pair in the ranking.

    Parameters
    ----------
    list : train, val or test
    score : in [0, 1]: 1 for files that cannot be used, 0.5 for 5 % of the lung in dispute, 0 where
        nothing speaks against the label
    kind : the gravest reason; "not judged", with a score of 0, where neither rule nor models could
        see the slice and the mask by itself is not doubted
    reasons : in words, gravest first
    seen : bits of (H, W), packed: lung as a model saw it that was not trained on this pair; None
        without folds
    """

    pair: Pair
    list: str
    score: float
    kind: DoubtKind
    reasons: tuple[str, ...]
    seen: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.pair.name,
            "list": self.list,
            "score": self.score,
            "kind": self.kind,
            "reasons": list(self.reasons),
            "image": self.pair.image.as_posix(),
            "mask": None if self.pair.mask is None else self.pair.mask.as_posix(),
        }


@dataclass(frozen=True)
class FoldAgreement:
    """How far models agree with masks that they never saw, and how far the threshold rule does.

    Parameters
    ----------
    slices : whose masks hold lung; others are not counted
    models_iou, rule_iou : median IoU with the masks of these slices, so that few wrong ones do not
        count; NaN without slices
    """

    slices: int
    models_iou: float
    rule_iou: float

    @property
    def is_enough(self) -> bool:
        """Whether the models have learnt enough to doubt masks: a median IoU of 0.92 or more."""
        return self.models_iou >= _TAUGHT_IOU

    def __str__(self) -> str:
        """Say both numbers."""
        rule = "not asked" if math.isnan(self.rule_iou) else f"{self.rule_iou:.2f}"
        return (
            f"IoU {self.models_iou:.2f} with masks that they never saw, the median of "
            f"{counted(self.slices, 'slice')} with lung (the threshold rule: {rule})"
        )


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Parameters
    ----------
    findings : verdicts on files, errors first
    ranking : every pair of every list, the most doubtful label first
    counts : pairs in each list
    folds : models that were trained; 0 means the threshold rule alone
    codec : how masks were read
    agreement : of the models with masks that they never saw; None without folds. Where it is not
        enough, the ranking is by the threshold rule alone
    hears_rule : whether the threshold rule has a say in the ranking. Of slices of 8 bits it has
        none where its median IoU with the masks that hold lung is below 0.3, of 10 or more, nor
        where no slice tells its window; a finding tells so
    """

    findings: tuple[Finding, ...]
    ranking: tuple[Suspect, ...]
    counts: Mapping[str, int]
    folds: int
    codec: LabelCodec
    agreement: FoldAgreement | None = None
    hears_rule: bool = True

    def count(self, severity: str) -> int:
        """Return how many findings are an error, a warning or a note."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def doubtful(self) -> list[Suspect]:
        """The pairs of the ranking with a score that is not 0.00."""
        return [suspect for suspect in self.ranking if suspect.score >= _DOUBTFUL]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pairs": dict(self.counts),
            "folds": self.folds,
            "agreement": self.agreement and plain(asdict(self.agreement)),
            "hears_rule": self.hears_rule,
            "labels": str(self.codec),
            "severities": {name: self.count(name) for name in _SEVERITIES},
            "findings": [finding.to_dict() for finding in self.findings],
            "ranking": [suspect.to_dict() for suspect in self.ranking],
        }

    def save(self, folder: str | Path, *, pictures: int = 20) -> None:
        """Write audit.json, findings.csv, ranking.csv, and pictures of the worst pairs.

        Each picture shows slice, mask (blue) and, over the mask, what the model or the rule
        sees (orange); sheets hold five of them.

        Parameters
        ----------
        pictures : how many at most, of :attr:`doubtful` ones; those of an earlier audit are removed
        """
        folder = Path(folder)
        write_json(folder / "audit.json", self.to_dict())
        columns = ("severity", "list", "name", "kind", "message", "image", "mask", "other")
        write_csv(folder / "findings.csv", (item.to_dict() for item in self.findings), columns)
        ranks = ("list", "name", "score", "kind", "reasons", "image", "mask")
        write_csv(folder / "ranking.csv", (suspect.to_dict() for suspect in self.ranking), ranks)
        self._draw(folder / "pictures", pictures)

    def _draw(self, folder: Path, count: int) -> None:
        for old in chain(folder.glob("worst-*.png"), folder.glob("sheet-*.png")):
            old.unlink()
        drawable = [s for s in self.doubtful if s.kind != "unreadable"][:count]
        rows = []
        for rank, suspect in enumerate(drawable, start=1):
            words = f"{rank}  {suspect.pair.name}  {suspect.list}  {suspect.score:.3f}  "
            words += "; ".join(suspect.reasons[:2])
            rows.append(_draw_pair(suspect, self.codec, caption=words))
            write_picture(folder / f"worst-{rank:03d}-{suspect.pair.name}.png", rows[-1])
        for start in range(0, len(rows), _ROWS):
            sheet = np.concatenate(rows[start : start + _ROWS])
            write_picture(folder / f"sheet-{1 + start // _ROWS:02d}.png", sheet)


def audit(
    data: str | Path,
    *,
    codec: LabelCodec | None = None,
    folds: int = 0,
    out: str | Path | None = None,
    pictures: int = 20,
    overwrite: bool = False,
    work: Path | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Audit:
    """Check every file of every list of a data folder, and rank the labels by doubt.

    Parameters
    ----------
    data : folder with train.txt and, where there are, val.txt and test.txt
    codec : of the masks; None means what split.json says, else 0 and 255
    folds : train so many small models, each judges the pairs that it did not see; 0 asks the
        threshold rule alone. Pairs of one patient (split.json) and near-twins stay in one fold.
        Models that have learnt too little have no say: a warning tells so, see :class:`Audit`.
        Nor has a rule that agrees with hardly any mask of 8-bit slices: a finding tells so
    out : folder to save the audit in; made before any work, and gone again where that comes to
        nothing. In a run folder, the run's report is written anew. None saves nothing
    pictures : as for :meth:`Audit.save`
    overwrite : replace the audit that ``out`` holds
    work : folder for the temporary runs of the folds; None takes ``out``, else the system's
    workers : threads that read; None takes one per core

    Raises
    ------
    DataError
        When the folder or train.txt is missing, a list is damaged or names missing files, or
        nothing is listed; or when ``out`` cannot be written.
    ConfigError
        When folds are asked for and the slices cannot be trained on, of mixed dtypes for example,
        ``folds`` is 1 or a number below 0, or ``out`` holds an audit.
    """
    if folds < 0 or folds == 1:
        raise ConfigError(f"{folds}. Give 0 for none, or at least 2.", where="folds")
    if pictures < 0:
        raise ConfigError(f"{pictures}. Give 0 or more.", where="pictures")
    out = None if out is None else Path(out)
    if out is not None:
        refuse_existing([out / name for name in _OUTPUTS], overwrite)
    with nullcontext() if out is None else _made(out):
        result = _audit(
            data, codec=codec, folds=folds, work=work or out, workers=workers, progress=progress
        )
    if out is None:
        return result
    result.save(out, pictures=pictures)
    if (out.parent / "best").is_dir():  # RUN/audit: the report of the run shows it
        write_report(out.parent)
    return result


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    missing = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(
            f"cannot be made ({err.strerror}). Choose another place.", where=folder
        ) from err
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):  # something else lies in it by now
                folder.rmdir()
        raise


def _audit(
    data: str | Path,
    *,
    codec: LabelCodec | None,
    folds: int,
    work: Path | None,
    workers: int | None,
    progress: Progress,
) -> Audit:
    pairs = _read_lists(Path(data))
    codec = codec or choose_codec(data)
    threads = workers or count_cores()
    looks = map_in_threads(
        lambda pair: _look(pair[0], pair[1], codec),
        pairs,
        threads=threads,
        progress=progress,
        desc="audit",
    )
    facts = [look.facts for look in looks]
    twins = twins_of(facts)
    unheard = _judge_rule(looks)
    hears_rule = not any(finding.severity == "warning" for finding in unheard)
    findings = [
        *(finding for look in looks for finding in look.findings),
        *check_set(facts, twins),
        *unheard,
    ]
    order = {name: place for place, name in enumerate((*_SEVERITIES, *SPLITS))}
    findings.sort(key=lambda f: (order[f.severity], f.kind, order[f.list], f.pair.name))
    if all(fact.lung_share == 0 for fact in facts):
        text = say_no_lung(len(facts), codec)
        warnings.warn(f"{data}: {text}", LungUNetWarning, stacklevel=3)
    suspects = [_suspect(look, by_rule=hears_rule) for look in looks]
    agreement: FoldAgreement | None = None
    if folds:
        readable = [place for place, look in enumerate(looks) if look.doubt is not None]
        groups = _groups(Path(data), facts, twins)
        judged, agreement = _second_opinions(
            suspects,
            readable,
            groups,
            codec=codec,
            folds=folds,
            by_rule=hears_rule,
            work=work,
            progress=progress,
        )
        if agreement.is_enough:
            suspects = judged
        else:
            _warn_of_untaught(agreement, data, pairs=len(readable), hears_rule=hears_rule)
    suspects.sort(key=lambda suspect: (-suspect.score, suspect.pair.name))
    counts = Counter(name for _, name in pairs)
    return Audit(
        findings=tuple(findings),
        ranking=tuple(suspects),
        counts={name: counts[name] for name in SPLITS},
        folds=folds,
        codec=codec,
        agreement=agreement,
        hears_rule=hears_rule,
    )


@dataclass(frozen=True)
class _Look:
    """What one reading of a pair leaves; no doubt where it could not be read.

    Parameters
    ----------
    doubt, alone : with the rule, and without it
    asks_rule : False where the slice tells no HU
    rule_iou : of the rule with the mask; None where that holds no lung, or is the wrong way round
    """

    facts: PairFacts
    findings: tuple[Finding, ...]
    doubt: Doubt | None = None
    alone: Doubt | None = None
    asks_rule: bool = True
    rule_iou: float | None = None


def _read_lists(folder: Path) -> list[tuple[Pair, str]]:
    check_split_folder(folder)
    # Not read_split, which stops at the first slice in two lists: here that is a finding.
    pairs = [
        (pair, name)
        for name in SPLITS
        if name == "train" or (folder / f"{name}.txt").exists()
        for pair in read_manifest(folder / f"{name}.txt")
    ]
    if not pairs:
        raise SplitError("no pairs in any list. 'lungunet split' writes them.", where=folder)
    return pairs


def _look(pair: Pair, list_name: str, codec: LabelCodec) -> _Look:
    """Read one pair, once, and judge all that it tells by itself."""
    assert pair.mask is not None  # read_manifest sees to it
    image, verdicts = check_image(pair.image)
    classes, mask_verdicts = check_mask(pair.mask, codec)
    verdicts += mask_verdicts
    facts = PairFacts(pair, list_name)
    said: dict[str, Any] = {}
    if image is not None:
        facts = replace(
            facts,
            dtype=image.dtype.name,
            image_digest=_digest(image),
            fingerprint=fingerprint(image),
        )
    if classes is not None:
        share = float(is_lung(classes).mean())
        facts = replace(facts, mask_digest=_digest(classes), lung_share=share)
    if image is not None and classes is not None:
        try:
            require_same_size(image.shape, classes.shape, pair.name)
        except GeometryError as err:
            verdicts.append(Verdict("error", "size", str(err)))
        else:
            view = LabelView(image, _settled_lung(image, classes))
            inverted = check_inverted(view.lung, view.airy, codec, str(pair.mask))
            verdicts += inverted
            said = _judge(view, inverted=bool(inverted))
    findings = tuple(Finding(pair, list_name, v.severity, v.kind, v.message) for v in verdicts)
    return _Look(facts, findings, **said)


def _judge(view: LabelView, *, inverted: bool) -> dict[str, Any]:
    """Return what a look says of one mask."""
    if inverted:
        doubt = Doubt(1.0, "inverted", (_INVERTED,))
        return {"doubt": doubt, "alone": doubt, "asks_rule": view.has_hu}
    compared = view.has_hu and bool(view.lung.any())
    return {
        "doubt": doubt_label(view),
        "alone": doubt_label(view, by_rule=False),
        "asks_rule": view.has_hu,
        "rule_iou": _iou(view.lung, view.baseline) if compared else None,
    }


def _judge_rule(looks: Sequence[_Look]) -> list[Finding]:
    """Say whether the rule has a say: a warning where it has none, a note where it lacks some.

    Of HU it has one whatever it says: it sees lung there, so that masks which it does not agree
    with are the ones in doubt.
    """
    readable = [look for look in looks if look.doubt is not None]
    blind = [look for look in readable if not look.asks_rule]
    findings = []
    if blind and len(blind) == len(readable):
        facts = blind[0].facts
        text = f"{len(blind)} of {counted(len(readable), 'slice')}: {NO_WINDOW}"
        findings.append(Finding(facts.pair, facts.list, "warning", "rule-unheard", text))
    else:
        findings += [
            Finding(
                look.facts.pair,
                look.facts.list,
                "note",
                "rule-unheard",
                f"{look.facts.pair.image}: {NO_WINDOW}",
            )
            for look in blind
        ]
    grey = [look for look in readable if not can_hold_hu(np.dtype(str(look.facts.dtype)))]
    ious = [look.rule_iou for look in grey if look.rule_iou is not None]
    if len(ious) >= _ENOUGH and (middle := float(np.median(ious))) < _SEEING_IOU:
        facts = next(look.facts for look in grey if look.rule_iou is not None)
        text = (
            f"the threshold rule has no say: IoU {middle:.2f} with the masks, the median of "
            f"{counted(len(ious), 'slice')} of 8 bits with lung. Below {_SEEING_IOU} it does not "
            "see the lung of these slices, or most masks are wrong: look at some."
        )
        reasons = Counter(reason for look in looks if look.doubt for reason in look.doubt.reasons)
        for reason, times in reasons.most_common(1):
            text += f" It says of {times}: {reason}." if 2 * times > len(ious) else ""
        findings.append(Finding(facts.pair, facts.list, "warning", "rule-unheard", text))
    return findings


def _settled_lung(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the lung of a mask, (H, W) bool; where it is ignored, the rule's: not in dispute."""
    lung, ignored = is_lung(classes), classes == IGNORE
    return np.where(ignored, _rule(image, lung), lung) if ignored.any() else lung


def _rule(image: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Return what the threshold rule calls lung, (H, W) bool; nothing where it cannot be asked."""
    view = LabelView(image, lung)
    if not view.has_hu:
        return np.zeros_like(lung)
    rule = view.baseline.view(np.uint8)
    size = (image.shape[1], image.shape[0])
    return cv2.resize(rule, size, interpolation=cv2.INTER_NEAREST).astype(bool)


def _digest(pixels: np.ndarray) -> bytes:
    content = np.ascontiguousarray(pixels)
    start = f"{content.dtype} {content.shape}".encode()
    return hashlib.blake2b(start + content.tobytes(), digest_size=16).digest()


def _suspect(look: _Look, *, by_rule: bool) -> Suspect:
    pair, name = look.facts.pair, look.facts.list
    doubt = look.doubt if by_rule else look.alone
    if doubt is not None and doubt.kind == "none" and not look.asks_rule:
        return Suspect(pair, name, 0.0, "not judged", (NO_WINDOW,))
    if doubt is not None:
        return Suspect(pair, name, doubt.score, doubt.kind, doubt.reasons)
    reasons = tuple(f.message for f in look.findings if f.severity == "error")
    return Suspect(pair, name, 1.0, "unreadable", reasons)


def _groups(data: Path, facts: Sequence[PairFacts], twins: Sequence[Twins]) -> dict[str, str]:
    pairs = [fact.pair for fact in facts]
    patients = read_patients(data) or {}
    known = all(pair.name in patients for pair in pairs)
    named = {pair.name: str(patients[pair.name]) for pair in pairs} if known else None
    return guard_groups(pairs, twins, groups=named)


def _second_opinions(
    suspects: Sequence[Suspect],
    readable: Sequence[int],
    groups: Mapping[str, str],
    *,
    codec: LabelCodec,
    folds: int,
    by_rule: bool,
    work: Path | None,
    progress: Progress,
) -> tuple[list[Suspect], FoldAgreement]:
    """Judge the readable pairs again, with models that did not see them."""
    place_of = {suspects[place].pair: place for place in readable}
    judged = list(suspects)
    ious: list[tuple[float, float]] = []
    predictions = predict_out_of_fold(
        list(place_of), codec=codec, folds=folds, groups=groups, work=work, progress=progress
    )
    for pair, prediction in predictions:
        place = place_of[pair]
        if suspects[place].kind == "inverted":
            continue
        image, classes = read_pair(pair, codec)
        seen = prediction.classes > 0
        lung = _settled_lung(image, classes)
        pred = np.where(classes == IGNORE, lung, seen)
        view = LabelView(image, lung)
        doubt = doubt_label(view, pred=pred, by_rule=by_rule)
        if view.lung.any():
            rule = _iou(view.lung, view.baseline) if view.has_hu else math.nan
            ious.append((_iou(view.lung, view.shrink(pred)), rule))
        name = suspects[place].list
        judged[place] = Suspect(
            pair, name, doubt.score, doubt.kind, doubt.reasons, np.packbits(seen)
        )
    models_iou, rule_iou = (
        _median([iou for iou in each if not math.isnan(iou)])
        for each in (zip(*ious, strict=True) if ious else ((), ()))
    )
    return judged, FoldAgreement(len(ious), models_iou, rule_iou)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def _warn_of_untaught(
    agreement: FoldAgreement, data: str | Path, *, pairs: int, hears_rule: bool
) -> None:
    warnings.warn(
        f"{data}: the models of the folds have no say. They reach {agreement}; below "
        f"{_TAUGHT_IOU} they have learnt too little from {counted(pairs, 'pair')} to doubt a mask, "
        "or most masks are wrong. The ranking is "
        f"{'by the threshold rule alone' if hears_rule else 'by nobody'}. Ask with more patients, "
        "or with folds=0.",
        LungUNetWarning,
        stacklevel=4,
    )


def _draw_pair(suspect: Suspect, codec: LabelCodec, *, caption: str) -> np.ndarray:
    """Draw the slice, the mask in blue, and over it in orange what someone else sees.

    Comes as (422, 1200, 3) uint8, RGB.
    """
    image, classes = read_pair(suspect.pair, codec)
    grey = show_grey(image)
    if suspect.seen is None:
        other = _rule(image, is_lung(classes)).view(np.uint8)
    else:
        other = np.unpackbits(suspect.seen, count=image.size).reshape(image.shape)
    panels = tile_pictures(
        [
            draw_overlay(grey),
            draw_overlay(grey, truth=classes, ignore_index=IGNORE),
            draw_overlay(grey, truth=classes, pred=other, ignore_index=IGNORE),
        ],
        columns=3,
        side=_PANEL,
    )
    by = "the rule" if suspect.seen is None else "the model"
    text = f"{caption}   (blue: mask, orange: {by})"
    return add_lines(panels, [text])
