"""Code outside the model's own layers gets plain tensors, and never a wrong result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fastinpaint
from fastinpaint.acceleration import search, stopwatch
from fastinpaint.nn import Deferred, layers
from tests.accelerate.nets import assert_same_step
from tests.accelerate.slow_layers import Clock, slowed

Body = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions with batch norm, and a reader of the activation between them."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.next, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 2, 3)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.act(self.bn(self.conv(x)))))


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def network(body: Body) -> Net:
    torch.manual_seed(0)
    return Net(body).double()


def doubled(x: object) -> Tensor:
    """A user's helper that checks the type of its input."""
    return 2 * x if isinstance(x, Tensor) and torch.is_tensor(x) else x[0]  # type: ignore[index, operator]


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Apart(torch.autograd.Function):
    """An autograd.Function in the newer style, with `setup_context`."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Reversal(torch.autograd.Function):
    """Returns its input, for its backward alone."""

    @staticmethod
    def forward(ctx, x, *others):
        return x

    @staticmethod
    def backward(ctx, grad, *others):
        return -grad, *[None] * (len(ctx.needs_input_grad) - 1)


class ReversalApart(Reversal):
    @staticmethod
    def forward(x):
        return x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


def reordered(net: Net, x: Tensor) -> Tensor:
    einops = pytest.importorskip("einops", reason="einops is not installed")
    rows = einops.rearrange(x, "n c h w -> n (h w) c")
    means = einops.reduce(x, "n c h w -> n c 1 1", "mean")
    return net.next(einops.rearrange(rows, "n (h w) c -> n c h w", h=8)) + means


def merged(net: Net, x: Tensor) -> Tensor:
    pooled = F.max_pool2d(x, 2)
    return net.next(x) + pooled.view(2, -1).mean() + x.view(2, 16, -1).mean()


READERS: dict[str, Body] = {
    "isinstance in a helper": lambda net, x: net.next(doubled(x)),
    "einops": reordered,
    "view": merged,
    "checkpoint": lambda net, x: checkpoint(net.next, x, use_reentrant=False),
    "checkpoint of a closure": lambda net, x: checkpoint(lambda y: net.next(net.act(y)) + x, x, use_reentrant=False),
    "the next layer and a checkpoint": lambda net, x: net.next(x) + checkpoint(net.next, x, use_reentrant=False),
}
FUNCTIONS: dict[str, Body] = {
    "torch.jit.script": lambda net, x: net.next(scripted(x)),
    "autograd.Function": lambda net, x: net.next(Doubling.apply(x)),
    "autograd.Function with setup_context": lambda net, x: net.next(Apart.apply(x)),
    "autograd.Function of what was read before": lambda net, x: x.mean() * net.next(Doubling.apply(x)),
    "autograd.Function and another layer": lambda net, x: net.next(x) + Doubling.apply(x),
    "autograd.Function that returns its input": lambda net, x: net.next(Reversal.apply(x)),
    "such a Function with setup_context": lambda net, x: net.next(ReversalApart.apply(x)),
    "such a Function of a parameter too": lambda net, x: net.next(Reversal.apply(x, 2 * net.next.weight)),
    "reentrant checkpoint": lambda net, x: checkpoint(net.next, x, use_reentrant=True),
}


@pytest.mark.parametrize("how", ["fuse", "rules"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_an_activation_gets_a_tensor(reader: str, how: str) -> None:
    net = network(READERS[reader])
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse" if how == "fuse" else "speed")
    assert isinstance(fast.conv, layers.Conv2d)
    assert_same_step(fast, net, image())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measuring with a fake clock by which fused layers are fastest."""
    monkeypatch.setenv("FASTINPAINT_TUNE", "")
    monkeypatch.setenv("FASTINPAINT_OBJECTIVE", "balanced")
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    monkeypatch.setattr(search, "RUNS", 1)
    monkeypatch.setattr(stopwatch, "clock", own := Clock())
    slowed(monkeypatch, nn.Conv2d, "_conv_forward", own)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("reader", [*READERS, *FUNCTIONS])
def test_measuring_finds_the_readers_that_need_plain_tensors(reader: str) -> None:
    net = network({**READERS, **FUNCTIONS}[reader])
    fast = fastinpaint.accelerate(copy.deepcopy(net), example=image())
    if reader == "reentrant checkpoint":  # not supported by torch.autograd.grad
        assert "was not measured" in fast.fastinpaint_report.notes[0]
    else:
        assert fast.fastinpaint_report.notes in ([], ["code of the model calls view, so activations stay contiguous."])
    assert isinstance(fast.conv, layers.Conv2d)
    assert_same_step(fast, net, image())


@pytest.mark.parametrize("reader", FUNCTIONS)
def test_the_rules_find_the_readers_that_need_plain_tensors(reader: str) -> None:
    net = network(FUNCTIONS[reader])
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="speed")
    assert_same_step(fast, net, image())
    assert isinstance(fast.conv, layers.Conv2d)
    assert fast.bn._fastinpaint_plain


@pytest.mark.parametrize("first", ["no gradients", "evaluation"])
def test_the_rules_are_tried_again_in_another_mode(first: str) -> None:
    """As trainers do that validate once before they train."""
    net = network(lambda net, x: net.next(Doubling.apply(x) if net.training else x))
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="speed")
    with torch.set_grad_enabled(first == "evaluation"):
        fast.eval()(image())
    assert_same_step(fast.train(), net, image())
    assert fast.bn._fastinpaint_plain


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reader", FUNCTIONS)
def test_fused_without_a_trial_a_dropped_gradient_is_refused(reader: str) -> None:
    fast = fastinpaint.accelerate(network(FUNCTIONS[reader]), objective="fuse")
    sentence = r"layer 'bn', whose gradient it would drop; give it fastinpaint\.nn\.plain"
    if reader == "torch.jit.script":  # loses the error message
        with pytest.warns(RuntimeWarning, match=sentence), pytest.raises(RuntimeError, match="TorchScript"):
            fast(image())
    else:
        with pytest.raises(RuntimeError, match=sentence):
            fast(image())


class Nothing(torch.autograd.Function):
    """Gives its first input no gradient, as DistributedDataParallel does with results that no loss reads."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.set_materialize_grads(False)
        return x.clone(), y.clone()

    @staticmethod
    def backward(ctx, dx, dy):
        return dx, dy


def test_no_gradient_reaches_a_convolution() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(3, 4, 3).double(), nn.Conv2d(3, 4, 3).double()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.one(x), self.two(x)

    net, fast, x = Two(), fastinpaint.accelerate(Two(), objective="fuse"), image()
    for each in (net, fast):
        Nothing.apply(*each(x))[1].sum().backward()
    assert fast.one.weight.grad is net.one.weight.grad is None
    torch.testing.assert_close(fast.two.weight.grad, net.two.weight.grad)


def test_a_wrapper_of_torchs_that_gives_results_to_a_function() -> None:
    class Wrapper(nn.Module):
        """As DistributedDataParallel with ``find_unused_parameters``."""

        def __init__(self) -> None:
            super().__init__()
            self.module = network(lambda net, x: net.next(x))

        def forward(self, x: Tensor) -> Tensor:
            y = self.module(x)
            assert y.grad_fn is not None
            return Doubling.apply(y)

    Wrapper.__module__ = "torch.nn.parallel.distributed"
    assert_same_step(fastinpaint.accelerate(Wrapper(), objective="fuse"), Wrapper(), image())


def test_operators_that_no_torch_function_sees_compute_with_gradients() -> None:
    def body(net: Net, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            y = torch.sigmoid(x)
        return net.next(y) + x

    assert_same_step(fastinpaint.accelerate(network(body), objective="fuse"), network(body), image())


def test_a_deferred_activation_is_a_tensor_without_storage() -> None:
    seen: list[Tensor] = []

    def body(net: Net, x: Tensor) -> Tensor:
        seen.append(x)
        return x

    fastinpaint.accelerate(network(body), objective="fuse")(image())
    (x,) = seen
    assert isinstance(x, Tensor)
    assert isinstance(x, Deferred)
    assert not isinstance(x, nn.Parameter)
    assert (x.shape, x.dtype, x.dim(), x.size(1), x.requires_grad) == ((2, 16, 8, 8), torch.float64, 4, 16, True)
    assert type(x.mean()) is Tensor
    assert type(copy.deepcopy(x.detach())) is Tensor


@pytest.mark.parametrize("how", ["fuse", "rules"])
@pytest.mark.parametrize("trace", ["symbolic_trace", "feature extraction", "quantisation"])
def test_torch_fx_is_told_to_restore_the_model_first(trace: str, how: str) -> None:
    fast = fastinpaint.accelerate(
        network(lambda net, x: net.next(x)).eval(), objective="fuse" if how == "fuse" else "speed"
    )

    def run(model: nn.Module) -> object:
        if trace == "quantisation":
            from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

            return quantize_fx.prepare_fx(model, get_default_qconfig_mapping(), (image().float(),))
        if trace == "symbolic_trace":
            return torch.fx.symbolic_trace(model)

        class Leaves(torch.fx.Tracer):  # as torchvision's feature extraction has it
            def is_leaf_module(self, module: nn.Module, name: str) -> bool:
                return type(module).__module__.startswith("torch.nn")

        return Leaves().trace(model)

    with pytest.raises(RuntimeError, match=r"takes the plain model: call fastinpaint\.restore\(model\) first"):
        run(fast)
    run(fastinpaint.restore(fast).float())


def test_flop_counters_see_torchs_own_operators() -> None:
    net = network(lambda net, x: net.next(x))
    counts = []
    for model in (net, fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")):
        with FlopCounterMode(display=False) as counter:
            model(image()).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_torchinfo_lists_an_accelerated_model() -> None:
    torchinfo = pytest.importorskip("torchinfo", reason="torchinfo is not installed")
    net = network(lambda net, x: net.next(x))
    fast = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse")
    lists = [torchinfo.summary(model, input_data=image(), verbose=0) for model in (net, fast)]
    assert lists[0].total_mult_adds == lists[1].total_mult_adds
    assert lists[0].total_params == lists[1].total_params
    x = image()
    torch.testing.assert_close(fast(x), net(x), rtol=1e-10, atol=1e-10)


def test_batch_norm_can_be_folded_into_its_convolution() -> None:
    """As by timm's ``fuse_bn`` and other reparametrisations in eval mode."""
    net = network(lambda net, x: net.next(x)).eval()
    fast, x = fastinpaint.accelerate(copy.deepcopy(net), objective="fuse").eval(), image()
    expected = net(x)
    fast.conv, fast.bn = fuse_conv_bn_eval(fast.conv, fast.bn), nn.Identity()
    torch.testing.assert_close(fast(x), expected, rtol=1e-10, atol=1e-10)
