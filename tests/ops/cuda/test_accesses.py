"""The elementwise kernels read each input at most once and write each output once, counted byte by byte, emulated."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.downsample import cuda as downsample
from fastinpaint.ops.masked_l1 import cuda as masked_l1
from fastinpaint.testing.rule import source
from tools.verify import emulated
from tools.verify.emulated import Plant

SOURCES = [*(f"{op}/cuda.cu" for op in ("activation", "downsample", "masked_l1")), "cuda_on_cpu/access_counts.cu"]
LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
SPACES = [(2, 5, 7), (2, 4, 32)]  # with tails, and in whole vectors
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


def video(channels: int, space: tuple[int, ...], layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.rand(2, channels, *space).bfloat16().contiguous(memory_format=layout)


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
    x = native_cuda.dense(torch.rand(2, channels, 40, 40).bfloat16())
    results = [*activation.batch_stats(x)]
    assert accesses(x) == ONCE_READ
    results.append(activation.channel_sum(source(x.shape, torch.bfloat16, torch.Generator())._replace(x=x)))
    assert accesses(x) == (2, 2, 0, 0)
    assert [accesses(result) for result in results] == [ONCE_WRITTEN] * 3


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_masked_l1(space: tuple[int, ...], layout: torch.memory_format) -> None:
    output, target = video(3, space, layout), video(3, space, layout)
    mask = (torch.rand(2, 1, *space) > 0.5).bfloat16()
    masks = 1 if layout is torch.contiguous_format else 3  # its neighbours share a value where channels are innermost
    assert accesses(masked_l1.fwd(output, target, mask, True))[2:] == (1, 1)
    assert [accesses(t) for t in (output, target)] == [ONCE_READ] * 2
    assert accesses(mask) == (masks, masks, 0, 0)

    native_cuda.library().fi_forget_accesses()
    assert accesses(masked_l1.bwd(torch.tensor(1.0), output, target, mask, True)) == ONCE_WRITTEN
    assert [accesses(t) for t in (output, target)] == [ONCE_READ] * 2
    assert accesses(mask) == (2 * masks, 2 * masks, 0, 0)  # for the size of the hole, and for the gradient


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("space", "r"), [(SPACES[0], 2), (SPACES[1], 2), (SPACES[1], 4)], ids=str)
def test_downsample(space: tuple[int, ...], r: int, layout: torch.memory_format) -> None:
    given, mask = video(3, space, layout), torch.zeros(2, 1, *space).bfloat16()
    small = downsample.fwd(given, mask, torch.zeros(3), r)
    assert [accesses(t) for t in small] == [ONCE_WRITTEN] * 2
    whole = all(size % r == 0 for size in space[1:])  # else the last row and column go on
    for read in (given, mask):
        assert accesses(read) == (ONCE_READ if whole else (1, 4, 0, 0))


def test_a_second_read_is_counted() -> None:
    twice = Plant("downsample/kernels.cuh", "fmaxf(most, hole) : hole", "fmaxf(most, to_float(masks[0])) : hole")
    given, mask = video(3, SPACES[0]), torch.zeros(2, 1, *SPACES[0]).bfloat16()
    with emulated.installed(emulated.build("counted", [twice], SOURCES)):
        downsample.fwd(given, mask, torch.zeros(3), 2)
        assert accesses(mask)[1] > 4
