"""Overlays of a few val slices, for TensorBoard."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from lungunet.data.dataset import LungCTDataset
from lungunet.data.overlay import draw_overlay

_PICTURES = 4


@torch.no_grad()
def val_pictures(
    val: LungCTDataset, predict: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and overlay of the same few val slices, spread over the list.

    Parameters
    ----------
    predict : takes (1, 1, H, W) float32, returns logits (1, C, h, w) of its centre
    """
    count = min(_PICTURES, len(val))
    for index in np.linspace(0, len(val) - 1, count).round().astype(int):
        grey, truth = val.read(index)
        logits = predict(torch.from_numpy(val.contract.normalise(grey))[None])
        pred = np.zeros_like(truth)
        small = logits[0].argmax(0).byte().cpu().numpy()
        top, left = ((a - b) // 2 for a, b in zip(truth.shape, small.shape, strict=True))
        pred[top : top + small.shape[0], left : left + small.shape[1]] = small
        name = f"val/{val.pairs[index].name} (truth blue, prediction orange)"
        yield name, draw_overlay(grey, truth=truth, pred=pred)
