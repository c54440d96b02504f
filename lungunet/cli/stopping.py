"""Ctrl-C and SIGTERM while training: the first asks for a checkpoint, the second quits at once."""

import signal
from types import FrameType
from typing import Self

from lungunet.cli import console


class StopSignal:
    """Inside ``with``, turns SIGINT and SIGTERM into a wish that training can ask for.

    Until it is asked for the first time there is nothing to save, and a signal ends at once.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._asked = False

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Return whether a signal has come."""
        self._asked = True
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, as shells have it."""
        return 128 + (self.number or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = signal.Signals(number)
        if not self._asked:
            raise KeyboardInterrupt
        console.warn("\nStopping after this step; once more quits at once, without saving.")
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
