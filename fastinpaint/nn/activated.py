"""`Activated`: ``act(norm(y) + addend)``, a map that is computed when something reads it, and again in backward.

The graph keeps y and vectors. A map with an addend is kept where the next layer would keep it anyway (tier "default"),
or computed again from the addend's own recipe (the other tiers): then none of a chain of residual sums is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastinpaint.nn.raw import MOST_STEPS, Mode, Options, Part, Raw, part_of, stamp, version
from fastinpaint.ops.batch_norm.reference import affine
from fastinpaint.ops.dispatch.fast_path import applied
from fastinpaint.ops.norm_act import NONE, RELU, Act, Form
from fastinpaint.ops.norm_act import autograd as norm_act
from fastinpaint.ops.norm_act.autograd import Call, NormAct
from fastinpaint.ops.saved import Recipe, Slot, depth


class Normed:
    """The normalisation of a raw map: vectors that a convolution loads, or a separate pass.

    Args:
        mean, var: ``[C]`` of the batch or ``[N, C]`` of each sample, in the wide dtype. Those of a batch may have a
            gradient, which a separate pass does not use.
        weight, bias: ``[C]`` or None.
        eps: what is added to var.
        groups: groups of channels that share their statistics; 0: each channel has its own.
        of_batch: whether mean and var are the map's own statistics.
        vectors: mean, scale and shift, where the convolution's own node made them.
    """

    def __init__(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        groups: int = 0,
        of_batch: bool = True,
        vectors: Any = None,
    ) -> None:
        self.mean, self.var, self.weight, self.bias = mean, var, weight, bias
        self.eps, self.groups, self.of_batch = eps, groups, of_batch
        self.stamps = stamp(weight), stamp(bias)
        self.made: dict[Act, Activated] = {}  # the maps computed from it so far, by activation
        self._vectors: tuple[Tensor, Tensor, Tensor] | None = vectors

    @property
    def requires_grad(self) -> bool:
        weight, bias = self.weight, self.bias
        return (weight is not None and weight.requires_grad) or (bias is not None and bias.requires_grad)

    def check_unchanged(self) -> None:
        """Raises RuntimeError where weight or bias was modified in place since."""
        if (stamp(self.weight), stamp(self.bias)) != self.stamps:
            raise RuntimeError(
                f"fastinpaint: the weight or bias of a norm over {self.mean.shape[-1]} channels was modified in place "
                "before the deferred activation that reads it ran; use the result before an optimiser's step."
            )

    def made_with(self, raw: Raw) -> bool:
        """Whether the raw map's own node made mean, scale and shift, and its backward best adds their part itself."""
        return self._vectors is not None and raw.loads_gradient

    def vectors(self) -> tuple[Tensor, Tensor, Tensor]:
        """mean, scale and shift, differentiable: see `fastinpaint.ops.types.Source`."""
        if self._vectors is None:
            self.check_unchanged()
            self._vectors = (self.mean, *affine(self.var, self.weight, self.bias, self.eps))
        return self._vectors


class Activated(Raw):
    """``act(norm(y) + addend)``, computed in the mode (autograd, inference) of the moment it was made.

    slope: of prelu, ``[C]`` or ``[1]``.
    """

    untracked = False  # a reader that may change it is given a copy

    def __init__(
        self,
        raw: Raw,
        norm: Normed | None,
        act: Act,
        addend: Raw | None,
        options: Options,
        slope: Tensor | None = None,
    ) -> None:
        self.x = None
        self.raw: Any = raw  # None once it has run
        self.norm, self.addend = norm, addend  # the reference to the norm, which holds this in `made`, is dropped then
        self.act, self.slope, self.options = act, slope, options
        self.slope_stamp = stamp(slope)
        self.shape, self.dtype, self.device = raw.shape, raw.dtype, raw.device
        self.mode = Mode.now()
        if self.mode.inference and (raw.untracked or (addend is not None and addend.untracked)):
            self._run()

    def tensor(self) -> Tensor:
        if self.x is None:
            self._run()
        assert self.x is not None
        return self.x

    @property
    def open(self) -> bool:
        """Whether it can still take in an activation, or a first addend."""
        return self.x is None and self.act == NONE and self.mode == Mode.now()

    @property
    def requires_grad(self) -> bool:
        if self.x is not None:
            return self.x.requires_grad
        raw, addend, norm, slope = self.raw, self.addend, self.norm, self.slope
        return self.mode.grad and (
            raw.requires_grad
            or (slope is not None and slope.requires_grad)
            or (addend is not None and addend.requires_grad)
            or (norm is not None and norm.requires_grad)
        )

    def _run(self) -> None:
        with self.mode.again():
            apply, arguments = self.prepare()
            self.finish(arguments, apply(*arguments))

    def prepare(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function that adds its node to the graph, and the function's arguments."""
        raw, norm, addend = self.raw, self.norm, self.addend
        raw.check_unchanged()
        if addend is not None:
            addend.check_unchanged()
        mean = var = weight = bias = added = upstream_mean = None
        form = Form(self.act)
        if norm is not None and norm.made_with(raw) and (addend is None or self.act == NONE):
            # backward is one pass here, and the convolution's adds what reaches y through its statistics as it loads.
            # Of an activated sum the pass would write two maps, the sum's gradient too, and so gain nothing
            mean, weight, bias = norm.vectors()
            upstream_mean = mean
        elif norm is not None:
            norm.check_unchanged()
            mean, var, weight, bias = norm.mean.detach(), norm.var.detach(), norm.weight, norm.bias
            form = Form(self.act, norm.eps, norm.groups, norm.of_batch)
        slope = self.slope
        if stamp(slope) != self.slope_stamp:
            raise RuntimeError(
                "fastinpaint: the weight of a PReLU was modified in place before the deferred activation ran; use the "
                "result before an optimiser's step."
            )
        x = raw.tensor()
        x_kept, addend_kept = raw.recipe or x, None
        if addend is not None:
            added = addend.tensor()
            addend_kept = addend.recipe or added
        backend = self.options.backend
        module = norm_act.module_of(x, form, backend)
        operands = (x_kept, mean, var, weight, bias, addend_kept, slope)
        steps = depth(operands)
        forgotten = addend is None or (self.options.memory != "default" and steps < MOST_STEPS)
        if forgotten and self.requires_grad:
            again = partial(norm_act.recompute, form, backend, module)
            self.recipe = Recipe(again, operands, Slot(), steps + 1)
        call = Call(form, backend, module, mean, var, x_kept, addend_kept, self.recipe)
        return applied(NormAct), (call, x, weight, bias, added, slope, upstream_mean)

    def finish(self, arguments: tuple[Any, ...], found: Tensor) -> None:
        """Store the result of the node of `prepare`."""
        self.x = found
        self.version = version(found)
        self.raw = self.norm = self.addend = self.slope = None  # its inputs can be freed, unless backward keeps them


def pending(
    part: Part, act: Act, addend: Raw | None, options: Options, slope: Tensor | None = None
) -> Activated | None:
    """``act(part + addend)``; None where only torch can compute it."""
    raw, norm = part.raw, part.norm
    if part.relu or part.addend is not None or (part.mean is not None and norm is None):
        return None
    if torch.compiler.is_compiling() or not norm_act.runs(options.backend, raw.device):
        return None
    if isinstance(raw, Activated) and raw.open and (addend is None or raw.addend is None):
        raw, norm, addend = raw.raw, raw.norm, raw.addend if addend is None else addend
    return Activated(raw, norm, act, addend, options, slope)


def followed(part: Part, act: Act, slope: Tensor | None, options: Options) -> Part | None:
    """act of a part; None where only torch can compute it."""
    raw, mean, scale, shift, _, addend, norm = part
    if act == RELU and addend is None and not (isinstance(raw, Activated) and raw.open):
        return part_of((raw, mean, scale, shift, True, None, norm))
    found = pending(part, act, addend=None, options=options, slope=slope)
    return None if found is None else Part(found)


def slopes_of(parts: Sequence[Part], slope: Tensor | None) -> Sequence[Tensor | None]:
    """Prelu's slopes of each part's channels."""
    if slope is None or slope.numel() == 1 or len(parts) == 1:
        return [slope] * len(parts)
    return slope.split([part.raw.shape[1] for part in parts])


def opened(part: Part) -> Part | None:
    """A part whose activation the reader computes on load; None if its map exists or is more than act(norm(y))."""
    raw = part.raw
    if not isinstance(raw, Activated) or raw.x is not None or raw.addend is not None or not part.bare:
        return None
    if raw.slope is not None:  # convolutions load activations of one parameter
        return None
    if raw.mode != Mode.now() or (raw.norm is not None and (raw.norm.mean.dim() > 1 or raw.norm.groups)):
        return None
    return Part(raw.raw, relu=raw.act.code, norm=raw.norm)


def made(part: Part, options: Options) -> Raw | None:
    """A normalised part, with its ReLU if any, as a map that all its readers share; None for another part."""
    if part.norm is None or part.addend is not None:
        return None
    act = RELU if part.relu else NONE
    raw, norm = part.raw, part.norm
    found = norm.made.get(act)
    if found is None or found.mode != Mode.now():
        if torch.compiler.is_compiling() or not norm_act.runs(options.backend, raw.device):
            return None
        found = Activated(raw, norm, act, None, options)
        if not found.mode.inference:  # torch does not count changes of such a tensor, so none must reach it
            part.norm.made[act] = found
    return found
