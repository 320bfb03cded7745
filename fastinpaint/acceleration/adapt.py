"""Tries a plan on a model, adapts it until the model runs, and compares the results with the stock model's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.root import own_class
from fastinpaint.acceleration.trial import Trial
from fastinpaint.nn.dropped import GradientDroppedError

TRIES = 8
WORSE = 2.0  # times the stock model's own distance from exact results
DIFFERS = {torch.float64: 1e-6, torch.float32: 2e-2}  # relative to a result's norm: more than rounding


def adapt_plan(
    model: nn.Module,
    plan: Plan,
    like: Trial,
    run: Callable[[Plan], Trial],
    exact: Callable[[], Sequence[Tensor] | None] = lambda: None,
) -> tuple[Trial | None, str]:
    """Adapt a plan until the model runs with it. Returns its trial, or None and the reason.

    A layer whose result is read by code that needs plain tensors, such as an autograd.Function, returns plain tensors
    from then on. So do the layers at the same place in modules of the same class. If code merges axes by ``view``, the
    fused layers return contiguous tensors.

    Args:
        like: the stock model's trial, for comparison.
        run: makes the trial of a plan; may raise what the model raises.
        exact: the stock model's results without autocast, or None where there is no autocast.
    """
    for _ in range(TRIES):
        GradientDroppedError.latest = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # it warns of what is adapted here
                trial = run(plan)
        except Exception as error:
            maker = GradientDroppedError.latest  # TorchScript raises an error of its own over it
            if maker and maker not in plan.plain:
                plan = replace(plan, plain=tuple({*plan.plain, *same_place(model, maker)}))
            elif "view" in str(error) and not plan.contiguous:
                plan = replace(plan, contiguous=True)
            else:
                return None, f"fused layers do not run in this model: {str(error).partition(chr(10))[0]}"
        else:
            distance = difference(trial.results, like.results)
            if distance is None or as_near(trial.results, like.results, exact()):
                return trial, ""
            return None, f"fused layers changed the model's results by {distance:.1g} of their norm: none is used."
    return None, "fused layers are read by too many autograd.Functions in this model."


def same_place(model: nn.Module, name: str) -> list[str]:
    """The layers at the same place in modules of the same class, this one included."""
    parent, _, own = name.rpartition(".")
    kind = own_class(type(model.get_submodule(parent)))
    if kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return [name]
    modules = [(other, module) for other, module in model.named_modules() if own_class(type(module)) is kind]
    return [f"{other}.{own}" if other else own for other, module in modules if hasattr(module, own)]


def as_near(ours: Sequence[Tensor], theirs: Sequence[Tensor], exact: Sequence[Tensor] | None) -> bool:
    """Whether all of our results lie at most twice as far from the exact ones as the stock model's do.

    Under autocast a network may amplify rounding: a batch norm of few values divides by a small deviation.
    """
    if exact is None or not [t.shape for t in ours] == [t.shape for t in theirs] == [t.shape for t in exact]:
        return False
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        distance, allowed = ((t.double() - right.double()).norm() for t in (mine, other))
        if not distance <= WORSE * allowed:
            return False
    return True


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float | None:
    """The difference of results relative to their norm if it is more than rounding, else None."""
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float("inf")
    for mine, right in zip(ours, theirs, strict=True):
        if not right.isfinite().all() or not right.numel():
            continue
        norm = float(right.double().norm())
        distance = float((mine.double() - right.double()).norm()) / norm if norm else 0.0
        if not distance <= DIFFERS.get(right.dtype, 0.2):
            return distance
    return None
