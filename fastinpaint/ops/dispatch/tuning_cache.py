"""What was measured on a device, on disk: one JSON file for each device, versions and source of what was measured.

    FASTINPAINT_TUNE=1     measure whatever is not remembered, among all candidates (``fastinpaint tune`` does)
    FASTINPAINT_TUNE=0     neither measure nor remember: the same choice on every machine
    FASTINPAINT_CACHE=...  the folder of the memory, instead of ~/.cache/fastinpaint

With ``torch.use_deterministic_algorithms(True)`` it is as with 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def mode() -> str:
    """The value of ``FASTINPAINT_TUNE``: "0", "1" or anything else, which is the usual."""
    return "0" if torch.are_deterministic_algorithms_enabled() else os.environ.get("FASTINPAINT_TUNE", "")


def cache_folder() -> Path:
    """Where measurements are kept."""
    root = os.environ.get("FASTINPAINT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastinpaint"
    return Path(root).expanduser()


def file_of(name: str, *parts: str) -> Path:
    """The file of these parts, device, versions and source: a change of any forgets."""
    return cache_folder() / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


def read(path: Path) -> dict[str, Any]:
    """What a file remembers; one that cannot be read counts as none."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write(path: Path, known: dict[str, Any]) -> None:
    """Write beside and rename, so that a reader finds the old file or the new one, with what others wrote meanwhile.

    A folder that cannot be written to is no reason to stop: it is said, and the process remembers for itself.
    """
    beside = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            beside = file.name
            json.dump({**read(path), **known}, file, indent=0, sort_keys=True)
        os.replace(beside, path)
    except OSError as error:
        logger.warning("%s: measurements are not remembered: %s", path, error.strerror)
        with contextlib.suppress(OSError):
            os.unlink(beside)
