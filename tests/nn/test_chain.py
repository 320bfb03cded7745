"""Convolutions and batch norms that follow one another in one node of the graph, beside the model in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.dispatch import native

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")


def conv(into: int, out: int, kernel: int, act: nn.Module | None = None, **options: Any) -> list[nn.Module]:
    options = {"bias": False, "padding": kernel // 2, **options}
    return [nn.Conv2d(into, out, kernel, **options), nn.BatchNorm2d(out), *([] if act is None else [act])]


def inverted(act: Callable[[], nn.Module] = nn.ReLU) -> list[nn.Module]:
    """MobileNetV2's block: expanded, depthwise, projected."""
    return [*conv(8, 24, 1, act()), *conv(24, 24, 3, act(), groups=24, stride=2), *conv(24, 8, 1)]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(8, 16, 1, nn.ReLU()), *conv(16, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def unlike(act: nn.Module) -> list[nn.Module]:
    """Settings that batch norms can have: no affine, other momentum, other eps, no running statistics."""
    return [
        *(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16, affine=False), act),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=0.4, eps=0.1)),
        *(nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
    ]


# Each with the number of convolutions that each node of the graph holds, sorted.
NETS: dict[str, tuple[Callable[[], list[nn.Module]], list[int]]] = {
    "mobile": (inverted, [3]),
    "other activations": (lambda: [*inverted(nn.ReLU6), *inverted(nn.SiLU)], [6]),
    "rows in rows": (
        lambda: [nn.Sequential(*conv(8, 8, 1)), nn.Sequential(nn.Sequential(*inverted()), nn.ReLU())],
        [4],
    ),
    "taps": (lambda: [*conv(8, 16, 3, nn.ReLU()), *conv(16, 16, 3, nn.ReLU()), *conv(16, 8, 3, stride=2)], [3]),
    "a plain map between": (lambda: [*conv(8, 12, 3, nn.SiLU()), *conv(12, 12, 3, nn.SiLU()), *conv(12, 8, 1)], [1, 2]),
    "settings": (lambda: unlike(nn.ReLU()), [3]),
    "residual": (lambda: [*conv(8, 8, 1), nn.ReLU(), Residual(), *conv(8, 8, 1, nn.ReLU()), *conv(8, 4, 1)], [1, 2, 2]),
    "a pooling between": (lambda: [*inverted(), nn.MaxPool2d(2), *conv(8, 8, 1), *conv(8, 8, 1)], [2, 3]),
    "a convolution alone between": (
        lambda: [*conv(8, 8, 1), *conv(8, 8, 1), nn.Conv2d(8, 8, 1), *conv(8, 8, 1)],
        [1, 2],
    ),
}


def pair(layers: list[nn.Module], dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The accelerated model, and the stock one."""
    stock = nn.Sequential(*layers).to(dtype)
    for norm in stock.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5), nn.init.uniform_(norm.bias, -0.5, 0.5)
    return fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse", **options), stock


def image(dtype: torch.dtype = torch.float64, size: int = 12, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 8, size, size, generator=generator, dtype=dtype).requires_grad_(grad)


def chains(y: Tensor) -> list[int]:
    """How many convolutions each node with batch norms of the graph holds, sorted."""
    found, seen, waiting = list[int](), set[Any](), [y.grad_fn]
    while waiting:
        node: Any = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "ConvNormsBackward":
            found.append(len(node.calls))
        elif node.name() == "ConvNormBackward":
            found.append(1)
        waiting += [following for following, _ in node.next_functions]
    return sorted(found)


def compare(net: nn.Module, stock: nn.Module, x: Tensor | None = None) -> Tensor:
    """Two steps: result, gradients and buffers are stock's, up to float64's rounding; returns the last result."""
    x = image() if x is None else x
    for _ in range(2):
        results = []
        for model in (net, stock):
            model.zero_grad()
            x.grad = None
            y = model(x)
            y.square().sum().backward()
            results.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
        for found, expected in zip(*results, strict=True):
            assert (found is None) == (expected is None)
            if found is not None:
                torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    stock(x)
    return net(x)


def compare_float32(net: nn.Module, stock: nn.Module, x: Tensor) -> None:
    """One step: result and gradients are stock's, up to float32's rounding."""
    results = []
    for model in (net, stock):
        y = model(x)
        wanted = [t for t in (x, *model.parameters()) if t.requires_grad]
        results.append([y, *torch.autograd.grad(y.square().mean(), wanted)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETS)
def test_a_step_is_as_in_plain_torch(name: str) -> None:
    """In float64, where oneDNN's kernels run, and load no activation but ReLU."""
    compare(*pair(NETS[name][0]()))


@pytest.mark.parametrize("name", NETS)
def test_what_one_node_holds(name: str) -> None:
    make, expected = NETS[name]
    net, stock = pair(make(), torch.float32)
    x = image(torch.float32)
    assert chains(net(x)) == expected
    compare_float32(net, stock, x)


def freeze(*places: int) -> Callable[[nn.Module], object]:
    return lambda net: [p.requires_grad_(False) for place in places for p in net[place].parameters()]  # type: ignore[index]


FROZEN = {
    "first": (0, 1),
    "inner convolution": (3,),
    "inner batch norm": (4,),
    "all but the last": (0, 1, 3, 4),
}


@pytest.mark.parametrize("grad", [True, False], ids=["input", "no input"])
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_layers(name: str, grad: bool) -> None:
    net, stock = pair(inverted())
    for model in (net, stock):
        freeze(*FROZEN[name])(model)
    assert max(chains(compare(net, stock, image(grad=grad)))) == 3


@pytest.mark.parametrize("place", [0, 1, 4, 6])
def test_one_parameter_alone(place: int) -> None:
    """A convolution's weight, or a batch norm's bias."""
    net, stock = pair(inverted())
    for model in (net, stock):
        freeze(*range(8))(model)
        layer: Any = model[place]  # type: ignore[index]
        (layer.bias if layer.bias is not None else layer.weight).requires_grad_(True)
    assert chains(compare(net, stock, image(grad=False))) == [3]


def test_a_first_layer_that_is_computed_again_stands_alone() -> None:
    net, stock = pair(
        [*conv(8, 16, 3, nn.ReLU()), *conv(16, 16, 1, nn.ReLU()), *conv(16, 16, 3), nn.ReLU()], torch.float32
    )
    x = image(torch.float32, size=96, grad=False)
    assert chains(net(x)) == [1, 2]
    compare_float32(net, stock, x)


def test_nothing_is_computed_before_the_first_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    run = cpu.bwd_norm
    monkeypatch.setattr(cpu, "bwd_norm", lambda *given: ran.append(1) or run(*given))
    monkeypatch.setattr(cpu, "prepare", lambda *_: None)
    net, _ = pair(inverted(), torch.float32)
    freeze(0, 1, 3, 4)(net)
    for grad, count in ((False, 1), (True, 3)):
        y = net(image(torch.float32, grad=grad))
        ran.clear()
        y.sum().backward()
        assert len(ran) == count


@pytest.mark.parametrize("name", ["mobile", "settings"])
def test_second_derivatives(name: str) -> None:
    net, stock = pair(NETS[name][0]())
    x = image()
    found = []
    for model in (net, stock):
        wanted = [x, *model.parameters()]
        first = torch.autograd.grad(model(x).pow(3).sum(), wanted, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


ALONE: dict[str, Callable[[nn.Module], object]] = {
    "hook on a convolution": lambda net: net[3].register_forward_hook(lambda *_: None),  # type: ignore[index]
    "hook on a batch norm": lambda net: net[4].register_forward_hook(lambda *_: None),  # type: ignore[index]
    "hook on an activation": lambda net: net[2].register_forward_hook(lambda *_: None),  # type: ignore[index]
    "mean of all batches": lambda net: setattr(net[4], "momentum", None),  # type: ignore[index]
    "batch norm in evaluation": lambda net: net[4].eval(),  # type: ignore[index]
    "a replaced activation": lambda net: net.__setitem__(2, nn.Softshrink()),  # type: ignore[operator]
}


@pytest.mark.parametrize("change", ALONE)
def test_what_is_not_as_its_neighbours_stands_alone(change: str) -> None:
    net, stock = pair(inverted())
    for model in (net, stock):
        ALONE[change](model)
    assert max(chains(compare(net, stock))) < 3


def test_an_observed_inner_row_stands_alone() -> None:
    net, stock = pair([nn.Sequential(*conv(8, 8, 1)), nn.Sequential(*conv(8, 8, 1))])
    assert chains(compare(net, stock)) == [2]
    seen: list[object] = []
    for model in (net, stock):
        model[1].register_forward_hook(lambda _, x, y: seen.append(type(y)))  # type: ignore[index]
    assert chains(compare(net, stock)) == [1, 1]
    assert set(seen) == {Tensor}


def test_a_layer_that_comes_twice() -> None:
    block = conv(8, 8, 1, nn.ReLU())
    net, stock = pair([*block, *conv(8, 8, 1), *block])
    assert chains(compare(net, stock)) == [3]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_chains_are_the_cpu_backends(backend: str) -> None:
    net, stock = pair(inverted(), backend=backend)
    assert max(chains(compare(net, stock)), default=0) == (3 if backend == "cpu" else 0)


def kept(net: nn.Module, x: Tensor) -> int:
    """Bytes of the tensors that the graph keeps, each once, but parameters and the input."""
    own = {p.data_ptr() for p in net.parameters()} | {x.data_ptr()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            found[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    found.pop(y.data_ptr(), None)
    return sum(found.values())


def test_a_chain_keeps_what_its_links_would() -> None:
    net, _ = pair(inverted(), torch.float32)
    x = image(torch.float32)
    assert chains(net(x)) == [3]
    whole = kept(net, x)
    for layer in net:  # type: ignore[attr-defined]
        layer.register_forward_hook(lambda *_: None)
    maps = 4 * 2 * (24 * 144 + 24 * 36 + 8 * 36)
    assert maps <= whole <= maps + 4 * 6 * (24 + 24 + 8)
    assert whole < kept(net, x)


def test_a_changed_weight_is_noticed_in_backward() -> None:
    net, _ = pair(inverted())
    y = net(image())
    with torch.no_grad():
        net[3].weight.add_(1)  # type: ignore[index]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_runs_twice_where_the_graph_is_retained() -> None:
    net, _ = pair(inverted())
    x = image()
    y = net(x).square().sum()
    first = torch.autograd.grad(y, [x, *net.parameters()], retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(y, [x, *net.parameters()]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [True, False])
def test_under_a_checkpoint(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    net, stock = pair(inverted())
    x = image()
    found = []
    for run in (lambda: checkpoint(net, x, use_reentrant=reentrant), lambda: stock(x)):
        found.append(torch.autograd.grad(run().square().sum(), [x]) if not reentrant else [_grad(run, x)])
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-8, atol=1e-8)


def _grad(run: Callable[[], Tensor], x: Tensor) -> Tensor:
    x.grad = None
    run().square().sum().backward()
    assert x.grad is not None
    return x.grad


def test_in_bfloat16_under_autocast() -> None:
    net, stock = pair(inverted(nn.ReLU6), torch.float32)
    exact = copy.deepcopy(stock).double()
    x = image(torch.float32, size=24)
    errors = []
    for model, given in ((net, x), (stock, x), (exact, x.double())):
        with torch.autocast("cpu", enabled=model is not exact):
            y = model(given)
        if model is net:
            assert y.dtype == torch.bfloat16
        errors.append(torch.autograd.grad(y.double().square().mean(), list(model.parameters())))
    for own, theirs, right in zip(*errors, strict=True):
        scale = right.norm().clamp_min(1e-3)
        assert (own - right).norm() / scale <= 2 * (theirs - right).norm() / scale + 0.02


class Excited(nn.Module):
    """Squeeze-and-excitation behind a convolution, and an activated sum behind another."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(8, 8, 3 if groups > 1 else 1, nn.SiLU(), groups=groups))
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.wide = nn.Sequential(*conv(8, 8, 3, groups=groups))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return torch.relu(self.wide(x) + x)


@pytest.mark.parametrize(("groups", "edges"), [(8, [1, 4]), (1, [1, 1])], ids=["depthwise", "1x1"])
def test_a_convolution_that_reads_its_gradient_once_adds_its_statistics_part(groups: int, edges: list[int]) -> None:
    """Behind it the activation's backward is one pass. Elsewhere, and for sums, it goes through the statistics too."""
    net, stock = pair([Excited(groups)], torch.float32)
    x = image(torch.float32)
    found, seen, waiting = list[int](), set[Any](), [net(x).grad_fn]
    while waiting:
        node: Any = waiting.pop(0)
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "NormActBackward":
            found.append([following.name() for following, _ in node.next_functions].count("ConvNormBackward"))
        waiting += [following for following, _ in node.next_functions]
    assert found == edges  # the raw map alone, or mean, scale and shift too
    compare_float32(net, stock, x)
