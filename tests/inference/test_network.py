"""A network on the CPU: parts of a batch side by side, and nobody else's threads touched."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import lungunet
from lungunet.errors import ConfigError, ModelError
from lungunet.inference import network
from lungunet.inference import segmenter as parts
from lungunet.inference.network import TorchSegmenter
from lungunet.phantom.phantom import phantom_slice

SIDE = 32


class Spy(torch.nn.Module):
    """Says lung where it is bright, and notes who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, int, int]] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(batch), threading.get_ident(), torch.get_num_threads()))
        return torch.cat([-batch, batch], 1)


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def segmenter(model: torch.nn.Module) -> TorchSegmenter:
    contract = lungunet.InputContract(SIDE)
    return TorchSegmenter(model, contract, lungunet.LUNG_CODEC, device="cpu", precision="fp32")


def prepared(of: TorchSegmenter, n: int) -> list[network.Fitted]:
    rng = np.random.default_rng(0)
    sizes = [(SIDE, SIDE), (20, 41)]
    return [of.prepare(rng.integers(-1100, 200, sizes[i % 2]).astype(np.int16)) for i in range(n)]


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


@pytest.mark.usefixtures("four_threads")
class TestParts:
    def test_fit_the_cache_and_share_the_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "_PART_PX", 2 * SIDE**2)
        spy = Spy()
        own = segmenter(spy)
        own(prepared(own, 7))
        assert sorted(n for n, _, _ in spy.calls) == [1, 2, 2, 2]
        assert {threads for _, _, threads in spy.calls} == {1}
        assert threading.get_ident() not in {thread for _, thread, _ in spy.calls}

    def test_two_have_two_threads_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "_PART_PX", 4 * SIDE**2)
        spy = Spy()
        own = segmenter(spy)
        own(prepared(own, 8))
        assert {threads for _, _, threads in spy.calls} == {2}

    def test_a_slice_larger_than_a_part_is_a_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "_PART_PX", 1)
        spy = Spy()
        own = segmenter(spy)
        own(prepared(own, 3))
        assert [n for n, _, _ in spy.calls] == [1, 1, 1]

    def test_what_fits_one_part_stays_in_this_thread(self) -> None:
        spy = Spy()
        own = segmenter(spy)
        own(prepared(own, 5))
        assert spy.calls == [(5, threading.get_ident(), 4)]

    def test_same_masks_in_the_same_order_as_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = segmenter(lungunet.build_unet("tu-mobilenetv3_small_100", seed=0))
        slices = prepared(own, 9)
        at_once = own(slices)
        monkeypatch.setattr(parts, "_PART_PX", 2 * SIDE**2)
        in_parts = own(slices)
        assert [one.classes.shape for one in in_parts] == [one.classes.shape for one in at_once]
        for one, other in zip(in_parts, at_once, strict=True):
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)

    def test_threads_are_as_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parts, "_PART_PX", SIDE**2)
        own = segmenter(Spy())
        own(prepared(own, 4))
        assert torch.get_num_threads() == 4
        assert threads_of_a_new_thread() == 4

    def test_threads_born_meanwhile_are_not_cut_short(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is set for the lanes is the process's own number for new threads too."""
        monkeypatch.setattr(parts, "_PART_PX", SIDE**2)
        seen: list[int] = []

        class Watching(Spy):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                time.sleep(0.05)  # until the last lane has begun
                seen.append(threads_of_a_new_thread())
                return super().forward(batch)

        own = segmenter(Watching())
        own(prepared(own, 6))
        assert seen == [4] * 6

    def test_threads_are_as_before_when_many_ask_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parts, "_PART_PX", SIDE**2)
        own = segmenter(Spy())
        slices = prepared(own, 5)
        callers = [threading.Thread(target=lambda: [own(slices) for _ in range(8)]) for _ in "abcd"]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert threads_of_a_new_thread() == 4

    def test_threads_are_as_before_when_the_model_fails(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(torch.nn.Module):
            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("no")

        monkeypatch.setattr(parts, "_PART_PX", SIDE**2)
        own = segmenter(Broken())
        with pytest.raises(ConfigError, match=r"does not take slices of shape .* \(no\)"):
            own(prepared(own, 4))
        assert threads_of_a_new_thread() == 4


def test_what_is_no_number_becomes_no_mask() -> None:
    class Broken(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.full((len(batch), 2, *batch.shape[2:]), torch.nan)

    broken = segmenter(Broken())
    with pytest.raises(ModelError, match="NaN"):
        broken(prepared(broken, 1))


def test_no_memory_says_what_to_lower() -> None:
    class Large(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    own = segmenter(Large())
    with pytest.raises(ConfigError, match=r"out of memory with 3 slices at 32x32 .* batch_size"):
        own(prepared(own, 3))


@pytest.fixture(scope="module")
def lungs() -> lungunet.Predictor:
    return lungunet.Predictor.load("lungs", device="cpu", precision="fp32")


class TestBuiltInModel:
    """What it has not been trained on, brought to what it has."""

    @staticmethod
    def iou(predictor: lungunet.Predictor, hu: np.ndarray, truth: np.ndarray) -> float:
        lung = predictor.predict(hu) > 0
        return float((lung & truth).sum() / (lung | truth).sum())

    @pytest.mark.parametrize("shape", [(700, 620), (300, 900)])
    def test_a_body_that_is_small_in_its_picture(
        self, lungs: lungunet.Predictor, shape: tuple[int, int]
    ) -> None:
        made = phantom_slice(4, 0.5, size=224)
        hu, truth = np.full(shape, -1000, np.int16), np.zeros(shape, bool)
        hu[60:284, 40:264], truth[60:284, 40:264] = made.image, made.mask > 0
        alone = self.iou(lungs, made.image, made.mask > 0)
        assert self.iou(lungs, hu, truth) > alone - 0.01
        segmented = lungs.segment([hu])[0]
        assert segmented.probabilities is not None
        np.testing.assert_allclose(segmented.probabilities.sum(axis=0), 1, atol=1e-5)

    def test_parts_of_a_chest_that_the_picture_cuts_are_all_looked_at(
        self, lungs: lungunet.Predictor
    ) -> None:
        made = phantom_slice(4, 0.5, size=256)
        columns = np.flatnonzero((made.mask > 0).any(axis=0))
        rows = np.flatnonzero((made.mask > 0).any(axis=1))
        cut = slice(rows[0] + 25, rows[-1] - 25), slice(columns[0] + 15, columns[-1] - 15)
        hu = np.ascontiguousarray(made.image[cut])
        assert lungs.segmenter.prepare(hu).image.shape == hu.shape

    def test_padding_of_0_hu_around_the_circle(self, lungs: lungunet.Predictor) -> None:
        made = phantom_slice(4, 0.5, size=256)
        y, x = np.ogrid[:256, :256]
        beyond = (2 * y - 255) ** 2 + (2 * x - 255) ** 2 > 256**2
        hu = np.where(beyond, np.int16(0), made.image)
        alone = self.iou(lungs, made.image, made.mask > 0)
        assert self.iou(lungs, hu, made.mask > 0) > alone - 0.01
