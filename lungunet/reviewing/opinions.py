"""What a model and the threshold rule make of a slice under review, kept while it is looked at."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import cv2
import numpy as np

from lungunet.data.hu import NO_WINDOW, guess_hu, tells_hu
from lungunet.errors import DataError
from lungunet.inference.doubt import LabelView, load_opinion
from lungunet.inference.predictor import Predictor

_KEPT = 48  # planes
_WORDS = ("lungs", "threshold")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Opinion:
    """Someone else's mask of a slice.

    Parameters
    ----------
    classes : (H, W) uint8
    n_classes : how many he knows
    """

    classes: np.ndarray
    n_classes: int


class Opinions:
    """Asks once about each slice, one at a time.

    Parameters
    ----------
    model : whom to ask beside the threshold rule, as :meth:`Predictor.load` takes it
    device : the model's
    """

    def __init__(self, model: str, *, device: str = "auto") -> None:
        self.model = model
        self._device = device
        self._predictor: Predictor | None = None
        self._kept: OrderedDict[object, Any] = OrderedDict()
        self._lock = Lock()

    def load(self) -> None:
        """Read the model, if it is not yet there."""
        with self._lock:
            self._load()

    def _load(self) -> Predictor:
        if self._predictor is None:
            if self.model in _WORDS:
                self._predictor = load_opinion(self.model)
            else:
                self._predictor = Predictor.load(self.model, device=self._device)
        return self._predictor

    def of_model(
        self, key: object, image: np.ndarray, *, spacing_mm: tuple[float, float] | None = None
    ) -> Opinion:
        """Return what the model sees in the slice, (H, W), that ``key`` stands for."""

        def ask() -> Opinion:
            predictor = self._load()
            seen = _require_hu(image) if self.model in _WORDS else image
            ((said,),) = predictor.segment_ahead([seen], spacing_mm=spacing_mm)
            return Opinion(said.classes.astype(np.uint8), predictor.codec.n_classes)

        return self._remember(("model", key), ask)

    def of_rule(self, key: object, image: np.ndarray) -> Opinion:
        """Return what the threshold rule sees."""

        def ask() -> Opinion:
            classes = load_opinion("threshold").segment([_require_hu(image)])[0].classes
            return Opinion(classes.astype(np.uint8), 2)

        return self._remember(("rule", key), ask)

    def outside(self, key: object, image: np.ndarray) -> np.ndarray:
        """Return what lies around the body, (H, W) uint8, 0 or 1."""

        def ask() -> np.ndarray:
            around = LabelView(image, np.zeros(image.shape, bool)).outside.view(np.uint8)
            size = (image.shape[1], image.shape[0])
            return np.asarray(cv2.resize(around, size, interpolation=cv2.INTER_NEAREST))

        return self._remember(("outside", key), ask)

    def _remember(self, key: object, ask: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = ask()
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found: T = self._kept[key]
            return found


def _require_hu(image: np.ndarray) -> np.ndarray:
    if not tells_hu(image):
        raise DataError(NO_WINDOW, where="slice")
    return guess_hu(image)
