"""Ops and layers are timed in several turns, spread over the whole run, and the fastest turn counts.

A machine that shares its host is slower by a tenth or two for tens of seconds at a time, which is longer than a
benchmark takes: more rounds in one go repeat nothing, the fastest of several turns does. All contenders of a case have
the same turns, one soon after another. A case whose fastest turn no other one comes near has more of them.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from fastinpaint.bench.measure import Timing

TURNS = {"cpu": (3, 8), "cuda": (1, 1)}  # at least and at most; a GPU's own clock, on a machine to itself, needs one
MINUTES = 8.5  # no turn but the first is begun after so long: the whole suite ends in ten


@dataclass
class Visits:
    """The turns that were, and whether a case has another.

    Attributes:
        least, most: turns of each case; those beyond the least only where the fastest one did not repeat.
        until: seconds of `time.monotonic` after which nothing has another turn.
        taken: the timings of each contender of each case, a turn each.
    """

    least: int
    most: int
    until: float
    taken: dict[Hashable, dict[str, list[Timing]]] = field(default_factory=dict)

    def wanted(self, case: Hashable, turn: int) -> bool:
        """Whether the case has this turn, counted from 0; the same answer to all of its contenders."""
        if turn == 0 or time.monotonic() > self.until:
            return turn == 0
        before = [turns[:turn] for turns in self.taken.get(case, {}).values()]
        whole = all(len(turns) == turn for turns in before)  # else a turn was refused before
        return bool(before) and whole and (turn < self.least or any(Timing.fastest(turns).noisy for turns in before))

    def add(self, case: Hashable, contender: str, timing: Timing) -> list[Timing]:
        """Note a turn; returns all of this contender so far."""
        turns = self.taken.setdefault(case, {}).setdefault(contender, [])
        turns.append(timing)
        return turns
