"""When a run writes a checkpoint in the middle of an epoch, and when it stops there."""

import time
from collections.abc import Callable

from lungunet.training.config import TrainConfig
from lungunet.training.distributed import Ranks

_TALK = 20  # times between two questions of several ranks to each other, which cost a wait


class SaveOrStop:
    """Asked at every step; watches the clock, by ``save_every_minutes``, and the wish to stop."""

    def __init__(self, config: TrainConfig, should_stop: Callable[[], bool], ranks: Ranks) -> None:
        self._seconds = 60 * config.save_every_minutes
        self._should_stop = should_stop
        self._ranks = ranks
        self._asked = 0
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._since = time.monotonic()

    def ask(self, *, last: bool) -> tuple[bool, bool]:
        """Return whether a checkpoint is due and whether to stop, the same on all ranks.

        Several ranks ask each other in the last step of an epoch at the latest.
        """
        self._asked += 1
        if self._ranks.count > 1 and self._asked % _TALK and not last:
            return False, False
        due = 0 < self._seconds <= time.monotonic() - self._since
        save, stop = self._ranks.any(due, self._should_stop())
        return save, stop

    def stops_now(self) -> bool:
        """Return whether to stop where ranks cannot ask each other: always False with several."""
        return self._ranks.count == 1 and self._should_stop()
