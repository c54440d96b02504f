"""Several models in the place of one: their probabilities averaged, their quarrels kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungunet.errors import ConfigError
from lungunet.inference.segmenter import Segmented, Segmenter
from lungunet.models.members import WEIGHTS, is_model_folder

if TYPE_CHECKING:
    from lungunet.inference.network import Fitted
    from lungunet.models.device import Precision
    from lungunet.models.folder import SavedModel

# Bytes of weights that are held at once on the CPU. Where there are more, each model is read anew
# for each batch: models so large compute for much longer than they are read.
_HELD = 2**30


class EnsembleSegmenter:
    """Says of a slice what its members say on average; see ``Segmenter``.

    Parameters
    ----------
    members : of one contract and one codec, each with probabilities

    Raises
    ------
    ConfigError
        When they do not see the same or do not say the same.
    """

    word = ""
    segment_volume = None

    def __init__(self, members: Sequence[Segmenter]) -> None:
        first = members[0]
        for number, other in enumerate(members[1:], start=2):
            for what in ("contract", "codec"):
                ours, theirs = getattr(first, what), getattr(other, what)
                if ours != theirs:
                    raise ConfigError(
                        f"model {number} has another {what} ({theirs}) than the first ({ours}). "
                        "Join models that were trained alike: window, size and labels.",
                        where="ensemble",
                    )
        self.members = tuple(members)
        self.contract, self.codec = first.contract, first.codec
        # Of one contract, those of one kind prepare a slice alike.
        self._kinds = {type(member): member for member in self.members}

    def prepare(self, image: np.ndarray, where: str = "slice") -> dict[type, Any]:
        """Check a slice, and prepare it once for each kind of member."""
        return {kind: member.prepare(image, where) for kind, member in self._kinds.items()}

    def __call__(self, prepared: Sequence[dict[type, Any]]) -> list[Segmented]:
        """Segment slices with one member after the other; see ``Segmenter``."""
        said = [_Said() for _ in prepared]
        for member in self.members:
            answers = member([each[type(member)] for each in prepared])
            for one, answer in zip(said, answers, strict=True):
                one.add(answer)
        return [one.joined() for one in said]


class _Said:
    """What members said of one slice, as sums: memory does not grow with their number."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._first = self._squares = np.zeros((), np.float32)

    def add(self, answer: Segmented) -> None:
        """Count the answer of one more member."""
        if answer.probabilities is None:
            raise ConfigError(
                "one of the models has no probabilities that could be averaged, as the threshold. "
                "Leave it out.",
                where="ensemble",
            )
        background = answer.probabilities[0]
        if not self._count:
            self._first = background.copy()
        # Squares of differences: where members agree there is nothing to round.
        apart = background - self._first
        self._sum = self._sum + answer.probabilities
        self._squares = self._squares + apart * apart
        self._count += 1

    def joined(self) -> Segmented:
        """Return the mean, and how far the members are from it."""
        mean = self._sum / np.float32(self._count)
        apart = mean[0] - self._first
        variance = np.maximum(self._squares / np.float32(self._count) - apart * apart, 0)
        return Segmented.likeliest(mean, spread=2 * np.sqrt(variance))


class _OnDemand:
    """A network that is in memory while it computes; see ``Segmenter``."""

    word = ""
    segment_volume = None

    def __init__(self, saved: SavedModel, *, precision: Precision) -> None:
        self.contract, self.codec = saved.contract, saved.codec
        self._folder, self._precision = saved.folder, precision

    def prepare(self, image: np.ndarray, where: str = "slice") -> Fitted:
        """Window, fit and normalise a slice."""
        from lungunet.inference.network import Fitted

        return Fitted(self.contract.prepare(image, where), image)

    def __call__(self, prepared: Sequence[Fitted]) -> list[Segmented]:
        """Read the network, segment slices, and let it go."""
        from lungunet.inference.network import TorchSegmenter
        from lungunet.models.folder import load_model

        saved = load_model(self._folder)
        network = TorchSegmenter(
            saved.model, self.contract, self.codec, device="cpu", precision=self._precision
        )
        return network(prepared)


def load_ensemble(
    members: Sequence[str | Path], *, device: str | int = "auto", precision: Precision = "auto"
) -> EnsembleSegmenter:
    """Read models that predict together; see :meth:`Predictor.load`.

    On a GPU all are held. On the CPU they are while their weights take no more than 1 GB; of larger
    ones one is in memory at a time.
    """
    from lungunet.inference.predictor import Predictor

    def load(member: str | Path) -> Segmenter:
        if large and is_model_folder(member):
            from lungunet.models.folder import load_model

            return _OnDemand(load_model(member), precision=precision)
        return Predictor.load(member, device=device, precision=precision).segmenter

    large = sum(map(_weights_size, members)) > _HELD and _on_cpu(device)
    return EnsembleSegmenter([load(member) for member in members])


def _on_cpu(device: str | int) -> bool:
    from lungunet.models.device import pick_device

    return pick_device(device).type == "cpu"


def _weights_size(member: str | Path) -> int:
    files = (Path(member) / WEIGHTS, Path(member) / "best" / WEIGHTS)
    return next((file.stat().st_size for file in files if file.is_file()), 0)
