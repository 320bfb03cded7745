"""Turns measured parts into plans: chooses a tier for every part, by estimated seconds and kept bytes.

A part is a convolution with the norm after it, or a batch norm without a convolution before it, and everything up to
the next part. Its cost is forward plus backward, beside the neighbours it was measured with.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from fastinpaint.acceleration.links import Links
from fastinpaint.acceleration.plan import DEFAULT, LEAST, STOCK, Plan
from fastinpaint.acceleration.trial import Trial

DEAREST = 16.0  # times by which a measured boundary may cost more than was estimated
MARGIN = 0.01  # relative gain that a part needs to be fused
PRICES, DEARER = 48, 1.4  # prices of a kept byte that are tried, each higher than the one before by this factor
SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # segments of maps; backward recomputes one segment at a time
QUANTILES = 16  # thresholds of seconds per byte, up to which a map is computed again

Tiers = dict[str, str]


@dataclass(frozen=True)
class Option:
    """Tiers with their estimated seconds and kept bytes of a step."""

    seconds: float
    kept: float
    tiers: Tiers


@dataclass
class Costs:
    """Estimates for any tiers, from the trials of the uniform plans.

    Attributes:
        trials: by tier; "stock" and "default" must be there.
        links: the record of the layers.
        second_per_byte: seconds per byte of an activation between a fused and a stock part, which is written out and,
            in backward, read again.
        forgotten: by part, bytes that the tier "least" does not keep.
        again: by part, seconds to compute them again.
        held: whether what backward computes again and holds at a time counts as kept.
        borders: by part, bytes that the next part reads: a norm's or an activation's result. A convolution's own result
            is there anyway, and linear layers read and return plain maps.
    """

    trials: Mapping[str, Trial]
    links: Links
    second_per_byte: float
    forgotten: dict[str, int] = field(default_factory=dict)
    again: dict[str, float] = field(default_factory=dict)
    borders: dict[str, int] = field(default_factory=dict)
    held: bool = True

    def __post_init__(self) -> None:
        links = self.links
        bare = {name for name in links.order if links.is_bare(name)} | links.linears
        pairs = [(a, b) for a, b in itertools.pairwise(links.order) if a not in bare and b not in links.linears]
        self.borders = {a: links.input_bytes.get(b, 0) for a, b in pairs}
        if LEAST not in self.trials:
            return
        default, least = self.trials[DEFAULT], self.trials[LEAST]
        for name in self.links.order:
            saved = default.kept_by.get(name, 0) - least.kept_by.get(name, 0)
            if saved > 0:
                self.forgotten[name] = saved
        # Backward computes a chain again at its end, so the parts of the trial do not say which map took how long.
        forward = {name: default.forward.get(name, 0.0) for name in self.forgotten}
        lost, total = max(least.seconds - default.seconds, 0.0), sum(forward.values())
        self.again = {name: seconds * lost / total if total else 0.0 for name, seconds in forward.items()}

    def part(self, name: str, tier: str) -> float:
        """Seconds of one part."""
        measured = self.trials[STOCK if tier == STOCK else DEFAULT].parts.get(name, 0.0)
        return measured + self.again.get(name, 0.0) if tier == LEAST else measured

    def part_kept(self, name: str, tier: str) -> int:
        """Bytes that one part keeps; a part of the tier "least" may keep less for the maps it computes again."""
        kept = self.trials[STOCK if tier == STOCK else DEFAULT].kept_by.get(name, 0)
        return kept - self.forgotten.get(name, 0) if tier == LEAST else kept

    def boundary_bytes(self, name: str, tier: str, next_tier: str) -> int:
        """Bytes that a stock part reads of a fused part before it: they are written out and kept."""
        return 0 if tier == STOCK or next_tier != STOCK else self.borders.get(name, 0)

    def of(self, tiers: Tiers) -> Option:
        """The estimated cost of these tiers."""
        seconds, kept, held, peak = 0.0, 0.0, 0, 0
        order = self.links.order
        for i, name in enumerate(order):
            tier = tiers[name]
            border = self.boundary_bytes(name, tier, tiers[order[i + 1]]) if i + 1 < len(order) else 0
            seconds += self.part(name, tier) + border * self.second_per_byte
            kept += self.part_kept(name, tier) + border
            if tier == LEAST:
                held += self.forgotten.get(name, 0)
                peak = max(peak, held)
            elif name in self.forgotten:
                held = 0
        return Option(seconds, kept + peak * self.held, tiers)


def cheapest(costs: Costs, price: float = 0.0) -> Tiers:
    """The tier, stock or default, of every part that minimises seconds plus `price` times kept bytes.

    By dynamic programming over the order of the parts.

    Args:
        price: seconds that a kept byte may cost.
    """
    tiers, order = (STOCK, DEFAULT), costs.links.order
    if not order:
        return {}
    per_byte = costs.second_per_byte + price
    best: list[dict[str, tuple[float, str]]] = []  # by part and tier: the cost so far, and the previous part's tier
    for i, name in enumerate(order):
        row: dict[str, tuple[float, str]] = {}
        for tier in tiers:
            own = costs.part(name, tier) * (1 if tier == STOCK else 1 + MARGIN) + price * costs.part_kept(name, tier)
            cost, previous = 0.0, tier
            if i:
                cost, previous = min(
                    (best[-1][w][0] + costs.boundary_bytes(order[i - 1], w, tier) * per_byte, w) for w in tiers
                )
            row[tier] = (cost + own, previous)
        best.append(row)
    tier = min(tiers, key=lambda w: best[-1][w][0])
    chosen: Tiers = {}
    for name, row in zip(reversed(order), reversed(best), strict=True):
        chosen[name] = tier
        tier = row[tier][1]
    return {name: chosen[name] for name in order}


def fitted(costs: Costs, tiers: Tiers, mixed: Trial) -> Costs:
    """The costs, with the seconds per byte at the boundaries as a measured mixed plan shows them, at least as before.

    Where fused and stock parts alternate, more is paid than the parts of the uniform plans say: a fused part leaves its
    activation to its reader, and has to compute it where that is a stock one.
    """
    order = costs.links.order
    borders = sum(costs.boundary_bytes(a, tiers[a], tiers[b]) for a, b in itertools.pairwise(order))
    if not borders:
        return costs
    missing = sum(mixed.parts.values()) - sum(costs.part(name, tier) for name, tier in tiers.items())
    shown = min(missing / borders, DEAREST * costs.second_per_byte)  # one disturbed step shows anything
    return replace(costs, second_per_byte=max(costs.second_per_byte, shown))


def priced(costs: Costs) -> list[Option]:
    """Plans without recomputation, from the fastest to the one that keeps the fewest bytes."""
    stock = costs.trials[STOCK]
    first = stock.seconds / max(stock.kept, 1) / DEARER ** (PRICES - 12)
    found = [costs.of(cheapest(costs))]
    for i in range(PRICES):
        option = costs.of(cheapest(costs, first * DEARER**i))
        if option.tiers != found[-1].tiers:
            found.append(option)
    whole = costs.of(dict.fromkeys(costs.links.order, DEFAULT))
    return found if whole.tiers == found[-1].tiers else [*found, whole]


def recomputing(costs: Costs, tiers: Tiers) -> Iterator[Option]:
    """The plan, with the fused maps that are cheap enough computed again in backward, in segments.

    Backward recomputes a chain of such maps as a whole and holds it. So one map is kept between two segments. In a
    residual network that is a block's sum. The tier of its last layers says whether it is kept, which counts for the
    layer that reads it.
    """
    dear = {name: costs.again.get(name, 0.0) / saved for name, saved in costs.forgotten.items() if tiers[name] != STOCK}
    steps = sorted(dear.values())
    limits = {steps[min(len(steps) - 1, len(steps) * (i + 1) // QUANTILES)] for i in range(QUANTILES)} if steps else ()
    maps = [name for name in costs.links.order if name in dear]
    for limit, segments in itertools.product(limits, SEGMENTS):
        most = sum(costs.forgotten[name] for name in maps if dear[name] <= limit) / segments
        held, found = 0, dict(tiers)
        for i, name in enumerate(maps):
            size = costs.forgotten[name]
            reads_sum = i >= 2 and size > costs.forgotten[maps[i - 1]]
            within = i + 1 < len(maps) and size < costs.forgotten[maps[i + 1]]
            if dear[name] > limit or (held + size > most and not reads_sum and not within):
                held = 0
                continue
            if held + size > most and reads_sum:
                found |= {last: tiers[last] for last in maps[i - 2 : i]}
                held = 0
            held += size
            found[name] = LEAST
        yield costs.of(found)


def options(costs: Costs) -> list[Option]:
    """Every plan that is worth an estimate."""
    found = priced(costs)
    if LEAST in costs.trials:
        for option in list(found):
            found += recomputing(costs, option.tiers)
    return found


def plan_of(tiers: Mapping[str, str], links: Links, like: Plan) -> Plan:
    """A copy of the plan `like` with these tiers."""
    return replace(
        like, fused={layer: tier for name, tier in tiers.items() if tier != STOCK for layer in links.unit(name)}
    )
