"""An exported file in the place of a network, without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import lungunet
from lungunet import ConfigError, DataError, MissingExtraError, ModelError, Predictor
from lungunet.inference import segmenter
from lungunet.models.onnx_file import OnnxFile
from lungunet.models.onnx_file import _count_threads as count_threads


@pytest.fixture(scope="module")
def images(split: lungunet.Split) -> list[np.ndarray]:
    """Slices of several sizes, in no order."""
    first, second, third = (lungunet.read_image(pair.image) for pair in split.test)
    return [
        first,
        second[5:, :31],
        third,
        second[5:, :31][::-1],
        third[::2, ::2].astype(np.float32),
    ]


def test_masks_are_those_of_torch(run: Path, onnx_file: Path, images: list[np.ndarray]) -> None:
    predictor = Predictor.load(onnx_file)
    torch_too = Predictor.load(run, device="cpu", precision="fp32")
    assert predictor.codec == torch_too.codec
    for image, found in zip(images, predictor.segment(images), strict=True):
        assert found.probabilities.dtype == np.float32
        expected = torch_too.probabilities(image)
        np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
        sure = np.abs(expected[1] - 0.5) > 1e-4
        np.testing.assert_array_equal(found.classes[sure], expected.argmax(0)[sure])
        np.testing.assert_array_equal(predictor.to_grey(image), torch_too.to_grey(image))


def test_memory_is_that_of_a_part(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(onnx_file)
    monkeypatch.setattr(segmenter, "_PART_PX", 2 * predictor.segmenter.contract.size**2)
    run, taken = OnnxFile.run, []

    def spy(file: OnnxFile, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        taken.append(len(images))
        return run(file, images)

    monkeypatch.setattr(OnnxFile, "run", spy)
    predictor.segment([np.zeros((40, 40), np.int16)] * 5)
    assert taken == [2, 2, 1]


def test_what_breaks_the_contract_is_refused(onnx_file: Path) -> None:
    predictor = Predictor.load(onnx_file)
    with pytest.raises(DataError, match="a slice of uint8, the model expects int16 or int32"):
        predictor.predict(np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match=r"shape \(2, 3, 4\)"):
        predictor.predict(np.zeros((2, 3, 4), np.int16))


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"precision": "bf16"}])
def test_it_computes_on_the_cpu_alone(onnx_file: Path, options: dict[str, str]) -> None:
    for model in (onnx_file, "threshold"):
        with pytest.raises(ConfigError, match=r"computes on the CPU in fp32, not on"):
            Predictor.load(model, **options)


def test_a_path_that_is_not_utf8(onnx_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"n\xff.onnx")
    shutil.copy(onnx_file, odd)
    assert Predictor.load(odd)(np.zeros((9, 9), np.int16)).shape == (9, 9)


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"none\.onnx: cannot be read \(No such file"):
            Predictor.load(tmp_path / "none.onnx")

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
    def test_truncated(self, onnx_file: Path, kept: float, tmp_path: Path) -> None:
        content = onnx_file.read_bytes()
        n = kept if isinstance(kept, int) else int(len(content) * kept)
        (tmp_path / "cut.ONNX").write_bytes(content[:n])
        with pytest.raises(
            ModelError, match=r"cut\.ONNX: (not a readable ONNX model|not exported)"
        ):
            Predictor.load(tmp_path / "cut.ONNX")

    def test_of_another_tool(self, onnx_file: Path, tmp_path: Path) -> None:
        foreign = onnx.load(onnx_file)
        del foreign.metadata_props[:]
        onnx.save(foreign, tmp_path / "foreign.onnx")
        with pytest.raises(ModelError, match=r"foreign\.onnx: not exported by lungunet, so nobody"):
            Predictor.load(tmp_path / "foreign.onnx")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": 2}, r"format 2 is not one that this lungunet reads \(1 to 1\)"),
            ({"format": "1"}, "format 1 is not one"),
            ({"contract": {}}, "its metadata are damaged"),
            ({"codec": None}, "its metadata are damaged"),
            (None, "its metadata are damaged"),
        ],
    )
    def test_other_metadata(
        self, onnx_file: Path, change: dict | None, message: str, tmp_path: Path
    ) -> None:
        stored = onnx.load(onnx_file)
        entry = stored.metadata_props[0]
        entry.value = "{" if change is None else json.dumps({**json.loads(entry.value), **change})
        onnx.save(stored, tmp_path / "other.onnx")
        with pytest.raises(ModelError, match=message):
            Predictor.load(tmp_path / "other.onnx")

    def test_without_the_extra(self, onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingExtraError, match=r"onnxruntime is not .*lungunet\[onnx\]"):
            Predictor.load(onnx_file)


@pytest.mark.parametrize(("value", "threads"), [("3", 3), ("5,2", 5), ("0", None), ("x", None)])
def test_threads_are_those_that_were_granted(
    monkeypatch: pytest.MonkeyPatch, value: str, threads: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert count_threads() == (threads or 2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert count_threads() == 2


class TestCommandLine:
    @pytest.mark.parametrize("model", ["onnx", "threshold", "lungs"])
    @pytest.mark.parametrize("begin", ["", "sys.modules['torch'] = None"])
    def test_predicting_needs_no_torch(
        self, model: str, begin: str, onnx_file: Path, phantoms: tuple[Path, Path], tmp_path: Path
    ) -> None:
        path = onnx_file if model == "onnx" else model
        code = (
            "import sys; from lungunet.cli import main\n"
            f"sys.argv = ['lungunet', 'predict', {str(path)!r}, {str(phantoms[0])!r}, '--out', "
            f"{str(tmp_path)!r}, '--overlay', '--tta', '--device', 'cpu']\n{begin}\n"
            "try: main()\n"
            "except SystemExit as stop: assert not stop.code, stop.code\n"
            "names = {'torch', 'albumentations', 'timm', 'onnx'}\n"
            "print(sorted(name for name in names if sys.modules.get(name)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "[]"
        assert len(list(tmp_path.glob("*.png"))) == 12

    def test_export(self, run_cli, data: Path, tmp_path: Path) -> None:
        model = lungunet.build_unet("unet2015", width=1, seed=0)
        lungunet.save_model(
            tmp_path / "model",
            model,
            contract=lungunet.InputContract(32),
            codec=lungunet.LUNG_CODEC,
        )
        out = tmp_path / "new" / "lung.onnx"
        done = run_cli("export", tmp_path / "model", "--out", out, "--check", data / "val.txt")
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"{out}: 0.1 MB; compared with torch on 3 slices: ")
        assert " of 6912 pixels differ, probabilities by " in done.out
        again = run_cli("export", tmp_path / "model", "--out", out)
        assert (again.code, "already there" in again.err) == (1, True)

    def test_evaluate(self, run_cli, own_run: Path, onnx_file: Path, data: Path) -> None:
        ours, torchs = (
            json.loads(run_cli("evaluate", model, data, "--json", "--device", "cpu").out)
            for model in (onnx_file, own_run)
        )
        assert ours["pooled"]["iou"] == pytest.approx(torchs["pooled"]["iou"], abs=1e-2)

    def test_export_says_what_is_no_model(self, run_cli, tmp_path: Path) -> None:
        done = run_cli("export", tmp_path, "--out", tmp_path / "m.onnx")
        assert (done.code, "no model in it" in done.err) == (1, True)
        assert list(tmp_path.iterdir()) == []
