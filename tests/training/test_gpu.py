"""What must hold on a GPU: results as on the CPU, no waiting, nothing left behind, advice.

All are marked gpu and run with ``-m gpu``; ``--device cpu`` tries those that mean something there.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import lungunet
from lungunet import ConfigError, LungCTDataset, TrainConfig, Trainer, build_unet
from lungunet.data.dataset import EightBitSamples
from lungunet.data.loader import make_loader
from lungunet.models.device import fast_products
from lungunet.training.cuda_graph import Recorded
from lungunet.training.learner import Learner
from lungunet.training.optimizer import Stepper
from lungunet.volumes.grid import Grid
from lungunet.volumes.volume import Volume

pytestmark = pytest.mark.gpu

SIZE = 128  # PAN takes no less
SMALL = {"encoder_weights": None, "in_channels": 1, "classes": 2}
ARCHITECTURES = (
    *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet"),
    *("DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet"),
)
FAMILIES = {
    "default": lambda: build_unet(seed=0),
    "unet2015": lambda: build_unet("unet2015", width=8, seed=0),
    **{name: partial(getattr(smp, name), "resnet18", **SMALL) for name in ARCHITECTURES},
    "Segformer": lambda: smp.Segformer("mit_b0", **SMALL),
}
# How far loss (relative) and gradients (1 - cosine) may be from those in fp32 on the CPU.
# Products of convolutions in fp32 are TF32 on a GPU, of as many bits as fp16; batch norm over a
# batch of noise makes much of little.
BOUNDS = {"fp32": (5e-3, 0.05), "bf16": (2e-2, 0.4), "fp16": (5e-3, 0.05)}
EXACT = (1e-4, 2e-3)


@pytest.fixture
def data(phantoms: tuple[Path, Path]) -> tuple[LungCTDataset, LungCTDataset]:
    """Eight slices to train on, four for val."""
    pairs = lungunet.find_pairs(*phantoms)
    train = LungCTDataset(pairs[:8], transform=lungunet.train_transform(), size=32)
    return train, LungCTDataset(pairs[8:], contract=train.contract)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def config(device: torch.device, **changes: Any) -> TrainConfig:
    settings = {"epochs": 2, "batch_size": 2, "workers": 0, "precision": "fp32"}
    return TrainConfig(**{**settings, "device": str(device), **changes})


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def batch(n: int = 4, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(n, size, size, dtype=torch.int64)
    mask[:, size // 4 : size // 2, size // 4 :] = 1
    noise = torch.randn(n, 1, size, size, generator=generator)
    return noise - 2.0 * mask[:, None], mask


def hold_dropout(net: nn.Module) -> None:
    """Leave nothing to chance: another generator draws on a GPU."""
    for module in net.modules():
        if type(module).__name__.startswith("Drop"):  # DropPath too
            module.eval()


def gradients(model: nn.Module, device: torch.device, precision: str) -> tuple[float, torch.Tensor]:
    """Return the loss of a step, and all its gradients as one vector."""
    learner = Learner(model, config(device, precision=precision), None)
    image, mask = batch()
    net = learner.training_net(1)
    torch.manual_seed(0)
    hold_dropout(net)
    logits, mask = learner.forward(net, image, mask)
    loss = learner.loss(logits, mask)
    scale = 1024.0 if precision == "fp16" else 1.0
    (loss * scale).backward()
    moved = [p.grad for p in net.parameters() if p.grad is not None]
    return loss.item(), torch.cat([each.double().cpu().ravel() for each in moved]) / scale


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_that_of_the_cpu(device: torch.device, family: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]()
    expected, straight = gradients(deepcopy(model), torch.device("cpu"), "fp32")
    for precision, (of_loss, of_gradient) in {"exact": EXACT, **BOUNDS}.items():
        if precision == "fp16" and device.type == "cpu":
            continue
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision != "exact"):
            real = "fp32" if precision == "exact" else precision
            loss, gradient = gradients(deepcopy(model), device, real)
        turned = 1 - torch.cosine_similarity(gradient, straight, dim=0).item()
        print(f"{family} {precision}: loss {loss / expected - 1:+.1e}, gradient {turned:.1e}")
        assert abs(loss / expected - 1) < of_loss, precision
        assert turned < of_gradient, precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_learns(
    tmp_path: Path, device: torch.device, data: tuple[LungCTDataset, ...], precision: str
) -> None:
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 needs CUDA")
    settings = config(device, precision=precision, epochs=6, lr=5e-3)
    history = Trainer(build_unet("resnet18", seed=0), settings, out=tmp_path).fit(*data)
    assert history[-1].train.loss < history[0].train.loss
    assert math.isfinite(history[-1].val.loss)


@pytest.mark.parametrize("encoder", ["tu-mobilenetv3_small_100", "resnet18", "unet2015"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(
    tmp_path: Path,
    cuda: torch.device,
    data: tuple[LungCTDataset, ...],
    precision: str,
    encoder: str,
) -> None:
    settings = config(cuda, precision=precision, epochs=1, workers=2)
    trainer = Trainer(build_unet(encoder, seed=0), settings, out=tmp_path)
    steps, taken = len(data[0]) // settings.batch_size, itertools.count(1)
    assert steps > 2

    def watch_the_next(*_: Any) -> None:
        """The first one warms up, and what the last one is followed by may wait."""
        torch.cuda.set_sync_debug_mode("error" if next(taken) < steps - 1 else "default")

    trainer.optimizer.register_step_post_hook(watch_the_next)
    try:
        trainer.fit(*data)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class TestOverflow:
    def make(self, cuda: torch.device) -> tuple[nn.Module, Stepper]:
        model = nn.Linear(2, 1).to(cuda)
        return model, Stepper(model, config(cuda, precision="fp16"), cuda, torch.float16)

    def test_a_step_that_overflows_is_left_out(self, cuda: torch.device) -> None:
        model, stepper = self.make(cuda)
        before, scale = weights(model), stepper.scaler.get_scale()
        stepper.backward(model(torch.ones(1, 2, device=cuda)).sum() * math.inf)
        stepper.step()
        assert same(weights(model), before)
        assert stepper.scaler.get_scale() == scale / 2
        stepper.backward(model(torch.ones(1, 2, device=cuda)).sum())
        stepper.step()
        assert not same(weights(model), before)

    def test_one_in_every_step_is_told(
        self, tmp_path: Path, cuda: torch.device, data: tuple[LungCTDataset, ...]
    ) -> None:
        def overflows(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            # Finite itself, and so no divergence; its gradients are none in fp16 at any scale.
            return logits.float().pow(2).mean() * 0 + (logits.float() * 1e33).mean()

        settings = config(cuda, precision="fp16", epochs=8)
        trainer = Trainer(build_unet("resnet18", seed=0), settings, out=tmp_path, loss=overflows)
        with pytest.raises(ConfigError, match="fp16 overflowed in nearly every step"):
            trainer.fit(*data)


class TestNoMemory:
    @pytest.fixture(autouse=True)
    def little(self, cuda: torch.device) -> Iterator[None]:
        """Leave this process 300 MB of the GPU."""
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(cuda).total_memory
        torch.cuda.set_per_process_memory_fraction(300e6 / total)
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

    def test_training_says_so_and_the_next_one_works(
        self, tmp_path: Path, phantoms: tuple[Path, Path], data: tuple[LungCTDataset, ...]
    ) -> None:
        pairs = lungunet.find_pairs(*phantoms)
        large = LungCTDataset(pairs, size=512)
        settings = config(torch.device("cuda"), batch_size=12)
        with pytest.raises(ConfigError, match="out of memory with batch_size 12 at 512x512"):
            Trainer(build_unet("resnet18", seed=0), settings, out=tmp_path / "large").fit(
                large, LungCTDataset(pairs, contract=large.contract)
            )
        small = Trainer(
            build_unet("unet2015", width=4, seed=0),
            config(torch.device("cuda")),
            out=tmp_path / "s",
        )
        assert len(small.fit(*data)) == 2

    def test_predicting_says_so_and_goes_on_with_less(self) -> None:
        network = build_unet("unet2015", width=32, seed=0)
        predictor = lungunet.Predictor(network, lungunet.InputContract(512), device="cuda")
        slices = [np.full((512, 512), -500, np.int16)] * 16
        with pytest.raises(ConfigError, match=r"out of memory with 16 slices.*Lower batch_size"):
            predictor.segment(slices)
        assert len(predictor.segment(slices[:1])) == 1


def test_batches_travel_from_pinned_memory(
    cuda: torch.device, data: tuple[LungCTDataset, ...]
) -> None:
    assert EightBitSamples.serve(data[0])
    for workers in (0, 2):
        loader = make_loader(data[0], batch_size=2, workers=workers, eight_bit=True)
        for image, mask in loader:
            assert image.is_pinned()
            assert mask.is_pinned()


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_stay_last_through_the_network(device: torch.device, family: str) -> None:
    model = FAMILIES[family]()
    learner = Learner(model, config(device, precision="bf16"), None)
    turned: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            lies = output.is_contiguous(memory_format=torch.channels_last)
            if output.shape[1] > 1 and output.shape[2] > 1 and not lies:
                turned.append(name)

        return look

    for name, module in learner.model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch(name))
    image, mask = batch()
    learner.forward(learner.training_net(1), image, mask)
    assert not turned


@pytest.mark.parametrize("encoder", ["tu-mobilenetv3_small_100", "resnet18", "unet2015"])
def test_two_runs_are_equal_in_deterministic_mode(
    tmp_path: Path,
    device: torch.device,
    data: tuple[LungCTDataset, ...],
    deterministic: None,
    encoder: str,
) -> None:
    states = []
    for number in range(2):
        model = build_unet(encoder, seed=0)
        Trainer(model, config(device, precision="bf16"), out=tmp_path / str(number)).fit(*data)
        states.append(weights(model))
    assert same(*states)


@pytest.mark.parametrize("stop_after", [4, 6], ids=["between epochs", "within one"])
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path,
    device: torch.device,
    data: tuple[LungCTDataset, ...],
    deterministic: None,
    stop_after: int,
) -> None:
    precision = "fp16" if device.type == "cuda" else "bf16"

    def trainer(out: str, **options: Any) -> Trainer:
        model = build_unet("unet2015", width=4, seed=0)  # has dropout, so generators matter
        settings = config(device, precision=precision, epochs=3)
        return Trainer(model, settings, out=tmp_path / out, **options)

    whole = trainer("whole")
    whole.fit(*data)
    asked = itertools.count(1)
    stopped = trainer("stopped", should_stop=lambda: next(asked) > stop_after)
    assert len(stopped.fit(*data)) < 3
    again = trainer("stopped")
    again.fit(*data, resume=True)
    assert same(weights(again.model), weights(whole.model))
    assert [r.val.iou for r in again.history] == [r.val.iou for r in whole.history]


def test_a_run_of_the_gpu_goes_on_without_it(
    tmp_path: Path, device: torch.device, data: tuple[LungCTDataset, ...]
) -> None:
    for where, epochs in ((device, 1), (torch.device("cpu"), 2)):
        model = build_unet("resnet18", seed=0)
        trainer = Trainer(model, config(where, epochs=epochs), out=tmp_path)
        trainer.fit(*data, resume=epochs == 2)
    assert [result.epoch for result in trainer.history] == [1, 2]
    lungunet.Predictor.load(tmp_path, device="cpu").predict(np.zeros((40, 40), np.int16))


def test_nothing_stays_on_the_device(
    tmp_path: Path, cuda: torch.device, data: tuple[LungCTDataset, ...]
) -> None:
    def work(number: int) -> None:
        model = build_unet("resnet18", seed=0)
        trainer = Trainer(model, config(cuda, precision="fp16"), out=tmp_path / str(number))
        trainer.fit(*data)
        predictor = lungunet.Predictor.load(tmp_path / str(number))
        predictor.predict(np.zeros((40, 40), np.int16))

    held = []
    for number in range(3):
        work(number)
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()  # 64 MiB, whatever was computed
        held.append(torch.cuda.memory_allocated())
    assert held[2] == held[1]
    assert held[2] < 20e6


class TestGraphs:
    """Passes recorded as CUDA graphs are the passes themselves."""

    def train(
        self, data: tuple[LungCTDataset, ...], out: Path, device: torch.device, **changes: Any
    ) -> Trainer:
        model = changes.pop("model", None) or build_unet("unet2015", width=4, seed=0)  # has dropout
        trainer = Trainer(model, config(device, **{"batch_size": 3, **changes}), out=out)
        trainer.fit(*data)
        return trainer

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
    @pytest.mark.parametrize(
        "changes", [{}, {"accumulate": 2}, {"freeze_epochs": 1}], ids=["", "accumulate", "freeze"]
    )
    def test_same_weights_bit_for_bit(
        self,
        tmp_path: Path,
        cuda: torch.device,
        data: tuple[LungCTDataset, ...],
        deterministic: None,
        precision: str,
        changes: dict[str, Any],
    ) -> None:
        """Eight slices in threes: the last batch has another shape."""
        states = []
        for graphs in (False, True):
            if "freeze_epochs" in changes:
                changes["model"] = build_unet("resnet18", seed=0)
            settings = {"precision": precision, "cuda_graphs": graphs, "epochs": 3, **changes}
            states.append(weights(self.train(data, tmp_path / str(graphs), cuda, **settings).model))
        assert same(*states)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_architecture_is_recorded(self, cuda: torch.device, family: str) -> None:
        torch.manual_seed(0)
        model = FAMILIES[family]()
        losses = []
        for graphs in (False, True):
            learner = Learner(deepcopy(model), config(cuda, cuda_graphs=graphs), None)
            net = learner.training_net(1)
            assert isinstance(net, Recorded) == graphs
            image, mask = batch()
            hold_dropout(net)
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                for _ in range(3):
                    logits, mask = learner.forward(net, image, mask)
                    loss = learner.loss(logits, mask)
                    learner.stepper.backward(loss)
                    learner.stepper.step()
                    losses.append(loss.item())
            if graphs:
                assert net._passes is not None
        assert losses[3:] == pytest.approx(losses[:3], rel=5e-3)

    def test_it_is_not_slower(self, cuda: torch.device) -> None:
        taken = {}
        for graphs in (False, True):
            learner = Learner(build_unet(seed=0), config(cuda, cuda_graphs=graphs), None)
            net = learner.training_net(1)
            image, mask = batch()
            for step in range(13):
                if step == 3:
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                logits, mask = learner.forward(net, image, mask)
                learner.stepper.backward(learner.loss(logits, mask))
                learner.stepper.step()
            torch.cuda.synchronize()
            taken[graphs] = time.perf_counter() - start
        print(taken)
        assert taken[True] < taken[False]

    def test_a_network_that_waits_runs_as_it_is(self, cuda: torch.device) -> None:
        class Waits(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Conv2d(1, 2, 1)

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return self.layer(image) * float(image.mean().item() > -1e9)

        net = Recorded(Waits().to(cuda), adds_up=False)
        image = torch.ones(2, 1, 8, 8, device=cuda)
        net(image).sum().backward()
        assert net._passes is None
        assert torch.rand(3, device=cuda).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of the compiler itself
def test_compiled_as_plain(tmp_path: Path, device: torch.device) -> None:
    losses = []
    for compiled in (False, True):
        model = build_unet("resnet18", seed=0)
        settings = config(device, precision="bf16", compile=compiled)
        learner = Learner(model, settings, None)
        net = learner.training_net(1)
        image, mask = batch()
        with fast_products(device):
            for _ in range(3):
                logits, _ = learner.forward(net, image, mask)
                loss = learner.loss(logits, mask.to(device))
                learner.stepper.backward(loss)
                learner.stepper.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_finds_a_learning_rate(
    tmp_path: Path, device: torch.device, data: tuple[LungCTDataset, ...]
) -> None:
    trainer = Trainer(build_unet("resnet18", seed=0), config(device), out=tmp_path)
    before = weights(trainer.model)
    found = trainer.find_lr(data[0], steps=20)
    assert 1e-6 < found.suggestion < 1
    assert same(weights(trainer.model), before)


@pytest.fixture(scope="module")
def slices(phantoms: tuple[Path, Path]) -> list[np.ndarray]:
    images = [lungunet.read_image(pair.image) for pair in lungunet.find_pairs(*phantoms)]
    return [np.kron(image, np.ones((6, 6), np.int16)) for image in images]


class TestPredicting:
    @pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99)])
    @pytest.mark.parametrize("tta", [False, True])
    def test_masks_are_those_of_the_cpu(
        self,
        device: torch.device,
        slices: list[np.ndarray],
        precision: str,
        least: float,
        tta: bool,
    ) -> None:
        expected = lungunet.Predictor.load("lungs", device="cpu", precision="fp32", tta=tta)
        ours = lungunet.Predictor.load("lungs", device=str(device), precision=precision, tta=tta)
        both = either = 0
        for want, got in zip(expected.segment(slices), ours.segment(slices), strict=True):
            both += np.count_nonzero(want.classes & got.classes)
            either += np.count_nonzero(want.classes | got.classes)
            assert got.probabilities.sum(0) == pytest.approx(1, abs=1e-6)
        assert either > 10_000
        assert both / either > least

    def test_a_scan(self, device: torch.device, slices: list[np.ndarray]) -> None:
        array = np.stack(slices)
        volume = Volume(array, Path("a.nii"), "a", Grid.axial(array.shape, (5.0, 1.0, 1.0)))
        masks = [
            lungunet.predict_volume(lungunet.Predictor.load("lungs", device=where), volume).classes
            for where in ("cpu", str(device))
        ]
        both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
        assert both > 0.99 * either > 0

    def test_three_classes(self, device: torch.device, slices: list[np.ndarray]) -> None:
        network = build_unet("resnet18", n_classes=3, seed=0)
        codec = lungunet.LabelCodec({0: 0, 1: 1, 2: 2})
        contract = lungunet.InputContract(64)
        said = [
            lungunet.Predictor(deepcopy(network), contract, codec, device=where, precision="fp32")
            .segment(slices[:2])[1]
            .probabilities
            for where in ("cpu", str(device))
        ]
        assert said[1] == pytest.approx(said[0], abs=5e-3)
