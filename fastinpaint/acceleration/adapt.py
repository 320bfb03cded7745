"""Tries a plan on a model, adapts it until the model runs, and compares what it gives with the stock model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.root import own_class
from fastinpaint.acceleration.trial import Trial
from fastinpaint.nn.dropped import GradientDroppedError, handed_out

TRIES = 8


def adapt_plan(
    model: nn.Module, plan: Plan, run: Callable[[Plan], Trial], changed: Callable[[Trial], str | None]
) -> tuple[Trial | None, str]:
    """Adapt a plan until the model runs with it. Returns its trial, or None and the reason.

    A layer whose result is read by code that needs plain tensors, such as an autograd.Function, returns plain tensors
    from then on. So do the layers at the same place in modules of the same class. A layer whose map the model hands out
    after other layers have read it returns plain tensors too: else the map's own gradient would lack theirs. If code
    merges axes by ``view``, the fused layers return contiguous tensors.

    Args:
        run: makes the trial of a plan; may raise what the model raises.
        changed: what a trial gave that the stock model does not, see `Runner.changed`.
    """
    for _ in range(TRIES):
        GradientDroppedError.latest = ""
        handed_out.clear()
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
            if not handed_out <= {*plan.plain, ""}:
                plan = replace(plan, plain=tuple({*plan.plain, *handed_out}))
                continue
            other = changed(trial)
            return (trial, "") if other is None else (None, f"fused layers changed {other}: none is used.")
    return None, "fused layers are read by too many autograd.Functions in this model."


def same_place(model: nn.Module, name: str) -> list[str]:
    """The layers at the same place in modules of the same class, this one included."""
    parent, _, own = name.rpartition(".")
    kind = own_class(type(model.get_submodule(parent)))
    if kind in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return [name]
    modules = [(other, module) for other, module in model.named_modules() if own_class(type(module)) is kind]
    return [f"{other}.{own}" if other else own for other, module in modules if hasattr(module, own)]
