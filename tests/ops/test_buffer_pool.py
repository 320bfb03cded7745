"""Pages of dead maps are reused, and no more are kept than were in use at one time."""

from __future__ import annotations

import copy
import gc
import mmap
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from fastinpaint.ops import buffer_pool
from fastinpaint.ops.buffer_pool import LEAST_BYTES, BufferPool

SIZE = LEAST_BYTES


PAGE = mmap.PAGESIZE


@pytest.fixture
def memory() -> BufferPool:
    return BufferPool()


def test_a_freed_storage_is_reused_and_a_live_one_is_not(memory: BufferPool) -> None:
    alive, *dying = (memory.allocate(SIZE) for _ in range(3))
    assert alive.nbytes == SIZE
    addresses = {storage.data_ptr() for storage in dying}
    assert len(addresses | {alive.data_ptr()}) == 3
    del dying
    again = memory.allocate(SIZE)
    assert again.data_ptr() in addresses
    assert memory.in_use == 2 * SIZE
    assert memory.kept == SIZE


def test_any_reference_to_the_storage_keeps_the_buffer(memory: BufferPool) -> None:
    tensor = torch.empty(0).set_(memory.allocate(SIZE).view(torch.float32))
    address, view = tensor.data_ptr(), tensor[5:]
    array, others = view.numpy(), [memory.allocate(SIZE) for _ in range(9)]
    del tensor, view
    assert memory.allocate(SIZE).data_ptr() != address
    del array, others[2:]
    gc.collect()
    lent = [memory.allocate(SIZE) for _ in range(8)]
    assert address in {storage.data_ptr() for storage in lent}


def test_maps_do_not_overlap_and_no_more_is_kept_than_was_in_use(memory: BufferPool) -> None:
    generator = torch.Generator().manual_seed(3)
    alive: list[torch.Tensor] = []
    most_kept = 0
    for number in range(400):
        if alive and torch.rand((), generator=generator) < 0.7:
            alive.pop(int(torch.randint(len(alive), (), generator=generator)))
        size = PAGE * int(torch.randint(1, 60, (), generator=generator)) - 8
        alive.append(torch.empty(0, dtype=torch.int64).set_(memory.allocate(size).view(torch.int64)).fill_(number))
        assert all(bool((tensor == tensor[0]).all()) for tensor in alive)
        assert memory.in_use == sum(tensor.untyped_storage().nbytes() + 8 for tensor in alive)
        assert memory.in_use + memory.kept <= memory.most_in_use
        most_kept = max(most_kept, memory.kept)
    assert most_kept > 0


def test_pages_serve_maps_of_other_sizes(memory: BufferPool) -> None:
    """A step's maps have many sizes: kept by size, most would get fresh pages each time."""
    for _ in range(2):
        first = [memory.allocate(SIZE) for _ in range(6)]
        del first
        second = [memory.allocate(size * SIZE) for size in (2, 1, 3)]
        assert (memory.in_use, memory.kept, memory.most_in_use) == (6 * SIZE, 0, 6 * SIZE)
        del second
    (segment,) = memory._segments
    assert segment.free[-1] == [6 * SIZE, segment.size, False]


class Twice(torch.autograd.Function):
    """Its gradient is a map of the pool."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        dx = buffer_pool.empty(dy.shape, dy.dtype, torch.channels_last)
        Twice.addresses.append(dx.data_ptr())
        return torch.mul(dy, 2, out=dx)

    addresses: ClassVar[list[int]] = []


def test_autograd_adds_a_second_gradient_in_place() -> None:
    Twice.addresses.clear()
    x = torch.randn(1, 64, 64, 64).requires_grad_()
    seen: list[int] = []
    middle = x.contiguous(memory_format=torch.channels_last).clone()
    middle.register_hook(lambda grad: seen.append(grad.data_ptr()))
    (Twice.apply(middle) + Twice.apply(middle)).sum().backward()
    assert x.grad is not None
    assert bool((x.grad == 4).all())
    assert seen[0] in Twice.addresses


def test_a_map_larger_than_a_segment(memory: BufferPool) -> None:
    small, large = memory.allocate(SIZE), memory.allocate(buffer_pool.SEGMENT + 1)
    assert large.nbytes == buffer_pool.SEGMENT + 1
    del small, large
    memory.clear()
    assert memory._segments == []


def test_clear_gives_all_unused_memory_back(memory: BufferPool) -> None:
    kept = memory.allocate(SIZE)
    del kept
    held = memory.allocate(3 * SIZE)
    memory.clear()
    assert memory.kept == 0
    assert memory.in_use == memory.most_in_use == held.nbytes


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_what_others_allocate_in_between_does_not_hold_the_memory(memory: BufferPool) -> None:
    size, count = 4 << 20, 24
    torch.empty(16 << 20, dtype=torch.uint8)  # once one has died, malloc puts what is smaller into its heap
    maps, others = [], []
    for _ in range(count):
        maps.append(torch.empty(0, dtype=torch.uint8).set_(memory.allocate(size)).fill_(1))
        others.append(torch.ones(size, dtype=torch.uint8))
    before = resident_bytes()
    maps.clear()
    memory.clear()
    assert before - resident_bytes() > 0.9 * count * size
    assert len(others) == count


def test_a_map_that_does_not_fit_is_refused_as_such(memory: BufferPool) -> None:
    with pytest.raises(MemoryError, match=f"no {1 << 60} bytes"):
        memory.allocate(1 << 60)
    assert memory.in_use == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 300, 301), (1, 16, 5, 100, 102), (2, 3, 4, 5)])
def test_a_map_is_laid_out_as_torch_lays_it_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    ours, theirs = (
        buffer_pool.empty(shape, dtype, memory_format),
        torch.empty(shape, dtype=dtype, memory_format=memory_format),
    )
    assert ours.shape == theirs.shape
    assert ours.stride() == theirs.stride()
    assert ours.dtype == dtype
    assert not ours._is_view()
    copied = copy.deepcopy(ours.fill_(2))
    ours.zero_()
    assert bool((copied == 2).all())


def test_threads_share_it_without_sharing_a_buffer(memory: BufferPool) -> None:
    clashes: list[int] = []

    def work(value: int) -> None:
        for _ in range(200):
            tensor = torch.empty(0, dtype=torch.uint8).set_(memory.allocate(SIZE))
            tensor[:64] = value
            if bool((tensor[:64] != value).any()):
                clashes.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert memory.most_in_use <= 8 * SIZE  # each thread holds one while it asks for the next
