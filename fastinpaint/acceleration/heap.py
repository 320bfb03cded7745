"""Keeps the C library's heap from shrinking while plans are timed in turns."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of malloc.h
LARGEST = 32 << 20  # bytes from which on a block never is in the heap; glibc's own limit grows up to this
INSIDE = threading.Lock()


@contextmanager
def held() -> Iterator[None]:
    """Inside, freed memory stays with the process, so that no step pays for pages that the step before gave back.

    glibc returns the end of its heap to the system when enough of it is free, and the next step takes it again page by
    page. How often depends on the plan that ran before: so plans that run in turns disturb each other. Afterwards the
    freed memory is returned, and the limits are those that glibc reaches by itself once a block of 32 MiB was freed.
    Without glibc nothing changes.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None or not INSIDE.acquire(blocking=False):  # another thread holds it
        yield
        return
    try:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        yield
    finally:
        mallopt(TRIM_THRESHOLD, 2 * LARGEST)
        if trim := _glibc("malloc_trim"):
            trim(0)
        INSIDE.release()


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None with another C library."""
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
        return getattr(ctypes.CDLL(None), name, None)
    except (AttributeError, ValueError, OSError, TypeError):  # no such name: another library or system
        return None
