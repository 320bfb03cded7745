"""The two values every convolution takes: its sources and its geometry."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Source(NamedTuple):
    """A deferred activation: a raw map and what turns it into the activation it stands for.

        z = (x - mean) * scale + shift        or z = x where mean, scale and shift are None
        a = (relu(z) if relu else z) + addend

    For batch norm, ``scale = weight * rstd`` and ``shift = bias``; the mean is subtracted first, so a large mean costs
    no precision.

    Attributes:
        x: ``[N, C, T, H, W]`` or ``[N, C, H, W]``, float64, float32, bfloat16 or float16.
        mean, scale, shift: ``[C]``, float32 (float64 where x is float64); all three or none.
        relu: whether z is clamped at zero.
        addend: the shape and dtype of x, or None.
    """

    x: Tensor
    mean: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    relu: bool = False
    addend: Tensor | None = None


class SourceGrad(NamedTuple):
    """The gradients of one `Source`; None where not asked for or where the source has no such part."""

    x: Tensor | None = None
    mean: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    addend: Tensor | None = None


class Geometry(NamedTuple):
    """A convolution's geometry, one entry a spatial axis (``T, H, W`` or ``H, W``), as in ``torch.nn.ConvNd``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    transposed: bool = False
    groups: int = 1
