"""Files that are read as a whole, and folders that one process at a time may change."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastinpaint.errors import UserError, shown

MOST_BYTES = 64 * 2**20
"""A text file larger than this is none of ours: logs of a million steps have 200 bytes a line, but are thinned."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A UTF-8 text file of at most that many bytes.

    Raises:
        UserError: missing, no regular file (a device or a pipe may never end), too large, or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: a regular file is needed, this is none.")
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


def plain(value: Any) -> bool:
    """Whether a path may name an input: a folder, or a file that ends; not a device, a pipe or a socket."""
    path = Path(value)
    return path.is_dir() or path.is_file()


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Inside, no other process that asks for it holds the folder. The lock leaves no file and ends with the process.

    Where the file system has no locks, there is none.

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
