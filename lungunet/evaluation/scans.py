"""Score whole scans in 3-D: a model, or the masks of any other tool, where the truth is known.

In mm and mL, on the grid of each scan, one scan at a time. Knows no command line.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

from lungunet.data.codec import (
    IGNORE,
    LabelCodec,
    is_lung,
    looks_inverted,
    say_no_lung,
    suggest_exchanged,
    tell_inverted,
)
from lungunet.data.ct import SUFFIXES, write_picture
from lungunet.data.files import refuse_existing
from lungunet.data.hu import require_hu
from lungunet.data.kinds import as_list
from lungunet.data.made_by import SIDES
from lungunet.data.manifest import Pair
from lungunet.data.split import read_groups
from lungunet.errors import ConfigError, DataError, counted, listed
from lungunet.evaluation.masks import match_classes, say_other_names, say_other_numbers
from lungunet.evaluation.predicted_truth import count_predicted, read_maker, say_predicted
from lungunet.evaluation.report import REPORT, write_scores_page
from lungunet.evaluation.scorecard import CaseScore, ScoreCard, count_classes, score_case
from lungunet.evaluation.scorecard import box_of_either as box_of
from lungunet.evaluation.trained_on import SeenScans
from lungunet.inference.jobs import identify
from lungunet.inference.measure import codec_of_lungs, encode_scan, guess_codec
from lungunet.inference.predictor import Predictor
from lungunet.inference.quality import tell_no_chest
from lungunet.inference.scans import predict_volume
from lungunet.inference.sides import LEFT, RIGHT, is_told, split_sides
from lungunet.metrics.overlap import TOLERANCE_MM, Ruler, ruler_of_scans
from lungunet.models.members import find_members, is_model_folder, named_folder
from lungunet.progress import Progress, silent
from lungunet.volumes.formats import is_volume_source
from lungunet.volumes.montage import draw_difference
from lungunet.volumes.pacs import is_pacs
from lungunet.volumes.scan import Scan
from lungunet.volumes.slicing import ScanPair, find_volume_pairs
from lungunet.volumes.volume import Volume, put_on_grid, read_volume

_PICTURES = 6
_BLOCK_MM = 10  # side of what errors are counted in, to find where most is wrong


@dataclass(frozen=True)
class ScanScoring:
    """How scans are scored.

    Parameters
    ----------
    codec : of the truth; None takes the one of 0,255 and 0,1 and 0,1,2 that most masks fit. Of
        three classes without names 1 is the left and 2 the right lung
    mask_codec : of a folder of masks; None takes what the folder says, if they were predicted into
        it, else as for the truth
    tolerance_mm : of the surface Dice
    refine : see :func:`predict_volume`
    baselines : also segment the scans with the threshold and the built-in model, and score these

    Raises
    ------
    ConfigError
        When the tolerance is negative or not finite, or the mask codec ignores voxels: a mask that
        is scored answers for all of them.
    """

    codec: LabelCodec | None = None
    mask_codec: LabelCodec | None = None
    tolerance_mm: float = TOLERANCE_MM
    refine: bool = True
    baselines: bool = False

    def __post_init__(self) -> None:
        """Refuse what could not be done with any scan."""
        if not 0 <= self.tolerance_mm < math.inf:
            raise ConfigError(
                "give 0 or more, in mm; the spacing of the scans says what is small.",
                where=f"tolerance_mm={self.tolerance_mm:g}",
            )
        if self.mask_codec is not None and self.mask_codec.ignores:
            raise ConfigError(
                "a mask that is scored answers for every voxel. Ignore voxels of the truth, and "
                "name a class here.",
                where=f"mask_codec {self.mask_codec}",
            )


@dataclass(frozen=True)
class _Source:
    """What is scored: a model, or masks on disk.

    Parameters
    ----------
    segment : classes of a scan, and whether they were brought to its grid from another one
    word : which baseline it is itself; empty where it is none
    tells_sides : whether lungs without sides can be told apart by the scan
    made_by : hash of the model; empty where nobody knows
    """

    segment: Callable[[str, Volume], tuple[np.ndarray, bool]]
    codec: LabelCodec
    word: str = ""
    tells_sides: bool = False
    made_by: str = ""


@dataclass
class _Found:
    """What has come out so far; lists hold names of scans."""

    inverted_truth: int = 0
    inverted_masks: int = 0
    cases: list[CaseScore] = field(default_factory=list)
    regions: dict[str, list[CaseScore]] = field(default_factory=lambda: defaultdict(list))
    baselines: dict[str, list[CaseScore]] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    moved_truth: list[str] = field(default_factory=list)
    moved_masks: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def worst(self) -> list[str]:
        """Return the names of the scans that a picture is kept of, worst first."""
        known = [case for case in self.cases if not math.isnan(case.scores.iou)]
        ranked = sorted(known, key=lambda case: (case.scores.iou, case.name))
        return [case.name for case in ranked[:_PICTURES]]


def evaluate_scans(
    model: str | Path,
    scans: str | Path,
    truth: str | Path,
    *,
    out: str | Path | None = None,
    scoring: ScanScoring = ScanScoring(),
    names: str | None = None,
    mask_names: str | None = None,
    against: str | Path | Sequence[str | Path] = (),
    group: str | None = None,
    series: str | None = None,
    resample: bool = False,
    device: str | int = "auto",
    overwrite: bool = False,
    progress: Progress = silent,
) -> ScoreCard:
    """Score a model, or a folder of masks, on whole scans: overlap, distances in mm, volumes.

    Masks on another grid than their scan are brought to it as :func:`put_on_grid` does, and the
    card says which. Where truth and masks tell the left lung from the right one, each is scored by
    itself too; those of a model that does not are told apart by :func:`split_sides` where the scan
    shows a whole chest, as in :func:`predict_scans`. Memory is that of one scan.

    Parameters
    ----------
    model : as :meth:`Predictor.load` takes it, or a folder of masks of any other tool, or one
    scans : a scan, or a folder as :func:`find_volumes` takes it
    truth : its mask, or a folder of them, paired as :func:`find_volume_pairs` does. Scans without
        truth are left out, and the card says which
    out : folder for scores.json, cases.csv, report.html and pictures of the six worst scans, each
        through the place where most is wrong; None writes nothing
    scoring : how
    names, mask_names : how the truth, and a folder of masks, are called beside their scans, as for
        :func:`find_pairs`
    against : another model or folder of masks, or several, to score beside it on the same scans
    group : which scans are of one patient, a rule for their names as :func:`read_groups` takes it;
        intervals resample patients. None: each scan is a patient
    series : of DICOM this one alone, see :func:`find_volumes`
    resample : see :func:`read_volume`
    device : of a network
    overwrite : replace scores that are there
    progress : counts scans, or the batches of each where a model segments them

    Returns
    -------
    ScoreCard
        A scan that cannot be used is in ``failed``, and the others go on.

    Raises
    ------
    ConfigError
        When scores are there already, or there is no such device.
    ModelError
        When there is no usable model.
    DataError
        When files do not pair up, a scan has truth and no mask, or no scan can be scored.
    """
    if out is not None:
        files = ("scores.json", "cases.csv", REPORT)
        refuse_existing([Path(out) / name for name in files], overwrite)
    against = as_list(against)
    _refuse_slices(scans)
    pairs = find_volume_pairs(scans, truth, names=names, series=series)
    with_truth = {name: pair for name, pair in pairs.items() if pair.mask is not None}
    patients: Mapping[str, str] = {}
    if group is not None:
        patients = read_groups([Pair(Path(f"{name}.nii")) for name in with_truth], group)
    codec = _sides_in_order(_named(scoring.codec or guess_codec(with_truth.values(), volumes=True)))
    found = _Found()
    counting, model_progress = (progress, silent) if _is_masks(model) else (silent, progress)

    def load(model: str | Path, mask_codec: LabelCodec | None, names: str | None) -> _Source:
        if _is_masks(model):
            beside = find_volume_pairs(scans, model, names=names, series=series)
            masks = _read_masks(beside, with_truth, mask_codec or codec_of_lungs(model))
            return replace(masks, made_by=read_maker(model))
        for option, given in (("mask_names", names), ("mask_codec", mask_codec)):
            if given is not None:
                raise ConfigError(
                    f"{model} is no folder of masks, and it is not for those of against. Leave it "
                    "out.",
                    where=option,
                )
        predictor = Predictor.load(model, device=device)
        if predictor.segmenter.contract.window is None:  # it sees 8-bit grey
            predictor.segmenter.contract.check_dtype("int16", str(scans), model=str(model))
        return _segment_with(predictor, scoring, model_progress)

    source = load(model, scoring.mask_codec, mask_names)
    if 2 < codec.n_classes != source.codec.n_classes > 2:
        of_model = not _is_masks(model)
        raise DataError(say_other_numbers(codec, source.codec, of_model=of_model))
    if str(model) in against:
        raise ConfigError(f"{model} is what is scored. Name another one.", where="against")
    rivals = {other: load(other, None, None) for other in against}
    rules = _baselines(source, scoring, model_progress, without=rivals)
    found.baselines = {name: [] for name in (*rivals, *rules)}
    seen = {str(m): SeenScans(m) for m in (model, *against, *rules) if not _is_masks(m)}
    ruler = ruler_of_scans(scoring.tolerance_mm)
    for name, pair in counting(with_truth.items(), desc="evaluate", total=len(with_truth)):
        try:
            scan = replace(read_volume(pair.image, resample=resample), name=name)
            _score(
                scan,
                pair.require_mask(),
                codec,
                source,
                found,
                patient=patients.get(name, name),
                ruler=ruler,
                rivals=rivals,
                rules=rules,
                draw=out is not None,
            )
            for by in seen.values():
                by.look(name, scan.array)
        except (DataError, ConfigError) as err:
            found.failed.append(str(err))
    if not found.cases:
        raise DataError(
            f"no scan could be scored:\n  {listed(found.failed)}\nMend them.", where=scans
        )
    with_lung = sum(case.truth_px > 0 for case in found.cases)
    if not with_lung:
        found.remarks.append(f"the truth: {say_no_lung(len(found.cases), codec)}")
    elif inverted := tell_inverted(found.inverted_truth, with_lung, codec):
        found.remarks.append(f"the truth: {inverted}")
    if _is_masks(model):
        drawn = sum(bool(case.counts[:, 1:].any()) for case in found.cases)
        of_masks = source.codec
        if inverted := tell_inverted(found.inverted_masks, drawn, of_masks, argument="mask_codec"):
            found.remarks.append(f"the masks: {inverted}")
    found.remarks += say_other_names(source.codec, codec)
    found.remarks += _remarks(found, pairs, codec, source)
    for name, by in seen.items():
        found.remarks += _say_seen(name, by)
    truths = {case.name: with_truth[case.name].require_mask().path for case in found.cases}
    models = {n: each.made_by for n, each in {str(model): source, **rivals, **rules}.items()}
    found.remarks += say_predicted(count_predicted(truths), models, of=len(truths))
    card = _card(found)
    if out is not None:
        card = replace(card, folder=Path(out))
        _save_pictures(Path(out) / "pictures", found)
        source_name = "a study of a PACS" if is_pacs(scans) else str(scans)
        card.save(out, model=str(model), data=source_name, truth=str(truth))
        write_scores_page(out)
    return card


def _refuse_slices(scans: str | Path) -> None:
    """Say how slices are scored that come as a folder of them and not as a list."""
    folder = Path(scans)
    if not folder.is_dir() or is_volume_source(folder):
        return
    image = next((file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES), None)
    if image is not None:
        raise DataError(
            f"holds slices ({image.name}), which are scored by a list. 'lungunet split IMAGES "
            "MASKS DATA --val 0 --test 1' makes one of all; then 'lungunet evaluate MODEL DATA'.",
            where=folder,
        )


def _is_masks(model: str | Path) -> bool:
    """Whether masks were given in place of a model."""
    place = named_folder(model)
    if model == "threshold" or len(find_members(model)) > 1 or is_model_folder(place):
        return False
    return place.is_dir() or (place.exists() and is_volume_source(place))


def _named(codec: LabelCodec) -> LabelCodec:
    """Name left and right where three classes have no names, as :func:`measure_files` has them."""
    if codec.n_classes == 3 and not codec.is_named:
        return replace(codec, names=("background", *SIDES[:2]))
    return codec


def _sides_in_order(codec: LabelCodec) -> LabelCodec:
    """Return a codec that numbers left and right as :func:`split_sides` does."""
    if codec.names[1:] != SIDES[1::-1]:
        return codec
    turned = {LEFT: RIGHT, RIGHT: LEFT}
    return replace(
        codec,
        classes={raw: turned.get(index, index) for raw, index in codec.classes.items()},
        raw_values={turned.get(index, index): raw for index, raw in codec.raw_values.items()},
        names=(codec.names[0], *SIDES[:2]),
        other=None if codec.other is None else turned.get(codec.other, codec.other),
    )


def _has_sides(codec: LabelCodec) -> bool:
    return codec.names[1:] == SIDES[:2]


def _read_masks(
    beside: Mapping[str, ScanPair], pairs: Mapping[str, ScanPair], codec: LabelCodec | None
) -> _Source:
    """Answer for a scan with its mask on disk."""
    by_scan = {_key(pair.image): pair.mask for pair in beside.values() if pair.mask}
    missing = [name for name, pair in pairs.items() if _key(pair.image) not in by_scan]
    if missing:
        raise DataError(
            f"no mask of {listed(missing, separator=', ')}, of which there is truth. A score "
            "without them would not be one of these scans: make them, or leave the scans out."
        )
    masks = {name: by_scan[_key(pair.image)] for name, pair in pairs.items()}
    known = _named(
        codec or guess_codec([ScanPair(mask, mask) for mask in masks.values()], volumes=True)
    )

    def read(name: str, scan: Volume) -> tuple[np.ndarray, bool]:
        return _read_classes(masks[name], scan, known, argument="mask_codec")

    return _Source(read, known)


def _key(scan: Scan) -> tuple[Path, str]:
    return scan.path, scan.id


def _segment_with(predictor: Predictor, scoring: ScanScoring, progress: Progress) -> _Source:
    def segment(name: str, scan: Volume) -> tuple[np.ndarray, bool]:
        predicted = predict_volume(predictor, scan, refine=scoring.refine, progress=progress)
        return predicted.classes, False

    return _Source(
        segment,
        _named(predictor.codec),
        predictor.word,
        tells_sides=True,
        made_by=identify(predictor.segmenter),
    )


def _baselines(
    source: _Source, scoring: ScanScoring, progress: Progress, *, without: Container[str]
) -> dict[str, _Source]:
    words = [word for word in ("threshold", "lungs") if word != source.word and word not in without]
    return {
        word: _segment_with(Predictor.load(word, device="cpu"), scoring, progress)
        for word in words
        if scoring.baselines
    }


def _read_classes(
    mask: Scan, scan: Volume, codec: LabelCodec, *, argument: str = "codec"
) -> tuple[np.ndarray, bool]:
    """Return a mask on the grid of its scan, and whether it was drawn on another one."""
    drawn = read_volume(mask)
    moved = not drawn.grid.turned.matches(scan.grid.turned)
    return encode_scan(put_on_grid(drawn, scan), codec, str(mask), argument=argument), moved


def _score(
    scan: Volume,
    mask: Scan,
    codec: LabelCodec,
    source: _Source,
    found: _Found,
    *,
    patient: str,
    ruler: Ruler,
    rivals: Mapping[str, _Source],
    rules: Mapping[str, _Source],
    draw: bool,
) -> None:
    """Add what one scan scores; nothing of it where it cannot be used."""
    require_hu(scan.array, scan.path)
    truth, moved_truth = _read_classes(mask, scan, codec)
    pred, moved_mask = source.segment(scan.name, scan)
    pred = match_classes(pred, source.codec, codec)

    def score(truth: np.ndarray, pred: np.ndarray) -> CaseScore:
        return score_case(
            scan.name, truth, pred, patient=patient, spacing_mm=scan.spacing_mm, ruler=ruler
        )

    lungs = _lungs(truth)
    case = score(lungs, (pred > 0).view(np.uint8))
    parts, swapped = _parts(truth, pred, scan, codec=codec, source=source)
    regions = {
        codec.names[index]: score(_only(truth, index), (parts == index).view(np.uint8))
        for index in range(1, codec.n_classes)
        if parts is not None
    }
    theirs = {
        name: score(lungs, (other.segment(scan.name, scan)[0] > 0).view(np.uint8))
        for name, other in rivals.items()
    }
    found.cases.append(case)
    found.inverted_truth += looks_inverted(truth)
    found.inverted_masks += looks_inverted(pred)
    for name, region in regions.items():
        found.regions[name].append(region)
    for names, applies in (
        (found.moved_truth, moved_truth),
        (found.moved_masks, moved_mask),
        (found.swapped, swapped),
        (found.untold, parts is None and _could_tell(codec, source)),
    ):
        names += [scan.name] * applies
    if draw and scan.name in found.worst():
        found.pictures[scan.name] = _draw(scan, lungs, pred, case)
        found.pictures = {name: found.pictures[name] for name in found.worst()}
    for name, their_case in theirs.items():
        found.baselines[name].append(their_case)
    _score_baselines(scan, lungs, rules, found, score)


def _score_baselines(
    scan: Volume,
    lungs: np.ndarray,
    rules: Mapping[str, _Source],
    found: _Found,
    score: Callable[[np.ndarray, np.ndarray], CaseScore],
) -> None:
    for word in [word for word in rules if word in found.baselines]:
        try:
            guess, _ = rules[word].segment(scan.name, scan)
        except DataError as err:  # one that does not cover every scan is left out
            found.remarks.append(f"no {word} baseline: {err}")
            del found.baselines[word]
            continue
        found.baselines[word].append(score(lungs, (guess > 0).view(np.uint8)))


def _lungs(truth: np.ndarray) -> np.ndarray:
    """Return lung against background, and what is ignored."""
    lungs = (truth > 0).view(np.uint8)
    lungs[truth == IGNORE] = IGNORE
    return lungs


def _only(truth: np.ndarray, index: int) -> np.ndarray:
    """Return one class against all others, and what is ignored."""
    region: np.ndarray = (truth == index).view(np.uint8)
    region[truth == IGNORE] = IGNORE
    return region


def _could_tell(codec: LabelCodec, source: _Source) -> bool:
    """Whether truth and masks have the same classes, or can have the same sides."""
    alike = codec.n_classes > 2 and codec.n_classes == source.codec.n_classes
    return alike or (_has_sides(codec) and source.tells_sides)


def _parts(
    truth: np.ndarray, pred: np.ndarray, scan: Volume, *, codec: LabelCodec, source: _Source
) -> tuple[np.ndarray | None, bool]:
    """Return the prediction with its regions told apart, if both have them; and if swapped."""
    if not _could_tell(codec, source):
        return None, False
    sided = _has_sides(codec)
    if sided and not is_told(truth):
        return None, False
    if codec.n_classes != source.codec.n_classes:
        if tell_no_chest(scan.array, pred, spacing_mm=scan.spacing_mm, by=source.word):
            return None, False
        pred = split_sides(pred, spacing_mm=scan.spacing_mm, hu=scan.array)
    if sided and not is_told(pred):
        return None, False
    if not sided:
        return pred, False
    counts = count_classes(truth, pred, 3)
    crossed = counts[LEFT, RIGHT] + counts[RIGHT, LEFT]
    return pred, bool(crossed > counts[LEFT, LEFT] + counts[RIGHT, RIGHT])


def _draw(scan: Volume, lungs: np.ndarray, pred: np.ndarray, case: CaseScore) -> np.ndarray:
    hd95 = case.surface.hd95
    far = f"{hd95:.1f} mm" if math.isfinite(hd95) else "infinite"
    lines = [
        f"{scan.name}: IoU {case.scores.iou:.4f}, Dice {case.scores.dice:.4f}, HD95 {far}",
        f"truth (blue) {case.truth_size:.0f} mL, prediction (orange) {case.pred_size:.0f} mL; "
        "through the place where most is wrong",
    ]
    shown = is_lung(lungs).view(np.uint8)
    return draw_difference(scan, shown, pred, find_worst_place(lungs, pred, scan), lines=lines)


def find_worst_place(lungs: np.ndarray, pred: np.ndarray, scan: Volume) -> tuple[int, int, int]:
    """Return the wrong voxel (z, y, x) with most wrong ones around it, within about 15 mm.

    Where nothing is wrong, the middle of the lungs.
    """
    box = box_of(lungs, pred)
    wrong = ((lungs[box] > 0) != (pred[box] > 0)) & (lungs[box] != IGNORE)
    steps = [max(1, round(_BLOCK_MM / mm)) for mm in scan.spacing_mm]
    if not wrong.any():
        z, y, x = ((part.start + part.stop) // 2 for part in box)
        return z, y, x
    blocks = wrong
    for axis, step in enumerate(steps):
        starts = np.arange(0, blocks.shape[axis], step)
        blocks = np.add.reduceat(blocks, starts, axis=axis, dtype=np.int32)
    around = uniform_filter(blocks.astype(np.float64), size=3, mode="constant")
    fullest = np.unravel_index(int(around.argmax()), around.shape)
    starts_at = [max(0, (int(at) - 1) * step) for at, step in zip(fullest, steps, strict=True)]
    near = tuple(
        slice(start, (int(at) + 2) * step)
        for start, at, step in zip(starts_at, fullest, steps, strict=True)
    )
    places = np.argwhere(wrong[near])
    apart = ((places - places.mean(axis=0)) * np.asarray(scan.spacing_mm)) ** 2
    nearest = places[int(apart.sum(axis=1).argmin())]
    z, y, x = (
        part.start + start + int(at)
        for part, start, at in zip(box, starts_at, nearest, strict=True)
    )
    return z, y, x


def _remarks(
    found: _Found, pairs: Mapping[str, ScanPair], codec: LabelCodec, source: _Source
) -> Iterable[str]:
    """Say what a reader of the scores should know."""
    without = [name for name, pair in pairs.items() if pair.mask is None]
    total = len(found.cases)
    if found.failed:
        yield (
            f"{len(found.failed)} of {counted(total + len(found.failed), 'scan')} could not be "
            f"scored and count nowhere: {listed(found.failed, separator='; ')}"
        )
    if without:
        yield f"{counted(len(without), 'scan')} without truth left out: {_list(without)}"
    for what, names in (("truth", found.moved_truth), ("mask", found.moved_masks)):
        if names:
            yield (
                f"the {what} of {counted(len(names), 'scan')} lies on another grid; the nearest "
                f"voxels were taken: {_list(names)}"
            )
    if found.untold:
        yield (
            f"not scored by region, since truth or mask does not tell them apart, as where a scan "
            f"shows no whole chest: {_list(found.untold)}"
        )
    if codec.n_classes > 2 and not _could_tell(codec, source):
        yield "the masks do not tell regions apart as the truth does: lungs are scored as a whole"
    if found.swapped:
        fix = f"{suggest_exchanged(codec)} for the truth"
        if not source.tells_sides:
            of_masks = suggest_exchanged(source.codec, argument="mask_codec")
            fix = f"{of_masks} for the masks, or {fix}"
        yield (
            f"left and right are exchanged between truth and mask in {len(found.swapped)} of "
            f"{counted(total, 'scan')}: {_list(found.swapped)}. What reads the wrong ones right is "
            f"{fix}"
        )


def _list(names: list[str]) -> str:
    return listed(names, separator=", ")


def _say_seen(model: str, seen: SeenScans) -> list[str]:
    said = {
        f"with slices that {model} was trained on ({_list(seen.known)}): its": seen.known,
        f"called like ones whose slices {model} was trained on ({_list(seen.alike)}): where they "
        "are the same scans, its": seen.alike,
    }
    return [
        f"{counted(len(scans), 'scan')} {what} scores are too good"
        for what, scans in said.items()
        if scans
    ]


def _card(found: _Found) -> ScoreCard:
    whole = ("background", "lung")
    return ScoreCard(
        tuple(found.cases),
        whole,
        {word: ScoreCard(tuple(cases), whole) for word, cases in found.baselines.items()},
        tuple(found.remarks),
        regions={
            name: ScoreCard(tuple(cases), ("background", name))
            for name, cases in found.regions.items()
        },
        failed=tuple(found.failed),
    )


def _save_pictures(folder: Path, found: _Found) -> None:
    for old in folder.glob("worst-[0-9][0-9]_*.png"):
        old.unlink()
    for number, name in enumerate(found.worst(), start=1):
        write_picture(folder / f"worst-{number:02d}_{name}.png", found.pictures[name])
