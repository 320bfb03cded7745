"""Measurements on disk: one JSON file per device, versions and source of the measured code.

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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from fastinpaint.errors import UserError
from fastinpaint.files import parse_json, read_text, replace_text
from fastinpaint.ops.dispatch.source_hash import source_hash

logger = logging.getLogger(__name__)
NEEDED_BYTES = 16_384  # bytes of one model's measurements
VARIABLE = "FASTINPAINT_TUNE"
_refused: set[Path] = set()  # files that could not be written; each is reported once


def mode() -> str:
    """The value of ``FASTINPAINT_TUNE``: "0", "1", or anything else for the default."""
    return "0" if torch.are_deterministic_algorithms_enabled() else os.environ.get(VARIABLE, "")


def cache_folder() -> Path:
    """Where measurements are kept."""
    root = os.environ.get("FASTINPAINT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastinpaint"
    try:
        return Path(root).expanduser()
    except RuntimeError:  # no home: nothing is remembered
        return Path(os.devnull) / "no-home-folder"


def file_of(name: str, *parts: str) -> Path:
    """The file for these parts, device, versions and source. A change of any of them gives another file."""
    return cache_folder() / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


def hash_of(paths: Iterable[Path]) -> str:
    """`source_hash` of Python files, remembered by their bytes: parsing all of the package takes a second.

    It is written where the folder of measurements exists: it must not be made, or filled, for this alone.
    """
    files = sorted(paths)
    read_as = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    path = cache_folder() / "sources.json"
    known = read(path).get(read_as)
    if not isinstance(known, str):
        known = source_hash(files)
        with contextlib.suppress(OSError):  # an unwritable folder: the next process hashes again
            if path.parent.is_dir():
                _add(path, {read_as: known})
    return known


def read(path: Path) -> dict[str, Any]:
    """A file's content; an unreadable file counts as empty."""
    try:
        known = parse_json(read_text(path)) if path.is_file() else None
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def check_writable(path: Path) -> None:
    """Raise before measuring if the result could not be written. Changes nothing.

    Raises:
        UserError: the folder of the file cannot be made or written to.
    """
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp") as file:
            file.write(bytes(NEEDED_BYTES))
    except OSError as error:
        raise UserError(f"{path.parent}: measurements cannot be kept there: {error.strerror}.") from None
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def write(path: Path, known: dict[str, Any]) -> None:
    """Write beside and rename, so that a reader finds the old file or the new one, with what others wrote meanwhile.

    An unwritable folder is reported once; this process then remembers in memory only.
    """
    if path in _refused:
        return
    try:
        _add(path, known)
    except OSError as error:
        _refused.add(path)
        logger.warning("%s: measurements are not remembered: %s", path, error.strerror)


def _add(path: Path, known: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({**read(path), **known}, indent=0, sort_keys=True))
