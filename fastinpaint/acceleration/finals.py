"""Times the best plans of a search beside both stock layouts, as whole steps in turns, and decides by the goal."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fastinpaint.acceleration.paired import Turns
from fastinpaint.acceleration.select import Tiers
from fastinpaint.acceleration.trial import Runner, Trial

logger = logging.getLogger(__name__)
TURNS, MORE_TURNS, MOST_TURNS = 2, 1, 9  # steps of every finalist, of the unclear ones at a time, and at most
CONFIRMED = 4  # least turns of a fused winner: two that happen to agree may both be disturbed
FINALISTS = 3  # fused plans that are timed beside the stock layouts
SLOWER_LAYOUT = 1.25  # a stock layout measured slower than the other by this factor, once, is no finalist
HOPELESS = 1.15  # a plan measured slower than the fastest by this factor, once, is no finalist
TIE = 0.03  # relative time that fewer kept bytes may cost: a step's time varies by as much between two processes
DOUBTFUL_TIE = 0.04  # the same where the turns do not tell the plan from one within TIE
TRADE = 3  # in a tie, relative kept bytes that a relative increase in time must save: 1 % of time for 3 % of bytes
NEVER_SLOWER = 1.0  # least speed relative to the better stock layout
GAIN = 0.02  # relative time that fusing must save at "speed", or the bytes of as much: less may be chance
SLACK = 0.05  # relative time that "balanced" may spend to keep fewer bytes
BUDGET_ERROR = 1.002  # relative excess of kept bytes that is ignored
SHORT = 0.03  # seconds; shorter steps are repeated within a turn


@dataclass
class Goal:
    """What `fastinpaint.accelerate` was asked for.

    Attributes:
        objective: "speed", "balanced" or "memory".
        budget: bytes that autograd keeps between forward and backward, a share of stock's (at most 1), or None. What
            backward computes again does not count against it: torch.compile counts so too, and a network's largest
            layer alone would exceed a small share.
        layouts: the layouts that may be chosen: whether channels-last.
    """

    objective: str
    budget: float | None = None
    layouts: tuple[bool, ...] = (False, True)

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

    @property
    def kept(self) -> int:
        """Kept bytes of a step."""
        return self.trial.kept


Stocks = dict[bool, Trial]  # {whether channels-last: the stock model's trial}


@dataclass
class Rule:
    """How a goal chooses: of the finalists within its limits, the one of least cost.

    Attributes:
        cost: the cost of bytes and seconds.
        budget: the most bytes that a plan may keep.
        held: whether the cost is that of the most bytes at a time, in place of those that are kept.
        slower: most relative time beside the fastest finalist.
        doubtful: the same where the turns leave open whether a finalist is within `slower`.
        floor: least speed relative to the better stock layout.
        gain: relative time by which a fused plan must beat stock's cost.
    """

    cost: Callable[[int, float], tuple[float, float]]
    budget: float = math.inf
    held: bool = False
    slower: float = math.inf
    doubtful: float = math.inf
    floor: float = 0.0
    gain: float = 0.0


def rule_of(goal: Goal, stock_kept: int, fewest: int = 0) -> Rule:
    """The rule for a goal; fewest: the bytes that the smallest finalist keeps.

    With a budget it is the fastest finalist that meets it, and in a tie the one that holds fewer bytes at a time. If
    none meets it, it is the smallest.
    """
    limit = goal.limit(stock_kept)
    if limit is not None and fewest <= (met := limit * BUDGET_ERROR):
        return Rule(lambda held, seconds: (_trade(held, seconds), seconds), met, True, TIE, DOUBTFUL_TIE)
    if limit is not None:
        return Rule(lambda kept, seconds: (kept, seconds))
    if goal.objective == "memory":
        return Rule(lambda kept, seconds: (kept, seconds))
    if goal.objective == "balanced":
        return Rule(lambda kept, seconds: (kept, seconds), slower=SLACK, doubtful=SLACK)
    trade = Rule(lambda kept, seconds: (_trade(kept, seconds), seconds))
    return replace(trade, slower=TIE, doubtful=DOUBTFUL_TIE, floor=NEVER_SLOWER, gain=GAIN)


def decide(
    runner: Runner, stocks: Stocks, candidates: Sequence[Candidate], goal: Goal, seconds: float = math.inf
) -> Candidate:
    """Time the finalists and return the winner. Sets the seconds of every finalist's trial.

    All run `TURNS` turns. Those whose ratio to the fastest one or to the better stock layout is too uncertain for a
    decision run further ones, until it is clear, or up to `MOST_TURNS`.

    Args:
        seconds: no further turn begins when the steps of the turns have taken so long.
    """
    least = min(trial.kept for trial in stocks.values())
    best = min(trial.seconds for trial in stocks.values())
    standing = [Candidate(trial, {}, "stock") for trial in stocks.values() if trial.seconds <= SLOWER_LAYOUT * best]
    ours = _finalists([c for c in candidates if not c.trial.plan.stock], goal, least, runner.training)
    finalists = [*standing, *ours]
    rule = rule_of(goal, least, min(c.kept for c in finalists))
    within = 3 if min(c.trial.seconds for c in finalists) < SHORT else 1

    def alternate(places: Sequence[int], turns: int) -> list[list[float]]:
        return runner.alternate([finalists[i].trial.plan for i in places], turns, within)

    turns = Turns(alternate, len(finalists))
    turns.more(range(len(finalists)), TURNS)
    while True:
        winner, unclear = _look(turns, finalists, len(standing), rule)
        if not unclear and turns.count < CONFIRMED and not winner.trial.plan.stock:
            unclear = {finalists.index(winner), *range(len(standing))}
        if not unclear or turns.count >= MOST_TURNS or turns.spent >= seconds:
            break
        turns.more(unclear, MORE_TURNS)
    for i, candidate in enumerate(finalists):
        logger.debug("%s: %.4g s of %s", candidate.name, candidate.trial.seconds, list(turns.taken[i].values()))
    return winner


def _look(turns: Turns, finalists: list[Candidate], stocks: int, rule: Rule) -> tuple[Candidate, set[int]]:
    """The winner by the turns so far, and the finalists to time again; none where the winner is clear.

    Args:
        stocks: the number of stock layouts, which are the first finalists.
    """
    for candidate, seconds in zip(finalists, turns.seconds(), strict=True):
        candidate.trial.seconds = seconds
    places = range(len(finalists))
    allowed = [i for i in places if finalists[i].kept <= rule.budget]
    fastest = min(allowed, key=lambda i: finalists[i].trial.seconds)
    stock = min(range(stocks), key=lambda i: finalists[i].trial.seconds)
    slower, behind = [turns.ratio(i, fastest) for i in places], [turns.ratio(i, stock) for i in places]
    most, doubtful, floor = 1 + rule.slower, 1 + rule.doubtful, 1 / rule.floor if rule.floor else math.inf
    verdicts = [(slower[i].within(most), behind[i].within(floor)) for i in places]
    may = [i for i in allowed if False not in verdicts[i]]
    fit = [i for i in may if slower[i].middle <= doubtful and behind[i].middle <= floor] or [fastest]

    def cost(i: int, seconds: float) -> tuple[float, float]:
        seconds *= 1 - rule.gain if i < stocks else 1.0
        return rule.cost(finalists[i].trial.held if rule.held else finalists[i].kept, seconds)

    winner = min(fit, key=lambda i: cost(i, finalists[i].trial.seconds))
    known = cost(winner, finalists[winner].trial.seconds)
    least = finalists[fastest].trial.seconds
    unclear = {i for i in may if None in verdicts[i] and (i == winner or cost(i, slower[i].low * least) < known)}
    return finalists[winner], unclear and unclear | {winner, fastest, stock}


def _finalists(ours: list[Candidate], goal: Goal, stock_kept: int, training: bool) -> list[Candidate]:
    """The candidates that may win: the fastest, the smallest, and those with the best trade of time for bytes."""
    limit = goal.limit(stock_kept)
    if not ours or (goal.objective == "memory" and limit is None):
        return [min(ours, key=_smallest)] if ours else []
    if limit is not None:
        meeting = [c for c in ours if c.kept <= limit * BUDGET_ERROR]
        return sorted(meeting, key=lambda c: c.trial.seconds)[:FINALISTS] or [min(ours, key=_smallest)]
    if goal.objective == "speed" and training:
        ours = [c for c in ours if c.kept <= stock_kept * BUDGET_ERROR]
    fastest = min((c.trial.seconds for c in ours), default=0.0)
    near = [c for c in ours if c.trial.seconds <= HOPELESS * fastest]
    by_trade = sorted(near, key=lambda c: _trade(c.kept, c.trial.seconds))
    first = [min(near, key=lambda c: c.trial.seconds), min(near, key=_smallest)] if near else []
    return _distinct([*first, *by_trade])[:FINALISTS]


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    return list({id(c): c for c in candidates}.values())


def _smallest(candidate: Candidate) -> tuple[int, float]:
    return candidate.kept, candidate.trial.seconds


def _trade(kept: int, seconds: float) -> float:
    return kept * seconds**TRADE
