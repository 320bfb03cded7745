"""A plan whose results or gradients are not the stock model's is not used, however fast it is."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration import agreement
from fastinpaint.acceleration.agreement import SAMPLED, WORSE, Outcome, disagreement, sampled
from fastinpaint.acceleration.example import MOVED, Example
from fastinpaint.acceleration.trial import Runner, Trial
from fastinpaint.nn import layers
from fastinpaint.nn.pending_conv import PendingConv
from tests.accelerate.slow_layers import (
    SLOW,
    Clock,
    clock,
    contiguous_is_slow,
    fused_layers,
    image,
    network,
    slowed,
    stock_is_slow,
)

__all__ = ["clock", "contiguous_is_slow", "stock_is_slow"]  # fixtures


def outcome(**gradients: Tensor | None) -> Outcome:
    results = [torch.ones(3)]
    return Outcome(results, results, gradients)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_gradient_may_round() -> None:
    right = drawn(50)
    assert disagreement(outcome(w=right * 1.05), outcome(w=right)) is None
    assert disagreement(outcome(w=right * 1.2), outcome(w=right)) == "the gradient of w by 0.2 of its norm"
    assert disagreement(outcome(w=right.double() * 1.01), outcome(w=right.double())) is not None


@pytest.mark.parametrize("missing", [None, torch.zeros(50)], ids=["none", "zeros"])
def test_a_gradient_that_is_left_out_is_found(missing: Tensor | None) -> None:
    assert disagreement(outcome(w=missing), outcome(w=drawn(50))) == "the gradient of w by 1 of its norm"
    assert disagreement(outcome(w=drawn(50)), outcome(w=missing, other=drawn(50))) is not None
    assert disagreement(outcome(w=None), outcome(w=missing)) is None
    assert disagreement(outcome(w=missing), outcome(w=None)) is None


def test_a_gradient_that_is_all_rounding_is_no_difference() -> None:
    """As that of a bias before a batch norm."""
    ours = {"weight": drawn(50), "bias": 1e-5 * drawn(4)}
    assert disagreement(outcome(**ours), outcome(weight=drawn(50), bias=-1e-5 * drawn(4))) is None
    assert disagreement(outcome(**ours), outcome(weight=drawn(50), bias=0.1 * drawn(4))) is not None


def test_gradients_of_another_dropout_are_not_compared() -> None:
    one, other = outcome(w=drawn(50)), outcome(w=-drawn(50))
    other.drawn = [torch.zeros(3)]
    assert disagreement(one, other) is None
    one.evaluated, other.evaluated = {"w": None}, {"w": drawn(50)}  # those of evaluation mode are
    assert disagreement(one, other) == "the gradient of w by 1 of its norm"
    other.results = [torch.zeros(3)]  # those of evaluation mode must be the same
    assert disagreement(one, other) == "the model's results by inf of their norm"


def test_a_gradient_that_rounding_moves_far_may_differ_as_much() -> None:
    """Three times as much as stock's own, without autocast or from inputs that are moved by rounding."""
    right, off = drawn(50), drawn(50).roll(1)
    stock, otherwise = outcome(w=right), outcome(w=right + off)
    assert disagreement(outcome(w=right - 2 * off), stock) is not None
    assert disagreement(outcome(w=right - 2 * off), stock, otherwise) is None
    assert disagreement(outcome(w=right - 4 * off), stock, otherwise) is not None
    assert disagreement(outcome(w=None), stock, outcome(w=right * 1.1)) is not None
    stock.results, otherwise.results = [right], [right + off]
    assert disagreement(Outcome([right - 2 * off]), stock) is not None
    assert disagreement(Outcome([right - 2 * off]), stock, otherwise) is None
    assert disagreement(Outcome([right - 4 * off]), stock, otherwise) is not None


def test_arguments_are_moved_by_rounding() -> None:
    x = drawn(4, 4)
    example = Example((x, 3), {"mask": x > 0})
    example.moved = True
    (moved, three), kwargs, _ = example.fresh()
    assert 0 < float((moved / x - 1).abs().max()) <= MOVED / 2 * 1.2e-7 * 1.1
    assert three == 3
    assert torch.equal(kwargs["mask"], x > 0)
    example.moved = False
    assert torch.equal(example.fresh()[0][0], x)


def test_values_are_taken_at_the_same_places_of_either_layout() -> None:
    weight = drawn(64, 32, 3, 3)
    found, again = sampled(weight), sampled(weight.to(memory_format=torch.channels_last))
    assert found is not None
    assert again is not None
    assert torch.equal(found, again)
    assert found.numel() == SAMPLED
    taps = torch.arange(weight.numel(), dtype=torch.float64).view_as(weight) % 9
    assert sampled(taps).unique().numel() == 9  # type: ignore[union-attr]
    assert torch.equal(sampled(weight[0]), weight[0].flatten())  # type: ignore[arg-type]


@pytest.mark.parametrize("worse", [WORSE, 0.0])
def test_a_network_that_amplifies_rounding_is_fused(worse: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch norm of four values divides by their deviation, which here is hardly more than rounding."""
    monkeypatch.setattr(agreement, "WORSE", worse)
    torch.manual_seed(0)
    x = torch.randn(1, 3, 3, 3) * (1 + 1e-5 * torch.randn(4, 3, 3, 3))
    norms = nn.BatchNorm2d(8, eps=1e-14), nn.BatchNorm2d(8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 1), norms[1], nn.ReLU())
    notes = fastinpaint.accelerate(net, example=x, objective="memory").fastinpaint_report.notes
    assert any("of its norm: none is used" in note for note in notes) == (worse == 0)


class Added(torch.autograd.Function):
    """Passes the second tensor on, and gives the first one, which it never reads, a gradient too."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.shape = first.shape
        return second.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient + 1, gradient


class Injected(nn.Module):
    """Two fused layers; the map between them gets a gradient from `Added`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return Added.apply(first, self.second(first).tanh())


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("objective", ["speed", "memory"])
def test_a_gradient_that_only_backward_gives_is_not_lost(objective: str) -> None:
    """A Function drops the gradient of an inner map of fused layers, as it is no real tensor, with no error."""
    net = fastinpaint.accelerate(Injected(), example=image(), objective=objective)
    assert fused_layers(net) == []
    assert "changed the gradient of first.0.weight by" in net.fastinpaint_report.notes[0]


def test_the_plan_by_rules_is_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    net = fastinpaint.accelerate(Injected())
    assert fused_layers(net) != []
    net(image())
    assert fused_layers(net) == []
    assert "changed the gradient of first.0.weight by" in net.fastinpaint_report.notes[0]


@pytest.mark.usefixtures("stock_is_slow")
def test_a_fused_form_that_loses_a_gradient_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers._Norm._fused
    monkeypatch.setattr(layers._Norm, "joined", lambda self, raw, input=None: None)  # no short way
    monkeypatch.setattr(layers._Norm, "_fused", lambda self, input: fastinpaint.nn.plain(right(self, input)).detach())
    net = fastinpaint.accelerate(network(), example=image())
    assert fused_layers(net) == []
    assert "changed the gradient of 0.weight by 1 of its norm" in net.fastinpaint_report.notes[0]


def test_a_mixed_plan_that_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The fastest plan leaves the last layer stock."""
    right, whole = Runner.changed, 5  # convolutions and batch norms

    def changed(self: Runner, trial: Trial, stock: Trial) -> str | None:
        return right(self, trial, stock) if len(trial.plan.fused) == whole else "its results by 1 of their norm"

    slowed(monkeypatch, nn.Conv2d, "_conv_forward", clock)
    slowed(monkeypatch, PendingConv, "__init__", clock, lambda _, parts, weight, *rest: weight.shape[-1] == 1, 5 * SLOW)
    net = fastinpaint.accelerate(network(), example=image())
    assert fused_layers(net) == ["0", "3"]
    monkeypatch.setattr(Runner, "changed", changed)
    with caplog.at_level(logging.WARNING, "fastinpaint"):
        net = fastinpaint.accelerate(network(), example=image(2, 3, 13, 13))
    assert fused_layers(net) == []
    assert "changed its results by 1 of their norm: it is not used." in caplog.text


class Odd(nn.Module):
    """Right for contiguous maps only."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return x
        return x.detach() if self.wrong == "gradient" else 2 * x


@pytest.mark.usefixtures("contiguous_is_slow")
@pytest.mark.parametrize("wrong", ["gradient", "results"])
def test_a_stock_layout_that_differs_is_not_used(wrong: str) -> None:
    """torch 2.13 has wrong gradients for channels-last maps: of batch norm and instance norm of one sample."""
    net = fastinpaint.accelerate(nn.Sequential(nn.Conv2d(3, 8, 3), Odd(wrong), nn.Conv2d(8, 4, 1)), example=image())
    report = net.fastinpaint_report
    assert list(report.stock) == ["contiguous"]
    what = "the gradient of 0.weight by 1" if wrong == "gradient" else "the model's results by"
    assert f"channels-last maps change {what}" in report.notes[0]
    assert net[0].weight.is_contiguous()
