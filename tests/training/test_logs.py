"""The log, the progress bar, TensorBoard and the curves."""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fastinpaint.errors import UserError
from fastinpaint.training.curves import MOST_POINTS, plot_curves
from fastinpaint.training.logs import RunLog, peak_memory_mib, read_log


def write(out: Path, steps: range, tensorboard: bool = False) -> None:
    log = RunLog(out, steps.start - 1, 10, tensorboard)
    for step in steps:
        log.train(step, "joint", {"combcn": 90.0 / step}, seconds=0.5, lr=1e-3)
        log.validation(step, "joint", {"combcn": 100.0 / step}, best=False)
    log.close()


def test_a_resumed_log_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 8))
    steps = [line["step"] for line in read_log(tmp_path / "log.jsonl") if line["event"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_a_line_tells_time_rate_and_memory(tmp_path: Path) -> None:
    write(tmp_path, range(1, 2))
    line = read_log(tmp_path / "log.jsonl")[0]
    assert (line["phase"], line["combcn"], line["seconds_per_step"], line["lr"]) == ("joint", 90.0, 0.5, 1e-3)
    assert 50 < line["peak_memory_mib"] <= peak_memory_mib() + 0.1 < 1e6


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path, 0, 10, False)

    class FullFile:
        def write(self, text: str) -> None: ...

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        close = flush

    monkeypatch.setattr(log, "file", FullFile())
    with pytest.raises(UserError, match=r"log\.jsonl: not written: No space left"):
        log.train(1, "joint", {}, seconds=0.5, lr=1e-3)
    log.close()


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(1, 4), tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/combcn")] == [90.0, 45.0, 30.0]
    assert [event.step for event in events.Scalars("validation/combcn")] == [1, 2, 3]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Callable[..., Any] = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return plain(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="tensorboard: not installed"):
        RunLog(tmp_path, 0, 10, True)


def colours(path: Path) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0).tolist()))


BLUE, ORANGE = (180, 119, 31), (14, 127, 255)  # matplotlib's first two, as BGR


def test_curves_have_a_colour_for_every_run(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        write(tmp_path / run, range(1, 8))
    logs = {run: tmp_path / run / "log.jsonl" for run in ("a", "b")}
    plot_curves({"a": logs["a"]}, tmp_path / "one.png")
    plot_curves(logs, tmp_path / "two.png")
    assert BLUE in colours(tmp_path / "one.png")
    assert ORANGE not in colours(tmp_path / "one.png")
    assert {BLUE, ORANGE} <= colours(tmp_path / "two.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "one.png", "two.png"]


@pytest.mark.parametrize("steps", [0, 1, 3 * MOST_POINTS + 1], ids=["no step", "one step", "many steps"])
def test_curves_of_any_length(tmp_path: Path, steps: int) -> None:
    log = RunLog(tmp_path, 0, steps, False)
    for step in range(1, steps + 1):
        log.train(step, "pretrain" if step < 50 else "joint", {"3dcn": 50.0}, seconds=0.1, lr=1e-3)
    log.close()
    plot_curves({"run": tmp_path / "log.jsonl"}, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
