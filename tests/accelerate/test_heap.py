"""The heap that is held while plans run in turns."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fastinpaint.acceleration import heap

PROGRAM = """
import ctypes, json, resource
from fastinpaint.acceleration import heap

BLOCKS, BLOCK = 24, 8 << 20  # together more than glibc lets lie free
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]

def faults():  # pages taken from the system while blocks are written and freed in turns, after two that warm up
    for turn in range(5):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK)
        for block in blocks:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
with heap.held():
    with heap.held():  # as a second thread would
        pass
    inside = faults()
print(json.dumps([before, inside, faults()]))
"""


@pytest.mark.skipif(heap._glibc("mallopt") is None, reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process_inside_alone() -> None:
    """In a process of its own, whose heap has no other free room. A turn takes 192 MiB: 49,152 pages."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    before, inside, after = json.loads(done.stdout)
    assert inside < 100
    assert before > 10_000
    assert after > 10_000


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(heap.os, "confstr", unknown)
    with heap.held():
        assert heap._glibc("mallopt") is None
