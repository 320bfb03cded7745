"""``train --graph`` with real CUDA graphs: the losses and weights of the eager run, by every backend."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastinpaint import graph
from fastinpaint.models import ModelConfig
from fastinpaint.training import TrainConfig, train, trainer
from fastinpaint.training.logs import read_log
from tests.gpu.conftest import why_not
from tests.training.conftest import data  # noqa: F401 - a fixture

pytestmark = pytest.mark.gpu
CONFIG = TrainConfig(
    model=ModelConfig(width=1 / 16), pretrain_steps=6, steps=8, batch=2, validate_every=4, save_every=0, log_every=1,
    device="cuda", graph=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def same_bits_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "plot_curves", lambda logs, out: None)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")


def losses(run: Path) -> list[float]:
    return [line["total"] for line in read_log(run / "log.jsonl") if line["event"] == "train"]


@pytest.mark.parametrize(
    "options",
    [{}, {"amp": "bf16"}, {"amp": "fp16", "clip": 0.1}, {"accumulate": 2}, {"memory": "low"}],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
@pytest.mark.parametrize("backend", ["reference", "cuda", "triton", "library"])
def test_a_graphed_run_follows_the_eager_one(data: Path, tmp_path: Path, caplog, backend: str, options: dict) -> None:  # noqa: F811
    if backend == "reference" and "memory" in options:
        pytest.skip("plain layers have one tier")
    if backend != "reference" and (reason := why_not(backend)) is not None:
        pytest.skip(reason)
    config = dataclasses.replace(CONFIG, backend=backend, **options)
    with caplog.at_level(logging.WARNING, "fastinpaint"):
        train(config, data, tmp_path / "graphed")
    assert not caplog.messages
    train(dataclasses.replace(config, graph=False), data, tmp_path / "eager")
    # the same kernels in the same order: our backends give the same bits, cuDNN may choose again while it is recorded
    bound = 0.0 if backend in ("cuda", "triton") else 1e-3
    assert losses(tmp_path / "graphed") == pytest.approx(losses(tmp_path / "eager"), rel=bound, abs=0)
    if not bound:
        ours, theirs = (load_file(tmp_path / run / "last.safetensors") for run in ("graphed", "eager"))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_step_that_waits_for_the_device_is_launched_one_by_one(
    data: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(CONFIG, strategy="2dcn", clip=0.1, amp="fp16")
    train(dataclasses.replace(config, graph=False), data, tmp_path / "eager")
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: clip(*args).item())
    train(config, data, tmp_path / "run")
    assert "recording failed" in caplog.text
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)


def test_the_step_of_the_trainer_never_waits_for_the_device(data: Path, tmp_path: Path) -> None:  # noqa: F811
    """Torch itself raises where an eager step would."""
    taken = trainer.Trainer._step

    def watched(*args, **options):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return taken(*args, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", watched)
        patch.setattr(graph, "WARM_UP", 1000)
        train(dataclasses.replace(CONFIG, strategy="t2", steps=4, backend="auto"), data, tmp_path / "run")
