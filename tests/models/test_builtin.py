"""The model that comes with the package: what it is, what it finds, and what begins with it."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from arms import lay_arms

import lungunet
from lungunet import ConfigError, ModelError, Predictor, build_unet
from lungunet.inference.jobs import identify
from lungunet.inference.lungs import LungsSegmenter, _has_gpu
from lungunet.inference.network import TorchSegmenter
from lungunet.inference.onnx import OnnxSegmenter
from lungunet.models.builtin import BUILTIN, GRAPH
from lungunet.models.onnx import write_graph
from lungunet.models.onnx_file import open_onnx

FOLDER = BUILTIN["lungs"]


@pytest.fixture(scope="module")
def lungs() -> Predictor:
    return Predictor.load("lungs", device="cpu", precision="fp32")


def iou(truth: np.ndarray, pred: np.ndarray) -> float:
    return float((truth & pred).sum() / (truth | pred).sum())


class TestWhatItIs:
    def test_small_enough_for_a_wheel(self) -> None:
        assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 4_000_000

    def test_a_model_folder_like_any_other(self) -> None:
        saved = lungunet.load_model("lungs")
        assert saved.contract == lungunet.InputContract(256)
        assert saved.codec == lungunet.LUNG_CODEC
        assert {p.dtype for p in saved.model.parameters()} == {torch.float32}

    def test_its_word_wins_over_a_folder_and_a_path_does_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("lungs").mkdir()
        assert Predictor.load("lungs").word == "lungs"
        with pytest.raises(ModelError, match="no model in it"):
            Predictor.load(Path("lungs"))
        with pytest.raises(ModelError, match="no model in it"):
            Predictor.load("./lungs")

    def test_its_card_names_all_data_with_licence(self) -> None:
        card = (FOLDER / "README.md").read_text(encoding="utf-8")
        data = json.loads((FOLDER / "lungunet.json").read_text())["scores"]
        assert data["train_slices"] == 217
        for collection in ("LIDC-IDRI", "Lung-PET-CT-Dx", "TCGA-LUAD", "COVID-19-NY-SBU"):
            assert collection in card
        assert card.count("10.7937/") + card.count("10.5072/") + card.count("10.1007/") > 20
        assert {"CC BY 3.0", "CC BY 4.0"} <= set(re.findall(r"CC BY \d\.\d", card))
        assert "not a medical device" in card.lower()


class TestWhatItFinds:
    @pytest.mark.parametrize("offset_hu", [-80, 0, 80])
    def test_lungs_of_phantoms_at_any_calibration(self, lungs: Predictor, offset_hu: int) -> None:
        both = either = 0
        for number in range(8):
            made = lungunet.phantom_slice(number, 0.3 + 0.05 * number)
            pred = lungs((made.image + offset_hu).astype(np.int16)) > 0
            both += int((pred & (made.mask > 0)).sum())
            either += int((pred | (made.mask > 0)).sum())
        assert both / either > 0.93

    @pytest.mark.parametrize("hu", [-960, -600])
    def test_a_lung_darker_or_denser_than_the_other(self, lungs: Predictor, hu: int) -> None:
        made = lungunet.phantom_slice(1, 0.5)
        image, lung = made.image.copy(), made.mask > 0
        one = lung & (np.arange(lung.shape[1]) < lung.shape[1] // 2)
        air = one & (image < -500)
        image[air] += hu - int(np.median(image[air]))
        assert iou(one, (lungs(image) > 0) & (np.arange(256) < 128)) > 0.9

    def test_lung_that_is_ill(self, lungs: Predictor) -> None:
        both = either = 0
        for number in range(12):
            made = lungunet.phantom_slice(number, 0.5)
            ill = lungunet.disease_slice(made.image, made.mask, seed=number)
            pred = lungs(ill) > 0
            both += int((pred & (made.mask > 0)).sum())
            either += int((pred | (made.mask > 0)).sum())
        assert both / either > 0.85

    @pytest.mark.parametrize("height", [0.0, 0.05, 1.0])
    def test_nothing_below_and_above_the_lungs(self, lungs: Predictor, height: float) -> None:
        for number in range(8):
            made = lungunet.phantom_slice(number, height)
            assert not made.mask.any()
            assert not lungs(made.image).any()

    @pytest.mark.parametrize("joined", [True, False])
    def test_air_that_arms_close_in_is_not_lung(self, lungs: Predictor, joined: bool) -> None:
        image, mask, pocket = lay_arms(lungunet.phantom_slice(2, 0.5), joined=joined)
        pred = lungs(image) > 0
        assert not (pred & pocket).any()
        assert iou(mask > 0, pred) > 0.93
        assert lungs.probabilities(image)[1][pocket].max() < 0.5

    def test_little_that_is_dense_stays_and_gas_goes(self) -> None:
        class Everything(torch.nn.Module):
            """Calls everything lung that is no water."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                water = lungunet.InputContract(64).normalise(np.uint8([[230]]))[0, 0, 0]
                return torch.cat([(x - float(water)).abs() * -9 + 1e-3, torch.zeros_like(x)], 1)

        hu = np.zeros((64, 64), np.int16)  # all of it water
        hu[10:13, 10:13] = -950
        hu[40:47, 40:47] = 60
        contract, codec = lungunet.InputContract(64), lungunet.LUNG_CODEC
        segmenter = LungsSegmenter(
            TorchSegmenter(Everything(), contract, codec, device="cpu", precision="fp32")
        )
        pred = Predictor(segmenter)(hu)
        assert not pred[10:13, 10:13].any()
        assert pred[41:46, 41:46].all()
        probability = segmenter([segmenter.prepare(hu)])[0].probability(1)
        assert probability[10:13, 10:13].max() == 0

    def test_is_seen_both_ways_round_unless_told_otherwise(self, lungs: Predictor) -> None:
        image = lungunet.phantom_slice(3, 0.5).image
        once = Predictor.load("lungs", device="cpu", precision="fp32", tta=False)
        mirrored = np.ascontiguousarray(image[:, ::-1])
        mean = (once.probabilities(image) + once.probabilities(mirrored)[..., ::-1]) / 2
        assert (lungs.tta, once.tta, Predictor.load("threshold").tta) == (True, False, False)
        np.testing.assert_allclose(lungs.probabilities(image), mean, atol=1e-5)

    def test_any_size_and_a_slice_of_one_grey(self, lungs: Predictor) -> None:
        assert lungs(np.full((37, 64), -1000, np.int16)).shape == (37, 64)


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        return Predictor.load("lungs", device="cpu", precision="fp32")


class TestWhoComputes:
    @pytest.mark.parametrize(
        ("settings", "gpu", "kind"),
        [
            ({}, False, OnnxSegmenter),
            ({"device": "cpu"}, True, OnnxSegmenter),
            ({"device": "cpu", "precision": "fp32"}, False, OnnxSegmenter),
            ({"precision": "bf16"}, False, TorchSegmenter),
            ({}, True, TorchSegmenter),
        ],
    )
    def test_onnxruntime_on_the_cpu_in_fp32(
        self, settings: dict[str, str], gpu: bool, kind: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lungunet.inference.lungs._has_gpu", lambda: gpu)
        assert type(Predictor.load("lungs", **settings).segmenter.network) is kind

    def test_torch_where_there_is_no_other(self, by_torch: Predictor) -> None:
        assert type(by_torch.segmenter.network) is TorchSegmenter

    @pytest.mark.parametrize("driver", [False, True])
    def test_torch_is_asked_about_the_gpu_where_there_is_a_driver(
        self, driver: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def load(name: str) -> None:
            if not driver:
                raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr("ctypes.CDLL", load)
        monkeypatch.setattr(Path, "exists", lambda path: False)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert _has_gpu() is driver

    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="device 'cuda:99'"):
            Predictor.load("lungs", device="cuda:99")

    @pytest.mark.parametrize(
        ("size", "rows", "columns", "near"),
        [
            (512, 512, 512, 1e-4),
            (512, 512, 384, 1e-4),
            (256, 256, 200, 1e-4),
            (160, 131, 160, 1e-4),
            (640, 613, 640, 1e-3),  # a grey value half-way between two may round the other way
        ],
    )
    def test_masks_are_those_of_torch(
        self, by_torch: Predictor, size: int, rows: int, columns: int, near: float
    ) -> None:
        ours = Predictor.load("lungs", device="cpu")
        cut = (slice(rows), slice(columns))
        images = [lungunet.phantom_slice(n, 0.1 + 0.3 * n, size=size).image[cut] for n in range(3)]
        for found, expected in zip(ours.segment(images), by_torch.segment(images), strict=True):
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=near)
            sure = np.abs(expected.probabilities[1] - 0.5) > near
            np.testing.assert_array_equal(found.classes[sure], expected.classes[sure])

    def test_jobs_go_on_with_either(self, by_torch: Predictor) -> None:
        ours = Predictor.load("lungs", device="cpu")
        weights = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
        assert ours.weights_sha256 == by_torch.weights_sha256 == weights
        assert identify(ours.segmenter) == identify(by_torch.segmenter)


class TestItsGraph:
    def test_belongs_to_the_weights(self) -> None:
        weights = (FOLDER / "model.safetensors").read_bytes()
        said = open_onnx(FOLDER / GRAPH)
        saved = lungunet.load_model("lungs")
        assert said.weights_sha256 == hashlib.sha256(weights).hexdigest()
        assert (said.contract, said.codec) == (saved.contract, saved.codec)

    def test_holds_no_weights_of_its_own(self) -> None:
        graph = onnx.load(FOLDER / GRAPH, load_external_data=False).graph
        own = [t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
        assert max(np.prod(tensor.dims) for tensor in own) <= 256  # places along a side
        used = {t.name.removesuffix("_half") for t in graph.initializer if t not in own}
        assert len(used) == len(graph.initializer) - len(own)
        state = lungunet.load_model("lungs").model.state_dict()
        assert {name.removeprefix("models.0.") for name in used} == {
            name for name, tensor in state.items() if tensor.is_floating_point()
        }
        assert (FOLDER / GRAPH).stat().st_size < 150_000

    def test_is_written_beside_the_weights(self, tmp_path: Path) -> None:
        model = build_unet("unet2015", width=2, seed=0)
        contract, codec = lungunet.InputContract(32), lungunet.LUNG_CODEC
        lungunet.save_model(tmp_path / "a", model.half(), contract=contract, codec=codec)
        parity = write_graph(tmp_path / "a")
        assert parity.differing_px == 0
        shutil.move(tmp_path / "a", tmp_path / "ä b")
        hu = lungunet.phantom_slice(3, 0.5, size=64).image
        np.testing.assert_allclose(
            Predictor.load(tmp_path / "ä b" / GRAPH).probabilities(hu),
            Predictor.load(tmp_path / "ä b", device="cpu", precision="fp32").probabilities(hu),
            atol=1e-4,
        )
        (tmp_path / "ä b" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="not a readable ONNX model"):
            Predictor.load(tmp_path / "ä b" / GRAPH)

    def test_weights_that_are_no_halves_are_refused(self, tmp_path: Path) -> None:
        model = build_unet("unet2015", width=1, seed=0)
        contract, codec = lungunet.InputContract(32), lungunet.LUNG_CODEC
        lungunet.save_model(tmp_path, model, contract=contract, codec=codec)
        with pytest.raises(ModelError, match=r"no halves. Save model.half\(\)"):
            write_graph(tmp_path)
        assert not (tmp_path / GRAPH).exists()


class TestWhatBeginsWithIt:
    def test_all_weights(self, lungs: Predictor) -> None:
        model = build_unet("tu-mobilenetv3_small_100", weights="lungs").eval()
        image = torch.randn(1, 1, 64, 64)
        expected = lungunet.load_model("lungs").model(image)
        torch.testing.assert_close(model(image), expected)

    def test_each_class_of_lung_begins_as_lung(self) -> None:
        two = build_unet("tu-mobilenetv3_small_100", weights="lungs").eval()
        three = build_unet("tu-mobilenetv3_small_100", weights="lungs", n_classes=3).eval()
        image = torch.randn(1, 1, 64, 64)
        torch.testing.assert_close(three(image), two(image)[:, [0, 1, 1]])

    def test_another_encoder_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="of the encoder tu-mobilenetv3_small_100"):
            build_unet("resnet18", weights="lungs")

    def test_training_begins_with_it_and_goes_on_without(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = lungunet.RunConfig(
            data=str(data), weights="lungs", size=32, batch_size=2, workers=0, epochs=1, lr=1e-9
        )
        out = tmp_path / "run"
        list(lungunet.train_run(config, out))
        trained = dict(lungunet.load_model(out).model.named_parameters())
        for name, weight in lungunet.load_model("lungs").model.named_parameters():
            torch.testing.assert_close(trained[name], weight, atol=1e-3, rtol=1e-3)
        longer = lungunet.RunConfig.of_run(out, epochs=2)
        (second,) = lungunet.train_run(longer, out, resume=True)
        assert second.epoch == 2
        # A run that begins with a model of another shape goes on when that model is gone.
        again = lungunet.RunConfig.from_dict({**vars(config), "weights": str(out)}, where="here")
        copy = tmp_path / "copy"
        list(lungunet.train_run(again, copy))
        out.rename(tmp_path / "gone")
        (second,) = lungunet.train_run(lungunet.RunConfig.of_run(copy, epochs=2), copy, resume=True)
        assert second.epoch == 2

    def test_onnx_gives_the_same_masks(self, lungs: Predictor, tmp_path: Path) -> None:
        parity = lungunet.export_onnx("lungs", tmp_path / "lungs.onnx")
        assert parity.differing_px == 0
        hu = lungunet.phantom_slice(3, 0.5).image
        np.testing.assert_array_equal(
            Predictor.load(tmp_path / "lungs.onnx", tta=True)(hu), lungs(hu)
        )
