"""`channel_scale`: torch's own da bit for bit, and ds by the 2x rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinpaint.ops import channel_scale
from fastinpaint.ops.channel_scale import cpu
from fastinpaint.ops.dispatch import native
from fastinpaint.testing import rule

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))
# 1 to 5 vectors and rests, more than one block of pixels, volumes, a single pixel
SHAPES = ((3, 37, 5, 7), (2, 64, 33, 31), (1, 100, 130, 9), (2, 5, 3, 4, 5), (4, 16, 1, 1))
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def operands(shape: tuple[int, ...], alike: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    factor = (1 if alike else shape[0], shape[1], *[1] * (len(shape) - 2))
    return torch.randn(shape).to(dtype), torch.rand(factor).to(dtype), torch.randn(shape).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_follows_torch(shape: tuple[int, ...], alike: bool, dtype: torch.dtype) -> None:
    a, s, dp = operands(shape, alike, dtype)
    assert cpu.fits(a, s)
    with torch.no_grad():
        da, ds = channel_scale.bwd(dp, a, s, True, True)
    assert da is not None
    assert torch.equal(da, dp * s)
    assert ds is not None
    assert (ds.shape, ds.dtype) == (s.shape, s.dtype)
    exact = (dp.double() * a.double()).sum_to_size(s.shape)
    if dtype == torch.float64:
        torch.testing.assert_close(ds, exact, rtol=1e-13, atol=1e-12)
    else:
        rule.check("ds", ds, (dp * a).sum_to_size(s.shape), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_factor_that_lies_apart_in_memory(dtype: torch.dtype) -> None:
    """One half of a linear layer's result, as FiLM takes it: the kernel reads a copy, which must outlive it."""
    a, s, dp = operands((2, 8, 16, 16), False, dtype)
    wide = torch.cat([s, s], 1)
    with torch.no_grad():
        expected = channel_scale.bwd(dp, a, s, True, True)
        for _ in range(8):
            found = channel_scale.bwd(dp, a, wide[:, :8], True, True)
            assert all(torch.equal(mine, right) for mine, right in zip(found, expected, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
def test_large_maps(threads: int) -> None:
    """Above 8 MiB results are written past the caches, and the same ones whatever the number of threads."""
    a, s, dp = operands((3, 64, 128, 130), False, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            da, ds = channel_scale.bwd(dp, a, s, True, True)
    finally:
        torch.set_num_threads(before)
    with torch.no_grad():
        again = channel_scale.bwd(dp, a, s, True, True)[1]
    assert da is not None
    assert torch.equal(da, dp * s)
    assert ds is not None
    assert torch.equal(ds, again)


def test_the_own_kernel_runs_where_it_fits_and_nothing_observes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, right = [], cpu.bwd

    def noted(dp: Tensor, a: Tensor, s: Tensor, needs_map: bool) -> tuple[Tensor | None, Tensor]:
        calls.append(a.shape)
        return right(dp, a, s, needs_map)

    monkeypatch.setattr(cpu, "bwd", noted)
    a, s, dp = operands(SHAPES[0], False, torch.float32)
    channel_scale.bwd(dp, a, s, True, True)  # autograd would record this
    assert calls == []
    with torch.no_grad():
        channel_scale.bwd(dp, a, s, True, True)
    assert calls == [a.shape]


def test_only_what_is_needed() -> None:
    a, s, dp = operands(SHAPES[0], False, torch.float32)
    with torch.no_grad():
        assert channel_scale.bwd(dp, a, s, False, True)[0] is None
        assert channel_scale.bwd(dp, a, s, True, False)[1] is None
        da, ds = channel_scale.bwd(dp, None, s, True, False)
    assert ds is None
    assert da is not None
    assert torch.equal(da, dp * s)


@pytest.mark.parametrize("factor", [(3, 1, 1, 1), (3, 37, 5, 7), (37, 1, 1)], ids=str)
def test_leaves_other_factors_to_torch(factor: tuple[int, ...]) -> None:
    a, s, dp = torch.randn(3, 37, 5, 7), torch.randn(factor), torch.randn(3, 37, 5, 7)
    assert not cpu.fits(a, s)
    with torch.no_grad():
        da, ds = channel_scale.bwd(dp, a, s, True, True)
    assert da is not None
    assert torch.equal(da, dp * s)
    assert ds is not None
    assert torch.equal(ds, (dp * a).sum_to_size(s.shape))


def test_second_derivatives_are_torchs() -> None:
    a, s, dp = (t.requires_grad_() for t in operands((2, 3, 4, 5), False, torch.float64))
    with torch.enable_grad():
        da, ds = channel_scale.bwd(dp, a, s, True, True)
        assert da is not None
        assert ds is not None
        assert torch.autograd.gradcheck(lambda dp, a, s: channel_scale.bwd(dp, a, s, True, True), (dp, a, s))
