"""Checkpoints are atomic, the last K are kept, and loading restores the same bits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.models.weights import load_weights
from fastinpaint.training.checkpoints import (
    WEIGHTS,
    checkpoints,
    clear_partial,
    load_checkpoint,
    replace_file,
    save_checkpoint,
)

CONFIG = ModelConfig(width=1 / 16)


def fresh(seed: int) -> tuple[VideoCompletionNet, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = VideoCompletionNet(CONFIG)
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def stepped(seed: int) -> tuple[VideoCompletionNet, torch.optim.Optimizer]:
    """A model with moments for 3DCN's weights alone, as after pre-training."""
    model, optimizer = fresh(seed)
    for parameter in model.threedcn.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, step, *stepped(step), {"note": step}, {"step": step}, keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_moments_and_state_come_back_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = stepped(1)
    path = save_checkpoint(tmp_path, 7, model, optimizer, {"best": {"loss": 0.1}}, {}, keep=3)
    other, other_optimizer = fresh(2)
    assert load_checkpoint(path, other, other_optimizer) == {"step": 7, "best": {"loss": 0.1}}
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    kept, restored = optimizer.state_dict(), other_optimizer.state_dict()
    assert kept["state"].keys() == restored["state"].keys()
    torch.testing.assert_close(restored["state"], kept["state"], rtol=0, atol=0)
    torch.testing.assert_close(load_weights(path / WEIGHTS).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_others_may_read_what_is_saved(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    files = list(save(tmp_path / "checkpoints", 1).iterdir())
    assert len(files) == 3
    assert {path.stat().st_mode for path in files} == {plain.stat().st_mode}


def test_the_last_k_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 100):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path: Path) -> None:
    whole = save(tmp_path, 1)
    for leftover in (".step-00000002.partial", ".step-00000000.removed"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / WEIGHTS).write_bytes(b"half")
    assert checkpoints(tmp_path) == [whole]
    clear_partial(tmp_path)
    assert names(tmp_path) == [whole.name]


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = save(tmp_path, 1)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"step-00000002: not written: No space left on device; .* is intact"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert names(tmp_path) == [before.name]
    assert load_checkpoint(before, *fresh(0))["note"] == 1


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / WEIGHTS).write_bytes(b"half")
    with pytest.raises(UserError, match="step-00000001: not a checkpoint of this run") as raised:
        load_checkpoint(path, *fresh(0))
    assert "\n" not in str(raised.value)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_file(path, lambda beside: beside.write_text("old"))

    def fail(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"a\.txt: not written: No space left"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
