"""The search for a model's plan: parts first, then whole steps in turns beside both stock layouts."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastinpaint.acceleration import select
from fastinpaint.acceleration.links import Links, record
from fastinpaint.acceleration.plan import DEFAULT, LOW, STOCK, Plan
from fastinpaint.acceleration.rehearsal import rehearse
from fastinpaint.acceleration.trial import Runner, Trial, second_per_byte

logger = logging.getLogger(__name__)
RUNS, AGAIN = 2, 2  # timed steps of a plan whose parts are measured; of one that mixes those
TURNS, MORE_TURNS = 3, 4  # whole steps of every finalist; more of the two best where they are close
CLOSE = 0.03  # of a step's time: what one more round of turns decides
TIE = 0.01  # of a step's time: nobody is faster, and fewer kept bytes decide
SLACK = 0.05  # of the fastest's time: what "balanced" may give for fewer bytes
SHORT = 0.03  # seconds: shorter steps are repeated within a turn
FINALISTS = 2  # of ours that are timed beside both stock layouts
BUDGETED = 2  # tries to meet a budget
HOPELESS = 1.2  # a stock layout that is so many times slower than the other, by parts, is not timed again


@dataclass
class Found:
    """What a search has found.

    Attributes:
        plan: the choice.
        seconds, kept: of a step under the plan; kept bytes are 0 without a backward pass.
        stock: by layout, "contiguous" or "channels-last": seconds and kept bytes of the untouched model.
        ways: by part: what was chosen.
        parts: by way and part: seconds.
        links: the layers as they ran.
        notes: what else there is to know.
    """

    plan: Plan
    seconds: float
    kept: int
    stock: dict[str, tuple[float, int]]
    ways: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    notes: list[str] = field(default_factory=list)


@dataclass
class Goal:
    """What is wanted: an objective of `fastinpaint.accelerate`, and a budget of kept bytes or a share, or None."""

    objective: str
    budget: float | None = None

    def limit(self, stock_kept: int) -> float | None:
        """The budget in bytes."""
        if self.budget is None:
            return None
        return self.budget * stock_kept if self.budget <= 1 else self.budget


LAYOUTS = {False: "contiguous", True: "channels-last"}


def search(runner: Runner, goal: Goal) -> Found:
    """The plan for a model, by measurement. The runner's model must be in a sandbox."""
    runner.apply(Plan())
    runner.links = record(runner.model, lambda: runner.forward())
    tried = {flag: _stock(runner, flag) for flag in LAYOUTS}
    layouts = {flag: trial for flag, trial in tried.items() if trial is not None}
    base = min(layouts, key=lambda flag: layouts[flag].seconds)
    stock = layouts[base]
    notes = [] if True in layouts else ["code of the model calls view, so activations stay contiguous."]
    trials = {STOCK: stock}
    for tier in (DEFAULT, LOW) if goal.objective != "speed" or goal.budget is not None else (DEFAULT,):
        trial, reason = _fused(runner, base, tier, contiguous=True not in layouts, like=stock)
        if trial is not None:
            trials[tier] = trial
        elif reason:
            notes.append(reason)
    candidates = _candidates(runner, trials, goal) if len(trials) > 1 else []
    found = _finals(runner, layouts, candidates, goal)
    found.notes += notes
    found.links = runner.links
    found.parts = {way: trial.parts for way, trial in trials.items()}
    return found


def _stock(runner: Runner, channels_last: bool) -> Trial | None:
    """The untouched model in one layout; None where its code takes no channels-last maps."""
    try:
        return runner.measure(Plan(channels_last), RUNS)
    except RuntimeError as error:
        if not channels_last or "view" not in str(error):
            raise
        return None


def _fused(runner: Runner, base: bool, tier: str, contiguous: bool, like: Trial) -> tuple[Trial | None, str]:
    """Everything fused, or why that cannot be."""
    if not runner.links.order:
        return None, ""
    plan = select.plan_of(dict.fromkeys(runner.links.order, tier), runner.links, Plan(base, contiguous=contiguous))
    return rehearse(runner.model, plan, like, lambda plan: runner.measure(plan, RUNS))


def _candidates(runner: Runner, trials: dict[str, Trial], goal: Goal) -> list[tuple[Trial, dict[str, str]]]:
    """Mixed plans worth a whole step's timing, each measured once by parts."""
    links, stock, fused = runner.links, trials[STOCK], next(t for way, t in trials.items() if way != STOCK)

    def measured(ways: dict[str, str]) -> tuple[Trial, dict[str, str]]:
        plan = select.plan_of(ways, links, fused.plan)
        known = next((t for t in trials.values() if t.plan == plan), None)
        return known or runner.measure(plan, AGAIN), ways

    tiers = {STOCK: stock, DEFAULT: trials[DEFAULT]} if DEFAULT in trials else trials
    candidates = [measured(select.fastest(tiers, links, second_per_byte(runner.device)))]
    trial, ways = candidates[0]
    better = select.refined(ways, trial, stock)
    if better != ways:
        candidates.append(measured(better))
    limit = goal.limit(stock.kept)
    if goal.objective == "speed" and limit is None:
        limit = stock.kept
    trial, ways = candidates[-1]
    if limit is None:
        limit = 0.0  # every step down that is worth a measurement
    for _ in range(BUDGETED):
        if trial.kept <= limit * 1.002 or not runner.training:
            break
        estimated = _estimate(ways, trials)
        fewer = select.within(ways, trials, limit - (trial.kept - estimated), estimated, links)
        if fewer == ways:
            break
        candidates.append(measured(fewer))
        trial, ways = candidates[-1]
    whole = [(trials[way], dict.fromkeys(links.order, way)) for way in trials if way != STOCK]
    return candidates + [c for c in whole if all(c[0].plan != trial.plan for trial, _ in candidates)]


def _estimate(ways: dict[str, str], trials: dict[str, Trial]) -> int:
    return sum(trials[way].kept_by.get(name, 0) for name, way in ways.items())


def _finals(
    runner: Runner, layouts: dict[bool, Trial], candidates: list[tuple[Trial, dict[str, str]]], goal: Goal
) -> Found:
    """Whole steps in turns: both stock layouts and the best candidates; the goal decides."""
    least = min(trial.kept for trial in layouts.values())
    best = min(trial.seconds for trial in layouts.values())
    stocks = [trial for trial in layouts.values() if trial.seconds <= HOPELESS * best]
    ours = [c for c in candidates if not c[0].plan.stock]
    if goal.objective == "speed" and goal.budget is None:
        ours = [c for c in ours if c[0].kept <= least * 1.002 or not runner.training]
        ours = sorted(ours, key=lambda c: c[0].seconds)[:FINALISTS]
    else:
        ours = _distinct(ours)
    finalists = [*((trial, {}) for trial in stocks), *ours]
    _time(runner, finalists, len(stocks))
    trial, ways = _winner(finalists, len(stocks), goal, least)
    stock = {LAYOUTS[flag]: (layouts[flag].seconds, layouts[flag].kept) for flag in layouts}
    found, limit = Found(trial.plan, trial.seconds, trial.kept, stock, ways), goal.limit(least)
    if limit is not None and trial.kept > limit * 1.002:
        found.notes.append(f"no choice keeps {limit / 2**20:.1f} MiB or less: this one keeps the fewest bytes.")
    return found


def _time(runner: Runner, finalists: Sequence[tuple[Trial, dict[str, str]]], stocks: int) -> None:
    """Give every finalist its seconds a step, the first so many of which are stock."""
    within = 3 if min(trial.seconds for trial, _ in finalists) < SHORT else 1
    taken = runner.alternate([trial.plan for trial, _ in finalists], TURNS, within)
    medians = [statistics.median(t) for t in taken]
    if len(finalists) > stocks:
        first = min(range(stocks), key=medians.__getitem__)
        second = min(range(stocks, len(finalists)), key=medians.__getitem__)
        if abs(medians[second] / medians[first] - 1) < CLOSE:
            pair = (first, second)
            more = runner.alternate([finalists[i][0].plan for i in pair], MORE_TURNS, within)
            for i, again in zip(pair, more, strict=True):
                medians[i] = statistics.median(taken[i] + again)
    for (trial, _), seconds in zip(finalists, medians, strict=True):
        trial.seconds = seconds


def _distinct(candidates: list[tuple[Trial, dict[str, str]]]) -> list[tuple[Trial, dict[str, str]]]:
    """Those that nobody else beats in both time and bytes, four at most."""
    front: list[tuple[Trial, dict[str, str]]] = []
    for trial, ways in sorted(candidates, key=lambda c: (c[0].kept, c[0].seconds)):
        if not front or trial.seconds < front[-1][0].seconds:
            front.append((trial, ways))
    return front[:2] + front[-2:] if len(front) > 4 else front


def _winner(
    finalists: list[tuple[Trial, dict[str, str]]], stocks: int, goal: Goal, stock_kept: int
) -> tuple[Trial, dict[str, str]]:
    fastest = min(trial.seconds for trial, _ in finalists)
    best_stock = min(trial.seconds for trial, _ in finalists[:stocks])
    limit = goal.limit(stock_kept)
    if limit is not None:
        meeting = [f for f in finalists if f[0].kept <= limit * 1.002]
        if meeting:
            return min(meeting, key=lambda f: f[0].seconds)
        return min(finalists, key=lambda f: (f[0].kept, f[0].seconds))
    if goal.objective == "memory":
        return min(finalists, key=lambda f: (f[0].kept, f[0].seconds))
    if goal.objective == "balanced":
        near = [f for f in finalists if f[0].seconds <= (1 + SLACK) * fastest]
        return min(near, key=lambda f: (f[0].kept, f[0].seconds))
    tied = [f for f in finalists if f[0].seconds <= (1 + TIE) * fastest and f[0].seconds <= best_stock]
    return min(tied or finalists, key=lambda f: (f[0].kept, f[0].seconds) if tied else (f[0].seconds, 0))
