"""Stops a run on Ctrl-C or SIGTERM after the current step."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Inside ``with StopRequest() as stop``, a first Ctrl-C or SIGTERM sets ``stop.asked``; a second acts at once.

    Only the main thread can catch signals. In other threads this does nothing.
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
