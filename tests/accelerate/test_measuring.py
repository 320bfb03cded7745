"""When `accelerate` measures, and that measuring changes nothing else."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.acceleration import tuner
from fastinpaint.acceleration.example import Example
from fastinpaint.acceleration.sandbox import random_states
from fastinpaint.acceleration.trial import Runner
from fastinpaint.nn import region
from tests.accelerate.slow_layers import (
    clock,
    contiguous_is_slow,
    fused_is_slow,
    fused_layers,
    image,
    network,
    stock_is_slow,
)

__all__ = ["clock", "contiguous_is_slow", "fused_is_slow", "stock_is_slow"]  # fixtures


@contextmanager
def everything_stays(net: nn.Module) -> Iterator[None]:
    """Check that nothing visible of a model, and no random state, changes inside."""
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
        net(image(1, 3, 12, 12))  # a smaller batch of a known shape uses its plan
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


def test_nobody_measures_under_a_checkpoint_a_compiler_or_functorch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    x = image()
    checkpoint(fastinpaint.accelerate(network()), x, use_reentrant=False).sum().backward()
    torch.compile(fastinpaint.accelerate(network()), backend="eager")(x)
    torch.vmap(fastinpaint.accelerate(network().eval()))(x[None])
    torch.jit.trace(fastinpaint.accelerate(network().eval()), x, check_trace=False)
    assert seen == []


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


def test_an_accelerated_model_is_copied_and_saved_with_its_choices(tmp_path: Path) -> None:
    net, x = fastinpaint.accelerate(network(), example=image()).eval(), image()
    torch.save(net, tmp_path / "net.pt")
    for other in (copy.deepcopy(net), torch.load(tmp_path / "net.pt", weights_only=False)):
        torch.testing.assert_close(other(x), net(x))
        assert "_fastinpaint_tuner" not in vars(fastinpaint.restore(other))


@pytest.mark.usefixtures("fused_is_slow", "contiguous_is_slow")
def test_a_choice_made_in_inference_mode_spoils_no_training() -> None:
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


def test_random_states_come_back() -> None:
    put_back = random_states()
    before = (torch.rand(1), random.random(), np.random.rand())  # noqa: NPY002
    put_back()
    assert (torch.rand(1), random.random(), np.random.rand()) == before  # noqa: NPY002


def test_rules_where_nothing_may_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = searches(monkeypatch)
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    net = fastinpaint.accelerate(network(), example=image())
    net(image())
    assert (seen, net.fastinpaint_report.how) == ([], "rules")
    assert fused_layers(net) == ["0", "3"]  # a 1x1 convolution is stock
    whys = {layer.name: layer.why for layer in net.fastinpaint_report.layers}
    assert whys["7"].startswith("1x1: ")


def test_rules_leave_a_network_whose_work_is_in_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused layers between stock ones cost more than they gain."""
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    net = network()
    net.append(nn.Conv2d(4, 512, 1))
    fastinpaint.accelerate(net, example=image())
    assert fused_layers(net) == []
    whys = {layer.name: layer.why for layer in net.fastinpaint_report.layers}
    assert whys["0"] == "56% of the convolutions' weights are in kinds that pay, under 90%: too few"
    assert whys["8"].startswith("1x1: ")


def test_measured_steps_under_autocast_cast_weights_again() -> None:
    """A training loop enters autocast in each step; inside one region stock layers would be measured without casts."""

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and args[0].shape == net.weight.shape:
                seen[-1] += 1
            return func(*args, **(kwargs or {}))

    seen: list[int] = []
    net = nn.Conv2d(3, 8, 3)
    runner = Runner(net, Example((torch.randn(1, 3, 8, 8),), {}), True, "auto", lambda: None)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            seen.append(0)
            with Casts():
                runner.forward()
    assert seen == [1, 1, 1]
