"""Times ops and layers in several turns, spread over the whole run; the fastest turn counts.

A virtual machine can be 10 to 20 % slower for tens of seconds, which is longer than a benchmark. More rounds at once
would not repeat, but the fastest of several turns does. All contenders of a case have the same turns, close together. A
case gets further turns while no other turn is close to its fastest one.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from fastinpaint.bench.measure import Timing

TURNS = {"cpu": (3, 8), "cuda": (1, 1)}  # least and most turns; a GPU's own clock needs only one
MINUTES = 8.5  # after that only first turns are started, so that the suite ends within ten minutes


@dataclass
class TurnSchedule:
    """The turns so far, and whether a case gets another one.

    Attributes:
        least, most: turns per case. Turns beyond the least are run only if the fastest one did not repeat.
        until: value of `time.monotonic` after which there are no further turns.
        taken: the timings of each contender of each case, one per turn.
    """

    least: int
    most: int
    until: float
    taken: dict[Hashable, dict[str, list[Timing]]] = field(default_factory=dict)

    def wanted(self, case: Hashable, turn: int) -> bool:
        """Whether the case has this turn, counted from 0. The answer is the same for all its contenders."""
        if turn == 0 or time.monotonic() > self.until:
            return turn == 0
        before = [turns[:turn] for turns in self.taken.get(case, {}).values()]
        whole = all(len(turns) == turn for turns in before)  # otherwise an earlier turn was skipped
        return bool(before) and whole and (turn < self.least or any(Timing.fastest(turns).noisy for turns in before))

    def add(self, case: Hashable, contender: str, timing: Timing) -> list[Timing]:
        """Record a turn; returns all turns of this contender so far."""
        turns = self.taken.setdefault(case, {}).setdefault(contender, [])
        turns.append(timing)
        return turns
