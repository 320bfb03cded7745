"""`accelerate` chooses the fastest or smallest plan, and reports the choice and its reasons."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration import agreement, search
from fastinpaint.acceleration.kept import KeptBytes, RecomputedBytes, kept_bytes
from fastinpaint.acceleration.report import Report
from fastinpaint.nn import layers
from fastinpaint.nn.pending_conv import PendingConv
from fastinpaint.ops.dispatch import native, native_cpu
from fastinpaint.ops.saved import Slot
from tests.accelerate.slow_layers import (
    SLOW,
    Clock,
    clock,
    contiguous_is_slow,
    fused_is_slow,
    fused_layers,
    image,
    network,
    slowed,
    stock_is_slow,
)

__all__ = ["clock", "contiguous_is_slow", "fused_is_slow", "stock_is_slow"]  # fixtures


@pytest.mark.usefixtures("stock_is_slow")
def test_layers_are_fused_where_that_is_faster() -> None:
    net = fastinpaint.accelerate(network(), example=image())
    assert fused_layers(net) == ["0", "3", "7"]
    report = net.fastinpaint_report
    assert report.how == "measured"
    assert report.after["ms"] < report.before["ms"]
    assert report.after["kept_bytes"] <= report.before["kept_bytes"]


@pytest.mark.usefixtures("fused_is_slow")
@pytest.mark.parametrize("objective", ["speed", "balanced"])
def test_the_model_stays_stock_where_that_is_faster(objective: str) -> None:
    net = fastinpaint.accelerate(network(), example=image(), objective=objective)
    assert fused_layers(net) == []
    assert {type(m) for m in net} <= {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout}
    report = net.fastinpaint_report
    assert "slower fused" in str(report)
    kept = [report.after["kept_bytes"], *(row["kept_bytes"] for row in report.smaller)]
    assert len(kept) > 1
    assert kept == sorted(kept, reverse=True)
    assert "not chosen: " in str(report)


def test_one_slow_layer_is_left_stock(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(search, "RUNS", 3)
    slowed(monkeypatch, nn.Conv2d, "_conv_forward", clock)
    slowed(monkeypatch, PendingConv, "__init__", clock, lambda _, parts, weight, *rest: weight.shape[-1] == 1, 5 * SLOW)
    net = fastinpaint.accelerate(network(), example=image())
    assert fused_layers(net) == ["0", "3"]


@pytest.mark.usefixtures("fused_is_slow")
def test_memory_takes_what_keeps_least_however_slow() -> None:
    net = fastinpaint.accelerate(network(), example=image(2, 3, 32, 32), objective="memory")
    assert fused_layers(net)
    report = net.fastinpaint_report
    assert report.after["kept_bytes"] < report.before["kept_bytes"]
    assert report.after["ms"] > report.before["ms"]


@pytest.mark.parametrize("budget", [0.7, "600KB"])
def test_a_budget_is_kept(budget: float | str) -> None:
    net = fastinpaint.accelerate(network(), example=image(2, 3, 32, 32), memory=budget)
    report = net.fastinpaint_report
    limit = budget * report.before["kept_bytes"] if isinstance(budget, float) else 600e3
    assert 0 < report.after["kept_bytes"] <= 1.002 * limit < report.before["kept_bytes"]


@pytest.mark.usefixtures("stock_is_slow")
def test_speed_never_keeps_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused layer that is fast but keeps copies is not used."""
    right = layers._Conv._fused

    def hoarding(self, input, *args, **kwargs):
        result = right(self, input, *args, **kwargs)
        plain = fastinpaint.nn.plain(result)
        return plain + 0 * plain.sin().exp().cos().exp()

    monkeypatch.setattr(layers._Conv, "_fused", hoarding)
    report = fastinpaint.accelerate(net := network(), example=image()).fastinpaint_report
    assert fused_layers(net) == []
    assert report.notes == []  # it computes the same
    assert report.layers[0].fused_ms < report.layers[0].stock_ms  # and would be faster


@pytest.mark.usefixtures("stock_is_slow")
def test_a_fused_form_that_changes_the_result_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers._Norm._fused
    monkeypatch.setattr(layers._Norm, "joined", lambda self, raw, input=None: None)  # no short way
    monkeypatch.setattr(layers._Norm, "_fused", lambda self, input: 2 * fastinpaint.nn.plain(right(self, input)))
    net = fastinpaint.accelerate(network().eval(), example=image())
    assert fused_layers(net) == []
    assert "changed the model's results by" in net.fastinpaint_report.notes[0]


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize(("worse", "expected"), [(3.0, ["0", "3", "7"]), (0.0, [])])
def test_under_autocast_fused_layers_may_round_as_much_as_stock(
    worse: float, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a network amplifies rounding, the stock model's distance from its results in float32 is the yardstick."""
    for dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setitem(agreement.TOLERANCES, dtype, agreement.Tolerance(0.0, 0.0, 0.0))
    monkeypatch.setattr(agreement, "WORSE", worse)
    with torch.autocast("cpu", torch.bfloat16):
        net = fastinpaint.accelerate(network(), example=image())
    assert fused_layers(net) == expected
    assert any("fused layers changed" in note for note in net.fastinpaint_report.notes) == (not expected)


@pytest.mark.usefixtures("fused_is_slow", "contiguous_is_slow")
def test_a_channels_last_stock_model_keeps_names_and_identity() -> None:
    net, x = network().eval(), image()
    plain, parameters = copy.deepcopy(net), dict(net.named_parameters())
    fastinpaint.accelerate(net, example=x)
    assert fused_layers(net) == []
    assert net.fastinpaint_report.after["layout"] == "channels-last"
    assert net(x).is_contiguous(memory_format=torch.channels_last)
    assert all(p is parameters[name] for name, p in net.named_parameters())
    assert not net[3].weight.is_contiguous()
    torch.testing.assert_close(net(x), plain(x))
    assert fastinpaint.restore(net)[3].weight.is_contiguous()


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.last = nn.Sequential(*network()[:6], nn.MaxPool2d(2)), nn.Linear(16 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x).view(len(x), -1))


@pytest.mark.usefixtures("stock_is_slow")
def test_code_that_calls_view_stays_contiguous() -> None:
    net, x = Viewing(), image()
    plain = copy.deepcopy(net)
    fastinpaint.accelerate(net, example=x)
    assert fused_layers(net)
    assert any("view" in note for note in net.fastinpaint_report.notes)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)


def test_without_kernels_the_model_stays_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", lambda name: f"the {name} library was not built.")
    net = network()
    with pytest.warns(UserWarning, match=r"was not built\. Install a C\+\+ compiler and reinstall"):
        fastinpaint.accelerate(net)
    assert fused_layers(net) == []
    assert "was not built" in net.fastinpaint_report.notes[0]


def test_the_report_fits_a_terminal_and_goes_through_a_file() -> None:
    net = fastinpaint.accelerate(network(), example=image())
    report = net.fastinpaint_report
    assert max(map(len, str(report).splitlines())) <= 100
    assert Report.from_dict(report.to_dict()) == report
    assert {layer.name for layer in report.layers} == {"0", "3", "7"}
    assert report.limit.endswith(".")
    assert "..." not in str(report)


@pytest.mark.usefixtures("fused_is_slow")
@pytest.mark.parametrize("isa", ["avx512", "avx512bf16"])
def test_the_report_advises_autocast_where_the_processor_gains_by_it(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cpu, "isa", lambda: isa)
    net = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 16, 16, 1) for i in range(4)))
    limit = fastinpaint.accelerate(net, example=image()).fastinpaint_report.limit
    assert "% of the step is in 1x1 convolutions and what follows them, which gained nothing fused here." in limit
    assert ("torch.autocast makes them cheaper" in limit) == (isa == "avx512bf16")


@pytest.mark.usefixtures("fused_is_slow")
def test_the_report_names_equal_reasons_once_and_cuts_no_sentence() -> None:
    class Other(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    layers = [Other(16, 16, 3, padding=1, bias=False) for _ in range(5)]
    body = nn.Sequential(nn.Conv2d(3, 16, 3), *layers, nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.PReLU())
    net = fastinpaint.accelerate(nn.Sequential(body), example=image())
    lines = str(net.fastinpaint_report).splitlines()
    assert lines[0] == "0 layers swapped, 5 cannot be fused."
    assert lines[1].startswith("  0.1, 0.2, 0.3 and 2 more: Other is a subclass of Conv2d")
    assert max(map(len, lines)) <= 100
    assert not any(line.endswith("...") for line in lines)
    assert net.fastinpaint_report.limit.endswith("a larger batch or input gains more.")


@pytest.mark.usefixtures("stock_is_slow")
def test_frozen_and_evaluated_parts_are_measured_too() -> None:
    net = network()
    net[0].requires_grad_(False)
    net[1].eval()
    fastinpaint.accelerate(net, example=image())
    assert fused_layers(net) == ["0", "3", "7"]
    net(image()).sum().backward()
    assert net[0].weight.grad is None
    assert net[3].weight.grad is not None


def test_kept_bytes_count_what_backward_computes_again_and_holds() -> None:
    """A chain without kept maps is recomputed at once at the start of backward."""
    torch.manual_seed(0)
    chain = [(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(8)]
    net, x = nn.Sequential(*(layer for each in chain for layer in each)), image(2, 16, 32, 32)
    fastinpaint.accelerate(net, objective="fuse", memory="low")
    assert kept_bytes(lambda: net(x).sum(), net.parameters()) < 2 * x.nbytes
    again = RecomputedBytes()
    with again.counting():
        net(x).sum().backward()
    assert 6 * x.nbytes < again.most < 10 * x.nbytes
    assert again.now == 0


def test_kept_bytes_are_the_most_that_is_held_at_a_time() -> None:
    """What backward has freed before it computes a map again does not count with it."""
    peak, x, big = KeptBytes([]), torch.randn(1000, requires_grad=True), torch.randn(3000)
    slot = Slot()
    with peak.counting():
        with peak.saving():
            first = x.sin()
            second = first.cos()
            third = second.sin()
        assert peak.now == 12000  # x, first and second
        for result, of in ((third, second), (second, first)):
            torch.autograd.grad(result, of, torch.ones(1000))
        assert peak.now == 4000  # x
        slot.value = big
        assert (peak.now, peak.most) == (16000, 16000)
        slot.value = None
    assert (peak.now, peak.most) == (4000, 16000)
    del first, second, third, result, of
    assert peak.now == 0


def test_wrong_options_are_refused() -> None:
    options: list[tuple[dict[str, object], str]] = [
        ({"objective": "fast"}, "objective must be one of speed, balanced, memory, fuse, got 'fast'"),
        ({"memory": "12 apples"}, "memory must be one of default, low, least, a share above 0 or bytes as '512MB'"),
        ({"memory": 0.0}, "got 0.0"),
    ]
    for given, match in options:
        with pytest.raises(ValueError, match=match):
            fastinpaint.accelerate(network(), **given)  # type: ignore[arg-type]


def test_a_budget_that_nothing_meets_takes_the_least_and_says_so() -> None:
    net = fastinpaint.accelerate(network(), example=image(2, 3, 32, 32), memory="100KB")
    report = net.fastinpaint_report
    assert report.after["kept_bytes"] < 0.7 * report.before["kept_bytes"]
    assert report.notes == ["no choice keeps 0.1 MiB or less: this one keeps the fewest bytes."]
