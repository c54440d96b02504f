"""The model card: README.md of a model folder, for people and for the hub.

Knows only what ``lungunet.json`` says: numbers, no path and no name of a slice. Claims no licence.
"""

from collections.abc import Mapping
from typing import Any

from lungunet.metrics.bootstrap import caution_of_few
from lungunet.metrics.overlap import SLICES

_COUNTS = ("train_slices", "val_slices")
_FACTS = (*_COUNTS, "began_with", "ancestors")  # no scores


def model_card(about: Mapping[str, Any]) -> str:
    """Return the card of a lungunet.json as Markdown, with the YAML header that the hub reads."""
    scores = about["scores"]
    return f"""---
library_name: lungunet
pipeline_tag: image-segmentation
tags: [ct, lung, segmentation, medical-imaging]
---
# Lung segmentation model

Segments {", ".join(about["codec"]["names"][1:])} in axial CT slices. Made for research and for
measuring sets of scans whose masks somebody looks at. Not a medical device: not for diagnosis.

## Input and output

{_input_and_output(about)}

## Data

{_data(scores)}
Which slices, patients and scanners these were is for whoever publishes the model to add.

## Scores

{_scores(scores)}

## Limits

- Scores hold for slices like those of the lists above. Expect worse on another scanner, kernel,
  dose or slice thickness, on children, after surgery, and where lung is dense: pneumonia,
  fibrosis, effusion, collapse.
- It takes any picture for an axial slice of the chest: on other parts of the body the mask is
  meaningless.
- Values must be what the input above says: files that are not are refused, wrong values in the
  right type cannot be noticed.

## Licence

None is stated. Whoever publishes the model says which, after the terms of the slices and of the
weights that training began with{_terms(scores)}.

## Use

```python
import lungunet

# or, of the hub, "hf://OWNER/NAME@COMMIT"
predictor = lungunet.Predictor.load("path/to/this/folder")
mask = predictor.predict(lungunet.read_image("slice.tif"))  # values {_raw_values(about["codec"])}
```

Written by lungunet {about["versions"]["lungunet"]}.
"""


def _raw_values(codec: Mapping[str, Any]) -> str:
    values = (0, 255) if len(codec["names"]) == 2 else codec["raw_values"].values()
    return ", ".join(map(str, values))


def _input_and_output(about: Mapping[str, Any]) -> str:
    contract, codec = about["contract"], about["codec"]
    window = contract["window"]
    seen = f"HU window {window['level']:g},{window['width']:g}" if window else "8-bit grey"
    network = about["architecture"] or {}
    encoder = network.get("encoder", "a model of the user's own")
    named = f"- Architecture: {network['name']}\n" if "name" in network else ""
    return f"""{named}- Encoder: {encoder}
- Input: one slice, {seen}, letterboxed to {contract["size"]}x{contract["size"]}; files of
  {", ".join(contract["dtypes"])}
- Output: a mask of the size of the slice, values {_raw_values(codec)} for
  {", ".join(codec["names"])}"""


def _data(scores: Mapping[str, Any]) -> str:
    train, val = (scores.get(name) for name in _COUNTS)
    if train is None or val is None:
        return "How many slices it was trained on is not recorded."
    weights = _origins(scores)
    began = " Training began with the weights of " + ", which began with those of ".join(weights)
    began = f"{began}." if weights else ""
    return f"Trained on {train} slices; the best epoch was chosen on {val} others, val.{began}"


def _origins(scores: Mapping[str, Any]) -> list[str]:
    origins = (scores.get("began_with"), *scores.get("ancestors", ()))
    return [f"`{weights}`" for weights in origins if weights]


def _terms(scores: Mapping[str, Any]) -> str:
    if "`lungs`" not in _origins(scores):
        return ""
    return " (`lungs` of lungunet: CC BY 4.0, made from the collections that its card names)"


def _scores(scores: Mapping[str, Any]) -> str:
    """Return one table per list that was scored, and one of what the training said."""
    saved = {
        name: value
        for name, value in scores.items()
        if name not in _FACTS and not isinstance(value, Mapping)
    }
    parts = [_evaluated(split, of) for split, of in scores.items() if isinstance(of, Mapping)]
    if saved:
        rows = "\n".join(f"| {name} | {_short(value)} |" for name, value in saved.items())
        parts.append(
            "While training, at the training size; val flatters where it chose the epoch.\n\n"
            f"| | |\n|---|---|\n{rows}"
        )
    return "\n\n".join(parts) or "None are recorded."


def _titles() -> dict[str, str]:
    """Return what the card calls each score that ``lungunet.json`` can hold, in order."""
    return {
        **{
            SLICES.column(name): f"{metric.title}, pooled"
            if metric.formula
            else ", ".join(filter(None, (metric.title, "mean per slice", metric.unit)))
            for name, metric in SLICES.metrics.items()
        },
        "threshold_iou": "lung IoU of a threshold without weights, pooled",
        "iou_above_threshold": "lung IoU gained over that threshold",
        "ece": "expected calibration error of pixels called lung, pooled",
    }


def _evaluated(split: str, scores: Mapping[str, Any]) -> str:
    titles = {**_titles(), **{name: name for name in scores if name not in _titles()}}
    rows = "\n".join(
        f"| {title} | {_short(value.get('value'))} "
        f"| {_short(value.get('low'))} to {_short(value.get('high'))} |"
        for name, title in titles.items()
        if isinstance(value := scores.get(name), Mapping)
    )
    slices, patients = scores.get("slices"), scores.get("patients")
    of, unit = (f" of {patients} patients", "patient") if patients != slices else ("", "slice")
    if seen := scores.get("seen_slices"):
        of += f", {seen} of which it has seen while it was made: these scores are too good"
    flatters = ", which flatters where it chose the epoch" if split == "val" else ""
    if other := scores.get("data"):
        flatters = f" of `{other}` (other lists than it was trained with){flatters}"
    caution = caution_of_few(patients or slices or 0, unit)
    verdict = f"\nVerdict: {scores['verdict']}." if scores.get("verdict") else ""
    return (
        f"On {slices} slices{of}, list {split}{flatters}, at the size of the files. "
        "Intervals are 95 %,\n"
        f"resampled by {unit}{caution and '; '}{caution}.{verdict}\n\n"
        f"| | {split} | interval |\n|---|---|---|\n{rows}"
    )


def _short(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
