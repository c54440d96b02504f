"""Training losses, each a mean over slices, with one stated rule for slices without lung.

Knows logits and masks of class indices; nothing of models, label values or files. Those of smp are
not used: on a slice without lung its Dice, Tversky and Lovász are 0 whatever was predicted, and
its focal loss takes each class for a question of its own.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungunet.errors import ConfigError, DataError

LossName = Literal["ce-dice", "ce", "dice", "focal", "tversky", "lovasz", "boundary"]


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a loss is made of: a batch of N slices and C classes, of which K = C - 1 are lung.

    Ignored pixels hold 0 everywhere, so that they add nothing to any sum.

    Parameters
    ----------
    nll : (N, H, W), -log of the probability of the true class, times the weight of that class
    probs : (N, K, H, W) of the lung classes
    truth : (N, K, H, W), 1 where that class is, else 0
    counted : (N, H, W) bool, pixels that are not ignored; None where all count
    """

    nll: Tensor
    probs: Tensor
    truth: Tensor
    counted: Tensor | None

    def mean(self, pixels: Tensor) -> Tensor:
        """Average (N, ..., H, W) over the counted pixels of each slice; 0 where none is."""
        if self.counted is None:
            return pixels.mean(dim=(-2, -1))
        n_counted = self.counted.sum(dim=(-2, -1)).clamp_min(1)
        return pixels.sum(dim=(-2, -1)) / n_counted.view(-1, *[1] * (pixels.ndim - 3))

    def where_held(self, region: Tensor) -> Tensor:
        """Put the rule for a slice without a class in the place of its (N, K) regional loss."""
        held = self.truth.sum(dim=(2, 3)) > 0
        return torch.where(held, region, self.mean(self.probs))


class _SliceLoss(nn.Module, ABC):
    """Checks a batch, and takes the mean of what :meth:`_of_slices` gives."""

    def __init__(self, class_weights: Sequence[float] | None, ignore_index: int | None) -> None:
        super().__init__()
        is_text = isinstance(class_weights, str)
        if class_weights is not None and (
            is_text
            or len(class_weights) < 2
            or not all(0 < weight < math.inf for weight in class_weights)
        ):
            raise ConfigError(
                f"class_weights: {class_weights if is_text else list(class_weights)}. Give one "
                "weight per class, background first, each above 0 and finite."
            )
        weights = None if class_weights is None else torch.tensor([*map(float, class_weights)])
        self.register_buffer("class_weights", weights)
        self.class_weights: Tensor | None
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Give the mean loss of a batch.

        Parameters
        ----------
        logits : (N, C, H, W) float, before softmax, C >= 2
            Half precision is computed in float32, under autocast too.
        mask : (N, H, W) int64, classes 0..C-1, or ``ignore_index`` where a pixel does not count

        Returns
        -------
        () float32, or float64 for float64 logits
            A slice of which every pixel is ignored counts as 0.

        Raises
        ------
        DataError
            Shapes or dtypes do not fit, the batch is empty, or a class of ``mask`` is not one of
            0..C-1. On a GPU, which would have to be waited for, the loss is NaN in that last case.
        ConfigError
            There is not one weight per class.
        """
        _check_batch(logits, mask, self.ignore_index)
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ConfigError(
                f"class_weights: {len(self.class_weights)} weights for {logits.shape[1]} classes. "
                "Give one per class, background first."
            )
        return self._of_slices(self._look(logits, mask)).mean()

    def _look(self, logits: Tensor, mask: Tensor) -> _Seen:
        n_classes = logits.shape[1]
        counted = None if self.ignore_index is None else mask != self.ignore_index
        mask = mask if counted is None else torch.where(counted, mask, 0)
        weights = self.class_weights
        if n_classes == 2:
            # The same numbers at half the cost: softmax over two classes is a sigmoid.
            lung = _wide(logits[:, 1]) - _wide(logits[:, 0])
            truth = _known(mask, 2, mask.to(lung.dtype))
            nll = F.binary_cross_entropy_with_logits(lung, truth, reduction="none")
            if weights is not None:
                nll = nll * (weights[0] + (weights[1] - weights[0]) * truth)
            probs, truth = lung.sigmoid().unsqueeze(1), truth.unsqueeze(1)
        else:
            log_probs = F.log_softmax(_wide(logits), dim=1)
            one_hot = _one_hot(mask, log_probs)
            if weights is None:
                weights = log_probs.new_ones(())
            # By hand: nll_loss has no deterministic 2-D kernel on CUDA, and its 1-D one, for
            # classification, runs on one multiprocessor.
            likely = (one_hot * weights.view(-1, 1, 1).to(log_probs.dtype) * log_probs).sum(1)
            nll = -_known(mask, n_classes, likely)
            probs, truth = log_probs[:, 1:].exp(), one_hot[:, 1:]
        if counted is None:
            return _Seen(nll, probs, truth, None)
        nothing = nll.new_zeros(())
        inside = counted.unsqueeze(1)
        probs, truth = (torch.where(inside, each, nothing) for each in (probs, truth))
        return _Seen(torch.where(counted, nll, nothing), probs, truth, counted)

    def _over_classes(self, losses: Tensor) -> Tensor:
        """Average (N, K) losses of lung classes, by their weights, to (N,)."""
        if self.class_weights is None:
            return losses.mean(dim=1)
        weights = self.class_weights[1:].to(losses.dtype)
        return (losses * weights).sum(dim=1) / weights.sum()

    @abstractmethod
    def _of_slices(self, seen: _Seen) -> Tensor:
        """Return the loss of each slice, (N,)."""

    def _arguments(self) -> dict[str, float]:
        """Return what the loss was made with, beside weights of classes and what is ignored."""
        return {}

    def extra_repr(self) -> str:
        """Show in ``print(loss)`` what it was made with."""
        about: dict[str, object] = dict(self._arguments())
        if self.class_weights is not None:
            about["class_weights"] = [round(weight, 4) for weight in self.class_weights.tolist()]
        if self.ignore_index is not None:
            about["ignore_index"] = self.ignore_index
        return ", ".join(f"{name}={value}" for name, value in about.items())


class CrossEntropyDiceLoss(_SliceLoss):
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
    class_weights : one per class, background first, above 0: what a pixel of a class counts in the
        cross-entropy, whose sum is still divided by the number of pixels, and what a lung class
        counts in the mean of their Dice terms
    ignore_index : value of the mask that counts nowhere; a dataset whose codec ignores pixels
        gives :data:`lungunet.IGNORE` to them

    Raises
    ------
    ConfigError
        A weight is negative, or both are 0; or a weight of a class is not above 0.

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

    def __init__(
        self,
        *,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if min(ce_weight, dice_weight) < 0 or not 0 < ce_weight + dice_weight < math.inf:
            raise ConfigError(
                f"ce_weight: {ce_weight}, dice_weight: {dice_weight}. Neither may be negative and "
                "one must be above 0."
            )
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight

    def _of_slices(self, seen: _Seen) -> Tensor:
        """Add both terms."""
        dice = self._over_classes(_tversky_loss(seen, 0.5, 0.5))
        return self.ce_weight * seen.mean(seen.nll) + self.dice_weight * dice

    def _arguments(self) -> dict[str, float]:
        """Return both weights."""
        return {"ce_weight": self.ce_weight, "dice_weight": self.dice_weight}


class FocalLoss(_SliceLoss):
    """Cross-entropy in which a pixel counts less the surer it is: (1 - p)^gamma times -log p.

    On a slice without lung as elsewhere: 0 where no pixel is called lung.

    Parameters
    ----------
    gamma : 0 is the cross-entropy; else at least 1
    class_weights, ignore_index : as for :class:`CrossEntropyDiceLoss`; the weights are the alpha of
        the paper

    References
    ----------
    Lin et al. 2017, DOI 10.1109/ICCV.2017.324, equation 5.
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        # Between 0 and 1 the slope is infinite for a pixel that is right.
        if not (gamma == 0 or 1 <= gamma < math.inf):
            raise ConfigError(f"gamma: {gamma}. Give 0, or 1 or more. 2 is usual.")
        self.gamma = gamma

    def _of_slices(self, seen: _Seen) -> Tensor:
        """Average over the pixels."""
        p_wrong = (1 - self._p_right(seen)).clamp_min(0)  # which rounding may pass
        return seen.mean(p_wrong.pow(self.gamma) * seen.nll)

    @staticmethod
    def _p_right(seen: _Seen) -> Tensor:
        """Return the probability of the true class, (N, H, W)."""
        p_lung, is_lung = seen.probs.sum(dim=1), seen.truth.sum(dim=1)
        return (seen.probs * seen.truth).sum(dim=1) + (1 - p_lung) * (1 - is_lung)

    def _arguments(self) -> dict[str, float]:
        """Return gamma."""
        return {"gamma": self.gamma}


class TverskyLoss(_SliceLoss):
    """Soft Dice that minds missed lung more than lung that is none, or the other way round.

    ``1 - TP / (TP + alpha FP + beta FN)`` per slice and lung class; with 0.5 and 0.5 it is the Dice
    loss. A slice without the class costs the share of it that is called so, as in
    :class:`CrossEntropyDiceLoss`.

    Parameters
    ----------
    alpha, beta : what a pixel too many and one too few count, above 0
    ce_weight : of the cross-entropy, which is added; at least 0
    class_weights, ignore_index : as for :class:`CrossEntropyDiceLoss`

    References
    ----------
    Salehi, Erdogmus, Gholipour 2017, DOI 10.1007/978-3-319-67389-9_44, equation 4.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        ce_weight: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        if not (0 < alpha < math.inf and 0 < beta < math.inf):
            raise ConfigError(f"alpha: {alpha}, beta: {beta}. Give two numbers above 0.")
        _check_at_least_0(ce_weight=ce_weight)
        self.alpha, self.beta, self.ce_weight = alpha, beta, ce_weight

    def _of_slices(self, seen: _Seen) -> Tensor:
        """Take each lung class by itself."""
        region = self._over_classes(_tversky_loss(seen, self.alpha, self.beta))
        return region + self.ce_weight * seen.mean(seen.nll)  # 0 times NaN stays NaN

    def _arguments(self) -> dict[str, float]:
        """Return the weights."""
        return {"alpha": self.alpha, "beta": self.beta, "ce_weight": self.ce_weight}


class LovaszLoss(_SliceLoss):
    """The Lovász extension of 1 - IoU, per slice and lung class.

    The paper's value for a slice without the class is the largest probability in it, which moves a
    single pixel. Here it is the share of the slice that is called so, as in
    :class:`CrossEntropyDiceLoss`.

    Parameters
    ----------
    ce_weight : of the cross-entropy, which is added; at least 0
    class_weights, ignore_index : as for :class:`CrossEntropyDiceLoss`

    References
    ----------
    Berman, Triki, Blaschko 2018, DOI 10.1109/CVPR.2018.00464, equations 8 and 11.
    """

    def __init__(
        self,
        *,
        ce_weight: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        _check_at_least_0(ce_weight=ce_weight)
        self.ce_weight = ce_weight

    def _of_slices(self, seen: _Seen) -> Tensor:
        """Weigh each error by what it takes from the IoU, the largest errors first."""
        errors = (seen.truth - seen.probs).abs().flatten(2)
        weights = _lovasz_weights(errors.detach(), seen.truth.flatten(2))
        region = self._over_classes(seen.where_held((errors * weights).sum(dim=2)))
        return region + self.ce_weight * seen.mean(seen.nll)  # 0 times NaN stays NaN

    def _arguments(self) -> dict[str, float]:
        """Return the weight of the cross-entropy."""
        return {"ce_weight": self.ce_weight}


class BoundaryLoss(_SliceLoss):
    r"""Cross-entropy plus soft Dice plus how far from the border the wrong pixels lie.

    The third term is, for each lung class, the mean over the pixels of
    :math:`\phi \, (p - g) / r`, with :math:`\phi` the distance to the border of the truth in px,
    negative inside, bounded by the reach :math:`r`: 0 for the truth, 1 where all is wrong and far
    from the border. In a slice without the class every pixel is far from it, so that it costs the
    share that is called so, as in :class:`CrossEntropyDiceLoss`.

    Parameters
    ----------
    weight : of the third term, at least 0; the others have 1
    reach : px; what is farther from the border counts as if it were so far
    class_weights, ignore_index : as for :class:`CrossEntropyDiceLoss`

    References
    ----------
    Kervadec et al. 2019, DOI 10.1016/j.media.2020.101851, equations 4 and 5, with the constant that
    makes it 0 for the truth.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        reach: float = 32,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(class_weights, ignore_index)
        _check_at_least_0(weight=weight)
        if not (1 <= reach < 10_000 and reach == int(reach)):
            raise ConfigError(f"reach: {reach}. Give whole px, at least 1. 32 is usual.")
        self.weight, self.reach = weight, int(reach)

    def _of_slices(self, seen: _Seen) -> Tensor:
        """Add the three terms."""
        depth = _border_depth(seen, self.reach)
        far = self._over_classes(seen.mean((seen.truth - seen.probs).abs() * depth))
        dice = self._over_classes(_tversky_loss(seen, 0.5, 0.5))
        return seen.mean(seen.nll) + dice + self.weight * far

    def _arguments(self) -> dict[str, float]:
        """Return weight and reach."""
        return {"weight": self.weight, "reach": self.reach}


_LOSSES: Mapping[str, tuple[Callable[..., _SliceLoss], Mapping[str, float]]] = {
    "ce-dice": (CrossEntropyDiceLoss, {}),
    "ce": (CrossEntropyDiceLoss, {"dice_weight": 0.0}),
    "dice": (CrossEntropyDiceLoss, {"ce_weight": 0.0}),
    "focal": (FocalLoss, {}),
    "tversky": (TverskyLoss, {}),
    "lovasz": (LovaszLoss, {}),
    "boundary": (BoundaryLoss, {}),
}


def build_loss(
    name: str = "ce-dice",
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
    **arguments: float,
) -> nn.Module:
    """Build a loss by its name: what ``lungunet train --loss`` takes.

    All take logits (N, C, H, W) and a mask (N, H, W) int64, and return the mean over slices. A
    slice without lung costs, in the regional ones, the share of it that is called lung.

    Parameters
    ----------
    name : ce-dice, ce, dice, focal, tversky, lovasz or boundary
    class_weights : one per class, background first: what a pixel of a class counts in ce, focal and
        the cross-entropy of the others, and what a lung class counts in the mean of the regional
        terms
    ignore_index : value of the mask that counts nowhere
    **arguments : ce-dice takes ce_weight and dice_weight (1, 1), focal gamma (2), tversky alpha,
        beta and ce_weight (0.3, 0.7, 0), lovasz ce_weight (0), boundary weight and reach (1, 32 px)

    Raises
    ------
    ConfigError
        When there is no such loss or argument, or a number is out of range.

    Examples
    --------
    >>> build_loss("focal", gamma=3)
    FocalLoss(gamma=3)
    """
    return make_loss(name, arguments, class_weights=class_weights, ignore_index=ignore_index)


def make_loss(
    name: str,
    arguments: Mapping[str, float],
    *,
    class_weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
) -> nn.Module:
    """Do what :func:`build_loss` does, with the arguments as they stand in a settings file."""
    if name not in _LOSSES:
        near = difflib.get_close_matches(name, _LOSSES, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"'{name}' is not one of {', '.join(_LOSSES)}.{hint}", where="loss")
    kind, fixed = _LOSSES[name]
    known = [] if fixed or not arguments else [*kind()._arguments()]
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no arguments"
        raise ConfigError(f"unknown argument '{unknown[0]}'. It {takes}.", where=f"loss {name}")
    given: dict[str, Any] = {**fixed, **arguments}
    return kind(**given, class_weights=class_weights, ignore_index=ignore_index)


def _check_at_least_0(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{name}: {weight}. Give 0 or more.")


def _check_batch(logits: Tensor, mask: Tensor, ignore_index: int | None) -> None:
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
    if ignore_index is not None and 0 <= ignore_index < c:
        raise ConfigError(
            f"{ignore_index} is one of {c} classes. Give a number that is none.",
            where="ignore_index",
        )
    if not _answers_at_once(mask):
        return
    classes = mask if ignore_index is None else mask[mask != ignore_index]
    low, high = classes.aminmax() if classes.numel() else (0, 0)
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


def _tversky_loss(seen: _Seen, alpha: float, beta: float) -> Tensor:
    """Give 1 - Tversky index per slice and lung class, (N, K)."""
    n_both, n_pred, n_truth = (
        x.sum(dim=(2, 3)) for x in (seen.probs * seen.truth, seen.probs, seen.truth)
    )
    whole = alpha * n_pred + beta * n_truth + (1 - alpha - beta) * n_both
    # Kept away from 0 / 0 where the slice does not hold the class: in the branch not taken, too,
    # it would make the gradient NaN.
    return seen.where_held(1 - n_both / torch.where(n_truth > 0, whole, 1))


def _lovasz_weights(errors: Tensor, truth: Tensor) -> Tensor:
    """Give what each of (N, K, P) errors takes from the IoU of its slice and class.

    That is the gradient of the Lovász extension, which is linear between changes of the order.
    Ignored pixels have no error and come last, where they take nothing from the others.
    """
    order = errors.argsort(dim=2, descending=True, stable=True)
    # Whole numbers: CUDA has no deterministic cumulative sum of others.
    is_lung = truth.gather(2, order).long()
    missed, called = is_lung.cumsum(dim=2), (1 - is_lung).cumsum(dim=2)
    n_truth = is_lung.sum(dim=2, keepdim=True)
    lost = 1 - (n_truth - missed).to(errors.dtype) / (n_truth + called).clamp_min(1)
    steps = torch.diff(lost, dim=2, prepend=torch.zeros_like(lost[..., :1]))
    return torch.empty_like(steps).scatter_(2, order, steps)


@torch.no_grad()
def _border_depth(seen: _Seen, reach: int) -> Tensor:
    """Give the distance of each pixel to the border of each lung class, in reaches, 0 to 1."""
    is_lung = seen.truth > 0
    others = ~is_lung if seen.counted is None else ~is_lung & seen.counted.unsqueeze(1)
    # A pixel of the class beside one that is not lies on the border: its distance is 0, not 1.
    inside, outside = _distance(others, reach + 1) - 1, _distance(is_lung, reach)
    return torch.where(is_lung, inside, outside) / reach


def _distance(region: Tensor, reach: int) -> Tensor:
    """Give the Euclidean distance of each pixel of (N, K, H, W) to a region, at most ``reach``.

    Exact, by shifts along one axis, then the other: works where the tensor lies, and asks for
    nothing back.
    """
    far = float(reach**2)
    squares = torch.where(region, 0.0, far)
    for axis in (2, 3):
        nearest = squares.clone()
        length = squares.shape[axis]
        for step in range(1, min(reach, length)):
            along = squares + float(step**2)
            for here, there in ((0, step), (step, 0)):
                target = nearest.narrow(axis, here, length - step)
                torch.minimum(target, along.narrow(axis, there, length - step), out=target)
        squares = nearest
    return squares.clamp_max(far).sqrt()
