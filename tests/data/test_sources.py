"""The clips that are found in files and folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastinpaint.data.sources import find_sources, stamp
from fastinpaint.errors import UserError

Clip = Callable[..., Path]


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_folders_are_walked_in_natural_order(tmp_path: Path) -> None:
    make(
        tmp_path, "b/clip10.mp4", "b/clip2.MKV", "a.gif", "frames/1.png", "frames/2.png", "notes.txt", "one/poster.jpg"
    )
    make(tmp_path, ".hidden/x.mp4", "out/clips/old.mp4")
    found = find_sources([tmp_path], leave_out=tmp_path / "out")
    assert [str(p.relative_to(tmp_path)) for p in found] == ["a.gif", "b/clip2.MKV", "b/clip10.mp4", "frames"]


def test_a_file_given_by_name_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    make(tmp_path, "film.dat")
    assert find_sources([tmp_path / "film.dat"], tmp_path / "out") == [tmp_path / "film.dat"]


def test_each_source_once(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "b.mp4")
    found = find_sources([tmp_path / "b.mp4", tmp_path, tmp_path / ".." / tmp_path.name / "a.mp4"], tmp_path / "out")
    assert [p.name for p in found] == ["b.mp4", "a.mp4"]


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone: no such file or folder\.$"):
        find_sources([tmp_path / "gone"], tmp_path / "out")


def test_stamp_changes_with_the_source(clip: Clip, tmp_path: Path) -> None:
    folder = clip("frames", frames=2)
    before = stamp(folder)
    assert stamp(folder) == before
    os.utime(folder / "frame1.png", ns=(1, 10**18))
    touched = stamp(folder)
    (folder / "frame1.png").unlink()
    assert len({tuple(s) for s in (before, touched, stamp(folder))}) == 3
