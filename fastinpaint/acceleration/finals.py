"""Times the best plans of a search beside both stock layouts, as whole steps in turns, and decides by the goal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fastinpaint.acceleration.select import Tiers
from fastinpaint.acceleration.trial import Runner, Trial
from fastinpaint.ops.dispatch.autotune import median

logger = logging.getLogger(__name__)
TURNS, MORE_TURNS = 2, 2  # whole steps of every finalist; further ones of those that may still win
FINALISTS = 3  # fused plans that are timed beside the stock layouts
STILL = 2  # fused plans that are timed again beside the better stock layout
MUCH_SLOWER = 1.2  # a stock model slower by this factor needs no further turns against one fused plan
STILL_CLOSE = 0.06  # relative difference of step times, after the first turns, at which a plan may still win
SLOWER_LAYOUT = 1.08  # a stock layout measured slower than the other by this factor is no finalist
HOPELESS = 1.15  # a plan measured slower than the fastest by this factor is no finalist
NOISE = (0.01, 0.03)  # least and most relative difference of step times at which fewer kept bytes decide
TRADE = 5  # in a tie, relative kept bytes that a relative increase in time must save: 1 % of time for 5 % of bytes
NEVER_SLOWER = 0.97  # least speed relative to the better stock layout: what noise of the timings allows
SLACK = 0.05  # relative time that "balanced" may spend to keep fewer bytes
BUDGET_ERROR = 1.002  # relative excess of kept bytes that is ignored
SHORT = 0.03  # seconds; shorter steps are repeated within a turn


@dataclass
class Goal:
    """An objective of `fastinpaint.accelerate`, and a budget: kept bytes, a share of stock's (at most 1), or None."""

    objective: str
    budget: float | None = None

    def limit(self, stock_kept: int) -> float | None:
        """The budget in bytes."""
        if self.budget is None:
            return None
        return self.budget * stock_kept if self.budget <= 1 else self.budget


@dataclass
class Candidate:
    """A plan that may be chosen: its trial, the tier of every part, and where it comes from."""

    trial: Trial
    tiers: Tiers
    name: str


Stocks = dict[bool, Trial]  # {whether channels-last: the stock model's trial}


def decide(runner: Runner, stocks: Stocks, candidates: Sequence[Candidate], goal: Goal) -> Candidate:
    """Time the finalists and return the winner. Sets the seconds of every finalist's trial."""
    least = min(trial.kept for trial in stocks.values())
    best = min(trial.seconds for trial in stocks.values())
    standing = [Candidate(trial, {}, "stock") for trial in stocks.values() if trial.seconds <= SLOWER_LAYOUT * best]
    ours = [c for c in candidates if not c.trial.plan.stock]
    noise = _time(runner, standing, ours := _finalists(ours, goal, least, runner.training))
    return _winner(standing, ours, goal, least, noise)


def _finalists(ours: list[Candidate], goal: Goal, stock_kept: int, training: bool) -> list[Candidate]:
    """The candidates that may win: the fastest, and slower ones only where they keep fewer bytes."""
    limit = goal.limit(stock_kept)
    if not ours or (goal.objective == "memory" and limit is None):
        return [_smallest(ours)] if ours else []
    if limit is not None:
        meeting = [c for c in ours if c.trial.kept <= limit * BUDGET_ERROR]
        return sorted(meeting, key=lambda c: c.trial.seconds)[:FINALISTS] or [_smallest(ours)]
    if goal.objective == "speed" and training:
        ours = [c for c in ours if c.trial.kept <= stock_kept * BUDGET_ERROR]
    fastest = min((c.trial.seconds for c in ours), default=0.0)
    near = [c for c in ours if c.trial.seconds <= HOPELESS * fastest]
    front: list[Candidate] = []  # the Pareto front of time and kept bytes, from the fewest bytes to the fastest
    for candidate in sorted(near, key=lambda c: (c.trial.kept, c.trial.seconds)):
        if not front or candidate.trial.seconds < front[-1].trial.seconds:
            front.append(candidate)
    front = [*front[:1], *front[1:][-(FINALISTS - 1) :]]
    others = sorted((c for c in near if c not in front), key=lambda c: c.trial.seconds)
    return (front + others)[:FINALISTS]


def _time(runner: Runner, standing: list[Candidate], ours: list[Candidate]) -> float:
    """Set every finalist's seconds per step, in turns, and return the relative noise of the timings.

    A finalist's time is the median over turns of its ratio to the turn's mean over those that ran in all turns, so that
    a machine that becomes slower during the turns has no effect.
    """
    finalists = [*standing, *ours]
    within = 3 if min(c.trial.seconds for c in finalists) < SHORT else 1
    taken = dict(enumerate(runner.alternate([c.trial.plan for c in finalists], TURNS, within)))
    medians = {i: median(seconds) for i, seconds in taken.items()}
    best = min(medians.values())
    first = min(range(len(standing)), key=medians.__getitem__)
    close = [i for i in medians if i >= len(standing) and medians[i] <= (1 + STILL_CLOSE) * best]
    close = [first, *sorted(close, key=medians.__getitem__)[:STILL]]
    if (len(close) > 1 and medians[first] <= MUCH_SLOWER * best) or len(close) > 2:
        more = runner.alternate([finalists[i].trial.plan for i in close], MORE_TURNS, within)
        for i, seconds in zip(close, more, strict=True):
            taken[i] = taken[i] + seconds
    usual = [sum(taken[i][turn] for i in close) / len(close) for turn in range(len(taken[close[0]]))]
    level, spreads = median(usual), []
    for i, candidate in enumerate(finalists):
        ratios = [seconds / mean for seconds, mean in zip(taken[i], usual, strict=False)]
        middle = median(ratios)
        candidate.trial.seconds = middle * level
        spreads.append(median(abs(ratio / middle - 1) for ratio in ratios))
        logger.debug("%s: %.4g s of %s", candidate.name, candidate.trial.seconds, taken[i])
    return 2 * median(spreads)


def _winner(standing: list[Candidate], ours: list[Candidate], goal: Goal, stock_kept: int, noise: float) -> Candidate:
    finalists = [*standing, *ours]
    fastest = min(c.trial.seconds for c in finalists)
    limit = goal.limit(stock_kept)
    if limit is not None:
        meeting = [c for c in finalists if c.trial.kept <= limit * BUDGET_ERROR]
        return min(meeting, key=lambda c: c.trial.seconds) if meeting else _smallest(finalists)
    if goal.objective == "memory":
        return _smallest(finalists)
    if goal.objective == "balanced":
        return _smallest([c for c in finalists if c.trial.seconds <= (1 + SLACK) * fastest])
    best_stock = min(c.trial.seconds for c in standing)
    tie = min(max(noise, NOISE[0]), NOISE[1])
    tied = [c for c in finalists if c.trial.seconds <= min((1 + tie) * fastest, best_stock / NEVER_SLOWER)]
    return min(tied, key=lambda c: (c.trial.kept * c.trial.seconds**TRADE, c.trial.seconds))


def _smallest(candidates: list[Candidate]) -> Candidate:
    return min(candidates, key=lambda c: (c.trial.kept, c.trial.seconds))
