"""The loop: strategies, exact resumption, errors and stops."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig
from fastinpaint.models.weights import load_weights
from fastinpaint.training import TrainConfig, train, trainer
from fastinpaint.training.logs import read_log
from fastinpaint.training.run_folder import RunFolder

CONFIG = TrainConfig(
    model=ModelConfig(width=1 / 16), pretrain_steps=4, steps=5, batch=2, validate_every=3, save_every=2, log_every=2
)


def with_options(**changes: object) -> TrainConfig:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "last.safetensors")


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The sub-networks with any change, including statistics."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's strategy from end to end."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    train(with_options(keep=9), data, run)
    return run


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw curves only in the fixture `unbroken`, as they take longer than a run here."""
    monkeypatch.setattr(trainer, "plot_curves", lambda logs, out: None)


def test_a_run_leaves_what_it_promises(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert names == {"config.yaml", "log.jsonl", "curves.png", "checkpoints", "best.safetensors", "last.safetensors"}
    steps = [path.name for path in sorted((unbroken / "checkpoints").iterdir())]
    assert steps == [f"step-{step:08d}" for step in (2, 4, 6, 8, 9)]
    assert (unbroken / "curves.png").read_bytes().startswith(b"\x89PNG")
    model = load_weights(unbroken / "last.safetensors", "completion")
    assert model.config == CONFIG.model
    torch.testing.assert_close(model.mean_pixel, torch.tensor([0.5, 0.4, 0.3]))


def test_the_log_tells_steps_phases_and_losses(unbroken: Path) -> None:
    lines = read_log(unbroken / "log.jsonl")
    told = [(line["event"], line["step"], line["phase"]) for line in lines]
    assert told == [
        ("train", 2, "pretrain"),
        ("train", 3, "pretrain"),
        ("validation", 3, "pretrain"),
        ("train", 4, "pretrain"),
        ("validation", 4, "pretrain"),
        ("train", 6, "joint"),
        ("validation", 6, "joint"),
        ("train", 8, "joint"),
        ("train", 9, "joint"),
        ("validation", 9, "joint"),
    ]
    assert lines[0].keys() == {"event", "step", "phase", "3dcn", "total", "seconds_per_step", "lr", "peak_memory_mib"}
    assert lines[-1].keys() == {"event", "step", "phase", "3dcn", "combcn"}
    last = lines[-2]
    assert 5 < last["3dcn"] < 255
    assert last["total"] == pytest.approx(last["3dcn"] + last["combcn"])


def test_the_best_weights_are_those_of_the_best_validation_of_the_last_phase(unbroken: Path) -> None:
    validations = [line for line in read_log(unbroken / "log.jsonl") if line["event"] == "validation"]
    best = min(validations[2:], key=lambda line: line["combcn"])
    name = "last.safetensors" if best["step"] == 9 else f"checkpoints/step-{best['step']:08d}/weights.safetensors"
    assert same_bits(load_file(unbroken / "best.safetensors"), load_file(unbroken / name))


@pytest.mark.parametrize(
    ("strategy", "first", "second"),
    [("paper", {"threedcn"}, {"threedcn", "combcn"}), ("t1", {"threedcn"}, {"combcn"})],
)
def test_what_each_phase_moves(data: Path, tmp_path: Path, strategy: str, first: set[str], second: set[str]) -> None:
    config = with_options(strategy=strategy, pretrain_steps=2, steps=2, validate_every=0, weight_decay=0.1, keep=9)
    train(dataclasses.replace(config, save_every=1), data, tmp_path / "run")
    torch.manual_seed(config.seed)
    begun = {**trainer.build_model(config).state_dict(), "mean_pixel": torch.tensor([0.5, 0.4, 0.3])}
    at = [load_file(path / "weights.safetensors") for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert moved(begun, at[0]) == moved(at[0], at[1]) == first
    assert moved(at[1], at[2]) == second


@pytest.mark.parametrize(("strategy", "kind"), [("t2", "completion"), ("2dcn", "twodcn")])
def test_strategies_of_one_phase(data: Path, tmp_path: Path, strategy: str, kind: str) -> None:
    train(with_options(strategy=strategy, steps=2), data, tmp_path / "run")
    load_weights(tmp_path / "run/last.safetensors", kind)
    lines = read_log(tmp_path / "run/log.jsonl")
    assert {line["phase"] for line in lines} == {"joint" if strategy == "t2" else "2dcn"}
    assert lines[-1]["step"] == 2


def test_training_learns(data: Path, tmp_path: Path) -> None:
    train(with_options(strategy="t2", steps=60, log_every=10, save_every=0, lr=3e-3), data, tmp_path / "run")
    totals = [line["total"] for line in read_log(tmp_path / "run/log.jsonl") if line["event"] == "train"]
    assert totals[-1] < 0.6 * totals[0]


@pytest.mark.parametrize("stop", [2, 4, 6], ids=["in pre-training", "between the phases", "in joint training"])
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(
    data: Path, tmp_path: Path, unbroken: Path, stop: int
) -> None:
    run = tmp_path / "run"
    whole = with_options(keep=9)
    shorter = with_options(keep=9, pretrain_steps=min(stop, 4), steps=max(stop - 4, 0))
    train(shorter, data, run)
    train(whole, data, run, resume=True)
    assert same_bits(weights(run), weights(unbroken))
    last = "checkpoints/step-00000009/optimizer.safetensors"
    assert same_bits(load_file(run / last), load_file(unbroken / last))
    figures = [
        [{key: line[key] for key in ("event", "step", "phase", "3dcn")} for line in read_log(path / "log.jsonl")]
        for path in (run, unbroken)
    ]
    assert [line for line in figures[0] if line in figures[1]] == figures[1]


def test_the_loss_scale_of_fp16_is_resumed_too(data: Path, tmp_path: Path) -> None:
    config = with_options(strategy="2dcn", amp="fp16", steps=3, save_every=1, validate_every=0)
    train(config, data, tmp_path / "whole")
    train(dataclasses.replace(config, steps=2), data, tmp_path / "run")
    train(config, data, tmp_path / "run", resume=True)
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    last = "checkpoints/step-00000003/state.json"
    states = [json.loads((tmp_path / run / last).read_text()) for run in ("run", "whole")]
    assert states[0] == states[1]
    assert states[0]["scaler"]["_growth_tracker"] == 3
    assert states[0]["scaler"]["scale"] > 1


def test_what_came_after_the_checkpoint_is_told_once(data: Path, tmp_path: Path, unbroken: Path) -> None:
    """As after a power cut: a log that is ahead of the newest checkpoint, and an unfinished line at its end."""
    run = tmp_path / "run"
    train(with_options(keep=9, steps=2), data, run)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"event": "train", "step": 8, "phase": "joint", "total": 1.0}) + '\n{"event": "tr')
    train(with_options(keep=9), data, run, resume=True)
    assert same_bits(weights(run), weights(unbroken))
    steps = [line["step"] for line in read_log(run / "log.jsonl") if line["event"] == "train"]
    assert steps == [2, 3, 4, 6, 8, 9]


def test_resuming_a_finished_run_changes_nothing(data: Path, unbroken: Path) -> None:
    before = weights(unbroken)
    train(with_options(keep=9), data, unbroken, resume=True)
    assert same_bits(before, weights(unbroken))


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"clip": 0.1}, {"weight_decay": 0.1}, {"accumulate": 2}], ids=str)
def test_options_change_the_weights_but_not_the_sense(
    data: Path, tmp_path: Path, unbroken: Path, options: dict[str, object]
) -> None:
    train(with_options(**options, save_every=0), data, tmp_path / "run")
    assert not same_bits(weights(tmp_path / "run"), weights(unbroken))
    ours, theirs = (read_log(run / "log.jsonl")[-1]["combcn"] for run in (tmp_path / "run", unbroken))
    assert ours == pytest.approx(theirs, rel=0.2)


def test_a_run_that_is_there_is_left_alone(data: Path, unbroken: Path) -> None:
    before = (unbroken / "log.jsonl").read_bytes(), weights(unbroken)
    with pytest.raises(UserError, match="exists already"):
        train(CONFIG, data, unbroken)
    assert (unbroken / "log.jsonl").read_bytes() == before[0]
    assert same_bits(weights(unbroken), before[1])


def test_resuming_asks_for_the_same_options_and_data(data: Path, tmp_path: Path, unbroken: Path) -> None:
    with pytest.raises(UserError, match=r"lr \(0\.001 before, 0\.1 now\)"):
        train(with_options(lr=0.1), data, unbroken, resume=True)
    with pytest.raises(UserError, match="no run to resume"):
        train(CONFIG, data, tmp_path / "none", resume=True)
    other = tmp_path / "data"
    other.mkdir()
    index = json.loads((data / "index.json").read_text())
    (other / "index.json").write_text(json.dumps({**index, "mean_pixel": [0.1, 0.1, 0.1]}))
    (other / "clips").symlink_to(data / "clips")
    with pytest.raises(UserError, match="not the data set that the run was begun with"):
        train(CONFIG, other, unbroken, resume=True)


@pytest.fixture
def bad_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the loss of step 7 NaN."""
    taken = []
    plain = trainer.PhaseLoss.forward

    def forward(self: trainer.PhaseLoss, video: Tensor, mask: Tensor) -> dict[str, Tensor]:
        losses = plain(self, video, mask)
        taken.append(self.training)
        return {name: loss * (float("nan") if sum(taken) == 7 else 1) for name, loss in losses.items()}

    monkeypatch.setattr(trainer.PhaseLoss, "forward", forward)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("bad_step")
def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"not finite at step 7 of phase joint .*step-00000006") as raised:
        train(with_options(log_every=100), data, run)
    assert "\n" not in str(raised.value)
    newest = RunFolder(run).newest()
    assert newest is not None
    assert newest.name == "step-00000006"
    assert all(bool(value.isfinite().all()) for value in weights(run).values())
    assert same_bits(weights(run), load_file(newest / "weights.safetensors"))


def test_a_full_disk_while_saving_keeps_the_checkpoint_before(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path
) -> None:
    run = tmp_path / "run"
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if str(target).endswith("step-00000006"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(UserError, match="No space left on device"):
        train(with_options(keep=9), data, run)
    monkeypatch.undo()
    train(with_options(keep=9), data, run, resume=True)
    assert same_bits(weights(run), weights(unbroken))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_ctrl_c_finishes_the_step_and_saves_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path, number: signal.Signals
) -> None:
    run, plain = tmp_path / "run", trainer.Trainer._step

    def interrupted(self: trainer.Trainer, *args: object) -> dict[str, Tensor]:
        if self.done == 6:
            os.kill(os.getpid(), number)
        return plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Trainer, "_step", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=r"after step 7, .*fastinpaint train .* --resume"):
        train(with_options(keep=9), data, run)
    monkeypatch.undo()
    assert signal.getsignal(number) is before
    assert RunFolder(run).newest() == run / "checkpoints/step-00000007"
    train(with_options(keep=9), data, run, resume=True)
    assert same_bits(weights(run), weights(unbroken))
