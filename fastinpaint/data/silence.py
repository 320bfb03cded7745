"""Silences C libraries that print to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

STDERR = 2
_lock = threading.Lock()


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Discard what libpng, libjpeg and libtiff print about damaged files to file descriptor 2.

    Output of other threads is lost too, so keep the block short.
    """
    with _lock:
        try:
            sys.stderr.flush()
            kept, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
        except (OSError, AttributeError, ValueError):  # stderr is absent or cannot be flushed
            yield
            return
        os.dup2(nowhere, STDERR)
        os.close(nowhere)
        try:
            yield
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
