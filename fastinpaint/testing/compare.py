"""The rule of exactness: an error at most twice that of stock torch in the same dtype, against float64.

Both errors are taken against the same float64 computation from the same rounded inputs, once as the largest and once as
the root of the mean square. One rounding of the result to its own dtype is always allowed: where stock torch happens to
be exact, nobody else could be closer. A sum that ends in a handful of numbers can be near exact by luck; there stock's
error can be made to count for no less than what rounding the inputs once more would change (`jitter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FACTOR = 2.0
FLOAT64 = 1e-10  # relative, in place of the rule where stock torch is itself the measure


class Error(NamedTuple):
    """Largest and root-mean-square difference."""

    largest: float
    rms: float


def error(value: Tensor, exact: Tensor) -> Error:
    """The error of a value against float64; places where both are NaN, or the same infinity, count as equal."""
    value, exact = value.detach().double(), exact.detach().double()
    same = (value == exact) | (value.isnan() & exact.isnan())
    difference = torch.where(same, torch.zeros_like(exact), (value - exact).abs())
    if difference.numel() == 0:
        return Error(0.0, 0.0)
    difference = difference.nan_to_num(nan=float("inf"))
    return Error(difference.max().item(), difference.square().mean().sqrt().item())


def jitter(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor in float64, every value moved at random within a rounding to float32."""
    half = torch.finfo(torch.float32).eps / 2
    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return tensor.detach().double() * (1 + half * noise.to(tensor.device))


def excess(value: Tensor, stock: Tensor, exact: Tensor, dtype: torch.dtype, moved: Sequence[Tensor] = ()) -> float:
    """How many times stock torch's error a value's error is, the larger of largest and rms; the rule is `FACTOR`.

    Args:
        value: what is to be judged.
        stock: stock torch's result.
        exact: the float64 result.
        dtype: what the whole computation runs in.
        moved: float64 results of jittered inputs.
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
    """Raises AssertionError where a value breaks the rule."""
    wrong = mismatch(value, stock)
    if wrong is not None:
        raise AssertionError(f"{name}: {wrong}")
    times = excess(value, stock, exact, dtype)
    if times > FACTOR:
        raise AssertionError(
            f"{name}: {times:.2f} times the error of stock torch in {dtype}, at most {FACTOR:g} allowed"
        )
