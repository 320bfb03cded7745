"""`accelerate`: any model as fast as its layers can run here, by measurement; `restore` takes it back."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fastinpaint.acceleration import layout
from fastinpaint.acceleration.example import Example, arguments_of
from fastinpaint.acceleration.finals import Goal
from fastinpaint.acceleration.first_call import unwatch_first_call, watch_first_call
from fastinpaint.acceleration.keys import key_of
from fastinpaint.acceleration.kinds import is_fusable, layer_class, learn_subclasses
from fastinpaint.acceleration.plan import Plan
from fastinpaint.acceleration.report import Layer, Report
from fastinpaint.acceleration.rules import choices
from fastinpaint.acceleration.swap import reasons, swap, unswap
from fastinpaint.acceleration.tuner import (
    Tuner,
    try_rules,
    tune,
    unwatch_calls,
    use_plan,
    waits_for_shapes,
    watch_calls,
)
from fastinpaint.ops.dispatch import native, native_cpu, registry, tuning_cache

Model = TypeVar("Model", bound=nn.Module)
MEMORY = ("default", "low", "least")
OBJECTIVES = ("speed", "balanced", "memory", "fuse")
VARIABLE = "FASTINPAINT_OBJECTIVE"
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def accelerate(
    model: Model,
    backend: str = "auto",
    memory: str | float = "default",
    example: Any = None,
    objective: str | None = None,
    channels_last: bool | None = None,
) -> Model:
    """Make a model's training step, or its inference, as fast as this library and stock torch can, in place.

    Each convolution is timed fused with its norm and activation, and stock, at the shapes of the example or of the
    model's first call. Then whole steps of several plans, the wholly fused model among them, are timed in turns with
    the untouched model in both memory layouts. The result is not slower than the better stock layout, within what
    timings show, and keeps no more for backward. Where times differ by noise, fewer kept bytes decide.

    Modules keep their identity: names, parameters, buffers, ``state_dict`` and optimiser state stay as they are, and
    checkpoints go both ways. The model's class becomes one derived from it, of the same name. Inside the model
    activations are deferred; what the model returns, what its foreign layers get and what hooks see are plain tensors.
    ``print(model.fastinpaint_report)`` says what was chosen, why, and what it gained.

    Measuring takes about 30 times the stock step, once for each set of shapes and mode (with gradients or without).
    Meanwhile glibc returns no memory to the system. The choice is remembered on disk. Measuring leaves parameters,
    buffers, gradients and random states as they were, and does not happen under compilers, tracers, checkpoints,
    functorch or in one of several processes. There, and with ``FASTINPAINT_TUNE=0``, the rules of
    `fastinpaint.acceleration.rules` choose.

    Weights, gradients and activations may become channels-last, as by ``model.to(memory_format=torch.channels_last)``.
    Code that flattens weights or gradients by ``view`` refuses these: torch's LBFGS, ``parameters_to_vector`` and
    ``prune``, Muon, safetensors' ``save_file``. With ``channels_last=False`` weights and gradients stay contiguous for
    it. To see the gradient of an inner activation, put a hook on its module, or call ``retain_grad`` before another
    layer reads it. ``torch.jit.script``, ``torch.fx`` and ``torch.ao.quantization`` take the plain model: script, trace
    or prepare it first, or `restore` it. Eager quantisation finds layers by their class, and passes over fused ones.

    Args:
        model: any ``nn.Module``; changed and returned. An accelerated model may be given again with other options.
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS` or "auto". A name fuses every layer
            that can be, with that backend, and measures nothing.
        memory: "default": backward keeps the raw maps of fused layers and recomputes batch norm, ReLU, additions and
            concatenations; where a first layer is cheap, its map too. "low": it also computes again every map whose
            values cost few multiply-adds. "least": it computes every convolution again, as checkpointing of the whole
            model would. A number up to 1, or "512MB": the fastest plan within a budget of the bytes that are kept
            between forward and backward, as a share of the stock model's or absolute. What backward computes again
            and holds does not count against a budget; the report has both.
        example: a batch: one tensor, a tuple of arguments, or a dict of keyword arguments. It is measured at once.
        objective: "speed": the fastest. "balanced": the fewest kept bytes within 5 % of the fastest's time. "memory":
            the fewest kept bytes. "fuse": every layer that can be fused, without measuring. Default: the environment's
            ``FASTINPAINT_OBJECTIVE``, else "memory" with memory="low" or "least", else "speed".
        channels_last: the layout of the weights and inputs: False for contiguous, None for the faster one.

    Returns:
        The model.

    Raises:
        ValueError: backend, memory or objective is unknown.
    """
    name = registry.requested(backend)
    budget = _budget(memory)
    objective = _objective(objective, memory, name)
    restore(model)
    learn_subclasses(model)
    if objective == "fuse":
        tier = memory if isinstance(memory, str) and budget is None else "default"
        plan = Plan(everything=True, contiguous=not _is_channels_last(model), memory=tier)
        before = _layouts(model)
        _put_unmeasured(model, plan, backend, Report(objective="fuse", how="fuse"))
        watch_first_call(model, plan, backend)
        if name in ("auto", "cpu") and channels_last is not False:
            vars(model)["_fastinpaint_layouts"] = before
            _put_channels_innermost(model)
        return model
    if (reason := _compiled(model) or _no_kernels(model)) is not None:
        warnings.warn(f"fastinpaint: the model stays as it is: {reason}", stacklevel=2)
        vars(model)["fastinpaint_report"] = Report(
            objective=objective, how="rules", notes=[reason], left=reasons(model)
        )
        return model
    plan, rows = _by_rules(model, memory if memory in MEMORY else "default")
    _put_unmeasured(model, plan, backend, Report(objective=objective, how="rules", layers=rows))
    layouts = (False, True) if channels_last is None else (channels_last,)
    tuner = Tuner(Goal(objective, budget, layouts), backend, plan)
    vars(model)["_fastinpaint_layouts"] = _layouts(model)
    watch_calls(model, tuner)
    if example is not None and not waits_for_shapes(model):
        _choose_now(model, example, tuner)
    return model


def restore(model: Model) -> Model:
    """Take `accelerate` back: every module has its own class again, weights their layout. Returns the model."""
    unwatch_calls(model)
    unwatch_first_call(model)
    unswap(model)
    changeable = not layout.in_buckets(model)
    for module in model.modules():
        vars(module).pop("fastinpaint_report", None)
        vars(module).pop("_fastinpaint_plans", None)
        before = vars(module).pop("_fastinpaint_layouts", {})
        for name, parameter in module.named_parameters():
            if changeable and name in before and parameter.dim() in layout.FORMATS:
                layout.set_layout(parameter, before[name])
    return model


def _objective(objective: str | None, memory: str | float, backend: str) -> str:
    """The objective. A backend by name means that everything is fused."""
    if objective is None:
        objective = os.environ.get(VARIABLE) or ("memory" if memory in MEMORY[1:] else "speed")
    if objective not in OBJECTIVES:
        raise ValueError(f"accelerate: objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}.")
    return objective if backend == "auto" else "fuse"


def _budget(memory: str | float) -> float | None:
    """The kept bytes that `memory` asks for, or their share if at most 1; None if it names a tier."""
    if isinstance(memory, str):
        if memory in MEMORY:
            return None
        match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", memory)
        if match is not None and match[2].upper() in UNITS:
            return float(match[1]) * UNITS[match[2].upper()]
    elif not isinstance(memory, bool) and memory > 0:
        return float(memory)
    raise ValueError(
        f"accelerate: memory must be one of {', '.join(MEMORY)}, a share above 0 or bytes as '512MB', got {memory!r}."
    )


def _compiled(model: nn.Module) -> str | None:
    """Why a model that is compiled already stays as it is, or None."""
    compiled = [m for m in model.modules() if type(m).__name__ == "OptimizedModule" or m._compiled_call_impl]
    return (
        "it is compiled already: accelerate it first, and give torch.compile what that returns." if compiled else None
    )


def _no_kernels(model: nn.Module) -> str | None:
    """Why only plain torch can run the fused layers here and what to do about it, or None."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cpu":
        if (reason := native.why_not("cpu")) is not None:
            return f"{reason} Install a C++ compiler and reinstall fastinpaint."
        if native_cpu.isa() == "scalar":
            return "the CPU kernels need AVX2, which this processor or FASTINPAINT_CPU_ISA does not offer."
    return None


def _by_rules(model: nn.Module, tier: str) -> tuple[Plan, list[Layer]]:
    """The plan of the rules, and each convolution's rule."""
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd) and is_fusable(m)}
    chosen = choices(convs)
    fused = {name: tier for name, (pays, _) in chosen.items() if pays}
    plan = Plan(fused=fused, contiguous=not _is_channels_last(model), memory=tier, by_rule=True)
    rows = [
        Layer(name, layer_class(convs[name]).__name__, plan.tier(name) or "stock", why)
        for name, (_, why) in chosen.items()
    ]
    return plan, rows


def _put_unmeasured(model: nn.Module, plan: Plan, backend: str, report: Report) -> None:
    report.swapped, report.left = swap(model, plan, backend)
    vars(model)["fastinpaint_report"] = report


def _put_channels_innermost(model: nn.Module) -> None:
    """Make the fused convolutions' weights channels-last once, as oneDNN reads them beside our maps in every pass."""
    if layout.in_buckets(model):
        return
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd) and "_fastinpaint" in vars(module):
            weight = module._parameters.get("weight")  # none where a parametrization computes it
            if weight is not None and weight.device.type == "cpu":
                layout.set_layout(weight, True)


def _is_channels_last(model: nn.Module) -> bool:
    """Whether a weight is channels-last: then torch's own convolutions return channels-last maps too."""
    return any(not is_lazy(p) and p.dim() in layout.FORMATS and not p.is_contiguous() for p in model.parameters())


def _layouts(model: nn.Module) -> dict[str, bool]:
    """By name: whether a weight is channels-last, for `restore`."""
    known = [(name, p) for name, p in model.named_parameters() if not is_lazy(p)]
    return {name: not p.is_contiguous() for name, p in known if p.dim() in layout.FORMATS}


def _choose_now(model: nn.Module, example: Any, tuner: Tuner) -> None:
    """Choose by an example: with gradients in training mode, without them in evaluation."""
    args, kwargs = arguments_of(example)
    call = Example(args, kwargs)
    with torch.set_grad_enabled(model.training):
        if tuning_cache.mode() == "0":
            use_plan(model, tuner, *try_rules(model, call, model.training, tuner))
            return
        tuner.key = key_of(model, args, kwargs, tuner.modes)
        tuner.plans[tuner.key] = tune(model, call, model.training, tuner)
        use_plan(model, tuner, *tuner.plans[tuner.key])
