"""Activation and statistics of the CPU against float64: dtypes, tails, sizes 0 and 1, threads, NaN."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.activation import cpu, reference
from fastinpaint.ops.conv_block import cpu as conv_cpu
from fastinpaint.ops.conv_block import reference as conv_reference
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.types import Source
from fastinpaint.testing.rule import double
from tests.ops.conv_block.cpu.cases import judge, named

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)


def some_sources(dtype: torch.dtype, space: tuple[int, ...], batch: int = 2) -> list[Source]:
    """A full vector, a tail, a single channel; with and without each part."""
    torch.manual_seed(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sources = []
    for channels, affine, relu, addend in ((33, True, True, False), (3, False, False, True), (1, False, True, False),
                                           (16, True, False, True), (5, False, False, False)):  # fmt: skip
        x = torch.randn(batch, channels, *space, dtype=dtype)
        vectors = [torch.randn(channels, dtype=wide) if affine else None for _ in range(3)]
        sources.append(Source(x, *vectors, relu, torch.randn_like(x) if addend else None))
    return sources


@DTYPES
@pytest.mark.parametrize("space", [(5, 7), (1, 1), (3, 4, 5), (31, 33)], ids=str)
def test_activation(dtype: torch.dtype, space: tuple[int, ...]) -> None:
    sources = some_sources(dtype, space)
    judge("a", cpu.fwd(sources), reference.fwd(sources), reference.fwd(double(sources)))
    da, needs = torch.randn(2, 58, *space, dtype=dtype), [True] * 5
    ours, stock = named(cpu.bwd(da, sources, needs)), named(reference.bwd(da, sources, needs))
    exact = named(reference.bwd(da.double(), double(sources), needs))
    assert ours.keys() == stock.keys()
    for name, value in ours.items():
        judge(name, value, stock[name], exact[name])


def test_activation_of_empty_maps() -> None:
    for space in ((0, 3), (2, 0, 4)):
        sources = some_sources(torch.float32, space)
        assert cpu.fwd(sources).shape == (2, 58, *space)
        grads = cpu.bwd(torch.empty(2, 58, *space), sources, [True] * 5)
        assert torch.equal(grads[0].shift, torch.zeros(33))


def test_results_share_no_memory() -> None:
    plain = Source(torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    da = torch.randn_like(plain.x)
    results = [cpu.fwd([plain]), cpu.bwd(da, [plain], [True])[0].x]
    both = cpu.bwd(da, [plain._replace(addend=torch.randn_like(da))], [True])[0]
    places = {t.data_ptr() for t in (plain.x, da, *results, both.x, both.addend)}
    assert len(places) == 6


@DTYPES
@pytest.mark.parametrize("shape", [(2, 19, 9, 11), (1, 3, 2, 40, 41), (1, 40, 1, 1)], ids=str)
def test_batch_stats(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    y = torch.randn(shape, dtype=dtype)
    for value, stock, exact in zip(
        conv_cpu.batch_stats(y), conv_reference.batch_stats(y), conv_reference.batch_stats(y.double()), strict=True
    ):
        judge("statistics", value, stock, exact)


def test_batch_stats_of_a_large_mean() -> None:
    y = torch.randn(2, 17, 33, 29) + 1e3
    for value, exact in zip(conv_cpu.batch_stats(y), conv_reference.batch_stats(y.double()), strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:var_mean:UserWarning")
def test_batch_stats_of_empty_maps_are_as_torch() -> None:
    mean, var = conv_cpu.batch_stats(torch.empty(1, 2, 0, 3))
    assert mean.isnan().all()
    assert var.isnan().all()


def test_nan_passes_and_infinity() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0, 0.0]).view(1, 1, 1, 5)
    source = Source(x, relu=True)
    a, expected = cpu.fwd([source]), reference.fwd([source])
    torch.testing.assert_close(a, expected, rtol=0, atol=0, equal_nan=True)
    da = torch.ones_like(x)
    assert torch.equal(cpu.bwd(da, [source], [True])[0].x, reference.bwd(da, [source], [True])[0].x)


def test_same_for_any_number_of_threads() -> None:
    sources, threads = some_sources(torch.float32, (31, 33)), torch.get_num_threads()
    da, results = torch.randn(2, 58, 31, 33), []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            grads = named(cpu.bwd(da, sources, [True] * 5)).values()
            results.append([cpu.fwd(sources), *grads, *conv_cpu.batch_stats(da)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_why_not_names_what_is_wrong() -> None:
    assert cpu.why_not([Source(torch.empty(1, 2, 3, 3))]) is None
    assert "float16" in str(cpu.why_not([Source(torch.empty(1, 2, 3, 3, dtype=torch.float16))]))
    assert "meta" in str(cpu.why_not([Source(torch.empty(1, 2, 3, 3, device="meta"))]))
    assert "3 axes" in str(cpu.why_not([Source(torch.empty(1, 2, 3))]))
