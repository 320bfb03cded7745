"""User code around and inside a model works as on the plain model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import fastinpaint
from fastinpaint.nn import Deferred, region
from tests.accelerate.nets import assert_same_step, tensors

Body = Callable[..., object]


def small(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 6, 6)), dtype=torch.float64)


class Net(nn.Module):
    """A convolution, batch norm and another convolution, combined by a function."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.body = body

    def forward(self, x: Tensor) -> object:
        return self.body(self, x)


def pair(body: Body = lambda net, x: net.last(net.bn(net.conv(x)).relu())) -> tuple[nn.Module, nn.Module]:
    """An accelerated net and a plain one."""
    torch.manual_seed(0)
    net = Net(body).double()
    return fastinpaint.accelerate(copy.deepcopy(net)), net


@pytest.mark.parametrize("layer", ["conv", "bn", "last"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_of_a_layer_change_what_they_return(kind: str, layer: str) -> None:
    def double(module: nn.Module, *values: object) -> object:
        last = tensors(values[0] if kind == "full_backward" else values[-1])
        assert {type(t) for value in values for t in tensors(value)} == {Tensor}
        return last[0] * 2 if kind == "forward" else (last[0] * 2,)

    fast, net = pair()
    for each in (fast, net):
        getattr(getattr(each, layer), f"register_{kind}_hook")(double)
    assert_same_step(fast, net, small().requires_grad_())


def test_hooks_of_all_modules_see_plain_tensors() -> None:
    fast, net = pair()
    seen: list[object] = []
    handle = torch_module.register_module_forward_hook(lambda module, args, result: seen.extend([*args, result]))
    try:
        assert_same_step(fast, net, small())
    finally:
        handle.remove()
    assert len(seen) == 2 * 8
    assert {type(value) for value in seen} == {Tensor}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("layers", [1, 2])
def test_reading_without_gradients_keeps_the_gradients(layers: int, mode: Callable[[], object]) -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        x = net.bn(net.conv(x)) if layers == 2 else net.conv(x)
        with mode():  # type: ignore[attr-defined]
            net.mean = float(x.mean())
        return net.last(x) + x

    assert_same_step(*pair(body), small())


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_of_inner_activations_can_be_watched(layers: int) -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        net.seen = net.conv(x) if layers == 1 else net.bn(net.conv(x))
        net.seen.register_hook(lambda grad: 3 * grad)
        net.seen.retain_grad()
        return net.last(net.bn(net.seen))

    fast, net = pair(body)
    assert_same_step(fast, net, small())
    assert net.seen.grad is not None
    torch.testing.assert_close(fast.seen.grad, net.seen.grad)


def test_watching_too_late_is_refused() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        inner = net.bn(net.conv(x))
        result = net.last(inner)
        inner.retain_grad()
        return result

    with pytest.raises(RuntimeError, match=r"\.retain_grad must come before other layers read the activation"):
        pair(body)[0](small())


def test_the_gradient_of_a_map_that_batch_norm_has_read_is_refused() -> None:
    """Part of it would go through the batch statistics, which the convolution computed."""

    def body(net: Net, x: Tensor) -> tuple[Tensor, ...]:
        y = net.conv(x)
        return torch.autograd.grad(net.last(net.bn(y)).sum(), y)

    with pytest.raises(RuntimeError, match="would lack the part that other layers give it"):
        pair(body)[0](small())


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def test_a_function_that_would_drop_the_gradient_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"whose gradient it would drop; give it fastinpaint\.nn\.plain"):
        pair(lambda net, x: net.last(Reversal.apply(net.conv(x))))[0](small())
    assert_same_step(*pair(lambda net, x: net.last(Reversal.apply(fastinpaint.nn.plain(net.conv(x))))), small())


class Asking(Net):
    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        features = [x] if isinstance(x, Tensor) else x
        inner = self.bn(self.conv(torch.cat(features, 1)))
        return self.last(inner if torch.is_tensor(inner) else inner[0])


def test_code_that_asks_what_is_a_tensor_gets_tensors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), Asking(None)).double()  # type: ignore[arg-type]
    fast = fastinpaint.accelerate(copy.deepcopy(net))
    assert_same_step(fast, net, small())


def test_torchscript_children_get_tensors() -> None:
    torch.manual_seed(0)
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), scripted, nn.Conv2d(4, 1, 1))
    x = torch.randn(2, 3, 6, 6)
    expected = net(x)
    fast = fastinpaint.accelerate(net)
    torch.testing.assert_close(fast(x), expected)


def test_a_parametrization_that_comes_later_computes_once_a_call() -> None:
    """Each computation of a spectral norm updates its estimate."""
    fast, net = pair()
    for each in (fast, net):
        torch.manual_seed(1)
        parametrizations.spectral_norm(each.conv)
    assert_same_step(fast, net, small())


def test_batch_norm_that_changes_its_mode_keeps_what_it_read() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        y = net.conv(x)
        running = net.bn.eval()(y)
        return net.last(running) + net.bn.train()(y)

    fast, net = pair(body)
    torch.testing.assert_close(fast(x := small()), net(x), rtol=1e-10, atol=1e-10)


def test_functional_transforms_and_forward_mode() -> None:
    fast, net = pair()
    x, tangent = small(3, 2, 3, 6, 6), small()

    def loss(net: nn.Module, parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x[0],)).square().sum()

    found = []
    for each in (fast.eval(), net.eval()):
        grads = torch.func.grad(lambda p, each=each: loss(each, p))(dict(each.named_parameters()))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(each(forward_ad.make_dual(x[0], tangent))).tangent
        found.append([*grads.values(), torch.vmap(each)(x), torch.func.jvp(each, (x[0],), (tangent,))[1], dual])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_traces_of_torch() -> None:
    fast, net = pair()
    x = small()
    torch.testing.assert_close(torch.jit.trace(fast.eval(), x)(x), net.eval()(x))


def test_shapes_on_the_meta_device() -> None:
    result = pair()[0].to("meta")(small().to("meta"))
    assert (result.shape, result.device.type) == ((2, 4, 6, 6), "meta")


@dataclass(frozen=True)
class Found:
    map: Tensor
    also: Tensor | None = field(init=False, default=None)


class Closed(OrderedDict[str, Tensor]):
    def update(self, *_: object) -> None:  # type: ignore[override]
        raise RuntimeError("closed")


def test_results_in_user_classes_are_plain() -> None:
    found = pair(lambda net, x: Found(net.bn(net.conv(x))))[0](small())
    assert (type(found), type(found.map), found.also) == (Found, Tensor, None)
    closed = pair(lambda net, x: Closed(map=net.bn(net.conv(x))))[0](small())
    assert (type(closed), type(closed["map"])) == (Closed, Tensor)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_a_part_from_outside(reentrant: bool) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    net = nn.Sequential(block, copy.deepcopy(block), nn.Conv2d(3, 1, 1)).double()
    wrapped_forwards = []
    for inner in (fastinpaint.accelerate(copy.deepcopy(net)), net):
        outer = nn.Module()
        outer.net = inner
        outer.forward = lambda x, net=inner: net[2](checkpoint(net[1], net[0](x), use_reentrant=reentrant))
        wrapped_forwards.append(outer)
    assert_same_step(*wrapped_forwards, small())


def test_an_interrupt_leaves_no_trace_behind_the_next_call() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        if x.sum() == 0:
            raise KeyboardInterrupt
        return net.conv(x)

    fast = pair(body)[0]
    with pytest.raises(KeyboardInterrupt):
        fast(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    assert not region.inside()
    fast(small())
    assert not region.inside()


def test_a_hook_that_fails_before_the_model_begins() -> None:
    fast = pair(lambda net, x: type(net.conv(x)))[0]

    def fail(module: nn.Module, args: object) -> None:
        raise ValueError("before")

    handle = torch_module.register_module_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="before"):
        fast(small())
    handle.remove()
    assert issubclass(fast(small()), Deferred)
    assert not region.inside()


class Viewing(nn.Module):
    """Code that merges axes by ``view``, as a classifier does after its convolutions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.features = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2))
        self.frames = nn.Sequential(nn.Conv2d(8 * 2, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.last = nn.Linear(8 * 2 * 4 * 4 if kind == "classifier" else 4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if self.kind == "classifier":
            return self.last(y.view(y.size(0), -1))
        y = self.frames(y.view(y.size(0), 16, 4, 4))
        return self.last(y.view(len(y), -1) if self.kind == "time in channels" else F.relu(y).view(len(y), -1))


@pytest.mark.parametrize("kind", ["classifier", "time in channels", "function between"])
def test_code_that_merges_axes_by_view(kind: str) -> None:
    plain = Viewing(kind).double()
    fast, x = fastinpaint.accelerate(copy.deepcopy(plain)), torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    for model in (plain, fast):
        model(x).square().sum().backward()
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(fast.eval()(x), plain.eval()(x), rtol=1e-10, atol=1e-10)


def test_activations_leave_the_layers_in_the_layout_of_the_weights() -> None:
    x = torch.randn(2, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    assert fastinpaint.accelerate(net, backend="reference")(x).is_contiguous()
    net.to(memory_format=torch.channels_last)
    assert fastinpaint.accelerate(net, backend="reference")(x).is_contiguous(memory_format=torch.channels_last)
