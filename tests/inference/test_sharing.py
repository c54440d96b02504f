"""Predicting in several processes: results and tables are those of one."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import lungunet
from lungunet import (
    ConfigError,
    Predictor,
    Sharing,
    SliceFiles,
    predict_scans,
    predict_slices,
)
from lungunet.phantom.phantom import phantom_slice
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume, write_volume

TWO = Sharing(devices=("cpu", "cpu"))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Nineteen slices and four scans, and one of each that is none."""
    for number in range(19):
        image = phantom_slice(number, 0.5, size=48).image
        lungunet.write_image(tmp_path / "slices" / f"{number}.tif", image)
    for name in "abcd":
        planes = [phantom_slice(ord(name), z, size=48).image for z in (0.3, 0.5, 0.7)]
        path = tmp_path / "scans" / f"{name}.nii"
        like = Volume(np.stack(planes), path, name, Grid.axial((3, 48, 48), (30.0, 6.0, 6.5)))
        write_volume(path, like.array, like=like)
    for bad in ("slices/bad.tif", "scans/bad.nii"):
        (tmp_path / bad).write_bytes(b"junk")
    return tmp_path


def contents(out: Path) -> dict[str, list[bytes]]:
    """What is in a folder; lines of the record come as they are done."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {
        name: sorted(text.splitlines()) if name.endswith(".jsonl") else [text]
        for name, text in found.items()
    }


def compare(inputs: Path, sharing: Sharing) -> None:
    lungs = Predictor.load("lungs", device="cpu", precision="fp32")
    once: list[str] = []

    def bars(iterable, *, desc, total):
        once.append(f"{desc} {total}")
        yield from iterable

    one, out = inputs / "one", inputs / "out"
    for folder, how in ((one, Sharing()), (out, sharing)):
        common = {"batch_size": 4, "sharing": how, "progress": bars}
        write = SliceFiles(probabilities=True)
        a = list(predict_slices(lungs, inputs / "slices", folder / "a", write=write, **common))
        b = list(predict_scans(lungs, inputs / "scans", folder / "b", refine=False, **common))
        assert [result.name for result in a] == sorted(
            p.stem for p in (inputs / "slices").iterdir()
        )
        assert [result.name for result in b] == ["a", "b", "bad", "c", "d"]
        assert sum(result.error is not None for result in (*a, *b)) == 2
    assert once[-2:] == ["predict 20", "predict 5"]
    assert contents(out) == contents(one)


def test_two_processes_write_what_one_does(inputs) -> None:
    compare(inputs, TWO)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_actors_write_what_one_process_does(inputs) -> None:
    from lungunet.inference import ray_actors

    ray = ray_actors._import_ray()
    leave = ray_actors._connect(ray, "auto")
    try:
        for node in ray.nodes():  # reached from here alone, and telling nobody
            assert node["NodeManagerAddress"] == "127.0.0.1"
        assert not ray._common.usage.usage_lib.usage_stats_enabled()
        compare(inputs, Sharing(ray="auto"))
    finally:
        leave()


def test_a_model_that_others_cannot_load(inputs) -> None:
    network = lungunet.build_unet("unet2015", width=2, seed=0)
    mine = Predictor(network, lungunet.InputContract(32), device="cpu")
    with pytest.raises(ConfigError, match="processes load the model by themselves"):
        list(predict_slices(mine, inputs / "slices", inputs / "out", sharing=TWO))


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray(inputs) -> None:
    rule = Predictor.load("threshold")
    with pytest.raises(lungunet.MissingExtraError, match=r"pip install 'lungunet\[ray\]'"):
        list(predict_scans(rule, inputs / "scans", inputs / "o", sharing=Sharing(ray="auto")))
