"""Steps as graphs, on a fake graph (`tape`); on a GPU tests/gpu does the same with real ones."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fastinpaint
from fastinpaint import graph
from fastinpaint.graph import WARM_UP, GraphedStep, why_not
from fastinpaint.models import ModelConfig
from fastinpaint.ops.conv_block import cpu
from fastinpaint.training import TrainConfig, train, trainer
from fastinpaint.training.logs import read_log
from tests.training.tape import Tape

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    model=ModelConfig(width=1 / 16), pretrain_steps=5, steps=5, batch=2, validate_every=4, save_every=0, log_every=5,
    graph=True, backend="cpu",
)  # fmt: skip


class Toy:
    """A step with batch norm, momentum, a learning rate and a counter, and optionally a mistake."""

    def __init__(self, mistake: str = "") -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 3))
        self.lr = torch.tensor(0.05)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self.lr, fused=True)
        self.mistake, self.average, self.last, self.resets = mistake, torch.zeros(()), None, 0

    def __call__(self, videos: Tensor, masks: Tensor) -> Tensor:
        x = videos if self.mistake != "reads another batch" else (self.last if self.last is not None else videos)
        loss = (self.net(x) * masks).square().mean()
        if self.mistake == "asks for a value" and loss.item() < 0:
            raise AssertionError
        loss.backward()
        if self.mistake == "keeps a number of Python's":
            with torch.no_grad():
                for parameter in self.net.parameters():
                    parameter -= self.pythons_lr * parameter.grad
        else:
            self.optimizer.step()
        if self.mistake == "binds a new tensor":
            self.average = 0.9 * self.average + 0.1 * loss.detach()
        else:
            self.average.mul_(0.9).add_(0.1 * loss.detach())
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([loss.detach(), self.average])

    pythons_lr = 0.05

    def reset(self) -> None:
        self.resets += 1
        self.optimizer.zero_grad(set_to_none=True)


def run(toy: Toy, step: Callable[[Tensor, Tensor], Tensor], batches: int = 8) -> list[Tensor]:
    """The results of some batches, the learning rate changed on the way, and the weights after them."""
    random, results = torch.Generator().manual_seed(1), []
    for i in range(batches):
        videos, masks = torch.rand(2, 1, 6, 6, generator=random), torch.rand(2, 1, 2, 2, generator=random)
        if i == WARM_UP + 2:
            toy.lr.fill_(0.01)
            toy.pythons_lr = 0.01
        toy.last = videos
        results.append(step(videos, masks))
    return [*results, *(value.clone() for value in toy.net.state_dict().values())]


def graphed(toy: Toy) -> GraphedStep:
    return GraphedStep(toy, CPU, Tape(CPU), toy.reset)


def test_a_recorded_step_has_the_bits_of_the_eager_one() -> None:
    eager, toy = Toy(), Toy()
    expected, step = run(eager, eager), graphed(toy)
    assert all(map(torch.equal, run(toy, step), expected))
    assert (step.recorder.asides, step.recorder.replays) == (WARM_UP, 8 - WARM_UP)
    assert all(parameter.grad is None for parameter in toy.net.parameters())


@pytest.mark.parametrize("mistake", ["reads another batch", "keeps a number of Python's", "binds a new tensor"])
def test_the_tape_tells_what_a_recording_would_get_wrong(mistake: str) -> None:
    eager, toy = Toy(mistake), Toy(mistake)
    expected = run(eager, eager)
    assert not all(map(torch.equal, run(toy, graphed(toy)), expected))


def test_a_step_that_asks_for_a_value_is_launched_one_by_one_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    eager, toy = Toy(), Toy("asks for a value")
    expected, step = run(eager, eager), graphed(toy)
    assert all(map(torch.equal, run(toy, step), expected))
    assert (step.recorder.replays, toy.resets) == (0, 1)
    (said,) = caplog.messages
    assert "launched one by one: recording failed: operation not permitted when stream is capturing" in said
    assert "\n" not in said


def test_a_batch_of_another_shape_is_launched_one_by_one() -> None:
    toys = Toy(), Toy()
    results = []
    for toy, step in zip(toys, (toys[0], graphed(toys[1])), strict=True):
        run(toy, step, WARM_UP + 1)
        other = step(torch.ones(1, 1, 7, 7), torch.ones(1, 1, 3, 3))
        results.append([other, *run(toy, step, 2)])
    assert all(map(torch.equal, *results))


def test_results_are_tensors_of_their_own() -> None:
    toy = Toy()
    losses = run(toy, graphed(toy))[:8]
    assert len({loss[0].item() for loss in losses}) == 8


@pytest.mark.parametrize(
    ("device", "processes", "words"),
    [
        ("cpu", 1, "CUDA graphs need a CUDA device, and this run is on the cpu."),
        ("cuda", 2, "2 processes train together, and their exchange of gradients is not recorded."),
        ("cuda", 1, None),
    ],
    ids=["no GPU", "several processes", "none"],
)
def test_why_not(device: str, processes: int, words: str | None) -> None:
    assert why_not(torch.device(device), processes) == words


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "plot_curves", lambda logs, out: None)


@pytest.fixture
def on_tape(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Lets the trainer record on the CPU; returns the tapes, as they are made.

    A tape sees operators only. A step that is not recorded calls a kernel that finishes batch norm without one, and
    rounds elsewhere; so it is not used here.
    """
    monkeypatch.setattr(cpu, "why_not_norm", lambda sources, norm: "the tape sees operators only.")
    tapes: list[Tape] = []
    monkeypatch.setattr(Tape, "made", tapes)
    monkeypatch.setattr(graph, "CudaRecorder", Tape)
    monkeypatch.setattr(graph, "why_not", lambda device, processes: None)
    return tapes


def state(run: Path) -> dict[str, Any]:
    """What the last checkpoint holds beside weights and moments."""
    return json.loads(sorted(run.glob("checkpoints/step-*/state.json"))[-1].read_text())


OPTIONS = [
    {},
    {"backend": "reference", "accumulate": 2, "clip": 0.05},
    {"memory": "low"},
    {"amp": "fp16", "backend": "reference", "strategy": "2dcn", "clip": 0.1, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())) or "default")
def test_a_graphed_run_has_the_bits_of_an_eager_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_tape: list[Tape], options: dict[str, object]
) -> None:
    config = dataclasses.replace(CONFIG, **options)
    train(config, data, tmp_path / "graphed")
    phases = 1 if config.strategy == "2dcn" else 2
    assert [(tape.asides, tape.replays) for tape in on_tape] == [(WARM_UP, 5 - WARM_UP)] * phases
    monkeypatch.setattr(graph, "WARM_UP", 1000)  # the same optimiser, and nothing recorded
    train(config, data, tmp_path / "eager")
    ours, theirs = (load_file(tmp_path / run / "last.safetensors") for run in ("graphed", "eager"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("graphed", "eager")]
    for line in (line for log in logs for line in log):
        for unlike in ("seconds_per_step", "peak_memory_mib"):
            line.pop(unlike, None)
    assert logs[0] == logs[1]
    assert state(tmp_path / "graphed") == state(tmp_path / "eager")


def test_a_graphed_run_is_resumed_with_the_bits_of_an_unbroken_one(
    data: Path, tmp_path: Path, on_tape: list[Tape]
) -> None:
    config = dataclasses.replace(CONFIG, strategy="t2", steps=10)
    train(config, data, tmp_path / "whole")
    train(dataclasses.replace(config, steps=5), data, tmp_path / "run")
    train(config, data, tmp_path / "run", resume=True)
    ours, theirs = (load_file(tmp_path / run / "last.safetensors") for run in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sum(tape.replays for tape in on_tape) == (10 + 5 + 5) - 3 * WARM_UP


def test_where_it_is_impossible_one_line_says_so_and_the_run_is_the_plain_one(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    config = dataclasses.replace(CONFIG, strategy="t2", steps=3, backend="reference")
    with caplog.at_level(logging.WARNING, "fastinpaint"):
        train(config, data, tmp_path / "asked")
    assert caplog.messages == [
        "graph: steps are launched one by one: CUDA graphs need a CUDA device, and this run is on the cpu."
    ]
    train(dataclasses.replace(config, graph=False), data, tmp_path / "plain")
    ours, theirs = (load_file(tmp_path / run / "last.safetensors") for run in ("asked", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_trainer_whose_recording_fails_goes_on_rightly(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_tape: list[Tape]
) -> None:
    """The scaler has started its step when the capture fails; the next step must still work."""
    config = dataclasses.replace(CONFIG, strategy="2dcn", amp="fp16", backend="reference", clip=0.1)
    monkeypatch.setattr(graph, "WARM_UP", 1000)
    train(config, data, tmp_path / "eager")
    monkeypatch.setattr(graph, "WARM_UP", WARM_UP)
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: clip(*args).item())
    train(config, data, tmp_path / "run")
    assert on_tape[-1].replays == 0
    assert state(tmp_path / "run")["scaler"]["_growth_tracker"] == 5
    ours, theirs = (load_file(tmp_path / run / "last.safetensors") for run in ("run", "eager"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_takes_as_many_tensors_as_it_likes() -> None:
    total = torch.zeros(())

    def step(x: Tensor) -> Tensor:
        total.add_(x.sum())
        return total * 2

    recorded = fastinpaint.GraphedStep(step, CPU, Tape(CPU))
    results = [recorded(torch.full((2,), float(i))).item() for i in range(WARM_UP + 3)]
    assert results == [4.0 * sum(range(i + 1)) for i in range(WARM_UP + 3)]
    assert recorded.recorder.replays == 3


def test_a_step_on_a_device_without_graphs_is_refused() -> None:
    with pytest.raises(ValueError, match="GraphedStep: CUDA graphs need a CUDA device"):
        fastinpaint.GraphedStep(lambda x: x, CPU)
