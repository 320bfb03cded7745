"""The heap that is held while plans run in turns."""

from __future__ import annotations

import ctypes
import resource

import pytest

from fastinpaint.acceleration import heap

BLOCKS, BLOCK = 24, 8 << 20  # together more than glibc lets lie free


def faults() -> int:
    """Pages taken from the system while blocks are written and freed in turns, after two that warm up."""
    libc, before = ctypes.CDLL(None), 0
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    for turn in range(5):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(heap._glibc("mallopt") is None, reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process_inside_alone() -> None:
    """A turn takes 192 MiB: 49,152 pages."""
    outside = faults()
    with heap.held():
        with heap.held():  # as a second thread would
            pass
        assert faults() < 100
    assert outside > 10_000
    assert faults() > 10_000


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(heap.os, "confstr", unknown)
    with heap.held():
        assert heap._glibc("mallopt") is None
