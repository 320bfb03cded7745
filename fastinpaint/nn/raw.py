"""Raw maps that exist. `fastinpaint.nn.pending_conv` and `fastinpaint.nn.activated` have those still to be computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, is_grad_enabled, is_inference_mode_enabled
from torch.compiler import is_dynamo_compiling

from fastinpaint.ops.conv_block import batch_stats
from fastinpaint.ops.dispatch.fast_path import ORDINARY
from fastinpaint.ops.saved import Recipe
from fastinpaint.ops.types import maker

if TYPE_CHECKING:
    from fastinpaint.nn.activated import Normed


# Tiers "low" and "least" keep a map that would be computed again in more steps than these, one upon another: while they
# run, all that they make is in memory at once. A stage of a residual network has about as many.
MOST_STEPS = 24


class Mode(NamedTuple):
    """A mode: whether autograd records, and whether inference mode is on."""

    grad: bool
    inference: bool

    @staticmethod
    def now() -> Mode:
        """The mode in force. A compiler has no inference mode."""
        return MODES[is_grad_enabled(), not is_dynamo_compiling() and is_inference_mode_enabled()]

    def again(self) -> AbstractContextManager[object]:
        """Enters the mode."""
        now = Mode.now()
        if self == now:
            return nullcontext()
        if self.inference == now.inference:
            return torch.set_grad_enabled(self.grad)
        both = ExitStack()
        both.enter_context(torch.inference_mode(self.inference))
        both.enter_context(torch.set_grad_enabled(self.grad))
        return both


MODES = {(grad, inference): Mode(grad, inference) for grad in (False, True) for inference in (False, True)}


class Options(NamedTuple):
    """How the convolutions of an accelerated model run.

    Attributes:
        backend: a name of `fastinpaint.ops.dispatch.registry.BACKENDS` or "auto".
        memory: "default" keeps every raw map but thin addends and a first layer's; "sums" computes residual sums
            again in backward, "low" cheap convolutions too, "least" every convolution.
        plain_compiled: whether the layer gives a plain tensor under torch's compiler.
        contiguous: whether plain tensors are contiguous, not channels-last, for code that merges axes by ``view``.
        maker: the layer's name in its model.
    """

    backend: str = "auto"
    memory: str = "default"
    plain_compiled: bool = False
    contiguous: bool = False
    maker: str = ""


class Raw:
    """A map ``[N, C, *space]`` that exists."""

    recipe: Recipe | None = None
    added = False  # whether it is an addend
    loads_gradient = False  # whether the node that made it reads its gradient once, and adds the statistics' part then
    _known: dict[Mode, tuple[Tensor, Tensor]] | None = None  # statistics, by the mode that they were computed in

    def __init__(self, x: Tensor) -> None:
        self.x: Tensor | None = x
        self.shape = torch.Size(x.shape)
        self.dtype, self.device = x.dtype, x.device
        self.version = version(x)

    def tensor(self) -> Tensor:
        """The map."""
        assert self.x is not None
        return self.x

    def statistics(self, backend: str) -> tuple[Tensor, Tensor]:
        """Batch mean and biased variance of each channel, computed once for all that ask in one mode."""
        mode = Mode.now()
        if self._known is None:
            self._known = {}
        if mode not in self._known:
            self._known[mode] = batch_stats(self.tensor(), backend=backend)
        return self._known[mode]

    @property
    def requires_grad(self) -> bool:
        return self.tensor().requires_grad

    @property
    def untracked(self) -> bool:
        """Whether it can change unnoticed: torch counts no changes of tensors made in inference mode."""
        return self.x is not None and self.x.is_inference()

    def check_unchanged(self) -> None:
        """Raises RuntimeError where the tensor was modified in place since it was taken."""
        if self.x is not None and version(self.x) != self.version:
            raise RuntimeError(
                f"fastinpaint: an input of shape {tuple(self.shape)} was modified in place before the deferred "
                "convolution or activation that reads it ran; modify a copy, or call .clone() on the result first."
            )


class Part(NamedTuple):
    """One deferred activation: `Source`, with raw maps that need not exist yet.

    norm: from which mean, scale and shift are computed later, if needed; see `fastinpaint.nn.activated`.
    """

    raw: Raw
    mean: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: int = False
    addend: Raw | None = None
    norm: Normed | None = None

    @property
    def bare(self) -> bool:
        """Whether it is the raw map, unchanged."""
        return self.mean is None and self.norm is None and not self.relu and self.addend is None

    @property
    def untracked(self) -> bool:
        """Whether a tensor that it reads can change unnoticed."""
        return self.raw.untracked or (self.addend is not None and self.addend.untracked)

    @property
    def requires_grad(self) -> bool:
        tensors = (self.raw, self.mean, self.scale, self.shift, self.addend, self.norm)
        return any(t is not None and t.requires_grad for t in tensors)


part_of = maker(Part)


def version(x: Tensor) -> int:
    """How often x was modified in place, where torch counts it."""
    return 0 if is_dynamo_compiling() or x.is_inference() else x._version


def stamp(x: Tensor | None) -> tuple[int, int]:
    """A parameter's version, and its address: torch does not count that ``x.data`` becomes another tensor."""
    if x is None or is_dynamo_compiling():
        return 0, 0
    at = x.data_ptr() if type(x) in ORDINARY else 0
    return (0 if x.is_inference() else x._version), at
