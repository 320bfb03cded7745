"""Searches for a model's plan: measures parts, then alternates whole steps of the best plans and both stock layouts."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastinpaint.acceleration import select
from fastinpaint.acceleration.adapt import adapt_plan
from fastinpaint.acceleration.links import Links, record
from fastinpaint.acceleration.plan import DEFAULT, LOW, STOCK, Plan
from fastinpaint.acceleration.trial import Runner, Trial, second_per_byte

logger = logging.getLogger(__name__)
RUNS, MIXED_RUNS = 2, 2  # timed steps of a uniform plan, and of a mixed plan
TURNS, MORE_TURNS = 3, 4  # whole steps of every finalist; further ones of the best two if they are close
CLOSE = 0.03  # relative difference of step times that needs further turns
TIE = 0.01  # relative difference of step times below which fewer kept bytes decide
SLACK = 0.05  # relative time that "balanced" may spend to keep fewer bytes
SHORT = 0.03  # seconds; shorter steps are repeated within a turn
FINALISTS = 2  # fused plans that are timed beside both stock layouts
BUDGET_ATTEMPTS = 2  # attempts to meet a budget
MUCH_SLOWER = 1.2  # a stock layout slower than the other by this factor is not timed again


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        plan: the choice.
        seconds, kept: time and kept bytes of a step under the plan; kept is 0 without a backward pass.
        stock: by layout ("contiguous" or "channels-last"), seconds and kept bytes of the stock model.
        tiers: the tier of every part.
        parts: seconds by tier and part.
        links: the record of the layers.
        notes: remarks for the report.
    """

    plan: Plan
    seconds: float
    kept: int
    stock: dict[str, tuple[float, int]]
    tiers: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    notes: list[str] = field(default_factory=list)


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


LAYOUTS = {False: "contiguous", True: "channels-last"}


def search(runner: Runner, goal: Goal) -> SearchResult:
    """Find a plan by measurement. The runner's model must be in a sandbox."""
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
    found.parts = {tier: trial.parts for tier, trial in trials.items()}
    return found


def _stock(runner: Runner, channels_last: bool) -> Trial | None:
    """Measure the stock model in one layout; None if its code does not accept channels-last maps."""
    try:
        return runner.measure(Plan(channels_last), RUNS)
    except RuntimeError as error:
        if not channels_last or "view" not in str(error):
            raise
        return None


def _fused(runner: Runner, base: bool, tier: str, contiguous: bool, like: Trial) -> tuple[Trial | None, str]:
    """Measure the model with every layer fused; None and the reason if that fails."""
    if not runner.links.order:
        return None, ""
    plan = select.plan_of(dict.fromkeys(runner.links.order, tier), runner.links, Plan(base, contiguous=contiguous))
    return adapt_plan(runner.model, plan, like, lambda plan: runner.measure(plan, RUNS))


def _candidates(runner: Runner, trials: dict[str, Trial], goal: Goal) -> list[tuple[Trial, dict[str, str]]]:
    """Mixed plans that are worth timing as whole steps, each measured once by parts."""
    links, stock, fused = runner.links, trials[STOCK], next(t for tier, t in trials.items() if tier != STOCK)

    def measured(tiers: dict[str, str]) -> tuple[Trial, dict[str, str]]:
        plan = select.plan_of(tiers, links, fused.plan)
        known = next((t for t in trials.values() if t.plan == plan), None)
        return known or runner.measure(plan, MIXED_RUNS), tiers

    allowed = {STOCK: stock, DEFAULT: trials[DEFAULT]} if DEFAULT in trials else trials
    candidates = [measured(select.fastest(allowed, links, second_per_byte(runner.device)))]
    trial, tiers = candidates[0]
    better = select.refined(tiers, trial, stock)
    if better != tiers:
        candidates.append(measured(better))
    limit = goal.limit(stock.kept)
    if goal.objective == "speed" and limit is None:
        limit = stock.kept
    trial, tiers = candidates[-1]
    if limit is None:
        limit = 0.0  # "memory" and "balanced": as few kept bytes as possible
    for _ in range(BUDGET_ATTEMPTS):
        if trial.kept <= limit * 1.002 or not runner.training:
            break
        estimated = _estimate(tiers, trials)
        fewer = select.within_budget(tiers, trials, limit - (trial.kept - estimated), estimated, links)
        if fewer == tiers:
            break
        candidates.append(measured(fewer))
        trial, tiers = candidates[-1]
    whole = [(trials[tier], dict.fromkeys(links.order, tier)) for tier in trials if tier != STOCK]
    return candidates + [c for c in whole if all(c[0].plan != trial.plan for trial, _ in candidates)]


def _estimate(tiers: dict[str, str], trials: dict[str, Trial]) -> int:
    return sum(trials[tier].kept_by.get(name, 0) for name, tier in tiers.items())


def _finals(
    runner: Runner, layouts: dict[bool, Trial], candidates: list[tuple[Trial, dict[str, str]]], goal: Goal
) -> SearchResult:
    """Alternate whole steps of both stock layouts and the best candidates; the goal decides."""
    least = min(trial.kept for trial in layouts.values())
    best = min(trial.seconds for trial in layouts.values())
    stocks = [trial for trial in layouts.values() if trial.seconds <= MUCH_SLOWER * best]
    ours = [c for c in candidates if not c[0].plan.stock]
    if goal.objective == "speed" and goal.budget is None:
        ours = [c for c in ours if c[0].kept <= least * 1.002 or not runner.training]
        ours = sorted(ours, key=lambda c: c[0].seconds)[:FINALISTS]
    else:
        ours = _distinct(ours)
    finalists = [*((trial, {}) for trial in stocks), *ours]
    _time(runner, finalists, len(stocks))
    trial, tiers = _winner(finalists, len(stocks), goal, least)
    stock = {LAYOUTS[flag]: (layouts[flag].seconds, layouts[flag].kept) for flag in layouts}
    found, limit = SearchResult(trial.plan, trial.seconds, trial.kept, stock, tiers), goal.limit(least)
    if limit is not None and trial.kept > limit * 1.002:
        found.notes.append(f"no choice keeps {limit / 2**20:.1f} MiB or less: this one keeps the fewest bytes.")
    return found


def _time(runner: Runner, finalists: Sequence[tuple[Trial, dict[str, str]]], stocks: int) -> None:
    """Set every finalist's seconds per step. The first `stocks` finalists are stock."""
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
    """The Pareto front of time and kept bytes, at most four plans."""
    front: list[tuple[Trial, dict[str, str]]] = []
    for trial, tiers in sorted(candidates, key=lambda c: (c[0].kept, c[0].seconds)):
        if not front or trial.seconds < front[-1][0].seconds:
            front.append((trial, tiers))
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
