"""Every example runs as its reader runs it, on phantoms and cut short, and leaves what it says."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryJaccardIndex

import lungunet
from lungunet.volumes.grid import Grid

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_page_and_says_how_to_run_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 80 or path.stem == "train_lungs"  # a recipe that is run, not a lesson
    assert f"{path.stem}" in "\n".join(lines[:8])


def test_quickstart(here: Path, phantoms: tuple[Path, Path], capsys) -> None:
    load("quickstart").main(*phantoms, patient=r"patient-\d+", size=32, epochs=2)
    said = capsys.readouterr().out
    assert "slices: 6 train, 3 val, 3 test" in said
    assert re.search(r"epoch  2  lung IoU on val 0\.\d{4}", said)
    (mask,) = (here / "runs" / "quickstart").glob("patient-*.png")
    assert set(np.unique(lungunet.read_mask(mask))) <= {0, 255}


def test_quickstart_draws_its_own_patients(here: Path, monkeypatch) -> None:
    draw = lungunet.write_phantoms
    monkeypatch.setattr(
        lungunet, "write_phantoms", lambda folder, **_: draw(folder, patients=5, slices=2, size=32)
    )
    load("quickstart").main(size=32, epochs=1)
    assert len(list((here / "phantoms" / "masks").glob("*.png"))) == 10


def test_swap_encoders(here: Path, phantoms: tuple[Path, Path], capsys) -> None:
    names = "tu-mobilenetv3_small_050,resnet18"
    load("swap_encoders").main(*phantoms, encoders=names, size=32, epochs=1)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:3]] == names.split(",")
    million = sum(p.numel() for p in lungunet.build_unet("resnet18").parameters()) / 1e6
    assert float(table[2].split()[2]) == pytest.approx(million, abs=0.05)
    picture = (here / "runs" / "encoders" / "encoders.svg").read_text(encoding="utf-8")
    assert picture.count("<circle") == 2
    assert "resnet18" in picture


def test_own_loop_leaves_a_model_that_predict_takes(
    here: Path, phantoms: tuple[Path, Path], run_cli
) -> None:
    load("own_loop").main(*phantoms, size=32, epochs=2)
    done = run_cli("predict", "own-model", phantoms[0], "--out", "masks")
    assert done.code == 0, done.err
    assert len(list((here / "masks").glob("*.png"))) == 12


# lightning 2.6.6 asks torch 2.15 in a way that torch calls old; and it warns where loaders have no
# workers, and of steps per epoch that are fewer than those between two logs.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec", "ignore::UserWarning:lightning")
def test_lightning_counts_as_we_do_and_leaves_no_litter(
    here: Path, phantoms: tuple[Path, Path], capsys
) -> None:
    module = load("lightning_module")
    module.main(*phantoms, encoder="tu-mobilenetv3_small_050", size=32, epochs=2)
    said = capsys.readouterr()
    assert [path.name for path in here.iterdir()] == ["lightning-model"]
    assert len(said.out.splitlines()) == 1
    assert said.err == ""
    split = lungunet.split_pairs(lungunet.find_pairs(*phantoms), val=0.2, test=0.0)
    saved = lungunet.load_model("lightning-model")
    reference = BinaryJaccardIndex()
    for image, mask in lungunet.LungCTDataset(split.val, contract=saved.contract):
        with torch.no_grad():
            reference.update(saved.model(image[None]).argmax(1), mask[None])
    assert float(said.out.split()[4].rstrip(";")) == pytest.approx(
        reference.compute().item(), abs=5e-5
    )


def test_three_classes_come_back_as_their_raw_values(here: Path, capsys) -> None:
    load("three_classes").main(Path("out"), patients=5, size=32, epochs=1)
    said = capsys.readouterr().out
    assert re.search(r"right lung  IoU 0\.\d{4}", said)
    assert set(np.unique(lungunet.read_mask("out/predicted.png"))) <= {0, 1, 2}
    told = 0
    for path in sorted(Path("out/masks").glob("*.png")):
        lungs = lungunet.read_mask(path)
        sides = lungunet.read_mask(Path("out/masks-by-side", path.name))
        np.testing.assert_array_equal(sides > 0, lungs == 255)
        if {1, 2} <= set(np.unique(sides)):  # the patient's left lies on the right
            assert np.nonzero(sides == 1)[1].mean() > np.nonzero(sides == 2)[1].mean()
            told += 1
    assert told > 10


def test_the_recipe_of_the_built_in_model(here: Path, phantoms: tuple[Path, Path], capsys) -> None:
    rows = ["name,patient,quality"]
    for image in sorted(phantoms[0].iterdir()):
        rows.append(f"{image.stem},{image.stem[:11]},good")
        hu, mask = lungunet.read_image(image), lungunet.read_mask(phantoms[1] / f"{image.stem}.png")
        lungunet.write_image(here / f"chestct/slices/images/{image.stem}.tif", hu)
        lungunet.write_mask(here / f"chestct/slices/masks/{image.stem}.png", mask)
    (here / "chestct/slices.csv").write_text("\n".join(rows), encoding="utf-8")
    recipe = load("train_lungs")
    recipe.SIZE, recipe.EARLY_SIZE = 64, 32
    made = []
    for out in ("one", "two"):
        recipe.main(Path("chestct"), Path(out), leave_out=0, epochs=2, device="cpu")
        made.append(Path(out, "model.safetensors").read_bytes())
    assert made[0] == made[1]
    said = capsys.readouterr().out
    assert "epoch   2  loss" in said
    assert "left out: " in said
    saved = lungunet.load_model("one")
    names = {name for name, _ in saved.model.named_parameters()}
    builtin = lungunet.load_model("lungs")
    assert names == {name for name, _ in builtin.model.named_parameters()}
    assert saved.contract.size == 64
    assert 0 <= json.loads(Path("one/left_out.json").read_text())["iou"] <= 1


def test_score_scans(here: Path, capsys) -> None:
    for patient in range(2):
        made = [lungunet.phantom_slice(patient, z, size=48) for z in np.linspace(0.02, 0.9, 10)]
        for folder, planes in (
            ("scans", np.stack([item.image for item in made])),
            ("scan-masks", np.stack([item.mask for item in made])),
        ):
            grid = Grid.axial(planes.shape, (18.0, 7.3, 7.3))
            scan = lungunet.Volume(planes, Path("p.nii"), "p", grid)
            lungunet.write_volume(Path(folder, f"p{patient}.nii.gz"), planes, like=scan)
    load("score_scans").main(models="threshold,scan-masks")
    said = capsys.readouterr().out
    assert "scan-masks: Dice 1.0000 (1.0000 to 1.0000), HD95 0.0 mm, volumes off by +0 mL" in said
    assert "scan-masks minus threshold: HD95 -" in said
    assert len(list(here.glob("scores/*/report.html"))) == 2
