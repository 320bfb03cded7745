"""The two values every convolution takes: its sources and its geometry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


def maker(kind: type[T]) -> Callable[[tuple[Any, ...]], T]:
    """A function that makes a named tuple from all of its fields, for code that makes several in each layer.

    The class itself calls a function of Python, which takes four times as long. A compiler need not know this one.
    """
    return partial(tuple.__new__, kind)  # type: ignore[type-var]


class Source(NamedTuple):
    """A deferred activation: a raw map and what turns it into the activation it stands for.

        z = (x - mean) * scale + shift        or z = x where mean, scale and shift are None
        a = (relu(z) if relu else z) + addend      (or another activation of z in relu's place)

    For batch norm, ``scale = weight * rstd`` and ``shift = bias``; the mean is subtracted first, so a large mean costs
    no precision.

    Attributes:
        x: ``[N, C, T, H, W]`` or ``[N, C, H, W]``, float64, float32, bfloat16 or float16.
        mean, scale, shift: ``[C]``, float32 (float64 where x is float64); all three or none.
        relu: whether z is clamped at zero. More than 1: the `code` of another `fastinpaint.ops.norm_act.Act`, which
            only `reference` and the direct convolutions of the CPU load.
        addend: the shape and dtype of x, or None.
    """

    x: Tensor
    mean: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: int = False
    addend: Tensor | None = None


class SourceGrad(NamedTuple):
    """The gradients of one `Source`; None where not asked for or where the source has no such part."""

    x: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    addend: Tensor | None = None


class Geometry(NamedTuple):
    """A convolution's geometry, one entry a spatial axis (``T, H, W`` or ``H, W``), as in ``torch.nn.ConvNd``.

    Of a transposed convolution output_padding may be negative: that many rows are dropped at the end of y. This
    replaces zeros in front of the input: see `fastinpaint.ops.conv_block.zero_padding`.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    transposed: bool = False
    groups: int = 1


source_of, source_grad_of = maker(Source), maker(SourceGrad)
FLAT = 5  # tensors of a source


def flatten(sources: Sequence[Source]) -> list[Tensor | None]:
    """``[x, mean, scale, shift, addend]`` of every source in a row: what a registered operator can take."""
    flat: list[Tensor | None] = []
    for x, mean, scale, shift, _, addend in sources:
        flat += (x, mean, scale, shift, addend)
    return flat


def unflatten(flat: Sequence[Tensor | None], relus: Sequence[int]) -> list[Source]:
    """The inverse of `flatten`; ``relus[i]`` is the relu of source i."""
    sources = []
    for i, relu in enumerate(relus):
        x, mean, scale, shift, addend = flat[FLAT * i : FLAT * i + FLAT]
        assert x is not None
        sources.append(source_of((x, mean, scale, shift, relu if relu > 1 else bool(relu), addend)))
    return sources


def address(tensor: Tensor | None) -> int | None:
    """The tensor's address, None (null) for None."""
    return None if tensor is None else tensor.data_ptr()
