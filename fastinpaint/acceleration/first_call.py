"""Compiles the Triton kernels of a fused model's step in several processes, when the model is first called.

The step runs once before, in a `sandbox` and with its kernels listed instead of launched. Without it, every kernel
compiles when it is first launched, one after another, which takes minutes. In distributed training every process runs
that step, so that collective operations inside the model find each other.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastinpaint.acceleration import sandbox
from fastinpaint.acceleration.borders import BORDERS, FIRST_CALL
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.root import unwatch, watch
from fastinpaint.acceleration.swap import swap, unswap
from fastinpaint.acceleration.trial import ONE_BY_ONE, Runner, compile_ahead
from fastinpaint.acceleration.tuner import can_run_extra_steps, runs_elsewhere, waits_for_shapes
from fastinpaint.nn import region
from fastinpaint.ops.dispatch import registry, triton_support

logger = logging.getLogger(__name__)


@dataclass
class FirstCall:
    """What is known of a model before its first call.

    Attributes:
        plan, backend: the arguments of `swap`.
        seen: the modes that it was called in: with gradients, or without.
    """

    plan: Plan
    backend: str
    seen: set[bool] = field(default_factory=set)


def watch_first_call(model: nn.Module, plan: Plan, backend: str) -> None:
    """Compile on a model's first call with gradients, and on its first without."""
    on_gpu = torch.cuda.is_available() or registry.requested(backend) == "triton"
    if on_gpu and importlib.util.find_spec("triton") is not None and "_fastinpaint" not in vars(model):
        vars(model)[FIRST_CALL] = FirstCall(plan, backend)
        watch(model, FIRST_CALL, before_first_call)


def unwatch_first_call(model: nn.Module) -> None:
    """Undo `watch_first_call`."""
    for module in model.modules():
        if vars(module).pop(FIRST_CALL, None) is not None:
            unwatch(module, FIRST_CALL)


def before_first_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Runs before a call: compile what a call and its backward launch. It removes itself after both modes."""
    state, mode = vars(model)[FIRST_CALL], torch.is_grad_enabled()
    if mode in state.seen or torch.compiler.is_compiling() or getattr(model, "_is_replica", False):
        return
    weight = next(model.parameters(), None)
    if weight is None or triton_support.why_not_on("accelerate", weight) is not None or waits_for_shapes(model):
        return
    from fastinpaint.ops.conv_block.triton import ahead

    if ahead.is_collecting():
        return
    state.seen.add(mode)
    if len(state.seen) == 2:
        unwatch_first_call(model)
    if ahead.can_collect() and _compile(model, Example(args, kwargs), state) and vars(model).get(BORDERS):
        region.enter(model)  # the hook that does so was added too late for this call


def _compile(model: nn.Module, example: Example, state: FirstCall) -> bool:
    """Compile the kernels of a call. Returns whether the model was swapped for it. A failure is logged."""
    reason = sandbox.why_not(model) or example.why_not()
    if reason is None and (not can_run_extra_steps(measured=False) or runs_elsewhere(model)):
        reason = "an extra step cannot run under checkpoints, tracers and graphs, or beside another thread's call."
    if reason is not None:
        logger.warning(ONE_BY_ONE, reason)
        return False
    grad = torch.is_grad_enabled()
    training = grad and any(t.requires_grad for t in (*model.parameters(), *example.tensors()))
    unswap(model)
    try:
        with sandbox.sandbox(model):
            compile_ahead(Runner(model, example, training, state.backend, int), state.plan)
            unswap(model)
    finally:
        swap(model, state.plan, state.backend)
    return True
