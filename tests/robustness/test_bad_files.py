"""Slices and masks that are no slices and masks: what each verb says, and that it harms nothing."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from bad_rows import Row

import lungunet

NAME = "patient-000_slice-00"
SLICE, MASK = f"images/{NAME}.tif", f"masks/{NAME}.png"
OTHERS = [f"patient-00{p}_slice-0{s}" for p in range(4) for s in range(3) if (p, s) != (0, 0)]
TABLES = ("out/errors.csv", "out/measurements.csv", "out/predicted.jsonl", "out/triage.csv")
WRITTEN = ("out", *(f"out/{name}.png" for name in OTHERS), *TABLES)

UNREADABLE = (
    "not a readable image: damaged, truncated, or not one of .png, .tif, .tiff, .jpg, .jpeg, .bmp. "
    "Export it again."
)
TRUNCATED = "truncated: a TIFF that ends before its pixels do. Copy or export it again."
NOT_FINITE = "NaN or infinity in 1 pixel. Replace them by -1000, the HU of air."
COLOURED = (
    "a mask with 3 channels that differ. Convert it to one channel with one integer per class, "
    "e.g. 255 where the lung's colour is and 0 elsewhere."
)


def as_tiff(array: np.ndarray):
    kind = "rgb" if array.shape[-1] == 3 else "minisblack"
    return lambda path: tifffile.imwrite(path, array, photometric=kind)


def as_png(array: np.ndarray):
    return lambda path: path.write_bytes(cv2.imencode(".png", array)[1].tobytes())


def one_pixel(value: float, dtype: str) -> np.ndarray:
    array = np.zeros((48, 48), dtype)
    array[3, 4] = value
    return array


def coloured() -> np.ndarray:
    array = np.zeros((48, 48, 3), np.uint8)
    array[5, 6, 0] = 255
    return array


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def no_pixels(path: Path) -> None:
    """A PNG of 0x0."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)


# Found from the header: split names it among the files that do not pair up.
BY_HEADER = {
    "empty": (lambda path: path.write_bytes(b""), "the file is empty. Copy or export it again."),
    "truncated": (half, TRUNCATED),
    "three pages": (
        as_tiff(np.zeros((3, 48, 48), np.int16)),
        "3 pages. Save each slice in a file of its own.",
    ),
    "0x0": (no_pixels, UNREADABLE),
    "text": (lambda path: path.write_text("HU\n" * 99), UNREADABLE),
}
# Found from the pixels: split names it among the pairs that are wrong.
BY_PIXELS = {
    "NaN": (as_tiff(one_pixel(np.nan, "float32")), NOT_FINITE),
    "infinite": (as_tiff(one_pixel(-np.inf, "float32")), NOT_FINITE),
    "coloured": (
        as_tiff(coloured()),
        "a slice with 3 channels that differ. Convert it to one grey channel.",
    ),
    "float64": (
        as_tiff(one_pixel(-1000, "float64")),
        "dtype float64, a CT slice is one of uint8, int16, uint16, int32, float32. Convert it.",
    ),
}
SLICES = {**BY_HEADER, **BY_PIXELS}


@pytest.mark.parametrize("kind", SLICES)
class TestSlices:
    def test_split_names_it_and_writes_nothing(self, check, kind: str) -> None:
        write, message = SLICES[kind]
        framed = f"1 of 12 pairs are wrong:\n  W/{SLICE}: {message}\n"
        if kind in BY_HEADER:
            framed = (
                f"W/images and W/masks: 1 pair does not fit:\n  W/{SLICE}: {message}\n"
                "Re-export or remove them; nothing was written.\n"
            )
        check(
            Row("split W/images W/masks W/new", f"lungunet: {framed}", lambda w: write(w / SLICE))
        )

    def test_predict_skips_it_and_exits_with_1(self, check, kind: str) -> None:
        write, message = SLICES[kind]
        err = (
            f"lungunet: skipped W/{SLICE}: {message}\n"
            "lungunet: 1 of 12 files skipped. Mend or remove them.\n"
        )
        row = Row(
            "predict threshold W/images --out W/out",
            err,
            lambda w: write(w / SLICE),
            writes=WRITTEN,
        )
        check(row)

    def test_evaluate_scores_no_part_of_a_list(self, check, kind: str) -> None:
        write, message = SLICES[kind]
        err = f"lungunet: W/{SLICE}: {message}\n"
        args = "evaluate threshold W/data --split train --out W/scores"
        check(Row(args, err, lambda w: write(w / SLICE)))


SWAPPED = (
    "If all masks are coded so, say it: --labels '0,7=1,*=0' with =1 for each of 7, 255 that is "
    "lung. "
    "If slices and masks are swapped, swap them.\n"
)
MASKS = {
    **BY_HEADER,
    "truncated": (half, UNREADABLE),
    "coloured": (as_png(coloured()), COLOURED),
    "of fractions": (
        as_tiff(one_pixel(0.5, "float32")),
        "mask value 0.5 (1 pixel, first at row 3, column 4) is no whole number, labels are. Write "
        "probabilities as masks first: (p >= 0.5) * 255, in 8 bits.",
    ),
    "value 7": (
        as_png(one_pixel(7, "uint8")),
        "mask value 7 (1 pixel, first at row 3, column 4) is not one of 0 (background), 255 (lung)."
        " Pass a codec that maps it (--labels 0,7), or fix the file.",
    ),
}


@pytest.mark.parametrize("kind", MASKS)
class TestMasks:
    def test_split(self, check, kind: str) -> None:
        write, message = MASKS[kind]
        if kind in BY_HEADER and kind != "truncated":  # the header of half a PNG is whole
            framed = (
                f"W/images and W/masks: 1 pair does not fit:\n  W/{MASK}: {message}\n"
                "Re-export or remove them; nothing was written.\n"
            )
        else:
            framed = f"1 of 12 pairs are wrong:\n  W/{MASK}: {message}\n"
            framed += SWAPPED if kind == "value 7" else ""
        check(Row("split W/images W/masks W/new", f"lungunet: {framed}", lambda w: write(w / MASK)))

    def test_train_and_evaluate(self, check, run_cli, world: Path, kind: str) -> None:
        write, message = MASKS[kind]
        err = f"lungunet: W/{MASK}: {message}\n"
        args = "train W/data --out W/run --size 32 --batch-size 2 --workers 0"
        check(Row(args, err, lambda w: write(w / MASK)))
        check(Row("evaluate threshold W/data --split train --out W/scores", err))


ANOTHER_SIZE = "mask is 47x48, image is 48x48"


@pytest.mark.parametrize(
    ("args", "err"),
    [
        (
            "split W/images W/masks W/new",
            f"W/images and W/masks: 1 pair does not fit:\n  {NAME}: {ANOTHER_SIZE}\n"
            "Re-export or remove them; nothing was written.",
        ),
        (
            "train W/data --out W/run --size 32 --batch-size 2 --workers 0",
            f"{NAME}: {ANOTHER_SIZE}. A mask must be drawn on the image it labels: re-export it, "
            "or drop the pair.",
        ),
    ],
)
def test_a_mask_of_another_size(check, args: str, err: str) -> None:
    write = as_png(np.zeros((47, 48), np.uint8))
    check(Row(args, f"lungunet: {err}\n", lambda w: write(w / MASK)))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [Path.unlink, a_folder])
class TestNoFile:
    def test_split_counts_the_mask_as_an_orphan(self, check, harm) -> None:
        err = (
            "lungunet: W/images and W/masks do not pair up, 1 problem:\n"
            f"  W/{MASK}: no image of that stem\n"
            "Rename, re-export or remove them; nothing was written.\n"
        )
        check(Row("split W/images W/masks W/new", err, lambda w: harm(w / SLICE)))

    @pytest.mark.parametrize(
        "args",
        [
            "train W/data --out W/run",
            "evaluate threshold W/data --split train",
            "evaluate W/masks W/data --split train --out W/scores",
        ],
    )
    def test_lists_name_the_line(self, check, harm, args: str) -> None:
        err = (
            f"lungunet: W/data/train.txt: 1 file missing:\n  line 1: ../{SLICE}\nPaths are taken "
            "from W/data, then from the current folder. Mend the paths, put the files there, or "
            "run 'lungunet split' again.\n"
        )
        check(Row(args, err, lambda w: harm(w / SLICE)))

    def test_predict_names_a_file_that_is_not_there(self, check, harm) -> None:
        listed = f"../{SLICE}\n../images/{OTHERS[0]}.tif\n"
        reason = "no such file. Check the path, or the list that names it."
        if harm is a_folder:
            reason = "cannot be read (Is a directory). Check the path."
        fix = " Mend or remove them." if harm is a_folder else ""

        def spoil(world: Path) -> None:
            harm(world / SLICE)
            (world / "data" / "some.txt").write_text(listed)

        err = (
            f"lungunet: skipped W/data/../{SLICE}: {reason}\nlungunet: 1 of 2 files skipped.{fix}\n"
        )
        args = "predict threshold W/data/some.txt --out W/out"
        check(Row(args, err, spoil, writes=("out", f"out/{OTHERS[0]}.png", *TABLES)))


class TestNotWhatTheModelExpects:
    """An 8-bit picture seen through a HU window is white: all background, and nobody notices."""

    @pytest.fixture
    def eight_bit(self, world: Path) -> Path:
        grey = np.full((48, 48), 99, np.uint8)
        lungunet.write_image(world / "grey.png", grey)
        return world / "grey.png"

    @pytest.mark.parametrize("model", ["run", "threshold"])
    def test_a_picture_is_refused_for_hu(
        self, check, eight_bit: Path, run: Path, model: str
    ) -> None:
        err = (
            "lungunet: skipped W/grey.png: a slice of uint8, the model expects int16 or int32 or "
            "float32 seen at window -600,1500. Use the files that the slices were exported from, "
            "or a model trained on uint8.\n"
            "lungunet: 1 of 1 file skipped. Mend or remove them.\n"
        )
        chosen = run if model == "run" else model
        check(Row(f"predict {chosen} W/grey.png --out W/out", err))  # nor a table of nothing

    def test_in_python_too(self, run: Path, eight_bit: Path) -> None:
        predictor = lungunet.Predictor.load(run)
        with pytest.raises(lungunet.DataError, match="a slice of uint8, the model expects int16"):
            predictor.predict(lungunet.read_image(eight_bit))
