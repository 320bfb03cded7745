"""The emulated elementwise kernels read each byte of input at most once and write each byte of output once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastinpaint.ops import layout
from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.types import Source
from fastinpaint.testing.rule import source
from tools.verify import emulated
from tools.verify.emulated import Plant

SOURCES = ["activation/cuda.cu", "cuda_on_cpu/access_counts.cu"]
Counts = tuple[int, int, int, int]
ONCE_READ, ONCE_WRITTEN = (1, 1, 0, 0), (0, 0, 1, 1)


@pytest.fixture(autouse=True)
def _counting() -> Iterator[None]:
    with emulated.installed(emulated.build("counted", sources=SOURCES)):
        native_cuda.library().fi_forget_accesses()
        yield


def accesses(tensor: Tensor) -> Counts:
    """Least and most reads, least and most writes, of the tensor's bytes since the test began."""
    found = (ctypes.c_int * 4)()
    size = native_cuda.size(tensor.numel() * tensor.element_size())
    native_cuda.library().fi_accesses(native_cuda.pointer(tensor), size, found)
    return found[0], found[1], found[2], found[3]


@pytest.mark.parametrize("channels", [(16, 40), (5, 3)], ids=str)
def test_activation(channels: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    sources = [source((2, c, 33, 17), torch.bfloat16, generator, addend=c in (40, 3)) for c in channels]
    sources = [native_cuda.dense_source(s) for s in sources]
    maps = [t for s in sources for t in (s.x, s.addend) if t is not None]
    a = activation.fwd(sources)
    assert accesses(a) == ONCE_WRITTEN
    assert [accesses(t) for t in maps] == [ONCE_READ] * 3

    native_cuda.library().fi_forget_accesses()
    da = torch.randn_like(a)
    grads = activation.bwd(da, sources, [True, True])
    assert accesses(da) == ONCE_READ
    assert [accesses(s.x) for s in sources] == [ONCE_READ] * 2
    assert [accesses(g.x) for g in grads if g.x is not None] == [ONCE_WRITTEN] * 2


@pytest.mark.parametrize("channels", [24, 7])
def test_statistics_and_sums(channels: int) -> None:
    x = layout.dense(torch.rand(2, channels, 40, 40).bfloat16())
    results = [*activation.batch_stats(x)]
    assert accesses(x) == ONCE_READ
    results.append(activation.channel_sum(source(x.shape, torch.bfloat16, torch.Generator())._replace(x=x)))
    assert accesses(x) == (2, 2, 0, 0)
    assert [accesses(result) for result in results] == [ONCE_WRITTEN] * 3


def test_a_second_read_is_counted() -> None:
    store = "store_vector(a + size_t(row) * stride + lane.channel, value, lane.valid, aligned);"
    read = "load_vector(x + size_t(row) * source.channels + lane.channel, lane.valid, aligned)"
    again = store.replace("value", f"activate<T>({read}, more[i], params, source.relu)")
    x = layout.dense(torch.rand(2, 16, 5, 7).bfloat16())
    twice = Plant("activation/kernels.cuh", store, f"{store} {again}")
    with emulated.installed(emulated.build("counted", [twice], SOURCES)):
        a = activation.fwd([Source(x)])
        assert accesses(x) == (2, 2, 0, 0)
        assert accesses(a) == (0, 0, 2, 2)
