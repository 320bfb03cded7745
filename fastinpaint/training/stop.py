"""Ctrl-C and SIGTERM as a wish to stop, granted after the step in hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Inside ``with StopRequest() as stop``, the first Ctrl-C or SIGTERM sets ``stop.asked``; the second acts at once.

    Signals can be caught in the main thread only; elsewhere this does nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopRequest:
        self.catches = threading.current_thread() is threading.main_thread()
        if self.catches:
            self.before = [signal.signal(number, self._ask) for number in self.SIGNALS]
        return self

    def __exit__(self, *exc: object) -> None:
        if self.catches:
            for number, handler in zip(self.SIGNALS, self.before, strict=True):
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
