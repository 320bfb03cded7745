"""The one call that swaps a model's layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from fastinpaint import backends
from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig
from fastinpaint.models.weights import load_weights
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.backend import BACKENDS, accelerate_model
from fastinpaint.training.logs import read_log


def test_reference_is_the_plain_model() -> None:
    model = nn.Conv2d(3, 3, 3)
    assert accelerate_model(model, "reference") is model


def test_other_backends_swap_the_layers_and_keep_the_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    names = list(model.state_dict())
    assert accelerate_model(model, "auto", "low") is model
    assert model.fastinpaint_report.swapped == ["0", "1", "2"]
    assert list(model.state_dict()) == names


def test_the_known_backends_are_those_there_are() -> None:
    assert {*backends.BACKENDS, "auto"} == set(BACKENDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_backend_that_cannot_run_here_says_why_and_makes_no_run(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(width=1 / 16), backend="triton")
    with pytest.raises(UserError, match=r"backend triton: conv_block: backend 'triton' cannot run this: "):
        train(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fused_layers_follow_the_plain_ones(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(width=1 / 16), strategy="t2", steps=4, batch=2, log_every=1)
    train(config, data, tmp_path / "plain")
    train(dataclasses.replace(config, backend="auto"), data, tmp_path / "fused")
    plain, fused = (read_log(tmp_path / run / "log.jsonl") for run in ("plain", "fused"))
    assert [line["combcn"] for line in fused] == pytest.approx([line["combcn"] for line in plain], rel=1e-3)
    assert load_weights(tmp_path / "fused/last.safetensors").config == config.model


@pytest.mark.parametrize(
    ("backend", "memory", "words"),
    [
        ("tpu", "default", r"backend: unknown value 'tpu'; known: reference, auto"),
        ("cpu", "tiny", r"memory: unknown value 'tiny'; known: default, low"),
        ("reference", "low", r"memory: low needs fused layers"),
    ],
    ids=["backend", "memory", "memory of plain layers"],
)
def test_unknown_names_list_the_known(backend: str, memory: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        accelerate_model(nn.ReLU(), backend, memory)
