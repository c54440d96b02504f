"""A network behind its input contract: the segmenter that needs torch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain, groupby
from threading import Barrier, Lock
from typing import NamedTuple

import numpy as np
import torch

from lungunet.data.codec import LabelCodec
from lungunet.data.contract import InputContract
from lungunet.errors import ConfigError, counted
from lungunet.inference.segmenter import Segmented, cut_parts, not_a_number
from lungunet.models.device import Precision, pick_device, pick_precision
from lungunet.models.folder import encode_weights
from lungunet.models.original import padding
from lungunet.models.torch_errors import (
    explained,
    first_line,
    is_of_the_gpu,
    is_out_of_memory,
)
from lungunet.models.unet import check_fits

# Held while the number of threads that new threads begin with is not the process's own.
_STARTING = Lock()


class Fitted(NamedTuple):
    """A slice as the network sees it, and the size to come back to.

    Parameters
    ----------
    pixels : (1, size, size) float32
    image : (H, W), the slice
    """

    pixels: np.ndarray
    image: np.ndarray


class TorchSegmenter:
    """A network behind its input contract; see ``Segmenter``.

    Parameters
    ----------
    model : returns logits (N, C, size, size); it is moved to the device, and set to predict, in
        place
    device, precision : see :func:`pick_device` and :func:`pick_precision`
    """

    word = ""
    segment_volume = None

    def __init__(
        self,
        model: torch.nn.Module,
        contract: InputContract,
        codec: LabelCodec,
        *,
        device: str | int = "auto",
        precision: Precision = "auto",
    ) -> None:
        check_fits(model, contract.size)
        self.contract = contract
        self.codec = codec
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        model = model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.model = padding(model)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights, as the lungunet.json of a model folder says it."""
        return hashlib.sha256(encode_weights(self.model)).hexdigest()

    def prepare(self, image: np.ndarray, where: str = "slice") -> Fitted:
        """Window, fit and normalise a slice, and refuse one that the contract does not know."""
        return Fitted(self.contract.prepare(image, where), image)

    def __call__(self, prepared: Sequence[Fitted]) -> list[Segmented]:
        """Segment slices of any sizes: on a GPU at once, on the CPU in parts; see ``Segmenter``."""
        n, size = len(prepared), self.contract.size
        parts = cut_parts(prepared, size) if self.device.type == "cpu" else [prepared]
        with explained(f"{n} slices at {size}x{size}", "Lower batch_size, or use device='cpu'."):
            return list(chain.from_iterable(_side_by_side(self._segment, parts)))

    @torch.inference_mode()
    def _segment(self, prepared: Sequence[Fitted]) -> list[Segmented]:
        batch = torch.from_numpy(np.stack([slice_.pixels for slice_ in prepared]))
        batch = batch.to(self.device, memory_format=torch.channels_last)
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.model(batch)
        except (AssertionError, RuntimeError, ValueError) as err:
            if is_out_of_memory(err) or is_of_the_gpu(err):
                raise  # for others to explain
            raise ConfigError(
                f"the network: does not take slices of shape {tuple(batch.shape[1:])} "
                f"({first_line(err)}). Pass the contract that it was trained with."
            ) from err
        self._refuse_misfits(logits, len(prepared))
        if not bool(logits.isfinite().all()):
            raise not_a_number("the network")
        return [Segmented.likeliest(each) for each in self._probabilities(logits.float(), prepared)]

    def _probabilities(
        self, logits: torch.Tensor, prepared: Sequence[Fitted]
    ) -> Iterator[np.ndarray]:
        """Yield (C, H, W) float32 of each slice, at its size; each size leaves the device once."""
        at = 0
        for shape, alike in groupby(slice_.image.shape for slice_ in prepared):
            n = len(list(alike))
            some, at = logits[at : at + n], at + n
            if logits.shape[1] > 2:
                yield from self.contract.unfit(some, *shape).softmax(1).cpu().numpy()
                continue
            # Of two classes the difference says all; scaling it alone takes a tenth of the time.
            gain = self.contract.unfit(some[:, 1:] - some[:, :1], *shape)
            lung = gain.sigmoid_().cpu().numpy()
            for each in lung:
                both = np.empty((2, *shape), np.float32)
                np.subtract(1, each[0], out=both[0])
                both[1] = each[0]
                yield both

    def _refuse_misfits(self, logits: object, n: int) -> None:
        size = self.contract.size
        expected = (n, self.codec.n_classes, size, size)
        given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if given != expected:
            raise ConfigError(
                f"the network: gives {given} for {counted(n, 'slice')}, contract and codec expect "
                f"logits {expected}. Pass those that it was trained with."
            )


def _side_by_side(
    work: Callable[[Sequence[Fitted]], list[Segmented]], parts: Sequence[Sequence[Fitted]]
) -> list[list[Segmented]]:
    """Work on all parts, as many at a time as torch has threads, which they share."""
    with _STARTING:
        threads = torch.get_num_threads()
    lanes = min(threads, len(parts))
    if lanes < 2:
        return [work(part) for part in parts]
    share, begun = threads // lanes, Barrier(lanes + 1)

    def begin() -> None:
        torch.get_num_threads()  # or the first operation would take over what all begin with
        torch.set_num_threads(share)
        begun.wait()

    with ThreadPoolExecutor(lanes, initializer=begin) as pool:
        try:
            with _STARTING:
                results = pool.map(work, parts)  # starts all lanes: none is idle before all began
                begun.wait()
                # Each lane keeps its share. Threads to come begin with what was set last.
                torch.set_num_threads(threads)
        except BaseException:  # no thread to be had, or Ctrl-C
            begun.abort()
            raise
        return list(results)
