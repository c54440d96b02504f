"""Draw every figure of the docs from made-up patients: ``make docs-figures``.

Deterministic: the same versions on the same machine write the same bytes. About two minutes.
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from side_by_side import curves
from svg import (
    BLUE,
    GREY,
    ORANGE,
    arrow,
    bars,
    captioned,
    line_chart,
    picture,
    save,
    text,
)

import lungunet
from lungunet.phantom.phantom import PhantomSlice, phantom_slice, phantom_slices

HERE = Path(__file__).parent
WINDOW = lungunet.LUNG_WINDOW


def main() -> None:
    """Write every figure, or those that are named on the command line."""
    torch.set_num_threads(1)  # sums differ between thread counts
    for name, draw in FIGURES.items():
        if name in sys.argv[1:] or not sys.argv[1:]:
            draw()
            size = (HERE / f"{name}.svg").stat().st_size
            print(f"{name}.svg  {size / 1000:.0f} kB")  # noqa: T201


def draw_codec() -> None:
    """Show raw values, classes, raw values again."""
    made = phantom_slice(3, 0.5, size=96)
    hu, raw = made.image, made.mask
    classes = lungunet.LUNG_CODEC.encode(raw)
    shown = cv2.applyColorMap(classes * 120, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    save(
        HERE / "codec.svg", 760, 205,
        "A slice, its raw mask of 0 and 255, the classes 0 and 1, and the predicted mask.",
        captioned(0, 10, 150, WINDOW.to_grey(hu), ["slice, HU"]),
        captioned(180, 10, 150, raw, ["raw mask on disk:", "0 and 255"]),
        arrow(342, 85, 46), text(365, 72, "encode", anchor="middle", size=12),
        captioned(400, 10, 150, shown, ["classes for the network:", "0 and 1"]),
        arrow(562, 85, 46), text(585, 72, "decode", anchor="middle", size=12),
        captioned(610, 10, 150, raw, ["predicted mask:", "0 and 255"]),
    )  # fmt: skip


def draw_windows() -> None:
    """Show one slice, seen four ways."""
    hu = _padded_slice().image
    stretched = np.interp(hu, (hu.min(), hu.max()), (0, 255)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slice.tif")
        lungunet.write_image(path, hu)
        careless = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    ways = (
        (careless, ["read as 8-bit grey:", "the values are lost"]),
        (stretched, ["stretched from min to max:", "depends on the padding"]),
        (lungunet.Window(level=40, width=400).to_grey(hu), ["window 40, 400:", "for soft tissue"]),
        (WINDOW.to_grey(hu), ["window -600, 1500:", "for lungs, the default"]),
    )
    parts = [captioned(192 * n, 10, 176, grey, lines) for n, (grey, lines) in enumerate(ways)]
    about = "One slice read as 8-bit, stretched from min to max, and in two windows."
    save(HERE / "windows.svg", 760, 230, about, *parts)


def draw_contract() -> None:
    """Show a slice that is not square going in, and a mask of its size coming out."""
    hu = phantom_slice(3, 0.55, size=160).image[18:138]  # 120 x 160
    mask = phantom_slice(3, 0.55, size=160).mask[18:138]
    contract = lungunet.InputContract(size=96)
    grey = contract.to_grey(hu)
    fitted = contract.fit(grey)
    framed = np.full((160, 160, 3), 255, np.uint8)
    overlay = lungunet.draw_overlay(grey, pred=lungunet.LUNG_CODEC.encode(mask))
    box = lambda pixels: _centred(pixels, framed.shape[0])  # noqa: E731
    save(
        HERE / "contract.svg", 670, 205,
        "HU, window, fit to a square, network, and back to the size of the slice.",
        captioned(0, 10, 150, box(grey), ["120 x 160, HU,", "seen through the window"]),
        arrow(160, 85, 36), text(178, 72, "fit", anchor="middle", size=12),
        captioned(206, 10, 150, fitted, ["96 x 96: padded with black,", "never distorted"]),
        arrow(366, 85, 128), text(430, 72, "normalise, network", anchor="middle", size=12),
        text(430, 105, "cut, scale back", anchor="middle", size=12),
        captioned(504, 10, 150, box(overlay), ["120 x 160 again:", "the mask fits its slice"]),
    )  # fmt: skip


def draw_accuracy() -> None:
    """Show accuracy and IoU of three sets of masks, among them none at all."""
    made = list(phantom_slices(patients=24, slices=5, size=128))
    truth = np.stack([item.mask for item in made]) > 0
    sets = {
        "nothing is lung": np.zeros_like(truth),
        "the middle of the picture is lung": _middle(truth),
        "threshold without weights": np.stack([lungunet.segment_lungs(i.image) for i in made]) > 0,
    }
    scores = {name: _scores(truth, pred) for name, pred in sets.items()}
    accuracy = {name: score.accuracy for name, score in scores.items()}
    iou = {name: score.iou for name, score in scores.items()}
    save(
        HERE / "accuracy.svg", 760, 190,
        "Accuracy and lung IoU of masks that cost nothing.",
        bars(0, 20, 260, accuracy, colour=GREY, title="accuracy"),
        bars(400, 20, 260, iou, colour=BLUE, title="IoU of lung"),
    )  # fmt: skip


def draw_leak() -> None:
    """Show what copying the mask of the most similar train slice scores, by kind of split."""
    made = list(phantom_slices(patients=24, slices=24, size=64))
    rng = np.random.default_rng(0)
    by_slice = rng.permutation(len(made)) < len(made) // 5
    patients = sorted({item.patient for item in made})
    held = {patients[i] for i in rng.permutation(len(patients))[:5]}
    by_patient = np.array([item.patient in held for item in made])
    scores = {
        "slices drawn one by one": _copied_iou(made, by_slice),
        "whole patients drawn": _copied_iou(made, by_patient),
    }
    near = [phantom_slice(5, z, size=128) for z in (0.50, 0.52)]
    other = phantom_slice(9, 0.51, size=128)
    save(
        HERE / "leak.svg", 760, 170,
        "Two neighbouring slices of one patient look alike; copying scores well on them.",
        captioned(0, 10, 130, WINDOW.to_grey(near[0].image), ["patient A, in train"]),
        captioned(140, 10, 130, WINDOW.to_grey(near[1].image), ["patient A, in test"]),
        captioned(280, 10, 130, WINDOW.to_grey(other.image), ["patient B"]),
        bars(440, 30, 230, scores, colour=ORANGE, title="IoU of copied masks on test"),
    )  # fmt: skip


def draw_empty() -> None:
    """Show the mean Dice of the same masks under three rules, by the share of empty slices."""
    share = np.linspace(0, 0.8, 41)
    right, false = 0.95, 0.3  # Dice on slices with lung; share of empty ones where lung is invented
    rules = {
        "1 if rightly empty": (1 - share) * right + share * (1 - false),
        "skipped if truth is empty": np.full_like(share, right),
        "undefined if rightly empty (ours)": (1 - share) * right / (1 - share + share * false),
    }
    lines = {
        name: (colour, share, values)
        for (name, values), colour in zip(rules.items(), (GREY, BLUE, ORANGE), strict=True)
    }
    save(
        HERE / "empty.svg", 760, 300,
        "The mean Dice of the same masks depends on the rule for slices without lung.",
        line_chart(
            (60, 50, 440, 190), lines, x_range=(0, 0.8), y_range=(0.4, 1.0),
            titles=("The same masks, three rules", "share of slices without lung", "mean Dice"),
        ),
    )  # fmt: skip


def draw_side_by_side() -> None:
    """Show the curves of a run that moves the masks, and of one that leaves them behind."""
    with tempfile.TemporaryDirectory() as folder:
        runs = curves(Path(folder))
    parts = []
    for number, (name, title) in enumerate(
        {"image only": "Only the slice is moved", "both": "Slice and mask are moved"}.items()
    ):
        epochs = [result.epoch for result in runs[name]]
        lines = {
            "train": (ORANGE, epochs, [result.train.iou for result in runs[name]]),
            "val": (BLUE, epochs, [result.val.iou for result in runs[name]]),
        }
        parts.append(
            line_chart(
                (45 + 385 * number, 50, 270, 190), lines, x_range=(1, epochs[-1]),
                y_range=(0.6, 1.0), titles=(title, "epoch", "IoU of lung"), dashed=("train",),
            )
        )  # fmt: skip
    about = "IoU over epochs: with the mask left behind, train stays below val."
    save(HERE / "side-by-side.svg", 760, 300, about, *parts)
    for name, results in runs.items():
        last = results[-1]
        print(f"{name}: train {last.train.iou:.3f}, val {last.val.iou:.3f}")  # noqa: T201


def draw_moved() -> None:
    """Show a slice with its mask, moved together, and moved apart."""
    made = phantom_slice(3, 0.5, size=144)
    grey, classes = WINDOW.to_grey(made.image), lungunet.LUNG_CODEC.encode(made.mask)
    turn = cv2.getRotationMatrix2D((72, 72), 18, 1.0)
    turned = cv2.warpAffine(grey, turn, (144, 144))
    mask = cv2.warpAffine(classes, turn, (144, 144), flags=cv2.INTER_NEAREST)
    draw = lungunet.draw_overlay
    save(
        HERE / "moved.svg", 600, 212,
        "A slice and its mask; both turned; only the slice turned.",
        captioned(0, 10, 180, draw(grey, truth=classes), ["slice and mask"]),
        captioned(200, 10, 180, draw(turned, truth=mask), ["both turned"]),
        captioned(400, 10, 180, draw(turned, truth=classes), ["only the slice turned"]),
    )  # fmt: skip


def draw_overlays() -> None:
    """Show slices with outlines of truth and of the threshold, as evaluate draws them."""
    parts = []
    for number, (patient, z) in enumerate(((3, 0.5), (7, 0.7), (11, 0.3), (2, 0.6))):
        made = phantom_slice(patient, z, size=160)
        truth = lungunet.LUNG_CODEC.encode(made.mask)
        pred = lungunet.segment_lungs(made.image)
        drawn = lungunet.draw_overlay(WINDOW.to_grey(made.image), truth=truth, pred=pred)
        parts.append(picture(190 * number, 0, 180, drawn))
    about = "Four made-up slices with the outline of the truth (blue) and a prediction (orange)."
    save(HERE / "overlays.svg", 750, 180, about, *parts)


def _padded_slice() -> PhantomSlice:
    """Return a slice with the padding outside the scanner's circle that many real ones have."""
    return next(
        made for n in range(50) if (made := phantom_slice(n, 0.5, size=192)).image[0, 0] <= -2000
    )


def _centred(pixels: np.ndarray, side: int) -> np.ndarray:
    top = (side - pixels.shape[0]) // 2
    square = np.full((side, side, *pixels.shape[2:]), 128, np.uint8)
    square[top : top + pixels.shape[0]] = pixels
    return square


def _middle(truth: np.ndarray) -> np.ndarray:
    pred = np.zeros_like(truth)
    pred[:, 40:88, 24:104] = True
    return pred


def _scores(truth: np.ndarray, pred: np.ndarray) -> lungunet.Overlap:
    meter = lungunet.ConfusionMeter(n_classes=2)
    meter.update(truth=torch.from_numpy(truth), pred=torch.from_numpy(pred))
    return meter.compute()


def _copied_iou(made: list[PhantomSlice], is_test: np.ndarray) -> float:
    greys = np.stack([cv2.resize(WINDOW.to_grey(item.image), (32, 32)) for item in made])
    flat = greys.reshape(len(made), -1).astype(np.float32)
    masks = np.stack([item.mask for item in made]) > 0
    train = np.flatnonzero(~is_test)
    nearest = [train[((flat[train] - flat[i]) ** 2).sum(axis=1).argmin()] for i in range(len(made))]
    return _scores(masks[is_test], masks[np.array(nearest)[is_test]]).iou


FIGURES = {
    "codec": draw_codec,
    "windows": draw_windows,
    "contract": draw_contract,
    "accuracy": draw_accuracy,
    "leak": draw_leak,
    "empty": draw_empty,
    "moved": draw_moved,
    "overlays": draw_overlays,
    "side-by-side": draw_side_by_side,
}

if __name__ == "__main__":
    main()
