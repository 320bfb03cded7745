"""Turns measured parts into a plan: chooses a tier for every part, within a limit on kept bytes.

A part is a convolution with the norm after it, or a batch norm without a convolution before it, and everything up to
the next part. Its cost is forward plus backward, beside the neighbours it was measured with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastinpaint.acceleration.links import Links
from fastinpaint.acceleration.plan import STOCK, Plan
from fastinpaint.acceleration.trial import Trial

MARGIN = 0.01  # relative gain that a part needs to be fused


def fastest(trials: Mapping[str, Trial], links: Links, second_per_byte: float) -> dict[str, str]:
    """The tier of every part that minimises the sum of their times, by dynamic programming over their order.

    A fused part before a stock one writes its activation out, and backward reads it again. That costs
    `second_per_byte` times its bytes.

    Args:
        trials: by tier, "stock" included.
    """
    tiers, order = list(trials), links.order
    if not order:
        return {}
    best: list[dict[str, tuple[float, str]]] = []  # by part and tier: the cost so far, and the previous part's tier
    for i, name in enumerate(order):
        row: dict[str, tuple[float, str]] = {}
        for tier in tiers:
            own = trials[tier].parts.get(name, 0.0) * (1 if tier == STOCK else 1 + MARGIN)
            cost, previous = 0.0, tier
            if i:
                name_before = order[i - 1]
                cost, previous = min(
                    (best[-1][w][0] + _boundary_seconds(links, name_before, w, tier, second_per_byte), w) for w in tiers
                )
            row[tier] = (cost + own, previous)
        best.append(row)
    tier = min(tiers, key=lambda w: best[-1][w][0])
    chosen: dict[str, str] = {}
    for name, row in zip(reversed(order), reversed(best), strict=True):
        chosen[name] = tier
        tier = row[tier][1]
    return {name: chosen[name] for name in order}


def _boundary_seconds(links: Links, name: str, tier: str, next_tier: str, second_per_byte: float) -> float:
    """The extra seconds of a fused part whose map is read by a stock one."""
    if tier == STOCK or next_tier != STOCK or not links.readers.get(name, set()) & CONVOLUTIONS:
        return 0.0
    return links.result_bytes.get(name, 0) * second_per_byte


CONVOLUTIONS = {"Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"}


def refined(tiers: Mapping[str, str], mixed: Trial, stock: Trial) -> dict[str, str]:
    """The tiers, with runs of fused parts that were slower than stock in the mixed plan set back to stock."""
    found, names = dict(tiers), list(tiers)
    i = 0
    while i < len(names):
        j = i
        while j < len(names) and tiers[names[j]] != STOCK:
            j += 1
        if j > i:
            run = _worst_run(names[i:j], mixed, stock)
            found.update(dict.fromkeys(run, STOCK))
        i = max(j, i + 1)
    return found


def _worst_run(names: Sequence[str], mixed: Trial, stock: Trial) -> Sequence[str]:
    """The consecutive parts with the largest total loss, if any lose (maximum subarray)."""
    most, result, start, sum_ = 0.0, (0, 0), 0, 0.0
    for i, name in enumerate(names):
        sum_ += mixed.parts.get(name, 0.0) - stock.parts.get(name, 0.0)
        if sum_ < 0:
            start, sum_ = i + 1, 0.0
        elif sum_ > most:
            most, result = sum_, (start, i + 1)
    return names[result[0] : result[1]]


def within_budget(
    tiers: Mapping[str, str], trials: Mapping[str, Trial], limit: float, now: float, links: Links
) -> dict[str, str]:
    """Tiers that keep an estimated `limit` bytes or less: a greedy knapsack by seconds lost per byte saved.

    Args:
        tiers: the starting point.
        trials: by tier, with the bytes and seconds of every part.
        limit: total bytes allowed.
        now: total bytes kept with `tiers`.
    """
    found = dict(tiers)
    while now > limit:
        moves = []
        for name in links.order:
            for tier, trial in trials.items():
                saved = trials[found[name]].kept_by.get(name, 0) - trial.kept_by.get(name, 0)
                lost = trial.parts.get(name, 0.0) - trials[found[name]].parts.get(name, 0.0)
                if saved > 0:
                    moves.append((lost / saved, saved, name, tier))
        if not moves:
            break
        _, saved, name, tier = min(moves)
        found[name] = tier
        now -= saved
    return found


def plan_of(tiers: Mapping[str, str], links: Links, like: Plan) -> Plan:
    """A copy of the plan `like` with these tiers."""
    return replace(
        like, fused={layer: tier for name, tier in tiers.items() if tier != STOCK for layer in links.unit(name)}
    )
