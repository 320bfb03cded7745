"""Whether a step of a model under a plan gives what the stock model does, but for rounding: results and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

WORSE = 2.0  # times the stock model's own distance from exact results
SAMPLED = 4096  # values of a gradient that are compared
Sampled = Mapping[str, Tensor | None]


class Tolerance(NamedTuple):
    """The most that rounding may do.

    Attributes:
        results: relative to a result's norm.
        gradient: relative to a gradient's norm.
        floor: relative to the root mean square of all gradients: those of a bias before a batch norm are all rounding.
    """

    results: float
    gradient: float
    floor: float


TOLERANCES = {torch.float64: Tolerance(1e-6, 1e-4, 1e-8), torch.float32: Tolerance(2e-2, 0.1, 1e-3)}
COARSE = Tolerance(0.2, 0.5, 0.1)  # of 16-bit types, and under autocast


@dataclass
class Outcome:
    """What a step gave, for comparison.

    Attributes:
        results: the model's results; those in evaluation mode where its call draws random numbers.
        drawn: the results of the call itself.
        gradients: values of the call's gradients, by the name of a parameter or input; None where no backward pass ran.
        evaluated: the same in evaluation mode, where another layout may draw another pattern of dropout.
    """

    results: Sequence[Tensor] = ()
    drawn: Sequence[Tensor] = ()
    gradients: Sampled | None = None
    evaluated: Sampled | None = None


def sampled(gradient: Tensor | None) -> Tensor | None:
    """Up to `SAMPLED` values of a gradient, at the same random places every time."""
    if gradient is None or gradient.layout != torch.strided:
        return None
    flat = gradient.detach().flatten()
    if flat.numel() > SAMPLED:
        places = torch.randint(flat.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
        flat = flat[places.to(flat.device)]
    return flat.float().cpu() if flat.dtype != torch.float64 else flat.cpu()


def disagreement(ours: Outcome, stock: Outcome, exact: Outcome | None = None) -> str | None:
    """What a plan changed by more than rounding, as the object of a sentence, or None.

    Args:
        exact: what the stock model gives without autocast. Under autocast a network may amplify rounding: a batch norm
            of few values divides by a small deviation. So twice stock's own distance from it is allowed.
    """
    distance = difference(ours.results, stock.results)
    if distance is not None and not (exact and _as_near(ours.results, stock.results, exact.results)):
        return f"the model's results by {distance:.1g} of their norm"
    kind = "gradients" if difference(ours.drawn, stock.drawn) is None else "evaluated"
    mine, right, best = (getattr(outcome, kind, None) for outcome in (ours, stock, exact))
    return None if mine is None or right is None else _other_gradient(mine, right, best or {})


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float | None:
    """The difference of results relative to their norm if it is more than rounding, else None."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    for mine, right in zip(ours, theirs, strict=True):
        if not right.isfinite().all() or not right.numel():
            continue
        norm, off = float(right.double().norm()), float((mine.double() - right.double()).norm())
        distance = off / norm if norm else off and float("inf")
        if not distance <= TOLERANCES.get(right.dtype, COARSE).results:
            return distance
    return None


def _as_near(ours: Sequence[Tensor], theirs: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    """Whether all of our results lie at most twice as far from the exact ones as the stock model's do."""
    if not [t.shape for t in ours] == [t.shape for t in theirs] == [t.shape for t in exact]:
        return False
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        distance, allowed = ((t.double() - right.double()).norm() for t in (mine, other))
        if not distance <= WORSE * allowed:
            return False
    return True


def _other_gradient(ours: Sampled, theirs: Sampled, exact: Sampled) -> str | None:
    """The first gradient that differs by more than rounding, as the object of a sentence, or None."""
    known = [g.double() for g in theirs.values() if g is not None and g.numel() and g.isfinite().all()]
    values = sum(g.numel() for g in known)
    usual = (sum(float(g.square().sum()) for g in known) / values) ** 0.5 if values else 0.0
    for name, right in theirs.items():
        mine = ours.get(name)
        if right is None and mine is None:
            continue
        like = right if right is not None else mine
        assert like is not None
        mine, right = (torch.zeros_like(like) if g is None else g for g in (mine, right))
        if not right.isfinite().all() or not right.numel():
            continue
        kind = COARSE if exact else TOLERANCES.get(right.dtype, COARSE)
        norm, distance = float(right.double().norm()), float((mine.double() - right.double()).norm())
        allowed = kind.gradient * norm + kind.floor * usual * right.numel() ** 0.5
        if distance <= allowed:
            continue
        if (best := exact.get(name)) is not None:
            near, off = (float((g.double() - best.double()).norm()) for g in (mine, right))
            if near <= WORSE * off + allowed:
                continue
        return f"the gradient of {name} by {distance / norm if norm else float('inf'):.1g} of its norm"
    return None
