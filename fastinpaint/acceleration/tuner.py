"""Measures a model: with a given example, or on the first call of each new set of shapes."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from fastinpaint.acceleration import heap, keys, layout, sandbox
from fastinpaint.acceleration.adapt import adapt_plan
from fastinpaint.acceleration.borders import BORDERS, TUNER
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.finals import Goal
from fastinpaint.acceleration.keys import Key, Modes, key_of
from fastinpaint.acceleration.kinds import is_fusable, is_fused
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.report import Report, layers_of, limit_of
from fastinpaint.acceleration.root import unwatch, watch
from fastinpaint.acceleration.search import LAYOUTS, search
from fastinpaint.acceleration.swap import reasons, swap, unswap
from fastinpaint.acceleration.trial import Runner, compile_ahead
from fastinpaint.nn import region
from fastinpaint.ops.dispatch import triton_support, tuning_cache

logger = logging.getLogger(__name__)
CHANGED = threading.Condition()  # guards `Tuner.changing` of all tuners
CALLS = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)  # what runs while a module is called


@dataclass
class Tuner:
    """The tuning state of an accelerated model.

    Attributes:
        goal, backend: the arguments of `accelerate`.
        plan: the current plan.
        plans: by key of a call, the plan and its report.
        key: the key of the last call.
        modes: reads the modes of the model's modules and parameters.
        rules_tried: the modes in which the plan by rules has been tried: with gradients, in training mode.
        changing: the thread that measures the model or changes its plan: calls in others wait.
    """

    goal: Goal
    backend: str
    plan: Plan
    plans: dict[Key, tuple[Plan, Report]] = field(default_factory=dict)
    key: Key | None = None
    modes: Modes = field(default_factory=Modes)
    rules_tried: set[tuple[bool, bool]] = field(default_factory=set)
    changing: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which no thread is changing."""
        return {**vars(self), "changing": None}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which this thread may change the model's plan. It waits for another one that does."""
        with CHANGED:
            CHANGED.wait_for(self.free)
            self.changing = threading.get_ident()
        try:
            yield
        finally:
            with CHANGED:
                self.changing = None
                CHANGED.notify_all()

    def free(self) -> bool:
        """Whether no other thread changes the plan. One that was lost in a fork does not."""
        return self.changing in (None, threading.get_ident()) or self.changing not in sys._current_frames()


def watch_calls(model: nn.Module, tuner: Tuner) -> None:
    """Measure the model on the first call of each new set of shapes."""
    vars(model)[TUNER] = tuner
    watch(model, TUNER, before_call)


def unwatch_calls(model: nn.Module) -> None:
    """Undo `watch_calls`."""
    for module in model.modules():
        if vars(module).pop(TUNER, None) is not None:
            unwatch(module, TUNER)


def before_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs before a call: use the plan of these shapes, measured if new; returns inputs in its layout."""
    if torch.compiler.is_compiling() or getattr(
        model, "_is_replica", False
    ):  # a replica of nn.DataParallel, in a thread
        return None
    tuner = vars(model)[TUNER]
    if not tuner.free():
        with CHANGED:
            CHANGED.wait_for(tuner.free)
    key = key_of(model, args, kwargs, tuner.modes)
    if key != tuner.key and not waits_for_shapes(model):
        with tuner.alone():
            before = tuner.plan
            if not runs_elsewhere(model):
                _follow(model, tuner, key, Example(args, kwargs))
        if tuner.plan != before and vars(model).get(BORDERS):
            region.enter(model)  # the hook that does so was added too late for this call
    if tuner.plan.channels_last and not (
        torch._C._get_tracing_state() is not None or torch._C._are_functorch_transforms_active()
    ):
        args = tuple([layout.to_channels_last(value) for value in args])
        kwargs = {name: layout.to_channels_last(value) for name, value in kwargs.items()}
    return args, kwargs


def _follow(model: nn.Module, tuner: Tuner, key: Key, example: Example) -> None:
    """Use the plan of a key, measured if it is new."""
    if key not in tuner.plans and can_run_extra_steps():
        grad = torch.is_grad_enabled()
        if tuning_cache.mode() != "0":
            tuner.plans[key] = keys.nearest(tuner.plans, key) or tune(model, example, grad, tuner)
        elif (grad, model.training) not in tuner.rules_tried:
            use_plan(model, tuner, *try_rules(model, example, grad, tuner))
    if key in tuner.plans:
        tuner.key = key
        use_plan(model, tuner, *tuner.plans[key])


def runs_elsewhere(model: nn.Module) -> bool:
    """Whether another thread is in a call of the model, whose layers must not change under it.

    Any plan gives the same results, so the call goes on with the current one.
    """
    if threading.active_count() == 1:
        return False
    own = threading.get_ident()
    for thread, frame in sys._current_frames().items():
        while thread != own and frame is not None:
            if frame.f_code in CALLS and frame.f_locals.get("self") is model:
                return True
            frame = frame.f_back  # type: ignore[assignment]
    return False


def waits_for_shapes(model: nn.Module) -> bool:
    """Whether torch's lazy layers get their parameters in this call: a later one can be measured."""
    return any(map(is_lazy, model.parameters()))


def use_plan(model: nn.Module, tuner: Tuner, plan: Plan, report: Report) -> None:
    """Make a plan the model's current one."""
    if plan != tuner.plan:
        apply_plan(model, plan, tuner.backend)
        tuner.plan = plan
    vars(model)["fastinpaint_report"] = report


def apply_plan(model: nn.Module, plan: Plan, backend: str) -> tuple[list[str], dict[str, str]]:
    """Change the model to the plan; returns the results of `swap`."""
    unswap(model)
    if plan.channels_last is not None:
        layout.set_weights(model, plan.channels_last)
    return swap(model, plan, backend)


def can_run_extra_steps(measured: bool = True) -> bool:
    """Whether extra steps may run now.

    They must not run where something observes the operators (a compiler, tracer, checkpoint, functorch, a mode, a CUDA
    graph's capture), or in a backward pass. Steps to be measured must not run in distributed training, where all
    processes must make the same choice.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or region.saving() is not None
        or torch._C._current_graph_task_id() != -1
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
        or (measured and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
    )


def tune(model: nn.Module, example: Example, grad: bool, tuner: Tuner) -> tuple[Plan, Report]:
    """The plan for a model's call, remembered or measured, and its report. The model is restored afterwards.

    Args:
        grad: whether gradients are enabled for the call.
    """
    training = grad and any(t.requires_grad for t in (*model.parameters(), *example.tensors()))
    reason = sandbox.why_not(model) or example.why_not()
    if reason is None and (is_fusable(model) or is_fused(model)):
        reason = "the model is one layer."
    if reason is not None:
        return _unmeasured(tuner, f"the model was not measured: {reason}")
    file = keys.choices_file(example)
    key = keys.problem(model, example, training, (tuner.goal, tuner.backend))
    known = tuning_cache.read(file).get(key)
    if known is not None:
        plan, report = Plan.from_dict(known["plan"]), Report.from_dict(known["report"])
        report.how = "remembered"
        return plan, report
    unswap(model)
    try:
        with torch.set_grad_enabled(grad), sandbox.sandbox(model), heap.held(), progress() as bar:
            runner = Runner(model, example, training, tuner.backend, bar.update)
            try:
                if runner.device.type == "cuda" and triton_support.INSTALLED:
                    compile_ahead(runner, Plan(everything=True))
                found = search(runner, tuner.goal)
                runner.apply(found.plan)
                report = _report(model, found, tuner)
                report.cost = {"steps": runner.steps, "seconds": runner.elapsed()}
            finally:
                unswap(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        logger.warning("accelerate: the model was not measured: %s", error)
        reason = f"the model was not measured: {str(error).partition(chr(10))[0]}"
    finally:
        apply_plan(model, tuner.plan, tuner.backend)
    if reason is not None:
        plan, report = try_rules(model, example, grad, tuner)
        return plan, replace(report, notes=[*report.notes, reason])
    tuning_cache.write(file, {key: {"plan": found.plan.to_dict(), "report": report.to_dict()}})
    return found.plan, report


def try_rules(model: nn.Module, example: Example, grad: bool, tuner: Tuner) -> tuple[Plan, Report]:
    """The plan by rules, adapted until the model runs with equal results. Takes at least two steps."""
    tuner.rules_tried.add((grad, model.training))
    report, plan = vars(model)["fastinpaint_report"], replace(tuner.plan, contiguous=False)
    if sandbox.why_not(model) or example.why_not() or is_fusable(model) or is_fused(model):
        return tuner.plan, report
    training = grad and any(t.requires_grad for t in (*model.parameters(), *example.tensors()))
    unswap(model)
    try:
        with torch.set_grad_enabled(grad), sandbox.sandbox(model):
            runner = Runner(model, example, training, tuner.backend, int)
            try:
                stock = runner.try_out(Plan(), backward=True)
                trial, reason = adapt_plan(
                    model, plan, lambda plan: runner.try_out(plan, backward=True), lambda t: runner.changed(t, stock)
                )
            finally:
                unswap(model)
    except Exception as error:  # the model's own call will raise it again
        logger.debug("accelerate: the rules were not tried: %s", error)
        return tuner.plan, report
    finally:
        apply_plan(model, tuner.plan, tuner.backend)
    if trial is None:
        return Plan(), replace(report, swapped=[], layers=[], notes=[reason])
    return trial.plan, report


def _unmeasured(tuner: Tuner, note: str) -> tuple[Plan, Report]:
    return tuner.plan, Report(objective=tuner.goal.objective, how="rules", notes=[note])


def _report(model: nn.Module, found: Any, tuner: Tuner) -> Report:
    """The report of a model that has the found plan applied."""
    swapped = [name for name, module in model.named_modules() if is_fused(module)]
    unswap(model)
    left = reasons(model)
    before, (seconds, kept) = min(found.stock.items(), key=lambda item: item[1][0])
    stock = {name: {"ms": 1e3 * s, "kept_bytes": k} for name, (s, k) in found.stock.items()}
    layout_name = LAYOUTS[bool(found.plan.channels_last)]
    return Report(
        swapped,
        left,
        found.notes,
        objective=tuner.goal.objective,
        how="measured",
        layers=layers_of(model, found.tiers, found.parts, left, found.links),
        stock=stock,
        before={"layout": before, "ms": 1e3 * seconds, "kept_bytes": kept},
        after={"layout": layout_name, "ms": 1e3 * found.seconds, "kept_bytes": found.kept, "held_bytes": found.held},
        smaller=[{"plan": c.name, "ms": 1e3 * c.trial.seconds, "kept_bytes": c.kept} for c in found.smaller],
        limit=limit_of(model, found.tiers, found.parts["stock"], found.links),
    )


def progress() -> Any:
    """A progress bar, shown on a terminal only."""
    return tqdm(desc="accelerate", unit="step", disable=not sys.stderr.isatty(), leave=False)
