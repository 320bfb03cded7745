"""`accelerate` measures: it takes what is fastest, or smallest, and leaves everything else as it was."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.acceleration import search, tuner
from fastinpaint.acceleration.kept import RecomputedBytes, kept_bytes
from fastinpaint.acceleration.report import Report
from fastinpaint.acceleration.sandbox import random_states
from fastinpaint.nn import layers, region
from fastinpaint.ops.dispatch import native

SLOW = 0.01  # seconds, more than all else that a step of these nets does


@pytest.fixture(autouse=True)
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTINPAINT_TUNE", "")
    monkeypatch.setenv("FASTINPAINT_OBJECTIVE", "speed")
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    monkeypatch.setattr(search, "RUNS", 1)
    monkeypatch.setattr(search, "TURNS", 2)
    monkeypatch.setattr(search, "MORE_TURNS", 1)
    monkeypatch.setattr(search, "SHORT", 0.0)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [[nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)] for a, b in [(3, 16), (16, 16)]]
    return nn.Sequential(*layers[0], *layers[1], nn.Dropout(0.5), nn.Conv2d(16, 4, 1))


def image(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 12, 12)))


def slowed(monkeypatch: pytest.MonkeyPatch, kind: type, method: str) -> None:
    """A method of a class sleeps before it runs."""
    right = getattr(kind, method)

    def slow(self, *args, **kwargs):
        time.sleep(SLOW)
        return right(self, *args, **kwargs)

    monkeypatch.setattr(kind, method, slow)


@pytest.fixture
def stock_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, nn.Conv2d, "_conv_forward")


@pytest.fixture
def fused_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, layers._Conv, "_fused")


def fused_layers(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, layers._Conv)]


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
    assert "slower fused" in str(net.fastinpaint_report)


def test_one_slow_layer_is_left_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "RUNS", 3)
    slowed(monkeypatch, nn.Conv2d, "_conv_forward")
    right = layers._Conv._fused

    def slow(self, *args, **kwargs):
        if self.kernel_size == (1, 1):
            time.sleep(5 * SLOW)
        return right(self, *args, **kwargs)

    monkeypatch.setattr(layers._Conv, "_fused", slow)
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
    """A fused form that is fast but keeps copies is taken back."""
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


@contextmanager
def everything_stays(net: nn.Module) -> Iterator[None]:
    """Nothing that a user can see of a model, and no random state, changes inside."""
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)

    def look() -> list[object]:
        states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        values = [(t.tolist(), id(t), t._version) for t in (*net.parameters(), *net.buffers())]
        grads = [(p.grad.tolist(), id(p.grad)) for p in net.parameters()]
        return [states, values, grads, [m.training for m in net.modules()], list(net.state_dict())]

    before = look()
    yield
    assert look() == before


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("mode", ["example", "first call"])
def test_measuring_changes_nothing_of_the_model(mode: str) -> None:
    net, x, calls = network(), image(), []
    net[1].eval()
    net[2].steps = 0
    net.register_forward_hook(lambda *_: calls.append("forward"))
    net[0].weight.register_hook(lambda grad: calls.append("backward"))
    fastinpaint.accelerate(net)
    with everything_stays(net):
        if mode == "example":
            fastinpaint.accelerate(net, example=x)
        else:
            tuner.before_call(net, (x,), {})
            region.leave(net)
    assert calls == []
    assert net.fastinpaint_report.how == "measured"


@pytest.mark.usefixtures("stock_is_slow")
def test_the_first_call_returns_what_it_would_have_returned() -> None:
    x, found = image(), []
    for explicit in (True, False):
        net = network().double()
        net[6].p = 0.0  # what it drops depends on the layout
        fastinpaint.accelerate(net, **({"objective": "fuse"} if explicit else {}))
        torch.manual_seed(1)
        result = net(x.double())
        result.square().sum().backward()
        found.append([result, *(p.grad for p in net.parameters()), *net.buffers(), torch.rand(3)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def searches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen, right = [], tuner.search

    def noted(runner, goal):
        seen.append(goal)
        return right(runner, goal)

    monkeypatch.setattr(tuner, "search", noted)
    return seen


def test_each_new_set_of_shapes_and_mode_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    net = fastinpaint.accelerate(network())
    assert (net.fastinpaint_report.how, len(seen)) == ("rules", 0)
    for _ in range(2):
        net(image()).sum().backward()
        net(image(1, 3, 12, 12))  # a smaller batch of a known shape takes its choice
        net(image(2, 3, 16, 12))
        with torch.no_grad():
            net(image())
    assert len(seen) == 3


def test_choices_are_remembered_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    first = fastinpaint.accelerate(network(), example=image())
    again = fastinpaint.accelerate(network(seed=1), example=image())
    assert len(seen) == 1
    assert again.fastinpaint_report.how == "remembered"
    assert fused_layers(again) == fused_layers(first)
    assert again.fastinpaint_report.after == first.fastinpaint_report.after
    fastinpaint.accelerate(network(), example=image(), objective="memory")
    other = network()
    other[4].momentum = 0.2
    fastinpaint.accelerate(other, example=image())
    assert len(seen) == 3


def test_rules_where_nothing_may_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    net = fastinpaint.accelerate(network(), example=image())
    net(image())
    assert (seen, net.fastinpaint_report.how) == ([], "rules")
    assert fused_layers(net) == ["0", "3"]  # a 1x1 convolution is stock
    whys = {layer.name: layer.why for layer in net.fastinpaint_report.layers}
    assert whys["7"].startswith("1x1: ")


def test_nobody_measures_under_a_checkpoint_a_compiler_or_functorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    x = image()
    checkpoint(fastinpaint.accelerate(network()), x, use_reentrant=False).sum().backward()
    torch.compile(fastinpaint.accelerate(network()), backend="eager")(x)
    torch.vmap(fastinpaint.accelerate(network().eval()))(x[None])
    torch.jit.trace(fastinpaint.accelerate(network().eval()), x, check_trace=False)
    assert seen == []


@pytest.mark.usefixtures("stock_is_slow")
def test_a_fused_form_that_changes_the_result_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = layers._Norm._fused
    monkeypatch.setattr(layers._Norm, "_fused", lambda self, input: 2 * fastinpaint.nn.plain(right(self, input)))
    net = fastinpaint.accelerate(network().eval(), example=image())
    assert fused_layers(net) == []
    assert "changed the model's results by" in net.fastinpaint_report.notes[0]


@pytest.mark.usefixtures("fused_is_slow")
def test_a_channels_last_stock_model_keeps_names_and_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nn.Conv2d._conv_forward

    def slow_contiguous(self, input, *args):
        if input.shape[1] > 3 and input.is_contiguous():
            time.sleep(SLOW)
        return right(self, input, *args)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", slow_contiguous)
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


def test_a_call_that_fails_spoils_no_later_one() -> None:
    net = fastinpaint.accelerate(network())
    with pytest.raises(ValueError, match="must equal the sources' 5 channels"):
        net(image(2, 5, 8, 8))
    assert "was not measured" in net.fastinpaint_report.notes[0]
    net(image())
    assert net.fastinpaint_report.how == "measured"


def test_arguments_by_name_and_of_other_kinds() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, *, image: Tensor, names: object = None) -> dict[str, Tensor]:
            return {"result": self.net(image)}

    net = fastinpaint.accelerate(Named(), example={"image": image()})
    assert net.fastinpaint_report.how == "measured"
    net = fastinpaint.accelerate(Named())
    net(image=image(), names=iter(["a"]))
    assert net.fastinpaint_report.notes == [
        "the model was not measured: an argument is a list_iterator, which a second call might find changed."
    ]


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


def test_an_accelerated_model_is_copied_and_saved_with_its_choices(tmp_path: Path) -> None:
    net, x = fastinpaint.accelerate(network(), example=image()).eval(), image()
    torch.save(net, tmp_path / "net.pt")
    for other in (copy.deepcopy(net), torch.load(tmp_path / "net.pt", weights_only=False)):
        torch.testing.assert_close(other(x), net(x))
        assert "_fastinpaint_tuner" not in vars(fastinpaint.restore(other))


@pytest.mark.usefixtures("fused_is_slow")
def test_a_choice_made_in_inference_mode_spoils_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    right = nn.Conv2d._conv_forward

    def slow_contiguous(self, input, *args):
        if input.shape[1] > 3 and input.is_contiguous():
            time.sleep(SLOW)
        return right(self, input, *args)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", slow_contiguous)
    net, x = fastinpaint.accelerate(network()), image()
    with torch.inference_mode():
        net.eval()(x)
    assert net.fastinpaint_report.after["layout"] == "channels-last"
    net.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("mode", ["example", "first call"])
def test_outside_of_a_call_the_layers_give_plain_tensors(mode: str) -> None:
    net = fastinpaint.accelerate(network(), example=image() if mode == "example" else None)
    if mode == "first call":
        net(image())
    assert fused_layers(net)
    assert not region.inside()
    assert type(net[0](image())) is Tensor


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
    """A chain of which nothing is kept is computed again at once when backward begins."""
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


def test_random_states_come_back() -> None:
    put_back = random_states()
    before = (torch.rand(1), random.random(), np.random.rand())  # noqa: NPY002
    put_back()
    assert (torch.rand(1), random.random(), np.random.rand()) == before  # noqa: NPY002


def test_wrong_options_are_refused() -> None:
    options: list[tuple[dict[str, object], str]] = [
        ({"objective": "fast"}, "objective must be one of speed, balanced, memory, fuse, got 'fast'"),
        ({"memory": "12 apples"}, "memory must be one of default, low, a share above 0 or bytes as '512MB'"),
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
