"""Networks whose modules keep something from call to call, or hold what torch does not see."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.acceleration import sandbox, tuner
from tests.accelerate.slow_layers import clock, contiguous_is_slow, fused_layers, image, network, stock_is_slow

__all__ = ["clock", "contiguous_is_slow", "stock_is_slow"]  # fixtures


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    torch.manual_seed(channels_in)
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class Teacher(nn.Module):
    """Holds a network in a list, so that its weights are not saved. Its batch norm learns statistics all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.hidden, self.named = block(3, 8), [block(3, 8).double()], {"other": block(3, 8).double()}

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.hidden[0](x) + self.named["other"](x)
        return self.student(x) - target


class Counter(nn.Module):
    """Counts its calls in a number, a plain tensor and a list of tensors, and computes with the counts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls, self.seen, self.sums = block(3, 8), 0, torch.zeros(2), [torch.zeros(2)]

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.sums[0] += self.seen
        return self.body(x) * (self.calls + float(self.seen[0]) + float(self.sums[0][0]))


class Noting(nn.Module):
    """Puts its map into a dict that another module reads."""

    def __init__(self, notes: dict[str, Tensor]) -> None:
        super().__init__()
        self.notes, self.body = notes, block(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.notes["skip"] = self.body(x)
        return self.notes["skip"]


class Reading(nn.Module):
    """Reads the map of `Noting`."""

    def __init__(self) -> None:
        super().__init__()
        notes: dict[str, Tensor] = {}
        self.notes, self.first, self.second = notes, Noting(notes), block(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.notes.pop("skip")


class Recurrent(nn.Module):
    """Keeps its last map, with the graph behind it, for the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.state = block(3, 8), block(8, 8), None

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.first(x) if self.state is None else self.first(x) + self.state
        return self.second(self.state)


class Frozen(nn.Module):
    """Lets nobody set an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.ready = block(3, 8), True

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("ready"):
            raise AttributeError(f"{name} cannot be set.")
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Sized(nn.Module):
    """Makes a table when the size changes, as a detector makes its anchors."""

    size: tuple[int, ...] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = block(3, 8), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.size != x.shape:
            self.size, self.table = x.shape, torch.arange(x.shape[-1])
        return self.body(x) * self.table


class Buffered(nn.Module):
    """Puts its last map in place of a buffer, as a stream's state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(3, 8), block(8, 8)
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.first(x) + self.last.detach()
        return self.second(self.last)


NETWORKS: list[type[nn.Module]] = [Teacher, Counter, Reading, Recurrent, Frozen, Sized, Buffered]


def state(net: nn.Module) -> list[float]:
    """Every number that a network, and what it hides, holds."""
    found, modules = [*net.state_dict().values()], list(net.modules())
    modules += [*getattr(net, "hidden", []), *getattr(net, "named", {}).values()]
    for module in modules:
        found += module.state_dict().values()
        found += [torch.tensor(vars(module).get("calls", 0)), vars(module).get("seen", torch.zeros(1))]
        found += vars(module).get("sums", [])
    return torch.cat([value.double().flatten() for value in found]).tolist()


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("make", NETWORKS)
def test_networks_with_a_state_are_measured_and_stay_as_they_are(make: type[nn.Module]) -> None:
    net, x = make().double(), image().double()
    fast = fastinpaint.accelerate(copy.deepcopy(net), example=x)
    assert (fast.fastinpaint_report.how, fast.fastinpaint_report.notes) == ("measured", [])
    assert fused_layers(fast)
    assert state(fast) == state(net)
    assert vars(fast).get("state") is None
    for model in (fast, net):
        (model(x).square().mean() + model(x).sum()).backward()
    for ours, expected in zip(fast.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(state(fast), state(net), rtol=1e-9, atol=1e-9)


def test_a_buffer_that_holds_a_map_outlives_the_optimiser() -> None:
    net, x = Buffered().double(), image().double()
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    for model in (fast, net):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
    assert type(fast.last) is Tensor
    torch.testing.assert_close(fast.last, net.last, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("how", ["measured", "fuse"])
def test_lazy_layers_are_measured_when_their_parameters_exist(how: str) -> None:
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(8, 3))
    options = {"objective": "fuse"} if how == "fuse" else {"example": image()}
    fast = fastinpaint.accelerate(net, **options)
    assert fast.fastinpaint_report.left["0"] == "its parameters get their shapes in the first call."
    fast(image()).sum().backward()
    assert fast(image()).shape == (2, 8, 8, 8)
    if how == "measured":
        assert fast.fastinpaint_report.how == "measured"
        assert len(fused_layers(fast)) == 2


@pytest.mark.usefixtures("stock_is_slow")
def test_other_threads_wait_while_one_measures() -> None:
    net, faults = network().double().eval(), []
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    inputs = {size: image(2, 3, size, 12).double() for size in range(10, 14)}
    expected = {size: net(x).detach() for size, x in inputs.items()}

    def work(size: int) -> None:
        try:
            for _ in range(3):
                with torch.no_grad():
                    torch.testing.assert_close(fast(inputs[size]), expected[size], rtol=1e-9, atol=1e-9)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(size,)) for size in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert vars(fast)[tuner.TUNER].changing is None


def test_no_call_of_another_thread_slips_into_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the sandbox replaces the model's attributes, nor between its end and the plan of before."""
    net, x = network().double().eval(), image(2, 3, 12, 12).double()
    fast, expected = fastinpaint.accelerate(copy.deepcopy(net)), net(x).detach()
    threads, waited, found = list[threading.Thread](), list[bool](), list[Tensor]()

    def work() -> None:
        with torch.no_grad():
            found.append(fast(x))

    def call() -> None:
        """Begin a call in another thread, which must wait."""
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        threads[-1].join(0.1)
        waited.append(threads[-1].is_alive())

    def and_call(function: Callable[..., Any], first: bool) -> Callable[..., Any]:
        def both(module: nn.Module, *args: Any) -> Any:
            if not first and module is fast:
                call()
            result = function(module, *args)
            if first and module is fast:
                call()
            return result

        return both

    monkeypatch.setattr(sandbox, "_replace", and_call(sandbox._replace, True))
    monkeypatch.setattr(tuner, "apply_plan", and_call(tuner.apply_plan, False))
    work()
    for thread in threads:
        thread.join()
    assert len(waited) >= 2
    assert all(waited)
    assert len(found) == 1 + len(threads)
    for result in found:
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_a_call_in_another_thread_waits_for_the_end_of_a_sandbox() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    net, began, seen = Linear(), threading.Event(), []
    net.register_forward_hook(lambda module, args, result: seen.append(result))

    def work() -> None:
        began.set()
        net(torch.ones(())).backward()

    thread = threading.Thread(target=work)
    with sandbox.sandbox(net):
        thread.start()
        began.wait(60)
        thread.join(0.05)
        assert thread.is_alive()
        net(torch.ones(()))
        assert not seen
    thread.join(60)
    assert net.weight.grad == 1  # of the model's own parameter
    assert len(seen) == 1
    assert "_call_impl" not in vars(net)


def test_a_call_in_another_thread_is_seen() -> None:
    began, end, seen = threading.Event(), threading.Event(), []

    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            began.set()
            end.wait(60)
            return x

    net = Waiting()
    thread = threading.Thread(target=net, args=(image(),))
    assert not tuner.runs_elsewhere(net)
    thread.start()
    began.wait(60)
    seen.append(tuner.runs_elsewhere(net))
    seen.append(tuner.runs_elsewhere(Waiting()))
    end.set()
    thread.join()
    assert [*seen, tuner.runs_elsewhere(net)] == [True, False, False]


def flatten(net: nn.Module) -> None:
    torch.cat([p.grad.view(-1) for p in net.parameters()])
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()), net.parameters())


def lbfgs(net: nn.Module) -> None:
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = net(image()).square().mean()
        found.backward()
        return found

    optimizer.step(loss)


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("how", ["measured", "fuse"])
@pytest.mark.parametrize("use", [flatten, lbfgs])
def test_weights_and_gradients_stay_contiguous_where_that_is_asked_for(use: Callable[..., None], how: str) -> None:
    options: dict[str, Any] = {"objective": "fuse"} if how == "fuse" else {"example": image()}
    net = fastinpaint.accelerate(network(), channels_last=False, **options)
    assert fused_layers(net)
    net(image()).square().mean().backward()
    use(net)
    assert all(p.is_contiguous() and p.grad.is_contiguous() for p in net.parameters())
    pickle.dumps(net)


@pytest.mark.usefixtures("stock_is_slow")
def test_a_layout_that_the_model_refuses_is_not_used() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = block(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).view(len(x), -1)

    net = fastinpaint.accelerate(Viewing(), example=image(), channels_last=True)
    assert net.fastinpaint_report.how == "measured"
    assert "calls view" in net.fastinpaint_report.notes[0]


@pytest.mark.usefixtures("stock_is_slow")
@pytest.mark.parametrize("inference", [False, True])
def test_inputs_that_the_model_changes_are_the_callers(inference: bool) -> None:
    """Channels-last inputs are copies, so a state that is changed in place would stay as it was."""

    class Averaging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = block(3, 8)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            y = self.body(x)
            with torch.no_grad():
                state.mul_(0.5).add_(y)
            return y + state

    net, x = Averaging(), image()
    fast = fastinpaint.accelerate(copy.deepcopy(net), channels_last=True)
    states = torch.zeros(2, 8, *x.shape[2:]), torch.zeros(2, 8, *x.shape[2:])
    for _ in range(3):
        with torch.inference_mode(inference):
            fast(x, states[0])
            net(x, states[1])
    assert fast.fastinpaint_report.how == "measured"
    assert fast.fastinpaint_report.notes == ["code of the model changes its inputs, so activations stay contiguous."]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["a wrapper", "in place", "a part"])
def test_a_compiled_model_stays_and_says_so(how: str) -> None:
    net = network()
    if how == "in place":
        net.compile(backend="eager")
    elif how == "a part":
        net = nn.Sequential(torch.compile(net, backend="eager"))
    else:
        net = torch.compile(net, backend="eager")
    with pytest.warns(UserWarning, match="accelerate it first, and give torch.compile what that returns"):
        fast = fastinpaint.accelerate(net)
    assert fused_layers(fast) == []
    assert "compiled already" in fast.fastinpaint_report.notes[0]


@pytest.mark.usefixtures("contiguous_is_slow")
def test_functorch_calls_a_model_whose_plan_is_channels_last() -> None:
    net, x = network().eval(), image()
    fast = fastinpaint.accelerate(copy.deepcopy(net), example=x)
    assert vars(fast)[tuner.TUNER].plan.channels_last
    torch.testing.assert_close(torch.vmap(fast)(x[None]), net(x)[None])
