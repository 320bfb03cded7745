"""The one call that swaps a model's layers."""

from __future__ import annotations

import pytest
from torch import nn

import fastinpaint
from fastinpaint.errors import UserError
from fastinpaint.training.backend import accelerate_model


def test_reference_is_the_plain_model() -> None:
    model = nn.Conv2d(3, 3, 3)
    assert accelerate_model(model, "reference") is model


def test_other_backends_are_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def accelerate(model: nn.Module, **options: str) -> nn.Module:
        asked.append(options)
        return model

    monkeypatch.setattr(fastinpaint, "accelerate", accelerate, raising=False)
    accelerate_model(nn.ReLU(), "cpu", "low")
    assert asked == [{"backend": "cpu", "memory": "low"}]


def test_a_backend_that_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def accelerate(model: nn.Module, **options: str) -> nn.Module:
        raise NotImplementedError("conv_block: no CUDA device.")

    monkeypatch.setattr(fastinpaint, "accelerate", accelerate, raising=False)
    with pytest.raises(UserError, match="backend cuda: conv_block: no CUDA device"):
        accelerate_model(nn.ReLU(), "cuda")


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
