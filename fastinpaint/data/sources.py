"""Finds the clips in a list of files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastinpaint.data.video import is_image, natural_key
from fastinpaint.errors import UserError

_KINDS = "3gp apng asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts webm wmv y4m"
VIDEO_SUFFIXES = frozenset("." + kind for kind in _KINDS.split())


def find_sources(paths: Sequence[str | Path], leave_out: Path) -> list[Path]:
    """The clips in natural order, without repetition: given files, and the videos and frame folders in given folders.

    Folders are searched at any depth. A folder that directly holds two or more images is itself a clip. Hidden entries
    and `leave_out` are skipped.

    Raises:
        UserError: a path does not exist.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder.")
        for clip in _walk(path, leave_out.resolve()) if path.is_dir() else [path]:
            found.setdefault(clip.resolve(), clip)
    return list(found.values())


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change, over all images of a folder: changes when the source does."""
    files = [p for p in path.iterdir() if is_image(p)] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return [len(files), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def _walk(folder: Path, leave_out: Path) -> list[Path]:
    if folder.resolve() == leave_out:
        return []
    entries = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=natural_key)
    clips = [folder] if sum(map(is_image, entries)) >= 2 else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            clips += _walk(entry, leave_out)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            clips.append(entry)
    return clips
