"""The rule of every kernel: at most twice the error of plain torch in the same dtype, against float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastinpaint.ops.types import Geometry, Source, SourceGrad
from fastinpaint.testing.compare import error


def check(name: str, got: Tensor | None, plain: Tensor | None, exact: Tensor | None) -> None:
    """``got`` against ``exact`` (float64), ``plain`` being torch's result.

    One last place of the largest value is free; four for a vector of sums, where the error that plain torch happens to
    make on a handful of channels is no yardstick.
    """
    assert (got is None) == (exact is None), name
    if got is None or plain is None or exact is None:
        return
    assert (got.shape, got.dtype) == (exact.shape, plain.dtype), name
    assert torch.equal(got.isnan(), exact.isnan()), f"{name}: NaN where the exact result has none, or the other way"
    if not exact.numel() or exact.isnan().any():
        return
    place = torch.finfo(got.dtype).eps * exact.abs().max().item() * (4 if got.dim() < 2 else 1)
    for kind, ours, theirs in zip(("max", "rms"), error(got, exact), error(plain, exact), strict=True):
        assert ours <= 2 * theirs + place, (
            f"{name}: {kind} error {ours:.3g}, plain torch's {theirs:.3g}, eps {place:.3g}"
        )


def check_all(names: Iterable[str], got: Sequence, plain: Sequence, exact: Sequence) -> None:
    """`check` of several."""
    for name, *triple in zip(names, got, plain, exact, strict=True):
        check(name, *triple)


def check_grads(got: Sequence[SourceGrad], plain: Sequence[SourceGrad], exact: Sequence[SourceGrad]) -> None:
    """Every gradient of every source."""
    for i, triple in enumerate(zip(got, plain, exact, strict=True)):
        check_all([f"source {i}: d{field}" for field in SourceGrad._fields], *triple)


def double(value):
    """Tensors, sources and lists of them in float64; anything else as it is."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Geometry):
        return value
    if isinstance(value, Source):
        return Source(*map(double, value))
    return [double(v) for v in value] if isinstance(value, (list, tuple)) else value


def source(
    shape: Sequence[int],
    dtype: torch.dtype,
    generator: torch.Generator,
    affine: bool = True,
    addend: bool = False,
    mean: float = 0.0,
) -> Source:
    """A random source with ReLU, channels-last; ``mean`` is the mean of x in units of its deviation."""
    x, extra = (torch.randn(*shape, generator=generator) for _ in range(2))
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = (x + mean).to(dtype).contiguous(memory_format=layout)
    vectors = [torch.randn(shape[1], generator=generator) for _ in range(2)] if affine else [None, None]
    centre = x.float().mean([0, *range(2, x.dim())]) if affine else None
    return Source(x, centre, *vectors, True, extra.to(dtype) if addend else None)
