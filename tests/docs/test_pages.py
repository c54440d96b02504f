"""Every code block of docs and README runs, page by page, in a folder as its reader has it."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import dicom_slice, save
from pages import GIVEN, ROOT, commands, read_blocks, read_given, run_page, shorten_python

import lungunet
from lungunet.phantom.phantom import phantom_slice

DOCS = ROOT / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
RUNNABLE = [
    page
    for page in (ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "AGENTS.md", *PAGES)
    if any(block.kind in ("python", "sh") for block in read_blocks(page))
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def here(phantoms: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(phantoms[0], tmp_path / "2d_images")
    shutil.copytree(phantoms[1], tmp_path / "2d_masks")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def give(what: str, here: Path, run: Path, run_cli) -> None:
    """Make what a page takes for granted; see ``pages.GIVEN``."""
    if what == "nothing":
        for folder in here.iterdir():
            shutil.rmtree(folder)
    elif what == "data":
        done = run_cli(
            *("split", "2d_images", "2d_masks", "data"),
            *("--val", 0.25, "--test", 0.25, "--group", r"patient-\d+"),
        )
        assert done.code == 0, done.err
    elif what == "runs/a":
        shutil.copytree(run, here / "runs" / "a")
    elif what == "study":
        (here / "study").mkdir()
        tags = {"PixelSpacing": [7.5, 7.5], "SliceThickness": 25, "FrameOfReferenceUID": "1.9"}
        for index, z in enumerate(np.linspace(0.1, 0.9, 9)):
            plane = phantom_slice(0, z, size=48).image
            dcm = dicom_slice(plane, (0, 0, 25 * index), **tags)
            save(dcm, here / "study" / f"{index}.dcm")
    elif what == "scans":
        for number in range(4):
            made = [phantom_slice(number, z, size=48) for z in np.linspace(0.2, 0.8, 5)]
            save_nifti(here / "scans" / f"p{number + 1}.nii.gz", [m.image for m in made])
            masks = [m.mask // 255 for m in made]
            save_nifti(here / "scan-masks" / f"p{number + 1}.nii.gz", masks)


def save_nifti(path: Path, slices: list[np.ndarray]) -> None:
    """Write slices from feet to head; NIfTI's first axis runs along the columns."""
    path.parent.mkdir(exist_ok=True)
    affine = np.diag([-7.5, -7.5, 40.0, 1.0])  # columns to the left, rows to the back
    nib.save(nib.Nifti1Image(np.stack(slices).transpose(2, 1, 0), affine), path)


# The given model has hardly learned anything, and scans may say so.
@pytest.mark.filterwarnings("ignore:.* of the predicted lung")
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, here: Path, run: Path, run_cli) -> None:
    for what in read_given(page):
        assert what in GIVEN, f"{page.name}: {what}"
        give(what, here, run, run_cli)
    run_page(page, run_cli)


@pytest.mark.timeout(900)  # seconds, but minutes where mypy has no cache yet
def test_the_code_of_the_pages_type_checks(tmp_path: Path) -> None:
    """As strictly as the package, but functions may go without annotations, and packages."""
    for page in RUNNABLE:
        blocks = [block for block in read_blocks(page) if block.kind == "python"]
        # The first line of a page is its heading; those of the blocks keep their numbers.
        lines = [
            "# mypy: allow-untyped-defs, allow-subclassing-any, disable-error-code=import-untyped"
        ]
        for block in blocks:
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
        if blocks:
            name = re.sub(r"\W", "_", name_of(page).removesuffix(".md")) + ".py"
            (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_lists_of_encoders_are_as_shown(page: Path, run_cli) -> None:
    """What the other verbs print depends on the data."""
    for block, after in pairwise(read_blocks(page)):
        words = next(commands(block.text)) if block.kind == "sh" else []
        if words[:2] == ["lungunet", "encoders"] and after.kind == "text":
            assert run_cli(*words[1:]).out == after.text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_exist(page: Path) -> None:
    for name in re.findall(r"`lungunet\.(\w+)`|lungunet\.([a-zA-Z]\w+)\(", page.read_text("utf-8")):
        if name != ("json", ""):  # a file
            assert hasattr(lungunet, "".join(name)), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_are_there(page: Path) -> None:
    for name in re.findall(r"^:::\{drawing\} (\S+)", page.read_text(encoding="utf-8")):
        assert (DOCS / name).is_file(), name


def test_figures_stay_small() -> None:
    assert sum(path.stat().st_size for path in DOCS.rglob("*.svg")) < 2_000_000


def test_numbers_are_made_smaller_and_nothing_else() -> None:
    code = "Trainer(TrainConfig(epochs=20)).size = f(size=512, lr=3, my_epochs=7)"
    expected = "Trainer(TrainConfig(epochs=2)).size = f(size=32, lr=3, my_epochs=7)"
    assert shorten_python(code) == expected


def test_shell_blocks_are_read_as_a_shell_reads_them() -> None:
    text = "A=1 lungunet split a \\\n    'b c'  # why\n\n# alone\nlungunet train x\n"
    assert list(commands(text)) == [["lungunet", "split", "a", "b c"], ["lungunet", "train", "x"]]


def page_of(folder: Path, kind: str, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(f"# Title\n\n```{kind}\n{text}\n```\n", encoding="utf-8")
    return page


def test_a_command_that_fails_is_named_with_its_line(tmp_path: Path, run_cli) -> None:
    page = page_of(tmp_path, "sh", "lungunet split nothing here data")
    with pytest.raises(AssertionError, match=r"page\.md, line 3: lungunet split .* no such folder"):
        run_page(page, run_cli)


def test_a_python_block_fails_at_the_line_of_the_page(tmp_path: Path, run_cli) -> None:
    page = page_of(tmp_path, "python", "one = 1\none / 0")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page, run_cli)
    assert caught.traceback[-1].lineno == 4  # counted from 0


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("sh", "rm -rf data"),
        ("sh", "pip install lungunet[nothing]"),
        ("sh", "python examples/nothing.py"),
        ("yaml", "a: b"),
    ],
)
def test_what_nobody_checks_is_refused(tmp_path: Path, run_cli, kind: str, text: str) -> None:
    with pytest.raises(AssertionError):
        run_page(page_of(tmp_path, kind, text), run_cli)
