"""Types of options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastinpaint.errors import shown
from fastinpaint.ranges import whole

COORDINATE = whole(-(2**31), 2**31)


def path(text: str) -> Path:
    """A path. An empty one, which would mean the current folder, is a mistake."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a path, got an empty one")
    found = Path(text)
    try:
        found.resolve()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"must be a path, {shown(text)} is a link that leads to itself") from None
    except OSError:  # such as a name that is too long, which is reported where the path is used
        pass
    return found


def box(text: str) -> tuple[int, int, int, int]:
    """``x,y,w,h`` in whole pixels."""
    parts = text.split(",")
    try:
        if len(parts) == 4:
            x, y, width, height = (COORDINATE(part) for part in parts)
            return x, y, width, height
    except argparse.ArgumentTypeError:
        pass
    raise argparse.ArgumentTypeError(f"must be four whole numbers x,y,w,h in pixels, got {shown(text)}")
