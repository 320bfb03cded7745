"""Rows of results: one JSON object a line, appended, never rewritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastinpaint.errors import UserError


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file, made with its folder where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """All rows of several files, in order; a line that is no JSON is an error that names it."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: expected a JSON object a line, got {line[:60]!r}.") from error
    return rows
