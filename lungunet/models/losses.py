"""The training loss: cross-entropy plus soft Dice, with a stated rule for slices without lung.

Knows logits and masks of class indices; nothing of models, label values or files.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungunet.errors import ConfigError, DataError


class CrossEntropyDiceLoss(nn.Module):
    r"""Cross-entropy plus soft Dice, each per slice, then the mean over the slices.

    For slice :math:`n` with :math:`P` pixels, probabilities :math:`p` and one-hot truth :math:`g`,

    .. math::
        L_n = w_{ce} \frac{1}{P} \sum_i -\log p_{i, g_i}
            + w_{dice} \frac{1}{C - 1} \sum_{c=1}^{C-1} D_{nc}

    with, for each lung class :math:`c` (background has no Dice term),

    .. math::
        D_{nc} = \begin{cases}
            1 - \dfrac{2 \sum_i p_{ic} g_{ic}}{\sum_i p_{ic} + \sum_i g_{ic}}
                & \text{where the slice holds class } c \\
            \frac{1}{P} \sum_i p_{ic} & \text{where it does not.}
        \end{cases}

    The second line is the rule for a slice without lung: it costs the share of the slice that is
    called lung, 0 for none and 1 for all, and pushes every pixel down with the same force. The
    usual smoothing constant would cost 1 - s / (sum p + s) there: almost 1 as soon as a few pixels
    are wrong, with a gradient that vanishes where it is needed. Without smoothing the first line
    is exact.

    Dice is taken per slice and never over the batch, so the loss depends neither on how slices are
    batched nor on how many processes share a batch.

    Parameters
    ----------
    ce_weight : weight of the cross-entropy, at least 0
    dice_weight : weight of the soft Dice, at least 0

    Raises
    ------
    ConfigError
        A weight is negative, or both are 0.

    References
    ----------
    Milletari, Navab, Ahmadi 2016, V-Net, DOI 10.1109/3DV.2016.79 (soft Dice; there with squares in
    the denominator). Sudre et al. 2017, DOI 10.1007/978-3-319-67558-9_28 (the form without
    squares).

    Examples
    --------
    >>> loss = CrossEntropyDiceLoss(ce_weight=0.0)
    >>> all_lung = torch.tensor([-20.0, 20.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    >>> no_lung = torch.zeros(1, 4, 6, dtype=torch.int64)
    >>> round(loss(all_lung, no_lung).item(), 6), round(loss(-all_lung, no_lung).item(), 6)
    (1.0, 0.0)
    """

    def __init__(self, *, ce_weight: float = 1.0, dice_weight: float = 1.0) -> None:
        super().__init__()
        if min(ce_weight, dice_weight) < 0 or not ce_weight + dice_weight > 0:
            raise ConfigError(
                f"ce_weight: {ce_weight}, dice_weight: {dice_weight}. Neither may be negative and "
                "one must be above 0."
            )
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Give the mean loss of a batch.

        Parameters
        ----------
        logits : (N, C, H, W) float, before softmax, C >= 2
            Half precision is computed in float32, under autocast too.
        mask : (N, H, W) int64, classes 0..C-1

        Returns
        -------
        () float32, or float64 for float64 logits

        Raises
        ------
        DataError
            Shapes or dtypes do not fit, the batch is empty, or a class of ``mask`` is not one of
            0..C-1. On a GPU, which would have to be waited for, the loss is NaN in that last case.
        """
        _check_batch(logits, mask)
        if logits.shape[1] == 2:
            # The same numbers at half the cost: softmax over two classes is a sigmoid.
            lung = _wide(logits[:, 1]) - _wide(logits[:, 0])
            truth = _known(mask, 2, mask.to(lung.dtype))
            ce = F.binary_cross_entropy_with_logits(lung, truth)
            dice = _dice_loss(lung.sigmoid().unsqueeze(1), truth.unsqueeze(1))
        else:
            log_probs = F.log_softmax(_wide(logits), dim=1)
            one_hot = _one_hot(mask, log_probs)
            # Of all pixels at once: nll_loss has no deterministic 2-D kernel on CUDA, and its 1-D
            # one, for classification, runs on one multiprocessor. The mean over all pixels is the
            # mean over slices of their means, since slices of a batch are one size.
            ce = -_known(mask, logits.shape[1], (one_hot * log_probs).sum(1)).mean()
            dice = _dice_loss(log_probs[:, 1:].exp(), one_hot[:, 1:])
        return self.ce_weight * ce + self.dice_weight * dice

    def extra_repr(self) -> str:
        """Show the weights in ``print(loss)``."""
        return f"ce_weight={self.ce_weight}, dice_weight={self.dice_weight}"


def _check_batch(logits: Tensor, mask: Tensor) -> None:
    n, c, h, w = logits.shape if logits.ndim == 4 else (0, 0, 0, 0)
    if c < 2 or mask.shape != (n, h, w) or not mask.numel():
        raise DataError(
            f"logits: shape {tuple(logits.shape)}, mask: {tuple(mask.shape)}. Give logits "
            "(N, C, H, W) with C >= 2 and a mask (N, H, W), none of them empty."
        )
    if mask.dtype != torch.int64 or not logits.is_floating_point():
        raise DataError(
            f"logits: {logits.dtype}, mask: {mask.dtype}. Give float logits and an int64 mask."
        )
    if not _answers_at_once(mask):
        return
    low, high = mask.aminmax()
    if low < 0 or high >= c:
        raise DataError(
            f"mask: classes {low} to {high}, the logits have 0 to {c - 1}. Decode the mask with "
            "the label codec, or build the model with more classes."
        )


def _answers_at_once(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _known(mask: Tensor, n_classes: int, values: Tensor) -> Tensor:
    """Put NaN where a class is unknown and could not be refused, so that the loss becomes NaN."""
    if _answers_at_once(mask):
        return values
    return torch.where((mask >= 0) & (mask < n_classes), values, torch.nan)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _one_hot(mask: Tensor, like: Tensor) -> Tensor:
    # F.one_hot would wait for a CUDA device
    classes = torch.arange(like.shape[1], device=like.device).view(1, -1, 1, 1)
    return (mask.unsqueeze(1) == classes).to(like.dtype)


def _dice_loss(probs: Tensor, truth: Tensor) -> Tensor:
    """Give the mean Dice loss of (N, C - 1, H, W) lung probabilities against one-hot truth."""
    n_both, n_pred, n_truth = (x.sum(dim=(2, 3)) for x in (probs * truth, probs, truth))
    # Where the slice holds the class the denominator is at least 1, so the clamp changes nothing
    # there; where it does not, it keeps 0 / 0 out of the branch not taken, whose gradient would be
    # NaN.
    dice = 2 * n_both / (n_pred + n_truth).clamp_min(1)
    return torch.where(n_truth > 0, 1 - dice, probs.mean(dim=(2, 3))).mean()
