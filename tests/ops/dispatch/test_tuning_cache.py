"""Measurements on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastinpaint.ops.dispatch import tuning_cache
from fastinpaint.ops.dispatch.source_hash import source_hash


def test_a_broken_file_counts_as_none_and_other_writers_stay(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.json"
    assert tuning_cache.read(path) == {}
    tuning_cache.write(path, {"mine": 1})
    for broken in ("{", "[1]", "\udc80"):
        path.write_bytes(broken.encode(errors="surrogateescape"))
        assert tuning_cache.read(path) == {}
    path.write_text(json.dumps({"theirs": [2]}))
    tuning_cache.write(path, {"mine": 1})
    assert tuning_cache.read(path) == {"mine": 1, "theirs": [2]}
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    tuning_cache.write(path, {"old": 1})

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    tuning_cache.write(path, {"new": 2})
    assert "measurements are not remembered: No space left on device" in caplog.text
    assert tuning_cache.read(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_text("")
    tuning_cache.write(tmp_path / "file" / "a.json", {"new": 2})


def test_a_change_of_any_part_forgets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    files = {tuning_cache.file_of("a", "H200", version, source) for version in "12" for source in "34"}
    assert len(files) == 4
    assert {file.parent for file in files} == {tmp_path}


def test_the_flag_of_torch_is_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_TUNE", "1")
    assert tuning_cache.mode() == "1"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert tuning_cache.mode() == "0"


def test_source_is_hashed_once_for_all_processes_that_read_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path / "cache"))
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for file in files:
        file.write_text("def one():\n    return 1\n")
    found = tuning_cache.hash_of(files)
    assert found == source_hash(files)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache").mkdir()
    assert tuning_cache.hash_of(files) == found
    with monkeypatch.context() as patch:
        patch.setattr(tuning_cache, "source_hash", lambda paths: pytest.fail("hashed again"))
        assert tuning_cache.hash_of(reversed(files)) == found
    files[0].write_text("def one():\n    return 1  # a comment changes nothing\n")
    assert tuning_cache.hash_of(files) == found
    files[0].write_text("def one():\n    return 2\n")
    assert tuning_cache.hash_of(files) != found


def test_source_is_hashed_each_time_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.py").write_text("A = 1\n")
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path / "cache"))
    assert tuning_cache.hash_of([tmp_path / "a.py"]) == source_hash([tmp_path / "a.py"])
    assert not caplog.records
