"""Make the built-in model ``lungs`` again: data, augmentation and loop, all in one file.

    python examples/train_lungs.py chestct --out lungs

The folder holds ``slices/images/NAME.tif`` in HU, ``slices/masks/NAME.png`` (0, 255), and
``slices.csv`` with the columns name, patient and quality. An hour on one core, minutes on a
GPU; the same seed gives the same weights on the same machine. ``--leave-out 0`` trains without
the first fifth of the patients and scores the model on them: five runs score it on everybody. The
last step, the graph for ONNX Runtime, needs ``lungunet[onnx]``.
"""

import csv
import json
import time
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import typer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lungunet
from lungunet.data.files import write_csv
from lungunet.data.seen import digest_hu
from lungunet.models.onnx import write_graph

ENCODER, DECODER = "tu-mobilenetv3_small_100", (64, 64, 48, 32, 16)
SIZE, EARLY_SIZE, EARLY = 256, 192, 0.6  # the first epochs see smaller pictures: half the time
BATCH, LR, FOLDS = 8, 3e-3, 5


class Slice(NamedTuple):
    """A slice as the network sees it, before augmentation; ``grey`` and ``mask`` are uint8.

    ``digest`` is of its HU: by it ``evaluate`` tells a slice that the model was trained on.
    """

    name: str
    patient: str
    good: bool
    grey: np.ndarray
    mask: np.ndarray
    digest: str = ""


def main(
    data: Path,
    out: Path = Path("lungs"),
    leave_out: int = typer.Option(-1, help="fold of patients to leave out and score, 0 to 4"),
    epochs: int = 150,
    seed: int = 0,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    contract = lungunet.InputContract(SIZE)
    slices = read_slices(data, contract)
    patients = sorted({each.patient for each in slices})
    order = np.random.default_rng(7).permutation(len(patients))
    fold = {patients[p]: i % FOLDS for i, p in enumerate(order)}
    train = [each for each in slices if fold[each.patient] != leave_out]
    model = lungunet.build_unet(ENCODER, seed=seed, decoder_channels=DECODER).to(device)
    print(f"{len(train)} slices, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights")
    model = fit(model, train, contract, epochs=epochs, seed=seed, device=torch.device(device))
    held = [each for each in slices if fold[each.patient] == leave_out]
    scores = score(model, held, contract) if held else {}
    lungunet.save_model(  # half precision: 3 MB in the package instead of 6, the same masks
        out,
        model.half(),
        contract=contract,
        codec=lungunet.LUNG_CODEC,
        scores={"train_slices": len(train)},
    )
    write_graph(out)
    seen = [{"list": "train", "name": "", "digest": each.digest} for each in train]  # names nobody
    write_csv(out / "slices.csv", sorted(seen, key=itemgetter("digest")))
    (out / "left_out.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    (out / "left_out.txt").write_text("\n".join(each.name for each in held), encoding="utf-8")


def read_slices(data: Path, contract: lungunet.InputContract) -> list[Slice]:
    """Read all slices once, at the size of the network: 217 of them are 28 MB."""
    with (data / "slices.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    slices = []
    for row in rows:
        image = lungunet.read_image(data / "slices/images" / f"{row['name']}.tif")
        mask = lungunet.read_mask(data / "slices/masks" / f"{row['name']}.png")
        grey = contract.fit(contract.to_grey(image, row["name"]))
        lung = contract.fit_mask((mask > 0).astype(np.uint8))
        good = row["quality"] == "good"
        slices.append(Slice(row["name"], row["patient"], good, grey, lung, digest_hu(image)))
    return slices


def make_phantoms(contract: lungunet.InputContract) -> list[Slice]:
    """Draw bases of lungs beside a stomach full of gas, and some slices from above them."""
    rng, made = np.random.default_rng(11), []
    for number in range(1000, 1024):
        z = rng.uniform(0.12, 0.36) if number % 3 else rng.uniform(0.35, 0.9)
        phantom = lungunet.phantom_slice(number, z)
        grey = contract.fit(contract.to_grey(phantom.image, phantom.name))
        lung = contract.fit_mask((phantom.mask > 0).astype(np.uint8))
        made.append(Slice(phantom.name, phantom.patient, True, grey, lung))
    return made


def fit(
    model: torch.nn.Module,
    train: list[Slice],
    contract: lungunet.InputContract,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
) -> torch.nn.Module:
    """Train, and return the running mean of the weights, which is steadier than the last step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    # What holds no lung is rare and hard: bowel, stomach and airways want to be seen twice.
    pool = train + [each for each in train if not each.mask.any()] + make_phantoms(contract)
    steps = epochs * (len(pool) // BATCH)
    loss_of = lungunet.CrossEntropyDiceLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.08)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    began = time.monotonic()
    for epoch in range(epochs):
        size = EARLY_SIZE if epoch < EARLY * epochs else SIZE
        order, total = rng.permutation(len(pool)), 0.0
        model.train()
        for at in range(0, len(order) - BATCH + 1, BATCH):
            seen = [augment(pool[i].grey, pool[i].mask, size, rng) for i in order[at : at + BATCH]]
            grey, mask = (
                torch.from_numpy(np.stack(each)).to(device) for each in zip(*seen, strict=True)
            )
            image = (grey[:, None].float() / 255 - contract.mean) / contract.std
            image = image.to(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                logits = model(image)
            loss = loss_of(logits.float(), mask.long())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            mean.update_parameters(model)
            total += loss.item()
        spent = time.monotonic() - began
        print(
            f"epoch {epoch + 1:3d}  loss {total * BATCH / len(order):.4f}  {spent:.0f} s",
            flush=True,
        )
    averaged: torch.nn.Module = mean.module
    return averaged.cpu().eval()


def augment(
    grey: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make another patient on another scanner of a slice; (size, size) uint8 both."""
    if rng.random() < 0.5:
        grey = lungunet.disease_slice(grey, mask, seed=int(rng.integers(2**31)))
    if rng.random() < (0.15 if mask.any() else 0.5):
        grey = paint_bowel(grey, mask, rng, wall=4 if mask.any() else 12)
    if rng.random() < 0.2:
        grey, mask = paint_pneumothorax(grey, mask, rng)
    if rng.random() < 0.45 and mask.any():
        grey = change_lungs(grey, mask, rng)
    grey, mask = move(grey, mask, size, rng)
    return change_scanner(grey.astype(np.float32), rng), mask


def paint_bowel(
    grey: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, wall: int
) -> np.ndarray:
    """Put gas and stool into soft tissue more than ``wall`` px from lung: dark, and no lung."""
    height, width = grey.shape
    soft = cv2.erode(((grey > 110) & (mask == 0)).astype(np.uint8), np.ones((5, 5), np.uint8))
    far = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 3) > wall
    rows, columns = np.nonzero((soft > 0) & far)
    if len(rows) < 500:
        return grey
    painted = grey.astype(np.float32)
    wobble = cv2.GaussianBlur(rng.standard_normal((height, width), dtype=np.float32), (0, 0), 6)
    wobble /= wobble.std()
    texture = cv2.GaussianBlur(rng.standard_normal((height, width), dtype=np.float32), (0, 0), 1.2)
    down, right = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(rng.integers(1, 5)):
        at = rng.integers(len(rows))
        turn, a, b = rng.uniform(0, np.pi), *np.exp(rng.normal(2.3, 0.6, 2))
        y, x = down - rows[at], right - columns[at]
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        depth = 1 - np.sqrt((along / a) ** 2 + (across / b) ** 2) + 0.18 * wobble
        inside = np.clip(depth * min(a, b), 0, 1)
        content = np.full_like(painted, rng.uniform(0, 75))
        if rng.random() < 0.4:  # stool
            content += rng.uniform(20, 90) + texture * rng.uniform(40, 160)
        if rng.random() < 0.4:  # a level of fluid
            content = np.where(y > rng.uniform(-0.3, 0.8) * b, rng.uniform(205, 235), content)
        inside *= far
        painted += inside * (content - painted)
    return np.clip(painted, 0, 255).astype(np.uint8)


def paint_pneumothorax(
    grey: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Let one lung fall back towards its hilum: the gas around it is no lung."""
    side, hilum = choose_side(mask, rng)
    if not side.any():
        return grey, mask
    small = rng.uniform(0.45, 0.97)  # most are small, and gas rises
    scale = np.diag([small ** rng.uniform(0.6, 1.2), small])
    matrix = np.c_[scale, hilum - scale @ hilum]
    size = grey.shape[::-1]
    lung = cv2.warpAffine(side.astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    wobble = cv2.GaussianBlur(rng.standard_normal(grey.shape, dtype=np.float32), (0, 0), 7)
    lung = cv2.GaussianBlur(lung, (0, 0), 2.0) + rng.uniform(0, 0.25) * wobble / wobble.std()
    lung = np.clip((lung - 0.5) * rng.uniform(2, 5) + 0.5, 0, 1) * side
    air = min(60.0, float(np.median(grey[side])) - 8)  # of the scanner, no brighter than lung
    gas = np.full(grey.shape, air + rng.uniform(-6, 4), np.float32)
    collapsed = cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_AREA).astype(np.float32)
    collapsed += (1 - small) * rng.uniform(0.2, 1.0) * np.clip(200 - collapsed, 0, None)
    pleura = 4 * lung * (1 - lung) * rng.uniform(10, 70)  # a fine line
    fine = np.abs(grey - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0))
    gas += rng.standard_normal(grey.shape, dtype=np.float32) * 1.2 * np.median(fine[side])
    inside = cv2.GaussianBlur(side.astype(np.float32), (0, 0), 0.7) * side  # the wall stays
    painted = grey + inside * (gas + lung * (collapsed - gas) + pleura - grey)
    left_over = np.where(side, lung > 0.5, mask > 0).astype(np.uint8)
    return np.clip(painted, 0, 255).astype(np.uint8), left_over


def choose_side(mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Choose a lung, (H, W) bool, and return its hilum, (x, y): a little behind its middle."""
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=4)
    widths, areas = stats[:, 2], stats[:, 4]
    both = widths > 0.62 * cv2.boundingRect(mask)[2] if count > 2 else widths > 0.4 * len(mask)
    sides = [i for i in range(1, count) if areas[i] > 0.015 * mask.size and not both[i]]
    if not sides:
        return np.zeros(mask.shape, bool), np.zeros(2)
    chosen = sides[rng.integers(len(sides))]
    side = labels == chosen
    rows, columns = np.nonzero(side)
    left, right = np.quantile(columns, (0.04, 0.96))
    inner = left if centres[chosen][0] > mask.shape[1] / 2 else right
    return side, np.array([inner, np.quantile(rows, rng.uniform(0.45, 0.75))])


def change_lungs(grey: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Darken or brighten the air in each lung by itself: emphysema, breathing, unequal lungs."""
    columns = np.flatnonzero(mask.any(0))
    middle = (columns[0] + columns[-1]) // 2
    left, right = rng.normal(-4, 19, 2)
    by = np.empty(grey.shape, np.float32)
    by[:, :middle] = left
    by[:, middle:] = right if rng.random() < 0.5 else left
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
    air = np.clip((236 - grey.astype(np.float32)) / 140, 0, 1)  # vessels stay as they are
    return np.clip(grey + by * soft * air, 0, 255).astype(np.uint8)


def move(
    grey: np.ndarray, mask: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Turn, scale, shear, shift and mirror both alike."""
    angle = np.deg2rad(rng.normal(0, 8) if rng.random() < 0.92 else rng.uniform(-180, 180))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale, aspect = np.exp(rng.normal(0, 0.16)), np.exp(rng.normal(0, 0.07))
    matrix = turn @ np.array([[scale * aspect, rng.normal(0, 0.04)], [0, scale / aspect]])
    mirrored, prone = rng.random() < 0.5, rng.random() < 0.04
    matrix = matrix @ np.diag([-1 if mirrored else 1, -1 if prone else 1])
    matrix *= size / grey.shape[0]
    offset = size / 2 - matrix @ [grey.shape[1] / 2, grey.shape[0] / 2]
    matrix = np.c_[matrix, offset + rng.normal(0, 0.05, 2) * size]
    border = float(grey[0, 0]) if rng.random() < 0.5 else 60.0  # the corner, or air
    return (
        cv2.warpAffine(grey, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=border),
        cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_NEAREST),
    )


def change_scanner(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change calibration, kernel and noise."""
    if rng.random() < 0.6:
        grey = grey * np.exp(rng.normal(0, 0.06)) + rng.normal(0, 9)
    if rng.random() < 0.2:
        grey = 255 * (np.clip(grey, 0, 255) / 255) ** np.exp(rng.normal(0, 0.2))
    kernel = rng.random()
    if kernel < 0.25:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.4, 1.3))
    elif kernel < 0.45:
        grey = grey + rng.uniform(0.3, 1.5) * (grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
    if rng.random() < 0.5:
        noise = rng.standard_normal(grey.shape, dtype=np.float32)
        if rng.random() < 0.5:
            noise = 1.8 * cv2.GaussianBlur(noise, (0, 0), 0.8)
        grey = grey + noise * abs(rng.normal(0, 9))
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


@torch.inference_mode()
def score(
    model: torch.nn.Module, held: list[Slice], contract: lungunet.InputContract
) -> dict[str, float]:
    """Score slices of patients that the model has not seen, at its own size."""
    both, either, empty, marked = 0, 0, 0, 0
    for each in held:
        grey = torch.from_numpy(each.grey)[None, None].float() / 255
        pred = model((grey - contract.mean) / contract.std).argmax(1)[0].numpy() > 0
        truth = each.mask > 0
        if not truth.any():
            empty, marked = empty + 1, marked + bool(pred.any())
        elif each.good:
            both, either = both + (truth & pred).sum(), either + (truth | pred).sum()
    scores = {"iou": float(both / max(either, 1)), "empty": empty, "empty_marked": marked}
    print(f"left out: {len(held)} slices, {scores}")
    return scores


if __name__ == "__main__":
    typer.run(main)
