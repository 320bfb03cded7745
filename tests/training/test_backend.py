"""The trainer's call that swaps a model's layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import load_weights
from fastinpaint.ops.dispatch import registry
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.backend import BACKENDS, accelerate_model
from fastinpaint.training.logs import read_log

TINY = ModelConfig(width=1 / 16)


def test_reference_is_the_plain_model() -> None:
    model = TwoDCN(TINY)
    kinds = [type(module) for module in model.modules()]
    assert accelerate_model(model, "reference") is model
    assert [type(module) for module in model.modules()] == kinds


def test_other_backends_swap_the_layers_and_keep_the_names() -> None:
    for model in (TwoDCN(TINY), VideoCompletionNet(TINY)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert accelerate_model(model, "auto", "low") is model
        assert "layers.1" in str(model.fastinpaint_report.swapped)
        assert model.fastinpaint_report.left == {}
        assert model.training
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_the_known_backends_are_those_there_are() -> None:
    assert {*registry.BACKENDS, "auto"} == set(BACKENDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_backend_that_cannot_run_here_says_why_and_makes_no_run(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(model=TINY, backend="triton")
    with pytest.raises(UserError, match=r"backend triton: batch_norm: backend 'triton' cannot run this: .* on a GPU"):
        train(config, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fused_layers_follow_the_plain_ones(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(model=TINY, strategy="t2", steps=4, batch=2, log_every=1)
    train(config, data, tmp_path / "plain")
    train(dataclasses.replace(config, backend="auto"), data, tmp_path / "fused")
    plain, fused = (read_log(tmp_path / run / "log.jsonl") for run in ("plain", "fused"))
    assert [line["combcn"] for line in fused] == pytest.approx([line["combcn"] for line in plain], rel=1e-3)
    assert load_weights(tmp_path / "fused/last.safetensors").config == config.model


@pytest.mark.parametrize(
    ("backend", "memory", "words"),
    [
        ("tpu", "default", r"backend: unknown value 'tpu'; known: reference, auto"),
        ("cpu", "tiny", r"memory: unknown value 'tiny'; known: default, low, least"),
        ("reference", "low", r"memory: low needs fused layers"),
    ],
    ids=["backend", "memory", "memory of plain layers"],
)
def test_unknown_names_list_the_known(backend: str, memory: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        accelerate_model(TwoDCN(TINY), backend, memory)
