"""Whether a step of a model under a plan gives what the stock model does, but for rounding: results and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

WORSE = 3.0  # times the stock model's own distance from what it gives otherwise
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
COARSE = Tolerance(0.2, 0.5, 0.1)  # of 16-bit types


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


def disagreement(ours: Outcome, stock: Outcome, otherwise: Outcome | None = None) -> str | None:
    """What a plan changed by more than rounding, as the object of a sentence, or None.

    Args:
        otherwise: what the stock model gives without autocast, or from inputs that are moved by rounding. A network may
            amplify rounding: a batch norm of few values divides by a small deviation. So a plan may differ from stock
            by `WORSE` times as much as that does.
    """
    other = otherwise or Outcome()
    distance = difference(ours.results, stock.results, other.results)
    if distance is not None:
        return f"the model's results by {distance:.1g} of their norm"
    same = difference(ours.drawn, stock.drawn, other.drawn) is None
    mine, right, off = ((o.gradients if same else o.evaluated) for o in (ours, stock, other))
    return None if mine is None or right is None else _other_gradient(mine, right, off or {})


def difference(ours: Sequence[Tensor], stock: Sequence[Tensor], otherwise: Sequence[Tensor] = ()) -> float | None:
    """The difference of results relative to their norm if it is more than rounding, else None."""
    if [t.shape for t in ours] != [t.shape for t in stock]:
        return float("inf")
    others = otherwise if [t.shape for t in otherwise] == [t.shape for t in stock] else stock
    for mine, right, other in zip(ours, stock, others, strict=True):
        if not right.isfinite().all() or not right.numel():
            continue
        norm, distance = float(right.double().norm()), _distance(mine, right)
        if not distance <= TOLERANCES.get(right.dtype, COARSE).results * norm + WORSE * _distance(other, right):
            return distance / norm if norm else float("inf")
    return None


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm())


def _other_gradient(ours: Sampled, stock: Sampled, otherwise: Sampled) -> str | None:
    """The first gradient that differs by more than rounding, as the object of a sentence, or None."""
    known = [g.double() for g in stock.values() if g is not None and g.numel() and g.isfinite().all()]
    values = sum(g.numel() for g in known)
    usual = (sum(float(g.square().sum()) for g in known) / values) ** 0.5 if values else 0.0
    for name, right in stock.items():
        mine, other = ours.get(name), otherwise.get(name)
        if (like := mine if right is None else right) is None:
            continue
        mine, right = (torch.zeros_like(like) if g is None else g for g in (mine, right))
        if not right.isfinite().all() or not right.numel():
            continue
        kind = TOLERANCES.get(right.dtype, COARSE)
        norm, distance = float(right.double().norm()), _distance(mine, right)
        allowed = kind.gradient * norm + kind.floor * usual * right.numel() ** 0.5
        if not distance <= allowed + WORSE * _distance(right if other is None else other, right):
            return f"the gradient of {name} by {distance / norm if norm else float('inf'):.1g} of its norm"
    return None
