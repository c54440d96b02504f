"""How `lungs`, the rule and triage do on slices that they have not seen, healthy and ill.

By hand, minutes long: ``python tests/campaigns/unseen.py 2d_images 2d_masks --every 4``. Prints the
IoU of both, on the slices and on the same with painted disease; then lights of right masks and of
masks with errors planted into them: those with IoU below 0.9 should be red, and none green. A model
of ``examples/train_lungs.py --leave-out`` is tried on the patients that it has not seen, and asked
in place of `lungs`, by ``--model FOLDER --names FOLDER/left_out.txt``.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import lungunet
from lungunet.inference import doubt
from lungunet.inference.lungs import LungsSegmenter
from lungunet.inference.network import TorchSegmenter

SOLID = ("consolidation", "effusion", "mass", "collapse")
RIGHT, WRONG = "right", "IoU below 0.9"
LIGHTS = ("red", "amber", "green")


class Slice(NamedTuple):
    """A slice in HU, and its lung, (H, W) bool."""

    name: str
    image: np.ndarray
    lung: np.ndarray


def read_slices(images: Path, masks: Path, names: list[str] | None, every: int) -> list[Slice]:
    """Read every so many of the slices, or of those that are named."""
    pairs = lungunet.find_pairs(images, masks)
    if names is not None:
        pairs = [pair for pair in pairs if pair.image.stem in names]
    return [
        Slice(pair.image.stem, lungunet.read_image(pair.image), lungunet.read_mask(pair.mask) > 0)
        for pair in pairs[::every]
    ]


def load(model: str) -> lungunet.Predictor:
    """Load the built-in model, or weights of its recipe, with all that is done around them."""
    if model == "lungs":
        return lungunet.Predictor.load(model)
    saved = lungunet.load_model(model)
    network = TorchSegmenter(
        saved.model.float(), saved.contract, saved.codec, device="cpu", precision="fp32"
    )
    return lungunet.Predictor(LungsSegmenter(network), tta=True)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def disc(center: tuple[int, int], area: float, shape: tuple[int, ...]) -> np.ndarray:
    down, right = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((down - center[0]) ** 2 + (right - center[1]) ** 2 < area / np.pi)


def plant(one: Slice, other: Slice, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Make masks with one error each of a right one."""
    lung, hu = one.lung, one.image.astype(np.float32)
    yield "none", lung
    sides = lungunet.split_sides(lung)
    if sizes := [n for n in (1, 2) if (sides == n).sum() > 0.2 * lung.sum()]:
        side = sides == rng.choice(sizes)
        yield "a lung gone", lung & ~side
        rows = np.nonzero(side)[0]
        above = np.arange(len(lung))[:, None] < np.median(rows)
        yield "half a lung gone", lung & ~(side & (above if rng.random() < 0.5 else ~above))
    for kind, where, least, most in (
        ("a ball left out", lung, 0.1, 0.3),
        ("a piece of an organ in", soft_tissue(hu, lung), 0.15, 0.5),
    ):
        if len(at := np.argwhere(where)):
            ball = disc(tuple(rng.choice(at)), rng.uniform(least, most) * lung.sum(), lung.shape)
            yield kind, lung & ~ball if where is lung else lung | (ball & where)
    moved = cv2.resize(other.lung.astype(np.uint8), lung.shape[::-1]) > 0
    yield "the mask of another slice", moved
    if (gas := enclosed_gas(hu, lung)).any():
        yield "gas of airways, stomach or bowel in", lung | gas


def soft_tissue(hu: np.ndarray, lung: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(hu, (0, 0), 2)
    soft = ((smooth > np.median(smooth[smooth > -300]) - 80) & ~lung).astype(np.uint8)
    return cv2.erode(soft, np.ones((9, 9), np.uint8)) > 0


def enclosed_gas(hu: np.ndarray, lung: np.ndarray) -> np.ndarray:
    """Find what is as dark as lung, enclosed in the body, and no lung."""
    level = np.median(hu[lung]) if lung.any() else -700
    dark = (hu < level + 150) & ~cv2.dilate(lung.astype(np.uint8), np.ones((7, 7))).astype(bool)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8))
    rim = set(np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])))
    inner = [i for i in range(1, count) if i not in rim and stats[i, cv2.CC_STAT_AREA] > 60]
    return np.isin(labels, inner)


def leave_out_dense(one: Slice, disease: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint a disease, and leave what became dense out of the mask."""
    ill = lungunet.disease_slice(one.image, one.lung, disease=disease, seed=seed)
    denser = (ill.astype(np.float32) - one.image > 150).astype(np.uint8)
    dense = cv2.morphologyEx(denser, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    dense = cv2.morphologyEx(dense, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    return ill, one.lung & (dense == 0)


def score(model: lungunet.Predictor, slices: list[Slice]) -> dict[str, dict[str, float]]:
    """Score model and rule, pooled over the pixels of slices with lung."""
    both, either, below = Counter(), Counter(), Counter()
    for seed, one in enumerate(slices):
        ill = lungunet.disease_slice(one.image, one.lung, seed=seed)
        for kind, image in (("as they are", one.image), ("painted disease", ill)):
            found = {"threshold": lungunet.segment_lungs(image) > 0, "model": model(image) > 0}
            for who, pred in found.items():
                key = kind if one.lung.any() else "no lung"
                both[key, who] += int((one.lung & pred).sum())
                either[key, who] += int((one.lung | pred).sum())
                bad = pred.any() if key == "no lung" else iou(one.lung, pred) < 0.9
                below[key, who] += bool(bad)
    return {
        f"{kind}, {who}": {"iou": both[kind, who] / max(n, 1), "below": below[kind, who]}
        for (kind, who), n in either.items()
    }


def judge(slices: list[Slice], seed: int) -> dict[str, dict[str, dict[str, int]]]:
    """Count lights by what was planted, and by whether the mask is still right."""
    rng = np.random.default_rng(seed)
    lights: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    with_lung = [one for one in slices if one.lung.mean() > 0.02]
    for place, one in enumerate(with_lung):
        planted = [
            (kind, one.image, mask) for kind, mask in plant(one, with_lung[place - 1], rng)
        ] + [
            (f"{disease} left out", *leave_out_dense(one, disease, seed=place)) for disease in SOLID
        ]
        for kind, image, mask in planted:
            if kind != "none" and np.array_equal(mask, one.lung):
                continue
            said = lungunet.check_slice(image, mask.astype(np.uint8))
            state = WRONG if iou(one.lung, mask) < 0.9 else RIGHT
            lights[kind][state][said.light] += 1
            if (state, said.light) == (WRONG, "green") or (kind == "none" and said.reasons):
                print(f"{one.name}: {kind}: {said.light}: {said.reasons[:2]}", flush=True)
    return {kind: {state: dict(n) for state, n in each.items()} for kind, each in lights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--names", type=Path, help="file with a name per line; others are left out")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--model", default="lungs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    names = args.names.read_text(encoding="utf-8").split("\n") if args.names else None
    slices = read_slices(args.images, args.masks, names, args.every)
    model = load(args.model)
    if args.model != "lungs":
        asked = {"lungs": model, "threshold": doubt.load_opinion("threshold")}
        doubt._load_opinion = asked.__getitem__
    told = {"slices": len(slices), "scores": score(model, slices)}
    for name, each in told["scores"].items():
        print(f"{name:28} {each['iou']:.4f}  {each['below']} wrong", flush=True)
    told["lights"] = judge(slices, args.seed)
    for kind, states in told["lights"].items():
        for state, n in states.items():
            counts = "  ".join(f"{n.get(light, 0):4d} {light}" for light in LIGHTS)
            print(f"{kind:36} {state:14} {counts}")
    if args.out:
        args.out.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
