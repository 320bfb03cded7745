"""Memory for the CPU backend's maps, kept from one use to the next.

The system hands out a large map's pages one fault at a time, zeroed, and takes them back when the map dies: at paper
size that is a million faults a training step. So maps are cut out of segments that stay mapped, and the pages of a dead
map serve the next ones, of whatever size. Those in use and those kept never come to more than what has been in use at
one time.

In malloc's heap, which takes all below 32 MiB, maps and oneDNN's outputs would leave gaps between them that no map fits
into and that the system does not get back.
"""

from __future__ import annotations

import bisect
import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

LEAST_BYTES = 1 << 20  # malloc itself keeps the pages of smaller maps
SEGMENT = 1 << 30  # bytes of addresses; pages that no map has touched cost nothing
DONTNEED = getattr(mmap, "MADV_DONTNEED", None)


class Segment:
    """One mapped range of addresses, and its free blocks ``[start, end, dirty]``, disjoint and in order.

    A dirty block has pages, because a map that is freed now wrote there. Sizes are multiples of a page.
    """

    def __init__(self, size: int) -> None:
        self.size, self.buffer = size, _map(size)
        self.free: list[list[int]] = [[0, size, False]]

    def take(self, size: int) -> tuple[int, int] | None:
        """Take free addresses of that size: their start, and the bytes of pages in them; or None.

        The lowest that fit: the pages above those in use can then be given back.
        """
        first = begin = end = 0
        for i, (start, stop, _) in enumerate(self.free):
            if i == 0 or start != end:
                first, begin = i, start
            end = stop
            if end - begin >= size:
                break
        else:
            return None
        pages = sum(stop - start for start, stop, dirty in self.free[first:i] if dirty)
        start, stop, dirty = self.free[i]
        if dirty:
            pages += begin + size - start
        self.free[first : i + 1] = [[begin + size, stop, dirty]] if stop > begin + size else []
        return begin, pages

    def give_back(self, start: int, size: int) -> None:
        """Free the addresses of a map."""
        i = bisect.bisect(self.free, [start])
        self.free.insert(i, [start, start + size, True])
        self._join(i)
        self._join(i - 1)

    def _join(self, i: int) -> None:
        """Join the blocks i and i + 1 if they touch and are of one kind."""
        if 0 <= i < len(self.free) - 1 and self.free[i][1:] == [self.free[i + 1][0], self.free[i + 1][2]]:
            self.free[i : i + 2] = [[self.free[i][0], self.free[i + 1][1], self.free[i][2]]]

    def drop(self, excess: int) -> int:
        """Return pages of free addresses to the system, the last first; returns their bytes."""
        dropped = 0
        for i in range(len(self.free) - 1, -1, -1):
            start, stop, dirty = self.free[i]
            if not dirty or dropped >= excess:
                continue
            cut = max(start, stop - _whole_pages(excess - dropped))
            if DONTNEED is not None:
                self.buffer.madvise(DONTNEED, cut, stop - cut)
            self.free[i : i + 1] = [*([[start, cut, True]] if cut > start else []), [cut, stop, False]]
            self._join(i + (cut > start))
            dropped += stop - cut
        return dropped


class BufferPool:
    """Allocates storages from segments. A storage's addresses are free again when it is freed."""

    def __init__(self) -> None:
        self.in_use = self.kept = self.most_in_use = 0  # bytes
        self.disabled = False  # whether torch allocates the maps for now
        self._segments: list[Segment] = []
        # A storage can be freed anywhere, even inside `allocate`. Its addresses wait here, which needs no lock.
        self._returned: deque[tuple[Segment, int, int]] = deque()
        self._lock = threading.Lock()

    def allocate(self, size: int) -> Tensor:
        """`size` uninitialised bytes."""
        whole = _whole_pages(size)
        with self._lock:
            self._take_back()
            segment, start, pages = self._place(whole)
            self.kept -= pages
            self.in_use += whole
            self.most_in_use = max(self.most_in_use, self.in_use)
            self._drop(self.in_use + self.kept - self.most_in_use)
        lease = np.frombuffer(segment.buffer, dtype=np.uint8, count=size, offset=start)
        weakref.finalize(lease, self._returned.append, (segment, start, whole)).atexit = False
        return torch.from_numpy(lease)

    def clear(self) -> None:
        """Return every page that no map uses to the system."""
        with self._lock:
            self._take_back()
            self._drop(self.kept)
            self._segments = [segment for segment in self._segments if segment.free != [[0, segment.size, False]]]
            self.most_in_use = self.in_use

    def _place(self, size: int) -> tuple[Segment, int, int]:
        for segment in self._segments:
            found = segment.take(size)
            if found is not None:
                return segment, *found
        self._segments.append(Segment(max(size, SEGMENT)))
        found = self._segments[-1].take(size)
        assert found is not None
        return self._segments[-1], *found

    def _take_back(self) -> None:
        while self._returned:
            segment, start, size = self._returned.popleft()
            segment.give_back(start, size)
            self.in_use -= size
            self.kept += size

    def _drop(self, excess: int) -> None:
        for segment in reversed(self._segments):
            if excess <= 0 or self.kept <= 0:
                return
            dropped = segment.drop(excess)
            self.kept -= dropped
            excess -= dropped


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _map(size: int) -> mmap.mmap:
    """Map addresses, with large pages if the system has them: one fault per 2 MiB."""
    try:
        buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"out of memory: the system has no {size} bytes for a map.") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


memory = BufferPool()


def clear() -> None:
    """Return the memory of freed maps to the system."""
    memory.clear()


@contextmanager
def disabled() -> Iterator[None]:
    """Inside, torch allocates every map, in any thread, so that its profiler sees what is held."""
    before, memory.disabled = memory.disabled, True
    try:
        yield
    finally:
        memory.disabled = before


def empty(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """An uninitialised map, as torch.empty makes it."""
    size = dtype.itemsize * math.prod(shape)
    if size < LEAST_BYTES or memory.disabled:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    channels, *space = shape[1:]
    strides, step = [], channels
    for length in reversed(space):
        strides.append(step)
        step *= length
    # A storage that Python has seen counts as shared: autograd would not add a second gradient to the map in place.
    bytes_of_map = memory.allocate(size).view(dtype)
    whole = torch.empty(0, dtype=dtype).set_(bytes_of_map)  # type: ignore[call-overload]
    return whole.as_strided_(shape, (step, 1, *reversed(strides)))
