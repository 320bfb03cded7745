"""Compares step times by pairs: the ratio of two plans that ran in the same turns, and how far noise may move it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import comb
from typing import NamedTuple

from fastinpaint.ops.dispatch.autotune import median

RISK = 0.1  # chance that the true median lies outside of the interval
ENOUGH = 5  # turns from which on the sign test holds to that; the range of fewer is widened by itself at both ends


class Ratio(NamedTuple):
    """The median of paired ratios, and the interval that holds the true median by the sign test."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, ratios: Iterable[float]) -> Ratio:
        """From one ratio a turn.

        A disturbance that lasts longer than a turn cancels in its ratio. A shorter one spoils one ratio, which the
        median ignores.
        """
        ratios = sorted(ratios)
        out = left_out(len(ratios))
        low, high = ratios[out], ratios[-1 - out]
        wider = high - low if len(ratios) < ENOUGH else 0.0
        return cls(low - wider, median(ratios), high + wider)

    def within(self, most: float) -> bool | None:
        """Whether the ratio is at most `most`; None where the interval holds values on both sides."""
        if self.high <= most:
            return True
        return False if self.low > most else None


def left_out(turns: int) -> int:
    """The number of ratios that the interval leaves out at each end.

    The true median lies below the k smallest of n ratios with the chance P(Binomial(n, 1/2) < k), and above as many
    of the largest ones with the same chance. Fewer than five turns leave none out.
    """
    out, chance = 0, 2 * 0.5**turns
    while (chance := chance + 2 * comb(turns, out + 1) * 0.5**turns) <= RISK:
        out += 1
    return out


class Turns:
    """The step times of several plans that run in alternating turns.

    Args:
        alternate: runs plans, given by their places, for some turns; returns seconds per step by plan and turn.
        plans: the number of plans.
    """

    def __init__(self, alternate: Callable[[Sequence[int], int], list[list[float]]], plans: int) -> None:
        self.alternate = alternate
        self.taken: list[dict[int, float]] = [{} for _ in range(plans)]  # by plan: {turn: seconds}
        self.count, self.spent = 0, 0.0

    def more(self, plans: Iterable[int], turns: int) -> None:
        """Run further turns of these plans."""
        plans = sorted(plans)
        for i, seconds in zip(plans, self.alternate(plans, turns), strict=True):
            self.taken[i] |= {self.count + turn: taken for turn, taken in enumerate(seconds)}
            self.spent += sum(seconds)
        self.count += turns

    def ratio(self, plan: int, reference: int) -> Ratio:
        """The ratio of two plans' times, of those turns that both ran in. There must be one."""
        mine, other = self.taken[plan], self.taken[reference]
        return Ratio.of([mine[turn] / other[turn] for turn in mine if turn in other])

    def seconds(self) -> list[float]:
        """The seconds per step of every plan: its ratio to the plan of most turns, times that plan's median."""
        anchor = max(range(len(self.taken)), key=lambda i: len(self.taken[i]))
        level = median(self.taken[anchor].values())
        return [level * self.ratio(i, anchor).middle for i in range(len(self.taken))]
