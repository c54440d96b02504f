"""Score a model, or the masks of any other tool, on a list of pairs, and keep what came out."""

from collections.abc import Callable, Container, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lungunet.data.codec import (
    IGNORE,
    LabelCodec,
    looks_inverted,
    say_no_lung,
    suggest_exchanged,
    tell_inverted,
)
from lungunet.data.ct import read_header, read_image, write_picture
from lungunet.data.dataset import read_pair
from lungunet.data.files import plain, refuse_existing
from lungunet.data.hu import can_hold_hu
from lungunet.data.kinds import as_list, check_kind
from lungunet.data.made_by import read_codec
from lungunet.data.manifest import Pair, refuse_equal_names
from lungunet.data.overlay import draw_overlay, tile_pictures
from lungunet.data.seen import Seen
from lungunet.data.split import SPLITS, choose_codec, read_list, read_patients
from lungunet.errors import (
    ConfigError,
    DataError,
    GeometryError,
    SplitError,
    counted,
    listed,
)
from lungunet.evaluation.calibration import count_reliability, fit_temperature
from lungunet.evaluation.masks import (
    MaskFolder,
    Predicts,
    match_classes,
    say_other_names,
    say_other_numbers,
)
from lungunet.evaluation.predicted_truth import count_predicted, read_maker, say_predicted
from lungunet.evaluation.report import REPORT, write_report, write_scores_page
from lungunet.evaluation.scorecard import NOTHING, CaseScore, ScoreCard, score_case
from lungunet.evaluation.trained_on import seen_by, trained_with
from lungunet.inference.jobs import identify
from lungunet.inference.predictor import Prediction, Predictor, find_no_hu, sees_hu
from lungunet.metrics.bootstrap import Interval
from lungunet.metrics.overlap import SLICES
from lungunet.models.folder import add_scores, weights_hash
from lungunet.models.hub import hub_address, is_on_hub
from lungunet.models.members import find_members, is_model_folder, named_folder
from lungunet.progress import Progress, silent

_PICTURE_PX = 384


def evaluate(
    predictor: Predicts,
    pairs: Sequence[Pair],
    *,
    codec: LabelCodec | None = None,
    patients: Mapping[str, object] | None = None,
    baselines: bool = True,
    against: Mapping[str, Predicts] | None = None,
    temperature: float | None = None,
    progress: Progress = silent,
) -> ScoreCard:
    """Score masks on pairs at the size of the files, beside what costs nothing.

    Parameters
    ----------
    predictor : a :class:`Predictor`, or a :class:`MaskFolder`
    codec : of the truth; None means 0/255, or for more classes that of the predictor. Where truth
        and masks name the same classes in another order they are matched by name; where they are
        called otherwise, by order, and a remark says so
    patients : stem -> patient, of every slice, as :func:`split_pairs` takes groups; None takes
        every slice as a patient of its own, which makes intervals too narrow where that is not so
    baselines : also score the threshold and the built-in model (where slices hold HU), and all
        background
    against : other models, or folders of masks, by the name they shall have beside the baselines;
        of more classes than two lung alone counts
    temperature : to measure calibration with, beside without; as :func:`fit_temperature` gives it

    Raises
    ------
    SplitError
        When there are no pairs, or a slice has no patient among those that are given.
    DataError, GeometryError, LabelError
        When a file is wrong: a score that leaves slices out would not be one of this list. When a
        model sees HU and the slices cannot be, by some of them spread over the list. When two
        slices have one stem: a patient, and a row of the table, is found by it.
    """
    fix = "Give Predictor.load(MODEL), or a MaskFolder."
    for given in (predictor, *(against or {}).values()):
        check_kind("predictor", given, Predicts, fix)
    fix = "Give what find_pairs(images, masks) or read_manifest(path) returns."
    check_kind("pairs", pairs, list | tuple, fix)
    for pair in pairs:
        check_kind("pairs", pair, Pair, fix)
    if not pairs:
        raise SplitError("no pairs to evaluate on. Choose another list.")
    refuse_equal_names(pairs)
    codec = codec or predictor.codec.for_prediction
    if codec.n_classes != predictor.codec.n_classes:
        of_model = not isinstance(predictor, MaskFolder)
        raise DataError(say_other_numbers(codec, predictor.codec, of_model=of_model))
    if not codec.is_named:
        codec = replace(codec, names=predictor.codec.names)
    if patients is not None:
        _refuse_unknown_patients(pairs, patients)
    cases: list[CaseScore] = []
    images = [pair.image for pair in pairs]
    no_hu = _refuse_unfit({"the model": predictor, **(against or {})}, images)
    rivals = {name: other.predict_files(images) for name, other in (against or {}).items()}
    rules = _baselines(predictor, without=rivals) if baselines else {}
    left_out: dict[str, list[str]] = {}
    if no_hu and len(rules) > 1:
        left_out[no_hu] = [name for name in rules if name != NOTHING]
        rules = {NOTHING: rules[NOTHING]}
    scored: dict[str, list[CaseScore]] = {name: [] for name in (*rivals, *rules)}
    remarks = say_other_names(predictor.codec, codec)
    inverted_truth = inverted_masks = 0
    matched = zip(pairs, predictor.predict_files(images), strict=True)
    for pair, prediction in progress(matched, desc="evaluate", total=len(pairs)):
        image, truth = read_pair(pair, codec)
        patient = pair.name if patients is None else str(patients[pair.name])
        score = partial(score_case, pair.name, patient=patient)
        classes = match_classes(_on_grid(prediction, truth, pair), predictor.codec, codec)
        inverted_truth += looks_inverted(truth)
        inverted_masks += looks_inverted(classes)
        case = score(truth, classes, n_classes=codec.n_classes)
        if prediction.segmented is not None:
            case = replace(
                case,
                reliability=count_reliability(truth, prediction.segmented),
                reliability_after=None
                if temperature is None
                else count_reliability(truth, prediction.segmented, temperature=temperature),
            )
        cases.append(case)
        # Baselines know lung and background alone.
        lung = np.where(truth == IGNORE, truth, truth > 0)
        for name, theirs in rivals.items():
            scored[name].append(score(lung, _on_grid(next(theirs), truth, pair) > 0))
        for name in [name for name in rules if name in scored]:
            try:
                scored[name].append(score(lung, rules[name](image)))
            except DataError as err:  # one that does not cover every slice is left out
                why = f"{pair.name}: {err.message}"
                if not can_hold_hu(image.dtype):
                    why = (
                        f"Slices of {image.dtype} hold no HU: lung told from grey is a guess, "
                        "enough for a second opinion, not for a score."
                    )
                left_out.setdefault(why, []).append(name)
                del scored[name]
    remarks += [f"not scored: {' and '.join(names)}. {why}" for why, names in left_out.items()]
    if "lungs" in scored and "lungs" in rules:
        remarks += _say_known({"lungs": seen_by("lungs", pairs).train})
    with_lung = sum(case.truth_px > 0 for case in cases)
    if not with_lung:
        remarks.append(f"the truth: {say_no_lung(len(cases), codec)}")
    elif swapped := tell_inverted(inverted_truth, with_lung, codec):
        remarks.append(f"the truth: {swapped}")
    if isinstance(predictor, MaskFolder):
        drawn = sum(bool(case.counts[:, 1:].any()) for case in cases)
        of_masks = predictor.codec
        if swapped := tell_inverted(inverted_masks, drawn, of_masks, argument="mask_codec"):
            remarks.append(f"the masks: {swapped}")
    remarks += _say_exchanged(cases, codec, predictor)
    others = {name: ScoreCard(tuple(each), ("background", "lung")) for name, each in scored.items()}
    return ScoreCard(tuple(cases), codec.names, others, tuple(remarks), temperature=temperature)


def _say_exchanged(cases: Sequence[CaseScore], codec: LabelCodec, predictor: Predicts) -> list[str]:
    """Say that of two classes beside background each is mostly called the other one."""
    if codec.n_classes != 3:
        return []

    def crossed(counts: np.ndarray) -> bool:
        return bool(counts[1, 2] + counts[2, 1] > counts[1, 1] + counts[2, 2])

    if not crossed(np.sum([case.counts for case in cases], axis=0)):
        return []
    _, one, other = codec.names
    fix = f"{suggest_exchanged(codec)} for the truth"
    if isinstance(predictor, MaskFolder):
        of_masks = suggest_exchanged(predictor.codec, argument="mask_codec")
        fix = f"{of_masks} for the masks, or {fix}"
    return [
        f"{one} and {other} are exchanged between truth and mask in "
        f"{sum(crossed(case.counts) for case in cases)} of {counted(len(cases), 'slice')}. What "
        f"reads the wrong ones right is {fix}"
    ]


def _refuse_unfit(predictors: Mapping[str, Predicts], images: Sequence[Path]) -> str:
    """Refuse slices that one of these models does not take; else say why they are no HU, or ''."""
    models = {name: each for name, each in predictors.items() if isinstance(each, Predictor)}
    dtypes: dict[str, Path] = {}
    for image in images:
        with suppress(DataError):  # said where it is read
            dtypes.setdefault(read_header(image).dtype, image)
    for name, each in models.items():
        contract = each.segmenter.contract
        for image in (image for dtype, image in dtypes.items() if dtype not in contract.dtypes):
            contract.check_dtype(read_image(image).dtype.name, str(image), model=name)
    fault = find_no_hu(images)
    if fault is None:
        return ""
    for name, each in models.items():
        if sees_hu(each):
            raise DataError(
                f"{fault.text} {name} takes them for HU.",
                where=f"{images[0].parent}: slices to evaluate on",
            )
    return fault.text


def _refuse_unknown_patients(pairs: Sequence[Pair], patients: Mapping[str, object]) -> None:
    unknown = [pair.name for pair in pairs if pair.name not in patients]
    if unknown:
        raise SplitError(
            f"none is named for {len(unknown)} of {counted(len(pairs), 'slice')}: "
            f"{listed(unknown, separator=', ')}. Name one for every slice, by its name without "
            "ending, or none at all: a slice without would count as a patient of its own. Where "
            "split.json is of other lists, split again.",
            where="patients",
        )


def _on_grid(prediction: Prediction, truth: np.ndarray, pair: Pair) -> np.ndarray:
    if prediction.classes.shape != truth.shape:
        raise GeometryError(
            f"the mask to score is {prediction.classes.shape}, the truth "
            f"{truth.shape}. Bring it back to the size of its slice.",
            where=pair.name,
        )
    return prediction.classes


def _baselines(
    predictor: Predicts, *, without: Container[str]
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return what makes masks at no cost, by name."""
    words = [
        word for word in ("threshold", "lungs") if word != predictor.word and word not in without
    ]
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        word: partial(_segment_one, Predictor.load(word, device="cpu")) for word in words
    }
    if NOTHING not in without:
        rules[NOTHING] = lambda image: np.zeros(image.shape, np.uint8)
    return rules


def _segment_one(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    (segmented,) = predictor.segment([image])
    return segmented.classes


def evaluate_list(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    out: str | Path | None = None,
    codec: LabelCodec | None = None,
    mask_codec: LabelCodec | None = None,
    mask_names: str | None = None,
    baselines: bool = True,
    against: str | Path | Sequence[str | Path] = (),
    device: str | int = "auto",
    overwrite: bool = False,
    allow_seen: bool = False,
    progress: Progress = silent,
) -> ScoreCard:
    """Score a model, or a folder of masks, on one list of a data folder, and keep the scores.

    Of a run, the scores go to its own ``evaluation/SPLIT``, and the card in its model folder and
    its report are written anew. Slices that a run was trained on do not judge it, nor those its
    epoch was chosen on, wherever they lie by now. ``split="val"`` scores the latter too, to compare
    runs by, and a remark says that they flatter.

    Parameters
    ----------
    model : as :meth:`Predictor.load` takes it, or a folder of masks of any other tool
    data : folder with the lists; what its split.json says of patients decides the intervals
    split : train, val or test
    out : folder for scores.json, cases.csv, pictures and report.html; None: for a run its own, else
        none
    codec : of the truth; None means what split.json says, else 0 and 255
    mask_codec : of a folder of masks; None means as it says itself, if they were predicted into
        it, else as lungunet writes masks of such classes
    mask_names : how a folder of masks is called, as ``names`` of :func:`find_pairs`
    baselines : also score the threshold and the built-in model (where slices hold HU), and all
        background
    against : another model or folder of masks, or several, to score beside it on the same slices
    device : of a network
    overwrite : replace scores that are there
    allow_seen : score slices too that the model has seen; every table says how many they were

    Raises
    ------
    ConfigError
        When there is no such list or device, or scores are there already. When a rule for names is
        none, or is given for a model.
    ModelError
        When there is no usable model.
    SplitError
        When the model has seen some of the slices, or a list is wrong.
    DataError, GeometryError, LabelError
        When a file is wrong.
    """
    if split not in SPLITS:
        raise ConfigError(f"'{split}' is not one of {', '.join(SPLITS)}.", where="split")
    place, members = named_folder(model), find_members(model)
    against = as_list(against)
    own = out is None and (place / "best").is_dir() and not is_on_hub(model)
    folds = out is None and len(members) > 1 and place.is_dir()
    folder = place / "evaluation" / split if own or folds else out
    if folder is not None:
        files = ["scores.json", "cases.csv", *([] if own else [REPORT])]
        refuse_existing([Path(folder) / name for name in files], overwrite)
    # Before the model is read: where a training goes on meanwhile, the scores are of older weights.
    scored = weights_hash(model) if own else ""
    pairs = read_list(data, split)
    codec = codec or choose_codec(data)
    load = partial(_load, codec=codec, slices=pairs, device=device)
    predictor = load(model, mask_codec=mask_codec, mask_names=mask_names)
    rivals = {other: load(other) for other in against}
    if str(model) in rivals:
        raise ConfigError(f"{model} is what is scored. Name another one.", where="against")
    seen = {str(each): seen_by(each, pairs) for each in (model, *against)}
    where = Path(data) / f"{split}.txt"
    known = {
        name: _refuse_seen(of, name, pairs, split=split, allow_seen=allow_seen, where=where)
        for name, of in seen.items()
    }
    remarks = tuple(_say_known({name: known[name] for name in rivals}))
    _refuse_unfit({str(model): predictor, **rivals}, [pair.image for pair in pairs])
    if split == "val":
        remarks += _say_chosen(seen, len(pairs))
    temperature: float | None = None
    if not isinstance(predictor, MaskFolder) and split != "val":
        temperature, unfit = _fit(predictor, model, Path(data), codec, progress=progress)
        remarks += unfit
    card = evaluate(
        predictor,
        pairs,
        codec=codec,
        patients=read_patients(data),
        baselines=baselines,
        against=rivals,
        temperature=temperature,
        progress=progress,
    )
    remarks += tuple(_say_predicted(pairs, Path(data), {str(model): predictor, **rivals}, card))
    foreign = own and not trained_with(place, data)
    if foreign:
        remarks += (f"the lists of {data} are not those that {model} was trained with",)
    card = replace(card, remarks=card.remarks + remarks)
    card = mark_seen(card, known[str(model)], seen[str(model)].alike)
    if folder is not None:
        card = replace(card, folder=Path(folder))
        card.save(folder, model=hub_address(model) or str(model), data=str(data), split=split)
        save_pictures(Path(folder) / "pictures", predictor, pairs, card, codec=codec)
        if not own:
            write_scores_page(folder)
    if own:
        of = Path(data).resolve().name if foreign else ""
        note_scores(model, split, card, data=of, weights_sha256=scored)
        write_report(model)
    return card


def _load(
    model: str | Path,
    *,
    codec: LabelCodec,
    slices: Sequence[Pair],
    mask_codec: LabelCodec | None = None,
    mask_names: str | None = None,
    device: str | int,
) -> Predicts:
    """Read a model, or the masks in its place."""
    place = named_folder(model)
    one = len(find_members(model)) == 1 and model != "threshold"
    if one and place.is_dir() and not is_model_folder(place):
        told = mask_codec or read_codec(model) or codec.for_prediction
        return MaskFolder(model, told, mask_names=mask_names, slices=slices)
    for option, given in (("mask_names", mask_names), ("mask_codec", mask_codec)):
        if given is not None:
            raise ConfigError(
                f"{model} is no folder of masks, and it is not for those of against. Leave it out.",
                where=option,
            )
    return Predictor.load(model, device=device)


def _refuse_seen(
    seen: Seen,
    model: str,
    pairs: Sequence[Pair],
    *,
    split: str,
    allow_seen: bool,
    where: Path,
) -> Set[str]:
    """Return the stems of what a model has seen of a list that shall judge it."""
    known = seen.train if split == "val" else seen.train | seen.val
    if known and not allow_seen:
        raise SplitError(
            f"{len(known)} of these {len(pairs)} slices are among those that {model} was trained "
            "on, or its epoch chosen on, counting the runs that it began with "
            f"({listed(sorted(known), separator=', ')}): scores on them are too good. Choose a "
            "list that it has not seen, or score them all the same with allow_seen=True, which "
            "every table will say.",
            where=where,
        )
    return known


def _say_predicted(
    pairs: Sequence[Pair], data: Path, scored: Mapping[str, Predicts], card: ScoreCard
) -> list[str]:
    """Say where a model, that is scored or not, made the truth."""
    found = count_predicted({pair.name: pair.require_mask() for pair in pairs}, data=data)
    if not found:
        return []
    models = dict(scored)
    for word in ("threshold", "lungs"):
        if word in card.baselines and word not in models:
            models[word] = Predictor.load(word, device="cpu")
    made_by = {
        name: identify(each.segmenter) if isinstance(each, Predictor) else read_maker(each.folder)
        for name, each in models.items()
        if isinstance(each, Predictor | MaskFolder)
    }
    return say_predicted(found, made_by, of=len(pairs))


def _say_known(known: Mapping[str, Set[str]]) -> list[str]:
    return [
        f"{len(slices)} of these slices were trained on by {name}, or its epoch chosen on them: "
        "its scores are too good"
        for name, slices in known.items()
        if slices
    ]


def _say_chosen(seen: Mapping[str, Seen], slices: int) -> tuple[str, ...]:
    return tuple(
        f"{len(of.val)} of these {slices} slices chose the epoch of {name}: its scores on them "
        "flatter it; judge it by test"
        for name, of in seen.items()
        if of.val
    )


def _fit(
    predictor: Predicts,
    model: str | Path,
    data: Path,
    codec: LabelCodec,
    *,
    progress: Progress,
) -> tuple[float | None, tuple[str, ...]]:
    """Fit a temperature on val; where that cannot be, say why."""
    if predictor.word == "threshold" or not (data / "val.txt").exists():
        return None, ()
    try:
        pairs = read_list(data, "val")
        if trained := seen_by(model, pairs).train:
            why = f"{len(trained)} of the {len(pairs)} slices of val were trained on"
        else:
            return fit_temperature(predictor, pairs, codec, progress=progress), ()
    except DataError as err:
        why = str(err)
    return None, (f"no temperature was fitted: {why}",)


def mark_seen(card: ScoreCard, known: Set[str], alike: Set[str] = frozenset()) -> ScoreCard:
    """Note in a score card what the model has seen, and what is called like it."""
    cases = tuple(replace(case, seen=case.name in known) for case in card.cases)
    remarks = card.remarks
    if known:
        remarks += (
            f"{len(known)} of these {len(cases)} slices were trained on, or the epoch chosen on "
            "them: these scores are too good",
        )
    if alike:
        remarks += (
            f"{counted(len(alike), 'slice')} called like ones that were trained on, from other "
            "files: where they are the same slices, these scores are too good",
        )
    return replace(card, cases=cases, remarks=remarks)


def save_pictures(
    folder: str | Path,
    predictor: Predicts,
    pairs: Sequence[Pair],
    card: ScoreCard,
    *,
    codec: LabelCodec,
) -> None:
    """Write overlays of the worst six and the best three slices, truth blue, prediction orange.

    They are named ``worst-01_NAME.png`` and ``best-01_NAME.png``; what an earlier call left in
    ``folder`` under such names is removed.
    """
    folder = Path(folder)
    ranked = [case.name for case in card.worst(len(card.cases))]
    best = ranked[:5:-1][:3]  # from the other end, and none that is among the worst six
    wanted = {f"worst-{n:02d}_{name}": name for n, name in enumerate(ranked[:6], start=1)}
    wanted |= {f"best-{n:02d}_{name}": name for n, name in enumerate(best, start=1)}
    for kind in ("worst", "best"):
        for old in folder.glob(f"{kind}-[0-9][0-9]_*.png"):
            old.unlink()
    by_name = {pair.name: pair for pair in pairs}
    chosen = [by_name[name].image for name in wanted.values()]
    for title, prediction in zip(wanted, predictor.predict_files(chosen), strict=True):
        image, truth = read_pair(by_name[wanted[title]], codec)
        grey = predictor.to_grey(image)
        picture = draw_overlay(grey, truth=truth, pred=prediction.classes, ignore_index=IGNORE)
        # Small enough that a page with all of them can be mailed.
        write_picture(folder / f"{title}.png", tile_pictures([picture], side=_PICTURE_PX))


def note_scores(
    model: str | Path, split: str, card: ScoreCard, *, data: str = "", weights_sha256: str
) -> None:
    """Add the scores of one list to ``lungunet.json`` and to the card of a run or model folder.

    ``data`` names a data folder that is not the one of the run; else it is empty.
    Nothing is written when the folder holds other weights by now than those that were scored.
    """
    scores: dict[str, Any] = {"slices": len(card.cases), "patients": len(set(card.patients))}
    if card.seen:
        scores["seen_slices"] = card.seen
    if data:
        scores["data"] = data
    for metric, about in SLICES.metrics.items():
        if about.interval:
            scores[metric] = _noted(card.pooled_value(metric), card.pooled_interval(metric))
    distance = card.per_case("hd95")
    scores["hd95_px"] = _noted(distance.mean, distance.interval)
    if threshold := card.baselines.get("threshold"):
        gain = card.difference(threshold, "iou")
        scores["threshold_iou"] = _noted(threshold.pooled.iou, threshold.pooled_interval("iou"))
        scores["iou_above_threshold"] = _noted(gain.value, gain.interval)
        scores["verdict"] = card.verdict()
    if calibration := card.calibration:
        scores["ece"] = _noted(calibration.ece, calibration.interval)
    add_scores(model, {split: plain(scores)}, weights_sha256=weights_sha256)


def _noted(value: float | None, interval: Interval) -> dict[str, float | None]:
    return {"value": value, "low": interval.low, "high": interval.high}
