"""The accuracy rule: an error against float64 of at most twice stock torch's in the same dtype.

Both errors are measured against one float64 computation from the same rounded inputs, as maximum and as RMS. One
rounding of the result to its dtype is always allowed, because stock torch may happen to be exact. Stock's error in a
sum of few results can be small by luck. There it can be bounded below by the effect of rounding the inputs again
(`jitter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FACTOR = 2.0
FLOAT64 = 1e-10  # relative tolerance for float64, where stock torch is itself the reference


class Error(NamedTuple):
    """Maximum and RMS difference."""

    largest: float
    rms: float


def error(value: Tensor, exact: Tensor) -> Error:
    """The error of a value against float64. Places where both are NaN, or the same infinity, count as equal."""
    value, exact = value.detach().double(), exact.detach().double()
    same = (value == exact) | (value.isnan() & exact.isnan())
    difference = torch.where(same, torch.zeros_like(exact), (value - exact).abs())
    if difference.numel() == 0:
        return Error(0.0, 0.0)
    difference = difference.nan_to_num(nan=float("inf"))
    return Error(difference.max().item(), difference.square().mean().sqrt().item())


def jitter(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor in float64, with every value moved at random within float32 rounding."""
    half = torch.finfo(torch.float32).eps / 2
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return tensor.detach().double() * (1 + half * noise.to(tensor.device))


def error_ratio(value: Tensor, stock: Tensor, exact: Tensor, dtype: torch.dtype, moved: Sequence[Tensor] = ()) -> float:
    """A value's error over stock torch's error, the larger of maximum and RMS. The rule allows `FACTOR`.

    Args:
        value: the result to judge.
        stock: stock torch's result.
        exact: the float64 result.
        dtype: the dtype of the computation.
        moved: float64 results from jittered inputs.
    """
    ours = error(value, exact)
    finite = exact.detach().double()
    finite = finite[finite.isfinite()]
    size = Error(finite.abs().max().item(), finite.square().mean().sqrt().item()) if finite.numel() else Error(0.0, 0.0)
    if dtype == torch.float64:
        unit, theirs = FLOAT64, [Error(0.0, 0.0)]
    else:
        unit, theirs = torch.finfo(dtype).eps / 2, [error(result, exact) for result in (stock, *moved)]
    worst = 0.0
    for kind in (0, 1):
        if ours[kind] > 0:
            most = max(e[kind] for e in theirs) + unit * size[kind] / FACTOR
            worst = max(worst, ours[kind] / most if most else float("inf"))
    return worst


def mismatch(value: Tensor, stock: Tensor) -> str | None:
    """What differs in shape or dtype, or None."""
    if value.shape != stock.shape:
        return f"shape {tuple(value.shape)}, expected {tuple(stock.shape)}"
    return f"{value.dtype}, expected {stock.dtype}" if value.dtype != stock.dtype else None


def assert_close(name: str, value: Tensor, stock: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Raise AssertionError if a value breaks the rule."""
    wrong = mismatch(value, stock)
    if wrong is not None:
        raise AssertionError(f"{name}: {wrong}")
    times = error_ratio(value, stock, exact, dtype)
    if times > FACTOR:
        raise AssertionError(
            f"{name}: {times:.2f} times the error of stock torch in {dtype}, at most {FACTOR:g} allowed"
        )
