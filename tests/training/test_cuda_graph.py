"""Which passes are recorded as CUDA graphs, and when anew; test_gpu.py: whether they are right."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import lungunet
from lungunet import ConfigError, TrainConfig
from lungunet.training import cuda_graph
from lungunet.training.cuda_graph import Recorded, can_be_recorded
from lungunet.training.learner import Learner


class Own(smp.Unet):
    """May do anything in its pass."""


class Played:
    """Stands for recorded passes."""

    def __init__(self, net: nn.Module, image: torch.Tensor, adds_up: bool) -> None:
        self.net, self.shape, self.adds_up = net, image.shape, adds_up
        self.parameters = [p for p in net.parameters() if p.requires_grad]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[Played]:
    """Return what is recorded; playing it gives zeros."""
    made: list[Played] = []

    def record(*given: Any) -> Played:
        made.append(Played(*given))
        return made[-1]

    def apply(passes: Played, image: torch.Tensor, *_: nn.Parameter) -> torch.Tensor:
        assert image.shape == passes.shape
        return torch.zeros(len(image), 2, *image.shape[2:])

    monkeypatch.setattr(cuda_graph, "_record", record)
    monkeypatch.setattr(cuda_graph._Replay, "apply", apply)
    return made


@pytest.fixture
def net() -> nn.Module:
    return lungunet.build_unet("unet2015", width=2, seed=0)


def test_networks_of_smp_and_the_one_of_2015_are_recorded(net: nn.Module) -> None:
    assert can_be_recorded(net)
    assert can_be_recorded(lungunet.build_unet("resnet18", seed=0))
    assert not can_be_recorded(Own("resnet18", encoder_weights=None, in_channels=1, classes=2))
    assert not can_be_recorded(nn.Conv2d(1, 2, 1))


@pytest.mark.parametrize(
    "hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_would_be_left_out(net: nn.Module, hook: str) -> None:
    layer = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    handle = getattr(layer, hook)(lambda *_: None)
    assert not can_be_recorded(net)
    handle.remove()
    assert can_be_recorded(net)


def test_batches_of_another_shape_are_computed(net: nn.Module, played: list[Played]) -> None:
    recorded = Recorded(net.train(), adds_up=True)
    whole = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    given = [recorded(image).any().item() for image in (whole, whole[:2], whole)]
    assert given == [False, True, False]
    assert len(played) == 1
    assert played[0].adds_up


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            RuntimeError("CUDA error: no\nmore"),
            r"UNet2015: .* \(CUDA error: no\).*cuda_graphs=False",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "^CUDA out of memory"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(cuda_graph, "_record", fail)
    with pytest.raises((ConfigError, torch.OutOfMemoryError), match=said):
        Recorded(net, adds_up=False)(torch.ones(2, 1, 32, 32))


def change_nothing(net: nn.Module) -> None:
    pass


def freeze(net: nn.Module) -> None:
    next(net.parameters()).requires_grad_(False)


def move(net: nn.Module) -> None:
    parameter = next(net.parameters())
    parameter.data = parameter.data.clone()


def hold_dropout(net: nn.Module) -> None:
    next(m for m in net.modules() if isinstance(m, nn.Dropout)).eval()


def learn(net: nn.Module) -> None:
    with torch.no_grad():
        next(net.parameters()).add_(1)


@pytest.mark.parametrize(
    ("change", "is_stale"),
    [(change_nothing, False), (learn, False), (freeze, True), (move, True), (hold_dropout, True)],
)
def test_what_a_recording_holds_on_to(
    net: nn.Module, played: list[Played], change: Any, is_stale: bool
) -> None:
    recorded = Recorded(net.train(), adds_up=False)
    recorded(torch.ones(2, 1, 32, 32))
    change(net)
    assert recorded.is_stale == is_stale


class TestLearner:
    """Asked as if the CPU were a GPU."""

    def learner(self, net: nn.Module, **changes: Any) -> Learner:
        learner = Learner(net, TrainConfig(device="cpu", precision="fp32", **changes), None)
        learner.device = torch.device("cuda")
        return learner

    def test_one_recording_serves_all_epochs(self, net: nn.Module) -> None:
        learner = self.learner(net)
        first = learner.training_net(1)
        assert isinstance(first, Recorded)
        assert learner.training_net(2) is first
        learner.forget_recorded()
        assert learner.training_net(3) is not first

    def test_a_new_one_once_the_encoder_learns(self) -> None:
        learner = self.learner(lungunet.build_unet("resnet18", seed=0), freeze_epochs=1)
        first = learner.training_net(1)
        assert isinstance(learner.training_net(2), Recorded)
        assert learner.training_net(2) is not first

    def test_gradients_that_add_up_are_copies(self, net: nn.Module, played: list[Played]) -> None:
        for accumulate in (1, 2):
            self.learner(net, accumulate=accumulate).training_net(1)(torch.ones(2, 1, 32, 32))
        assert [each.adds_up for each in played] == [False, True]

    def test_not_where_it_is_turned_off(self, net: nn.Module) -> None:
        assert self.learner(net, cuda_graphs=False).training_net(1) is net
        compiled = self.learner(net, compile=True)
        assert compiled.training_net(1) is compiled.net

    def test_not_on_a_cpu(self, net: nn.Module) -> None:
        learner = Learner(net, TrainConfig(device="cpu"), None)
        assert learner.training_net(1) is net
