"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place at the end of the block and goes away on any error.

    Readers see the old file or the new one, never a part. What a killed process leaves is hidden and ends in `PART`.

    Args:
        durable: wait until the content is on the disk, so that a power cut cannot leave a renamed but empty file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield beside
        if durable:
            flush(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write the text in UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Wait until the file's content, or the folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
