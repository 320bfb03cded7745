"""Where completed frames go: a folder of PNG images or a video file, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from av.error import FFmpegError

from fastinpaint.errors import UserError

MOVIE_SUFFIXES = (".mp4", ".mov", ".mkv")
PNG_NAME = re.compile(r"\d{6,}\.png")


class Writer(Protocol):
    """Takes frames in order. The output is complete after `close`; `release` lets go of it in any state."""

    def write(self, rgb: np.ndarray, pts: int, time_base: Fraction) -> None:
        """Add uint8 [H, W, 3], shown at `pts * time_base` seconds."""

    def close(self) -> None:
        """Write what is left, and the end of the file."""

    def release(self) -> None:
        """Close files."""


class PngWriter:
    """A folder of losslessly stored frames, 000000.png and so on."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self._path = path
        self._next = 0

    def write(self, rgb: np.ndarray, pts: int, time_base: Fraction) -> None:
        _, data = cv2.imencode(".png", rgb[:, :, ::-1])
        (self._path / f"{self._next:06d}.png").write_bytes(data.tobytes())
        self._next += 1

    def close(self) -> None:
        """Nothing is left to write."""

    def release(self) -> None:
        """Nothing is open."""


def is_movie(target: Path) -> bool:
    """Whether the name asks for a video file; else it is a folder's."""
    return target.suffix.lower() in MOVIE_SUFFIXES


def check_output(target: Path, inputs: list[Path], overwrite: bool) -> None:
    """Raise UserError unless `target` is a place to write to that is none of the inputs."""
    if target.suffix and not is_movie(target) and not target.is_dir():
        known = ", ".join(MOVIE_SUFFIXES)
        raise UserError(f"{target}: the output must be a {known} file or a folder, whose name has no suffix.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.absolute().parent} to write to.")
    for path in inputs:
        if path.exists() and (path.resolve() == target.resolve() or (target.exists() and path.samefile(target))):
            raise UserError(f"{target}: the output must not be the input, {path}.")
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target}: exists already; --overwrite replaces it.")
    if target.is_dir():
        foreign = [p.name for p in target.iterdir() if not PNG_NAME.fullmatch(p.name)]
        if foreign:
            raise UserError(f"{target}: only a folder of frames (000000.png ...) is replaced; it holds {foreign[0]}.")


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it takes the target's place at the end, and goes away on any error."""
    beside = target.absolute().with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield beside
        _replace(beside, target)
    except (OSError, FFmpegError) as error:
        raise UserError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    finally:
        _remove(beside)


def _replace(beside: Path, target: Path) -> None:
    if target.is_dir():
        old = beside.with_suffix(".old")
        os.replace(target, old)
        os.replace(beside, target)
        _remove(old)
    else:
        os.replace(beside, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)
