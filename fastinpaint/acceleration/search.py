"""Searches for a model's plan: measures parts, then alternates whole steps of the best plans and both stock layouts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from torch.nn.modules.conv import _ConvNd

from fastinpaint.acceleration import select
from fastinpaint.acceleration.adapt import adapt_plan
from fastinpaint.acceleration.finals import BUDGET_ERROR, SLACK, TRADE, Candidate, Goal, Stocks, decide
from fastinpaint.acceleration.layout import overruns
from fastinpaint.acceleration.links import Links, record
from fastinpaint.acceleration.plan import DEFAULT, LEAST, LOW, STOCK, SUMS, Plan
from fastinpaint.acceleration.rules import rule_of
from fastinpaint.acceleration.stopwatch import second_per_byte
from fastinpaint.acceleration.trial import Runner, Trial

logger = logging.getLogger(__name__)
RUNS, MIXED_RUNS = 2, 1  # timed steps of a uniform plan, and of a mixed plan
ALIKE = 0.02  # relative difference in time and kept bytes of plans that are not both measured
CLEARLY = 0.03  # relative gain that another layout must bring
THRIFT = (0.03, 0.1)  # estimated relative time that plans spend to keep fewer bytes: estimates are rough
WORTH = 0.2  # least share of the stock step in layers that pay by the rules, for a plan of these alone
ATTEMPTS = 3  # plans measured to keep few bytes, or to meet a budget
MEASURING, CHOOSING = 16, 30  # times the better stock layout's step after which no further plan, no turn begins
UNNOTICED = 2.0  # seconds of choosing that nobody minds
MUCH_SLOWER = 1.2  # a layout slower than the other by this factor is not tried for the fused layers


@dataclass
class SearchResult:
    """The result of a search.

    Attributes:
        plan: the choice.
        seconds, kept: time and kept bytes of a step under the plan; kept is 0 without a backward pass.
        held: the most bytes that are kept and computed again at a time.
        stock: by layout ("contiguous" or "channels-last"), seconds and kept bytes of the stock model.
        tiers: the tier of every part.
        parts: seconds by tier and part.
        links: the record of the layers.
        notes: remarks for the report.
        smaller: plans that keep fewer bytes than the choice, each one fewer than the faster ones.
    """

    plan: Plan
    seconds: float
    kept: int
    held: int
    stock: dict[str, tuple[float, int]]
    tiers: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    notes: list[str] = field(default_factory=list)
    smaller: list[Candidate] = field(default_factory=list)


LAYOUTS = {False: "contiguous", True: "channels-last"}


def search(runner: Runner, goal: Goal) -> SearchResult:
    """Find a plan by measurement. The runner's model must be in a sandbox."""
    runner.counts_held = goal.budget is None
    runner.apply(Plan())
    runner.links = record(runner.model, lambda: runner.forward())
    stocks, notes = _stocks(runner, goal)
    base, fused, reason = _fused(runner, stocks)
    trials = {STOCK: stocks[base]}
    if fused is not None:
        trials[DEFAULT] = fused
        if goal.objective != "speed" or goal.budget is not None:
            trials |= _smaller_tiers(runner, fused, stocks[base])
    elif reason:
        notes.append(reason)
    limit = goal.limit(min(trial.kept for trial in stocks.values()))
    best = min(trial.seconds for trial in stocks.values())
    candidates = _Candidates(runner, trials, goal, limit, best).all() if fused is not None else []
    winner = decide(runner, stocks, candidates, goal, max(UNNOTICED, CHOOSING * best) - runner.elapsed())
    found = SearchResult(
        winner.trial.plan,
        winner.trial.seconds,
        winner.trial.kept,
        max(winner.trial.kept, winner.trial.held),
        {LAYOUTS[flag]: (trial.seconds, trial.kept) for flag, trial in stocks.items()},
        winner.tiers,
        {tier: trial.parts for tier, trial in trials.items()},
        runner.links,
        notes,
        _smaller(candidates, winner),
    )
    if limit is not None and found.kept > limit * BUDGET_ERROR:
        found.notes.insert(0, f"no choice keeps {limit / 2**20:.1f} MiB or less: this one keeps the fewest bytes.")
    return found


def _smaller(candidates: Iterable[Candidate], winner: Candidate) -> list[Candidate]:
    """The candidates that keep fewer bytes than the winner and than every faster one, in order of time."""
    found, least = [], winner.kept
    for candidate in sorted(candidates, key=lambda c: (c.trial.seconds, c.kept)):
        if candidate.kept < least:
            least = candidate.kept
            found.append(candidate)
    return found


def _stocks(runner: Runner, goal: Goal) -> tuple[Stocks, list[str]]:
    """Measure the stock model in each layout that is right for it, and say what keeps it from channels-last."""
    found: Stocks = {}
    why = ""
    for flag in goal.layouts:
        if flag and False in found and any(map(overruns, runner.model.modules())):
            why = "torch writes past a gradient of a 1x1 convolution of few channels where maps are channels-last"
        elif (trial := _stock(runner, flag)) is None:
            why = f"code of the model {'changes its inputs' if runner.changes_inputs else 'calls view'}"
        elif flag and False in found and (changed := runner.changed(trial, found[False])) is not None:
            why = f"channels-last maps change {changed} where torch's own layers read them"
        else:
            found[flag] = trial
    if not found and (trial := _stock(runner, False)) is not None:
        found[False] = trial
    return found, [f"{why}, so activations stay contiguous."] if why else []


def _stock(runner: Runner, channels_last: bool) -> Trial | None:
    """Measure the stock model in one layout; None if its code does not accept channels-last maps.

    Nor may it change its inputs in place: the caller's tensors would stay as they were.
    """
    if channels_last and runner.changes_inputs:
        return None
    try:
        return runner.measure(Plan(channels_last), RUNS)
    except RuntimeError as error:
        if not channels_last or "view" not in str(error):
            raise
        return None


def _fused(runner: Runner, stocks: Stocks) -> tuple[bool, Trial | None, str]:
    """Measure the model with every layer fused, in the faster layout, and in the other one where that may be faster.

    Returns:
        The layout, the trial in it, and the reason where there is none.
    """
    base = min(stocks, key=lambda flag: stocks[flag].seconds)
    if not runner.links.order:
        return base, None, ""

    def measured(flag: bool) -> tuple[Trial | None, str]:
        runs, layout = RUNS if flag == base else 1, Plan(flag, contiguous=True not in stocks)
        plan = select.plan_of(dict.fromkeys(runner.links.order, DEFAULT), runner.links, layout)
        like = stocks.get(flag, stocks[base])
        return adapt_plan(
            runner.model, plan, lambda plan: runner.measure(plan, runs), lambda trial: runner.changed(trial, like)
        )

    fused, reason = measured(base)
    other = stocks.get(not base)
    near = other is not None and other.seconds <= MUCH_SLOWER * stocks[base].seconds
    if fused is None or not near or fused.seconds > stocks[base].seconds:
        return base, fused, reason
    again, _ = measured(not base)
    if again is None or again.seconds > (1 - CLEARLY) * fused.seconds:
        return base, fused, ""
    return not base, again, ""


def _smaller_tiers(runner: Runner, fused: Trial, like: Trial) -> dict[str, Trial]:
    """Measure the model with every layer fused in the tiers "low" and "least"; without those that fail."""
    found = {}
    for tier in (LOW, LEAST):
        plan = select.plan_of(dict.fromkeys(runner.links.order, tier), runner.links, fused.plan)
        trial, _ = adapt_plan(
            runner.model, plan, lambda plan: runner.measure(plan, RUNS), lambda trial: runner.changed(trial, like)
        )
        if trial is not None:
            found[tier] = trial
    return found


class _Candidates:
    """Plans that are worth timing as whole steps, each measured once by parts."""

    def __init__(self, runner: Runner, trials: dict[str, Trial], goal: Goal, limit: float | None, best: float) -> None:
        self.runner, self.trials, self.goal, self.limit = runner, trials, goal, limit
        self.links, self.stock, self.best = runner.links, trials[STOCK], best
        self.found: list[Candidate] = []
        for tier, trial in trials.items():
            if tier != STOCK:
                name = "every layer fused" if tier == DEFAULT else f"every layer fused, {tier}"
                self.found.append(Candidate(trial, dict.fromkeys(self.links.order, tier), name))

    def all(self) -> list[Candidate]:
        """Measure them: the wholly fused model is one, then what the parts' times say, then what the rules say."""
        costs = select.Costs(self.trials, self.links, second_per_byte(self.runner.device), held=self.runner.counts_held)
        tiers = select.cheapest(costs)
        costs = select.fitted(costs, tiers, self.measured(tiers, "fastest parts").trial)
        if not self.runner.training:
            self.measured(select.cheapest(costs), "fastest parts, boundaries fitted")
            return self.found
        if self.goal.objective == "speed" and self.goal.budget is None:
            self.thrifty(costs)
            self.with_sums()
            self.by_rule()
        else:
            self.smaller(costs)
            if self.goal.objective != "memory" or self.goal.budget is not None:
                self.with_sums()
        return self.found

    def enough(self) -> bool:
        """Whether the time for measuring has passed."""
        return self.runner.elapsed() > max(UNNOTICED / 2, MEASURING * self.best)

    def measured(self, tiers: select.Tiers, name: str) -> Candidate:
        """The candidate with these tiers, measured unless it is known."""
        plan = select.plan_of(tiers, self.links, self.trials[DEFAULT].plan)
        if plan.fused == {}:
            return Candidate(self.stock, tiers, name)
        known = next((c for c in self.found if self.alike(c.tiers, tiers)), None)
        if known is None:
            known = Candidate(self.runner.measure(plan, MIXED_RUNS), tiers, name)
            if (changed := self.runner.changed(known.trial, self.stock)) is None:
                self.found.append(known)
            else:
                logger.warning("accelerate: the plan '%s' changed %s: it is not used.", name, changed)
        logger.debug("%s: %.4g s, %.4g MiB", name, known.trial.seconds, known.trial.kept / 2**20)
        return known

    def share(self, names: Iterable[str]) -> float:
        """The share of the stock step's time that these parts take."""
        return sum(self.stock.parts.get(name, 0.0) for name in names) / self.stock.seconds

    def alike(self, tiers: select.Tiers, others: select.Tiers) -> bool:
        """Whether two plans differ so little that measuring both is of no use."""
        differ = [name for name, tier in tiers.items() if tier != others[name]]
        kept = sum(self.stock.kept_by.get(name, 0) for name in differ)
        return self.share(differ) <= ALIKE and kept <= ALIKE * self.stock.kept

    def by_rule(self) -> None:
        """The parts whose kind of convolution pays by the rules: spatial ones with all channels connected."""
        modules = dict(self.runner.model.named_modules())
        pays = {n for n in self.links.order if isinstance(c := modules[n], _ConvNd) and rule_of(c).pays}
        if self.share(pays) > WORTH and not self.enough():
            self.measured({name: DEFAULT if name in pays else STOCK for name in self.links.order}, "by rule")

    def thrifty(self, costs: select.Costs) -> None:
        """Plans along the estimated front of time and kept bytes. Each one measured corrects the next estimates."""
        for share in THRIFT:
            if self.enough():
                return
            options = select.priced(costs)
            fastest = min(option.seconds for option in options)
            near = [option for option in options if option.seconds <= (1 + share) * fastest]
            tiers = min(near, key=lambda option: option.kept).tiers
            found = self.measured(tiers, f"fewest bytes within {share:.0%} by estimate")
            costs = select.fitted(costs, found.tiers, found.trial)

    def with_sums(self) -> None:
        """The wholly fused plan and the best one so far, with residual sums computed again in backward.

        Each sum costs one elementwise pass. A stock convolution keeps the sum that it reads, so that one is not
        computed again.
        """
        if self.enough():
            return
        order = self.links.order
        every = dict.fromkeys(order, SUMS)
        fused = self.trials[DEFAULT]
        probe = self.runner.try_out(select.plan_of(every, self.links, fused.plan))
        if probe.kept > (1 - ALIKE) * sum(fused.kept_by.values()):
            return
        best = min(self.found, key=lambda c: c.trial.kept * c.trial.seconds**TRADE)
        self.measured(every, "every layer fused, sums computed again")
        if self.enough():
            return
        readers = dict(pairwise(order))
        mixed = {
            name: SUMS if tier == DEFAULT and best.tiers.get(readers.get(name, name)) != STOCK else tier
            for name, tier in best.tiers.items()
        }
        self.measured(mixed, f"{best.name}, sums computed again")

    def smaller(self, costs: select.Costs) -> None:
        """Plans that meet the budget. Where there is none, or no plan meets it: those that keep the fewest bytes."""
        options = select.options(costs)
        if self.limit is not None and self.meeting(options, self.limit):
            return
        for _ in range(ATTEMPTS):
            if not options:
                return
            option = self._smallest(options)
            self.measured(option.tiers, "few bytes")
            options = [other for other in options if other.tiers != option.tiers]

    def meeting(self, options: list[select.Option], limit: float) -> bool:
        """Measure the fastest plans that meet the budget by estimate until one does; returns whether one does."""
        error, tried = 0.0, list[select.Tiers]()
        for _ in range(ATTEMPTS):
            left = [option for option in options if option.tiers not in tried]
            if not left:
                return False
            option = _within(left, limit - error)
            tried.append(option.tiers)
            kept = self.measured(option.tiers, "within the budget").trial.kept
            if kept <= limit * BUDGET_ERROR:
                return True
            error = kept - option.kept
        return False

    def _smallest(self, options: list[select.Option]) -> select.Option:
        """The option with the fewest bytes among those that are fast enough."""
        if self.goal.objective == "balanced":
            fastest = min(option.seconds for option in options)
            options = [option for option in options if option.seconds <= (1 + SLACK) * fastest]
        return min(options, key=lambda option: (option.kept, option.seconds))


def _within(options: list[select.Option], limit: float) -> select.Option:
    """The fastest option that keeps no more than the limit, or else the one that keeps the fewest bytes."""
    meeting = [option for option in options if option.kept <= limit]
    if meeting:
        return min(meeting, key=lambda option: option.seconds)
    return min(options, key=lambda option: (option.kept, option.seconds))
