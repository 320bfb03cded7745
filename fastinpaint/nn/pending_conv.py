"""Convolutions that wait until it is known whether batch statistics are needed, and the maps of parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastinpaint.nn.activated import Activated, Normed, made, opened
from fastinpaint.nn.raw import MOST_STEPS, Mode, Options, Part, Raw, part_of, stamp, version
from fastinpaint.ops.activation import autograd as activation
from fastinpaint.ops.batch_norm.reference import Norm
from fastinpaint.ops.conv_block import autograd as conv_block
from fastinpaint.ops.conv_block import chain, cpu, fused_bn, torch_library
from fastinpaint.ops.conv_block.chain import Chain, Link
from fastinpaint.ops.conv_block.geometry import cost_per_value
from fastinpaint.ops.conv_block.torch_library import Call
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.dispatch.fast_path import autocast_dtype
from fastinpaint.ops.layout import memory_format
from fastinpaint.ops.saved import Operand, Recipe, Slot, depth
from fastinpaint.ops.types import Geometry, Source

# By tier: a map is computed again in backward where one of its values costs no more multiply-adds than this, as
# `cost_per_value` counts them. "low" takes those of 3x3 kernels up to 256 channels.
MOST_MACS = {"low": 1152.0, "least": math.inf}
# Every tier computes an addend again that costs no more than this, such as guidance: it costs no more than batch norm,
# which moves as many bytes.
THIN_MACS = 64
# Every tier computes a first layer's map again that costs no more than this, as 7x7 pixels of 3 channels or 5x5x5 of 4
# do: its input is kept anyway, and is much smaller. A map of fewer values is kept: calls in Python would take longer.
FIRST_MACS = 512
FIRST_VALUES = 1 << 18


class PendingConv(Raw):
    """A convolution of deferred activations that runs when its result or its statistics are first needed.

    It runs in the mode and in autocast's dtype of the moment it was made.
    """

    untracked = False  # a reader that may change it is given a copy
    x = None
    _statistics: tuple[Tensor, Tensor] | None = None
    vectors: tuple[Tensor, Tensor, Tensor] | None = None  # mean, scale and shift of the batch norm in its node
    var: Tensor | None = None
    measured = False  # whether one node of the graph made both y and the statistics

    def __init__(
        self,
        parts: Sequence[Part],
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        options: Options,
        shape: torch.Size,
        calls: dict[tuple[Any, ...], Call] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.weight: Any = weight  # None once it has run
        self.bias = bias
        self.geometry, self.options = geometry, options
        self.dtype, self.device = weight.dtype, weight.device
        if self.device.type == "meta" or torch.is_autocast_enabled(self.device.type):
            self.dtype = autocast_dtype(weight)
        self.shape, self.calls = shape, calls  # the layer's plan, if there is one
        self.mode = Mode.now()
        self.stamps = stamp(weight), stamp(bias)
        if self.mode.inference and any(part.untracked for part in self.parts):
            self._run(stats=False)

    def tensor(self) -> Tensor:
        if self.x is None:
            self._run(stats=False)
        assert self.x is not None
        return self.x

    def statistics(self, backend: str) -> tuple[Tensor, Tensor]:
        if self.x is None:
            self._run(stats=True)
        return super().statistics(backend) if self._statistics is None else self._statistics

    def normed(self, norm: Norm) -> bool:
        """Run with a batch norm in the convolution's own node; returns whether that was possible."""
        if self.x is not None or self.mode != Mode.now():
            return False
        self._run(stats=True, norm=norm)
        return self.vectors is not None

    def normalised(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> Part:
        """The result of the batch norm that ran in the convolution's node."""
        vectors, var = self.vectors, self.var
        assert vectors is not None
        if var is None:
            return part_of((self, *vectors, False, None, None))
        norm = Normed(vectors[0], var, weight, bias, eps, vectors=vectors)
        return part_of((self, None, None, None, False, None, norm))

    @property
    def requires_grad(self) -> bool:
        if self.x is not None:
            return self.x.requires_grad
        operands = (self.weight, self.bias, *self.parts)
        return self.mode.grad and any(t is not None and t.requires_grad for t in operands)

    def _run(self, stats: bool, norm: Norm | None = None) -> None:
        with self.mode.again():
            apply, arguments = self.prepare(stats, norm)
            self.finish(arguments, apply(*arguments))

    def prepare(
        self, stats: bool = False, norm: Norm | None = None, links: Sequence[Link] = ()
    ) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function that adds its node to the graph, and the function's arguments.

        norm: the batch norm that follows, to be in that node if it can be.
        links: what follows that, to be in it too; then the first argument is a `Chain`.
        """
        weight, bias, dtype = self.weight, self.bias, self.dtype
        if (stamp(weight), stamp(bias)) != self.stamps:
            raise RuntimeError(
                f"fastinpaint: a weight of shape {tuple(self.weight.shape)} was modified in place before the deferred "
                "convolution that reads it ran; use the result, or call .clone() on it, before an optimiser's step."
            )
        packs = self.device.type == "cuda" or self.options.backend in ("cuda", "triton")
        if packs and torch.compiler.is_compiling():  # one copy in the compiled graph, for both passes
            weight, packs = weight.to(dtype, memory_format=memory_format(weight.dim())), False
        elif packs:  # `Call.packs`: its node packs a weight that need not be cast, which is no node of its own
            weight = weight if weight.dtype == dtype else weight.to(dtype, memory_format=memory_format(weight.dim()))
        elif self.device.type != "cpu":
            weight = weight.to(dtype)
        elif weight.dtype != dtype and not (weight.dtype == torch.float32 and dtype == torch.bfloat16):
            weight = weight.to(dtype)  # the CPU's kernels round a float32 weight as they read it
        if bias is not None and bias.dtype != dtype:
            bias = bias.to(dtype)
        parts: Sequence[Part] = self.parts
        for part in parts:
            if part.raw.x is None and type(part.raw) is not PendingConv:
                parts = self._opened(weight)
                break
        if parts[0].norm is not None and parts[0].raw.shape.numel() >= cpu.LEAST_PLAIN and self.device.type == "cpu":
            maps = [Source(part.raw.tensor()) for part in parts]
            if not cpu.normalises(maps, weight, self.geometry):
                parts = _made(parts, self.options)
        sources, recipes = materialise(parts, dtype)
        call = self._call(sources, weight, stats, packs)
        given = recipes if any_recipe(recipes) else None
        first = given is None and _is_input(sources)
        if given is not None or self.added or first or self.options.memory in MOST_MACS:
            steps = depth(recipes)
            if steps < MOST_STEPS and self._to_be_forgotten(first):
                self.recipe = Recipe(partial(conv_block.recompute, call), (weight, bias, *recipes), Slot(), steps + 1)
        if links and norm is not None and self.recipe is None and chain.can_join(call):
            whole = chain.node((Link(call, weight, bias, norm), *links), sources, given)
            if whole is not None:
                return whole
        if norm is not None:
            both = fused_bn.node(call, sources, weight, bias, norm, given, self.recipe)
            if both is not None:
                return both
        return conv_block.node(call, sources, weight, bias, given, self.recipe)

    def finish(self, arguments: tuple[Any, ...], found: tuple[Tensor, ...]) -> None:
        """Take what the node of `prepare` gave."""
        self.x = found[0]
        if len(found) > 3:  # `fused_bn.ConvNorm`; a compiler does not compare nodes
            self.vectors, self.measured = (found[1], found[2], found[3]), True
            self.var = found[4] if len(found) > 4 else None
            call = arguments[0].calls[-1] if type(arguments[0]) is Chain else arguments[0].call
            self.loads_gradient = getattr(call.module, "once", False)
        else:
            self.measured = arguments[0].stats
            self._statistics = (found[1], found[2]) if self.measured else None
        self.version = version(self.x)
        # what it read may go, unless backward keeps it
        self.parts, self.weight, self.bias = (), None, None

    def _call(self, sources: Sequence[Source], weight: Tensor, stats: bool, packs: bool) -> Call:
        """All of the call but its tensors, from the layer's plan if such a call was made before."""
        if self.calls is None or torch.compiler.is_compiling():
            return torch_library.call_of(sources, weight, self.geometry, stats, self.options.backend, packs)
        question: tuple[Any, ...] = (
            stats, weight.dtype, weight.device, weight.stride(), self.options.backend, *registry.settings(),
            *cpu.settings(),
        )  # fmt: skip
        for x, mean, _, _, relu, addend in sources:
            question += (x.shape, x.dtype, relu, mean is None, addend is None)
        call = self.calls.get(question)
        if call is None:
            call = torch_library.call_of(sources, weight, self.geometry, stats, self.options.backend, packs)
            self.calls[question] = call
        return call

    def folded(self, mean: Tensor, scale: Tensor, shift: Tensor) -> PendingConv:
        """This convolution, followed by ``(y - mean) * scale + shift``, as one convolution."""
        weight, groups = self.weight.to(scale.dtype), self.geometry.groups
        if self.geometry.transposed:  # [C_in, C_out / groups, *kernel]
            grouped = weight.unflatten(0, (groups, -1))
            factor = scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
            weight = (grouped * factor).flatten(0, 1)
        else:
            weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        bias = -mean if self.bias is None else self.bias.to(scale.dtype) - mean
        folded = copy(self)
        folded.weight, folded.bias = weight.to(self.dtype), (bias * scale + shift).to(self.dtype)
        folded.stamps = stamp(folded.weight), stamp(folded.bias)
        return folded

    def _opened(self, weight: Tensor) -> Sequence[Part]:
        """The parts. An activation stays for the convolution's load if its kernels support it."""
        if self.device.type != "cpu" or self.options.backend not in ("auto", "cpu"):
            return self.parts
        found = [opened(part) for part in self.parts]
        if found.count(None) == len(found):
            return self.parts
        parts = [part if new is None else new for part, new in zip(self.parts, found, strict=True)]
        maps = [Source(part.raw.tensor()) for part in parts]
        return parts if cpu.loads_activations(maps, weight, self.geometry) else self.parts

    def _to_be_forgotten(self, first: bool) -> bool:
        """Whether backward recomputes y. Only its own node can free it again, so there must be one.

        first: whether it reads the model's input.
        """
        if torch.compiler.is_compiling():
            return False
        limit = MOST_MACS.get(self.options.memory, THIN_MACS if self.added else 0)
        if first and self.shape.numel() >= FIRST_VALUES:
            limit = max(limit, FIRST_MACS)
        if not limit or not self.requires_grad:
            return False
        return cost_per_value(self.weight.shape, self.geometry) <= limit


def _is_input(sources: Sequence[Source]) -> bool:
    """Whether it is one plain map without a gradient: a batch, as a model's first layer reads it."""
    x, mean, _, _, relu, addend = sources[0]
    return len(sources) == 1 and mean is None and addend is None and not relu and not x.requires_grad


def waiting(parts: Sequence[Part]) -> list[PendingConv | Activated]:
    """The maps that a convolution of the parts makes first, in order. Run one by one they keep the call stack short."""
    if len(parts) == 1 and parts[0].raw.x is not None and parts[0].addend is None:  # as is usual
        return []
    mode, found = Mode.now(), list[PendingConv | Activated]()
    seen = [raw for part in parts for raw in (part.raw, part.addend) if raw is not None]
    while seen:
        raw = seen.pop()
        if raw.x is not None:
            continue
        if type(raw) is PendingConv and raw.mode is mode:
            found.append(raw)
        elif type(raw) is Activated and raw.mode is mode and raw.addend is not None:
            found.append(raw)
            seen += (raw.raw, raw.addend)
    return found[::-1]


def materialise(parts: Sequence[Part], dtype: torch.dtype | None = None) -> tuple[list[Source], list[Operand]]:
    """Sources of existing maps, in the dtype if given, and what backward keeps of their tensors."""
    sources: list[Source] = []
    recipes: list[Operand] = []
    for raw, mean, scale, shift, relu, added, norm in parts:
        raw.check_unchanged()
        x, addend, addend_kept = raw.tensor(), None, None
        kept: Operand = raw.recipe or x
        if dtype is not None and x.dtype != dtype:
            kept = x = x.to(dtype)
        if added is not None:
            added.check_unchanged()
            addend = added.tensor()
            addend_kept = added.recipe or addend
            if dtype is not None and addend.dtype != dtype:
                addend_kept = addend = addend.to(dtype)
        if norm is not None:
            mean, scale, shift = norm.vectors()
        sources.append(Source(x, mean, scale, shift, relu, addend))
        recipes += (kept, mean, scale, shift, addend_kept)
    return sources, recipes


def _made(parts: Sequence[Part], options: Options) -> tuple[Part, ...]:
    """The parts, the normalised ones as plain maps."""
    found = [(part, made(part, options)) for part in parts]
    return tuple([part if raw is None else Part(raw) for part, raw in found])


class Written:
    """The activation of several parts, or of one part without a map of its own: the last step out of a model."""

    def __init__(self, parts: Sequence[Part], options: Options) -> None:
        self.parts, self.options = parts, options
        self.x: Tensor | None = None

    def prepare(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What adds the node to the graph that computes it, and its arguments."""
        sources, recipes = materialise(self.parts)
        return activation.node(sources, self.options.backend, recipes if any_recipe(recipes) else None)

    def finish(self, arguments: tuple[Any, ...], found: Tensor) -> None:
        """Take what the node of `prepare` gave."""
        self.x = found


def activate(parts: Sequence[Part], options: Options) -> Tensor:
    """The parts' activation as one plain tensor."""
    if len(parts) == 1 and parts[0].norm is not None:
        parts = _made(parts, options)
    if len(parts) == 1 and parts[0].bare:
        raw = parts[0].raw
        y = raw.tensor()
        # the batch norm after it also reads this y's statistics, so the tensor alone is not all that is read
        return y.view_as(y) if isinstance(raw, PendingConv) and raw.measured else y
    sources, recipes = materialise(parts)
    return activation.apply(sources, options.backend, recipes if any_recipe(recipes) else None)


def any_recipe(operands: Sequence[Operand]) -> bool:
    """Whether any of them is computed again in backward."""
    for operand in operands:  # noqa: SIM110 - a generator would cost a call each
        if isinstance(operand, Recipe):
            return True
    return False
