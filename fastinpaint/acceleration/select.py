"""From measured parts to a plan: which layers are fused, as a whole chain, within a limit on kept bytes.

A part is a convolution with the norm that follows it, or a batch norm that follows no convolution, and all that runs
before the next part. Its cost is forward and backward, with its neighbours as they were when it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastinpaint.acceleration.links import Links
from fastinpaint.acceleration.plan import STOCK, Plan
from fastinpaint.acceleration.trial import Trial

MARGIN = 0.01  # of a part's time: what a fused part must gain at least


def fastest(trials: Mapping[str, Trial], links: Links, second_per_byte: float) -> dict[str, str]:
    """The way of every part, one of those in `trials`, that makes the sum of their times least.

    A fused part whose successor is stock writes its activation out, and backward reads it again: that costs
    `second_per_byte` times its bytes. Dynamic programming over the order of the parts.

    Args:
        trials: by way: "stock" and the tiers.
    """
    ways, order = list(trials), links.order
    if not order:
        return {}
    best: list[dict[str, tuple[float, str]]] = []  # by part and way: the cost up to there, and the way before
    for i, name in enumerate(order):
        row: dict[str, tuple[float, str]] = {}
        for way in ways:
            own = trials[way].parts.get(name, 0.0) * (1 if way == STOCK else 1 + MARGIN)
            cost, previous = 0.0, way
            if i:
                name_before = order[i - 1]
                cost, previous = min(
                    (best[-1][w][0] + _handing_over(links, name_before, w, way, second_per_byte), w) for w in ways
                )
            row[way] = (cost + own, previous)
        best.append(row)
    way = min(ways, key=lambda w: best[-1][w][0])
    chosen: dict[str, str] = {}
    for name, row in zip(reversed(order), reversed(best), strict=True):
        chosen[name] = way
        way = row[way][1]
    return {name: chosen[name] for name in order}


def _handing_over(links: Links, name: str, way: str, next_way: str, second_per_byte: float) -> float:
    """What it costs that a part is fused and the next one, which reads its map, is not."""
    if way == STOCK or next_way != STOCK or not links.readers.get(name, set()) & READING:
        return 0.0
    return links.result_bytes.get(name, 0) * second_per_byte


READING = {"Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d"}


def refined(ways: Mapping[str, str], mixed: Trial, stock: Trial) -> dict[str, str]:
    """The ways, without the runs of fused parts that were slower among their neighbours than stock ones."""
    found, names = dict(ways), list(ways)
    i = 0
    while i < len(names):
        j = i
        while j < len(names) and ways[names[j]] != STOCK:
            j += 1
        if j > i:
            run = _least_run(names[i:j], mixed, stock)
            found.update(dict.fromkeys(run, STOCK))
        i = max(j, i + 1)
    return found


def _least_run(names: Sequence[str], mixed: Trial, stock: Trial) -> Sequence[str]:
    """The consecutive parts that lose most together, if any lose."""
    most, result, start, sum_ = 0.0, (0, 0), 0, 0.0
    for i, name in enumerate(names):
        sum_ += mixed.parts.get(name, 0.0) - stock.parts.get(name, 0.0)
        if sum_ < 0:
            start, sum_ = i + 1, 0.0
        elif sum_ > most:
            most, result = sum_, (start, i + 1)
    return names[result[0] : result[1]]


def within(
    ways: Mapping[str, str], trials: Mapping[str, Trial], limit: float, now: float, links: Links
) -> dict[str, str]:
    """Ways that keep at most `limit` bytes by estimate: a knapsack, filled by milliseconds a byte.

    Args:
        ways: where to start.
        trials: by way, with the bytes and seconds of every part.
        limit: bytes in all.
        now: bytes that are kept with `ways`.
    """
    found = dict(ways)
    while now > limit:
        moves = []
        for name in links.order:
            for way, trial in trials.items():
                saved = trials[found[name]].kept_by.get(name, 0) - trial.kept_by.get(name, 0)
                lost = trial.parts.get(name, 0.0) - trials[found[name]].parts.get(name, 0.0)
                if saved > 0:
                    moves.append((lost / saved, saved, name, way))
        if not moves:
            break
        _, saved, name, way = min(moves)
        found[name] = way
        now -= saved
    return found


def plan_of(ways: Mapping[str, str], links: Links, like: Plan) -> Plan:
    """The plan in which every part has its way, and all else is as in another plan."""
    return replace(like, fused={layer: way for name, way in ways.items() if way != STOCK for layer in links.unit(name)})
