"""`norm_act` as registered operators and a node of the graph, which keeps x and vectors, never z."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from fastinpaint import environment
from fastinpaint.ops import saved
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.dispatch.fast_path import (
    TAGS,
    autocasts,
    can_bypass_dispatcher,
    dense,
    empty_if_none,
    no_autocast,
    none_if_empty,
    register,
)
from fastinpaint.ops.norm_act import reference
from fastinpaint.ops.norm_act.types import Act, Form
from fastinpaint.ops.saved import Operand, Recipe

OP = "norm_act"
FORM = "str act, float parameter, float eps, int groups, bool of_batch, str backend"
VECTORS = "Tensor? mean, Tensor? var, Tensor? weight, Tensor? bias"
_library = Library("fastinpaint", "FRAGMENT")
_library.define(f"norm_act_fwd(Tensor x, {VECTORS}, Tensor? addend, Tensor? slope, {FORM}) -> Tensor", tags=TAGS)
_library.define(
    f"norm_act_bwd(Tensor da, Tensor x, {VECTORS}, Tensor? addend, Tensor? out, Tensor? slope, {FORM}, bool[] needs)"
    " -> Tensor[]",
    tags=TAGS,
)
_library.define("norm_act_stats(Tensor x, bool per_sample, int groups, str backend) -> (Tensor, Tensor)", tags=TAGS)
FWD_TENSORS, BWD_TENSORS = 7, 9
STATS = Form()
_modules: dict[tuple[Any, ...], ModuleType] = {}  # of `module_of`, by all that it depends on
_runs: dict[tuple[Any, ...], bool] = {}  # of `runs`
_watched = environment.watch(registry.VARIABLE)


def runs(backend: str, device: torch.device) -> bool:
    """Whether some backend that can be chosen there has own kernels, or was requested by name."""
    question = backend, device.type, *_watched()
    found = _runs.get(question)
    if found is None:
        name = registry.requested(backend)
        own = device.type == "cpu" if name == "auto" else not isinstance(registry.find(OP, name), str)
        found = _runs[question] = own
    return found


def _form(act: str, parameter: float, eps: float, groups: int, of_batch: bool) -> Form:
    return Form(Act(act, parameter), eps, groups, of_batch)


def _flat(form: Form) -> tuple[Any, ...]:
    return (*form.act, *form[1:])


def _fwd(fake: bool, *arguments: Any) -> Tensor:
    tensors, (*of_form, backend) = arguments[:FWD_TENSORS], arguments[FWD_TENSORS:]
    x, form = tensors[0], _form(*of_form)
    with no_autocast(x.device):
        module = registry.choose(OP, backend, x.device, x, form)
        a = (reference if fake else module).fwd(*tensors, form)
    if fake:
        return dense(a) if module.CHANNELS_LAST else a
    return a.clone() if a is x else a


def _bwd(fake: bool, *arguments: Any) -> list[Tensor]:
    tensors, (*of_form, backend, needs) = arguments[:BWD_TENSORS], arguments[BWD_TENSORS:]
    da, x, form = tensors[0], tensors[1], _form(*of_form)
    with no_autocast(x.device):
        module = registry.choose(OP, backend, x.device, x, form)
        found = (reference if fake else module).bwd(*tensors, form, tuple(needs))
    if fake and module.CHANNELS_LAST:
        found = tuple(None if t is None else dense(t) if t.dim() > 1 else t for t in found)
    taken: list[Tensor] = [da]
    for tensor in found:
        again = tensor is not None and any(tensor is other for other in taken)
        taken.append(empty_if_none(tensor.clone() if again else tensor, da))
    return taken[1:]


def _stats(fake: bool, x: Tensor, per_sample: bool, groups: int, backend: str) -> tuple[Tensor, Tensor]:
    with no_autocast(x.device):
        module = reference if fake else registry.choose(OP, backend, x.device, x, Form())
        return module.stats(x, per_sample, groups)


for _name, _function in (("norm_act_fwd", _fwd), ("norm_act_bwd", _bwd), ("norm_act_stats", _stats)):
    register(_library, _name, partial(_function, False), partial(_function, True))


def module_of(x: Tensor, form: Form, backend: str) -> ModuleType | None:
    """The module that runs an unobserved call, chosen once for all passes; None under a compiler."""
    if torch.compiler.is_compiling():
        return None
    question = (backend, x.device, x.dtype, x.dim(), form, *registry.settings())
    found = _modules.get(question)
    if found is None:
        found = _modules[question] = registry.choose(OP, backend, x.device, x, form)
    return found


def fwd(tensors: Sequence[Tensor | None], form: Form, backend: str, module: ModuleType | None) -> Tensor:
    """a from ``x, mean, var, weight, bias, addend, slope``."""
    x = tensors[0]
    assert x is not None
    if module is not None and can_bypass_dispatcher(*tensors) and not autocasts(x.device):
        a = module.fwd(*tensors, form)
        return a.clone() if a is x else a
    return torch.ops.fastinpaint.norm_act_fwd.default(*tensors, *_flat(form), backend)


def bwd(
    tensors: Sequence[Tensor | None], form: Form, backend: str, module: ModuleType | None, needs: Sequence[bool]
) -> list[Tensor | None]:
    """dx, dweight, dbias, daddend and dslope from ``da, x, mean, var, weight, bias, addend, out, slope``."""
    da = tensors[0]
    assert da is not None
    if module is not None and can_bypass_dispatcher(*tensors) and not autocasts(da.device):
        return list(module.bwd(*tensors, form, tuple(needs)))
    found = torch.ops.fastinpaint.norm_act_bwd.default(*tensors, *_flat(form), backend, list(needs))
    return [none_if_empty(t) if needed else None for t, needed in zip(found, needs, strict=True)]


def stats(x: Tensor, per_sample: bool, groups: int, backend: str) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, ``[C]`` or ``[N, C]``, with no gradient: `apply` goes through them by itself."""
    x = x.detach()
    if can_bypass_dispatcher(x) and not autocasts(x.device):
        with torch.no_grad():
            return registry.choose(OP, backend, x.device, x, STATS).stats(x, per_sample, groups)
    with torch.no_grad():
        return torch.ops.fastinpaint.norm_act_stats.default(x, per_sample, groups, backend)


class Call(NamedTuple):
    """What `NormAct` takes that has no gradient through it.

    Attributes:
        form, backend: what is computed, and on what.
        module: see `module_of`.
        mean, var: the statistics, ``[C]`` or ``[N, C]`` in the wide dtype, or None for no norm. Without var, `NormAct`
            takes scale and shift in place of weight and bias, and mean as an input: what made x takes their gradients.
        x, addend: what backward is to keep of these maps, a tensor or a recipe.
        own: the recipe of a, if nobody keeps it.
    """

    form: Form
    backend: str
    module: ModuleType | None
    mean: Tensor | None
    var: Tensor | None
    x: Operand
    addend: Operand
    own: Recipe | None


class NormAct(torch.autograd.Function):
    """``apply(call, x, weight, bias, addend, slope, mean) -> a``; mean is None where it has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        addend: Tensor | None,
        slope: Tensor | None,
        mean: Tensor | None,
    ) -> Tensor:
        form, act = call.form, call.form.act
        a = fwd((x, call.mean, call.var, weight, bias, addend, slope), form, call.backend, call.module)
        ctx.form, ctx.backend, ctx.module, ctx.slot = (
            form,
            call.backend,
            call.module,
            None if call.own is None else call.own.slot,
        )
        ctx.has_addend, ctx.from_result = addend is not None, addend is not None and act.from_result
        third: Operand = None
        if ctx.from_result:
            third = a if call.own is None else call.own
        elif addend is not None and act.kind != "none":
            third = call.addend
        # a sum of plain maps has a gradient by a's sign alone
        x_kept = None if call.mean is None and (ctx.from_result or act.kind == "none") else call.x
        ctx.shape = x.shape
        saved.remember(ctx, (x_kept, call.mean, call.var, weight, bias, third, slope))
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, weight, bias, third, slope = saved.recall(ctx)
        form: Form = ctx.form
        _, *needed = ctx.needs_input_grad
        addend, out = (None, third) if ctx.from_result else (third, None)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return (None, *_differentiable(ctx, da, x, (mean, var, weight, bias), addend, out, slope))
        dmean: Tensor | None = None
        plain = form.act.kind == "none"
        if mean is None:  # every map's gradient is dz
            dz: Tensor | None = da
            dslope: Tensor | None = None
            if not plain:
                like = da if x is None else x
                tensors = (da, like, None, None, None, None, addend, out, slope)
                asked = (True, False, False, False, needed[4])
                dz, *_, dslope = bwd(tensors, form, ctx.backend, ctx.module, asked)
            grads = [dz if needed[0] else None, None, None, dz if needed[3] else None, dslope]
        else:
            asked = (*needed[:3], needed[3] and not plain, needed[4])
            grads = bwd((da, x, mean, var, weight, bias, addend, out, slope), form, ctx.backend, ctx.module, asked)
            if needed[3] and plain:
                grads[3] = da
            if needed[5] and weight is not None and grads[2] is not None:
                dmean = -weight * grads[2]  # the gradient of shift is the sum of dz
        if ctx.slot is not None:
            ctx.slot.value = None  # the maker of a map is its last reader
        return (None, *grads, dmean)


def _differentiable(
    ctx: Any,
    da: Tensor,
    x: Tensor | None,
    vectors: Sequence[Tensor | None],
    addend: Tensor | None,
    out: Tensor | None,
    slope: Tensor | None,
) -> list[Tensor | None]:
    """Backward for ``create_graph=True``, by plain torch. act' of `out` is piecewise constant: a factor."""
    form: Form = ctx.form
    mean, var, weight, bias = vectors
    factor = None
    if out is not None:
        factor = reference.act_bwd(form.act, torch.ones_like(out), out).detach()
    if x is None:
        dz = da if factor is None else da * factor
        return [dz, None, None, dz if ctx.has_addend else None, None, None]

    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        addend: Tensor | None,
        slope: Tensor | None,
        mean: Tensor | None,
    ) -> Sequence[Tensor]:
        own = (mean, var)
        if form.of_batch and mean is not None:
            own = reference.stats(x, mean.dim() == 2, form.groups)
        if factor is None:
            return [reference.fwd(x, *own, weight, bias, addend, slope, form)]
        return [reference.fwd(x, *own, weight, bias, None, None, form._replace(act=Act())) * factor]

    grads = saved.differentiate(forward, [x, weight, bias, addend, slope, mean], [da])
    if not ctx.needs_input_grad[6]:
        grads[5] = None
    if ctx.has_addend and addend is None:
        grads[3] = da if factor is None else da * factor
    return grads


def recompute(form: Form, backend: str, module: ModuleType | None, operands: list[Tensor | None]) -> Tensor:
    """a from ``[x, mean, var, weight, bias, addend, slope]``: for recipes. Differentiable where autograd records."""
    x, mean, var, weight, bias, addend, slope = operands
    assert x is not None
    if not torch.is_grad_enabled():
        return fwd(operands, form, backend, module)
    if form.of_batch and mean is not None:
        mean, var = reference.stats(x, mean.dim() == 2, form.groups)
    return reference.fwd(x, mean, var, weight, bias, addend, slope, form)
