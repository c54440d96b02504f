"""One file from CT values to masks, against torch and against the input contract."""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import lungunet
from lungunet import (
    ConfigError,
    DataError,
    InputContract,
    LabelCodec,
    MissingExtraError,
    ModelError,
    SavedModel,
    Window,
    export_onnx,
)
from lungunet.models import onnx as models_onnx
from lungunet.models.onnx_graph import surround

SMALL = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
MODELS = {
    "resnet18": SMALL,
    "efficientnet-b0": SMALL,
    "unet2015": {"width": 2, "valid": True},
}


def saved(model: torch.nn.Module, contract: InputContract, codec=lungunet.LUNG_CODEC) -> SavedModel:
    return SavedModel(model.eval(), contract, codec, {"val_iou": 0.9}, Path("made-up"))


class Bright(torch.nn.Module):
    """Calls lung what is darker than the mean: a rule whose answer is known."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels, -pixels], dim=1) * 4


class Three(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels * 0, pixels, -pixels], dim=1)


def small_network(size: int, classes: int = 2) -> onnx.ModelProto:
    """Build ``Bright`` or ``Three`` as ONNX by hand; its input can be looked at."""
    factors = np.array([4, -4] if classes == 2 else [0, 1, -1], np.float32).reshape(1, -1, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["pixels", "factors"], ["logits"])],
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes, size, size])],
        [onnx.numpy_helper.from_array(factors, "factors")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def session_of(contract: InputContract, classes: int = 2) -> onnxruntime.InferenceSession:
    """Surround a small network, and let what it is fed come out too."""
    codec = lungunet.LUNG_CODEC if classes == 2 else LabelCodec({0: 0, 3: 1, 4: 2})
    whole = surround(small_network(contract.size, classes), contract, codec)
    onnx.checker.check_model(whole, full_check=True)
    whole.graph.output.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, None))
    return bare_session(whole.SerializeToString())


def bare_session(model: bytes | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.read_bytes()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return HU that leave the window on both sides, blurred so that masks have an inside."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(-500, 4000, shape).astype(np.float32)
    planes = [cv2.GaussianBlur(plane, (0, 0), 2) for plane in np.atleast_3d(flat.T).T]
    return np.stack(planes).reshape(shape).clip(-3000, 3000).astype(np.int16)


HU = InputContract(48)
SESSIONS = {
    "hu": (HU, session_of(HU)),
    "grey": (c := InputContract(40, None, ("uint8",), 0.5, 0.25), session_of(c)),
    "offset": (c := InputContract(32, Window(424, 1500), ("uint16",)), session_of(c)),
}


class TestGraph:
    """What surrounds the network, by itself."""

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(
        name=st.sampled_from(sorted(SESSIONS)),
        shape=st.tuples(st.integers(1, 110), st.integers(1, 110)),
        n=st.sampled_from([1, 3]),
        seed=st.integers(0, 9),
    )
    def test_what_the_network_is_fed_is_what_the_contract_prepares(self, name, shape, n, seed):
        contract, session = SESSIONS[name]
        hu = noise((n, *shape), seed).astype(np.int32)
        images = hu if name == "hu" else np.clip(hu + 1024, 0, 255 if name == "grey" else 9999)
        images = images.astype(contract.dtypes[0])
        (fed,) = session.run(["pixels"], {"image": images.astype(np.float32)})
        prepared = np.stack([contract.prepare(image) for image in images])
        assert fed.shape == prepared.shape
        steps = np.abs(fed - prepared) * 255 * contract.std
        if max(shape) <= contract.size or shape == (2 * contract.size,) * 2:
            assert steps.max() < 1e-3
        else:  # OpenCV adds areas up in another order: a value on the edge may be a step off
            assert steps.max() < 1.001
            assert (steps > 0.5).mean() < 0.02

    @pytest.mark.parametrize(
        "shape",
        [(96, 96), (192, 192), (144, 144), (288, 288), (480, 240), (96, 64), (48, 48)],
    )
    def test_whole_ratios_are_exact(self, shape):
        images = noise((2, *shape))
        (fed,) = SESSIONS["hu"][1].run(["pixels"], {"image": images.astype(np.float32)})
        np.testing.assert_array_equal(fed, np.stack([HU.prepare(image) for image in images]))

    def test_every_grey_step_of_the_window(self):
        values = np.arange(-3000, 3400, dtype=np.int16)[: 48 * 48 * 2].reshape(2, 48, 48)
        values = np.concatenate([values, values - 3000])
        (fed,) = SESSIONS["hu"][1].run(["pixels"], {"image": values.astype(np.float32)})
        np.testing.assert_array_equal(fed, np.stack([HU.prepare(image) for image in values]))

    @settings(deadline=None, max_examples=60)
    # torch 2.15 repeats the first row when it shrinks to a width of one pixel.
    @given(shape=st.tuples(st.integers(1, 110), st.integers(2, 110)), seed=st.integers(0, 9))
    def test_the_way_back_is_that_of_the_contract(self, shape, seed):
        image = noise(shape, seed)
        feed = {"image": image.astype(np.float32)[None]}
        mask, found, fed = SESSIONS["hu"][1].run(["mask", "probability", "pixels"], feed)
        expected = HU.unfit(Bright()(torch.from_numpy(fed)), *shape).softmax(1).numpy()
        assert mask.dtype == np.uint8
        assert mask.shape == (1, *shape)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_array_equal(mask, np.where(found[:, 1] > found[:, 0], 255, 0))

    def test_more_classes_come_out_in_their_own_code(self):
        image = noise((3, 70, 50))
        session = session_of(HU, classes=3)
        mask, found, fed = session.run(None, {"image": image.astype(np.float32)})
        expected = HU.unfit(Three()(torch.from_numpy(fed)), 70, 50).softmax(1).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert set(np.unique(mask)) == {3, 4}
        np.testing.assert_array_equal(mask, np.array([0, 3, 4])[found.argmax(1)])

    def test_wide_raw_values_get_a_wider_dtype(self):
        whole = surround(small_network(48, 3), HU, LabelCodec({0: 0, 300: 1, 40000: 2}))
        (mask,) = bare_session(whole.SerializeToString()).run(
            ["mask"], {"image": noise((1, 48, 48)).astype(np.float32)}
        )
        assert mask.dtype == np.uint16
        assert set(np.unique(mask)) == {300, 40000}

    def test_a_codec_that_merges_cannot_write_masks(self):
        codec = LabelCodec({0: 0, 3: 1, 4: 1, 5: 2})
        with pytest.raises(ConfigError, match="several raw values share a class"):
            surround(small_network(48, 3), HU, codec)


@pytest.fixture
def traced(monkeypatch) -> None:
    """Spare ``Bright`` the seconds that torch's exporter takes."""
    monkeypatch.setattr(
        models_onnx, "_trace", lambda network, saved: small_network(saved.contract.size)
    )


class TestExport:
    @pytest.mark.parametrize("encoder", MODELS)
    def test_a_bare_session_gives_the_masks_of_torch(self, encoder: str, tmp_path: Path) -> None:
        model = lungunet.build_unet(encoder, seed=1, **MODELS[encoder])
        parity = export_onnx(saved(model, HU), tmp_path / "m.onnx")
        assert (parity.slices, parity.pixels) == (3, 96 * 96 + 48 * 36 + 30 * 25)
        assert parity.differing_px <= 2
        assert parity.furthest < 1e-4
        assert getattr(model, "valid", True)  # the caller's model is as it was
        model.valid = False
        session = bare_session(tmp_path / "m.onnx")
        assert [i.name for i in session.get_inputs()] == ["image"]
        for n, shape in ((1, (96, 96)), (3, (48, 48)), (3, (31, 47)), (1, (60, 130)), (2, (1, 2))):
            images = noise((n, *shape), seed=n)
            mask, probability = session.run(None, {"image": images.astype(np.float32)})
            with torch.no_grad():
                logits = model(torch.from_numpy(np.stack([HU.prepare(i) for i in images])))
                expected = HU.unfit(logits, *shape).softmax(1).numpy()
            sure = np.abs(expected[:, 1] - 0.5) > 1e-3
            np.testing.assert_array_equal(mask[sure], (expected.argmax(1) * 255)[sure])
            assert (mask.shape, probability.shape) == ((n, *shape), (n, 2, *shape))

    def test_a_run_on_its_own_slices(
        self, run: Path, onnx_file: Path, split: lungunet.Split
    ) -> None:
        predictor = lungunet.Predictor.load(run, device="cpu", precision="fp32")
        session = bare_session(onnx_file)
        for pair in split.test:
            image = lungunet.read_image(pair.image)
            mask, probability = session.run(None, {"image": image.astype(np.float32)[None]})
            np.testing.assert_allclose(probability[0], predictor.probabilities(image), atol=1e-5)
            clear = np.abs(probability[0, 1] - 0.5) > 1e-4
            np.testing.assert_array_equal(mask[0][clear], predictor.predict(image)[clear])

    def test_the_file_says_what_it_is_and_not_where_it_was_made(
        self, run: Path, onnx_file: Path
    ) -> None:
        content = onnx_file.read_bytes()
        stored = onnx.load_from_string(content)
        about = json.loads({entry.key: entry.value for entry in stored.metadata_props}["lungunet"])
        folder = json.loads((run / "best" / "lungunet.json").read_text())
        assert about["format"] == 1
        for key in ("contract", "codec", "scores", "weights_sha256", "versions"):
            assert about[key] == folder[key]
        weights = (run / "best" / "model.safetensors").read_bytes()
        assert about["weights_sha256"] == hashlib.sha256(weights).hexdigest()
        assert about["codec"]["names"] == ["background", "lung"]
        assert (stored.producer_name, stored.producer_version) == ("lungunet", lungunet.__version__)
        for word in ("site-packages", str(Path.cwd()), str(run.parent), "stack_trace"):
            assert word.encode() not in content

    @pytest.mark.parametrize(
        ("contract", "dtype"),
        [
            (InputContract(32, None, ("uint8",)), np.uint8),
            (InputContract(32, Window(424, 1500), ("uint16",)), np.uint16),
            (InputContract(32, Window(-600, 1500), ("float32", "int16")), np.float32),
        ],
    )
    def test_slices_of_other_kinds(
        self, contract, dtype, traced, monkeypatch, tmp_path: Path
    ) -> None:
        seen = []
        compare = models_onnx._probabilities
        monkeypatch.setattr(
            models_onnx, "_probabilities", lambda *a: seen.append(a[2]) or compare(*a)
        )
        assert export_onnx(saved(Bright(), contract), tmp_path / "m.onnx").slices == 3
        for image in seen:  # phantoms that show lung, whatever the values mean
            assert image.dtype == dtype
            grey = contract.to_grey(image)
            assert 0.05 < (grey < 100).mean() < 0.95
        feed = {"image": seen[1].astype(np.float32)[None]}
        session = bare_session(tmp_path / "m.onnx")
        mask, _ = session.run(None, feed)
        assert set(np.unique(mask)) == {0, 255}
        # docs/howto/deploy.md: how a program without lungunet sees what the values must be
        about = json.loads(session.get_modelmeta().custom_metadata_map["lungunet"])["contract"]
        assert (about["dtypes"], about["window"]) == (
            list(contract.dtypes),
            contract.window and asdict(contract.window),
        )

    def test_own_slices_are_compared_and_checked(self, traced, tmp_path: Path) -> None:
        made = saved(Bright(), HU)
        parity = export_onnx(made, tmp_path / "m.onnx", slices=[noise((50, 40)), noise((9, 7))])
        assert (parity.slices, parity.pixels) == (2, 2063)
        before = (tmp_path / "m.onnx").read_bytes()
        with pytest.raises(DataError, match="slice 2: a slice of uint8, the model expects int16"):
            export_onnx(
                made, tmp_path / "m.onnx", slices=[noise((5, 4)), np.zeros((5, 4), np.uint8)]
            )
        for none in ([], iter([])):
            with pytest.raises(DataError, match="slices: none to compare on"):
                export_onnx(made, tmp_path / "n.onnx", slices=none)
        assert (tmp_path / "m.onnx").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]

    def test_a_file_that_gives_other_masks_is_not_left_behind(
        self, traced, monkeypatch, tmp_path: Path
    ) -> None:
        def shifted(network, contract, codec, *, members):
            moved = InputContract(contract.size, Window(-500, 1500))
            return surround(network, moved, codec)

        monkeypatch.setattr("lungunet.models.onnx_graph.surround", shifted)
        with pytest.raises(ModelError, match=r"m\.onnx: \d+ of 11694 pixels get another class"):
            export_onnx(saved(Bright(), HU), tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_what_torch_cannot_export(self, tmp_path: Path, capfd) -> None:
        class Undecided(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return torch.cat([pixels, -pixels if pixels.sum() > 0 else pixels], dim=1)

        # Newer torch refuses; 2.8 takes the branch of its example, and the masks differ.
        refused = r"made-up: torch .* cannot export this encoder \(|pixels get another class"
        with pytest.raises(ModelError, match=refused):
            export_onnx(saved(Undecided(), HU), tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []

    def test_other_endings(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"m\.pb: does not end with \.onnx"):
            export_onnx(saved(Bright(), HU), tmp_path / "m.pb")

    @pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
    def test_without_the_extra(self, package: str, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"{package} is not .*lungunet\[onnx\]"):
            export_onnx(saved(Bright(), HU), tmp_path / "m.onnx")
        assert list(tmp_path.iterdir()) == []
