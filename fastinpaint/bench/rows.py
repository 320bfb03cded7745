"""Result rows: one JSON object per line, only ever appended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from fastinpaint.errors import UserError


def check(path: Path) -> None:
    """Check that rows can be added to a file, without changing anything.

    Raises:
        UserError: the path is not a regular file, or cannot be created or written.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: rows can only be added to a regular file, and this is not one.")
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    is_new = not path.exists()
    try:
        append(path, [{}] if is_new else [])
        if is_new:
            path.unlink()
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file, which is created with its folder if missing. On a full disk no row is added.

    Raises:
        UserError: the file cannot be written.
    """
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode()
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(before)
                if is_new:
                    path.unlink()
                raise
    except OSError as error:
        raise UserError(f"{path}: rows cannot be added: {error.strerror}.") from None


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """All rows of several files in order. Raises a `UserError` that names a line that is not JSON."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: expected a JSON object a line, got {line[:60]!r}.") from error
    return rows
