"""Files that are read within bounds and replaced as a whole, and folders that one process at a time may change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastinpaint.errors import UserError, shown

PART = ".part"
MOST_BYTES = 64 * 2**20
"""Bytes that a text file of this package has at most; logs may be larger."""


@contextmanager
def replacing(path: Path, durable: bool = False, *, suffix: str = "") -> Iterator[Path]:
    """A path beside ``path`` to write a file or a folder to; it takes the place of ``path`` at the end of the block.

    On any error it is removed. Readers see the old file or the new one, never a part. What a killed process leaves is
    hidden and ends in `PART` and the suffix. A block that removes what it wrote leaves ``path`` as it was.

    Args:
        durable: wait until the content is on the disk, so that a power cut cannot leave a renamed but empty file.
        suffix: of the path beside, for writers that choose a format by it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{PART}{suffix}")
    try:
        yield beside
        if beside.exists():
            if durable:
                flush(beside)
            _replace(beside, path)
    finally:
        _remove(beside)


def _replace(beside: Path, path: Path) -> None:
    """A folder cannot be renamed onto another one, so the old one is moved away first."""
    if not path.is_dir():
        os.replace(beside, path)
        return
    old = beside.with_name(f"{beside.name}.old")
    os.replace(path, old)
    os.replace(beside, path)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


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


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A UTF-8 text file of at most that many bytes.

    Raises:
        UserError: missing, no regular file (a device or a pipe may never end), too large, or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: must be a regular file, and is not one.")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{shown(str(path))}: cannot be read: {error}.") from None
    if len(data) > most:
        raise UserError(f"{path}: too large, it has more than {most} bytes.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: damaged: byte {error.start} is not UTF-8 text.") from None


def parse_json(text: str) -> Any:
    """JSON from a file that may be damaged.

    Raises:
        ValueError: no JSON, nested too deep, or with a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Inside, no other process that asks for the lock has it. The lock leaves no file and ends with the process.

    On a file system without locks nothing is locked.

    Raises:
        UserError: another process holds it; the sentence says that ``what`` is in use.
    """
    handle = _lock(folder, what)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(folder: Path, what: str) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: {what} is in use by another process; wait for it, or end it.") from None
    except OSError:  # no locks there
        os.close(handle)
        return None
    return handle
