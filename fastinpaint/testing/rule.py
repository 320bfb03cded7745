"""The accuracy rule for the tests of single kernels: for sources, their gradients and per-channel vectors.

An error against float64 may be at most twice plain torch's in the same dtype, as maximum and as RMS. `compare` applies
the rule to whole results, with the allowances that random cases need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.types import Geometry, Source, SourceGrad
from fastinpaint.testing.compare import FACTOR, error


def check(name: str, got: Tensor | None, plain: Tensor | None, exact: Tensor | None) -> None:
    """Compare ``got`` and torch's result ``plain`` with ``exact`` (float64).

    One unit in the last place of the largest value is always allowed. Vectors of sums may have four, because plain
    torch's error on a few channels varies by luck (worst seen: 2.5).

    Raises:
        AssertionError: the rule is broken, or shapes, dtypes or the places of NaN differ.
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
        assert ours <= FACTOR * theirs + place, (
            f"{name}: {kind} error {ours:.3g}, plain torch's {theirs:.3g}, eps {place:.3g}"
        )


def check_all(names: Iterable[str], got: Sequence, plain: Sequence, exact: Sequence) -> None:
    """`check` several tensors."""
    for name, *triple in zip(names, got, plain, exact, strict=True):
        check(name, *triple)


def check_grads(got: Sequence[SourceGrad], plain: Sequence[SourceGrad], exact: Sequence[SourceGrad]) -> None:
    """`check` every gradient of every source."""
    for i, triple in enumerate(zip(got, plain, exact, strict=True)):
        check_all([f"source {i}: d{field}" for field in SourceGrad._fields], *triple)


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm, over all tensors together."""
    pairs = [(f.double(), e.double()) for f, e in zip(found, exact, strict=True)]
    apart = sum(float((f - e).square().sum()) for f, e in pairs)
    return (apart / sum(float(e.square().sum()) for _, e in pairs)) ** 0.5


def double(value):
    """Convert tensors, sources and lists of them to float64. Other values are unchanged."""
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
    relu: bool = True,
    addend: bool = False,
    mean: float = 0.0,
    channels_last: bool = True,
    device: str = "cpu",
) -> Source:
    """A random source. ``mean`` is the mean of x in units of its standard deviation; the generator is a CPU one."""
    x, extra = (torch.randn(*shape, generator=generator).to(device) for _ in range(2))
    x = (x + mean).to(dtype)
    if channels_last:
        x = layout.dense(x)
    scale, shift = (torch.randn(shape[1], generator=generator).to(device) if affine else None for _ in range(2))
    centre = x.float().mean([0, *range(2, x.dim())]) if affine else None
    return Source(x, centre, scale, shift, relu, extra.to(dtype) if addend else None)
