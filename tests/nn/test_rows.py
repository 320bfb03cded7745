"""A row of layers takes convolution, batch norm and ReLU in one step, and does what they do one by one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.nn import DeferredTensor, Sequential


def row() -> nn.Sequential:
    torch.manual_seed(0)
    block = [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*copy.deepcopy(block), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), *copy.deepcopy(block))


def pair() -> tuple[nn.Module, nn.Sequential]:
    """An accelerated row, and the stock one."""
    stock = row()
    return fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse"), stock


def compare(net: nn.Module, stock: nn.Module) -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    results: list[list[Tensor]] = []
    for model in (net, stock):
        y = model(x)
        parameters = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(y.square().sum(), [x, *parameters], allow_unused=True)
        results.append([y, *(g for g in grads if g is not None), *model.buffers()])
    assert len(results[0]) == len(results[1])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def hook_on_batch_norm(net: nn.Module) -> None:
    seen: list[type] = []
    net[1].register_forward_hook(lambda module, given, result: seen.append(type(result)))  # type: ignore[index]
    net.seen = seen  # type: ignore[assignment]


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "as it is": lambda net: None,
    "evaluation": lambda net: net.eval(),
    "frozen batch norm": lambda net: net[1].eval(),  # type: ignore[index]
    "hook on a convolution": lambda net: net[0].register_forward_hook(lambda *_: None),  # type: ignore[index]
    "hook on a batch norm": hook_on_batch_norm,
    "hook on a ReLU": lambda net: net[2].register_forward_pre_hook(lambda *_: None),  # type: ignore[index]
    "no running statistics": lambda net: setattr(net[1], "track_running_stats", False),  # type: ignore[index]
    "one layer replaced": lambda net: net.__setitem__(2, nn.Tanh()),  # type: ignore[operator]
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_does_what_its_layers_do(change: str) -> None:
    net, stock = pair()
    assert isinstance(net, Sequential)
    for _ in range(2):
        compare(net, stock)
    for model in (net, stock):
        CHANGES[change](model)
    for _ in range(2):
        compare(net, stock)
    if change == "hook on a batch norm":
        assert net.seen
        assert DeferredTensor not in net.seen


def test_a_row_without_gradients_does_what_its_layers_do() -> None:
    net, stock = pair()
    x = torch.randn(2, 4, 96, 96)
    for mode in (torch.no_grad, torch.inference_mode):
        for training in (True, False):
            net.train(training), stock.train(training)
            with mode():
                torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-4)


def test_layers_before_a_row_are_seen_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one step: no batch norm or ReLU is called."""
    net, _ = pair()
    called: list[str] = []
    for kind in (fastinpaint.nn.BatchNorm2d, fastinpaint.nn.Conv2d):
        monkeypatch.setattr(kind, "__call__", lambda self, *_: called.append(type(self).__name__))
    net(torch.randn(2, 4, 6, 6))
    assert not called


def test_a_row_is_copied_pickled_and_restored() -> None:
    net, stock = pair()
    compare(copy.deepcopy(net), copy.deepcopy(stock))
    compare(pickle.loads(pickle.dumps(net)), copy.deepcopy(stock))
    restored = fastinpaint.restore(net)
    assert type(restored) is nn.Sequential
    assert "fastinpaint" not in {type(m).__module__.partition(".")[0] for m in restored.modules()}
    compare(restored, stock)


def nested() -> tuple[nn.Module, nn.Sequential]:
    """Rows in a row, accelerated, and the stock ones."""
    torch.manual_seed(1)
    stock = nn.Sequential(row(), row(), nn.Conv2d(4, 4, 1))
    return fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse"), stock


OBSERVERS: dict[str, Callable[[nn.Module, list[object]], object]] = {
    "forward": lambda m, seen: m.register_forward_hook(lambda _, x, y: seen.append(y)),
    "forward that changes": lambda m, seen: m.register_forward_hook(lambda _, x, y: seen.append(y) or 2 * y),
    "forward pre": lambda m, seen: m.register_forward_pre_hook(lambda _, x: seen.append(x[0])),
    "backward": lambda m, seen: m.register_full_backward_hook(lambda _, x, y: seen.append(y[0])),
    "backward pre": lambda m, seen: m.register_full_backward_pre_hook(lambda _, y: seen.append(y[0])),
    "own forward": lambda m, seen: setattr(m, "forward", lambda x: seen.append(x.sum()) or nn.Sequential.forward(m, x)),
}


@pytest.mark.parametrize("kind", OBSERVERS)
def test_an_inner_row_is_observed_as_a_stock_one(kind: str) -> None:
    found, stock = nested()
    seen: list[list[object]] = [[], []]
    for net, values in zip((found, stock), seen, strict=True):
        OBSERVERS[kind](net[1], values)  # type: ignore[index]
    compare(found, stock)
    assert [type(value) for value in seen[0]] == [type(value) for value in seen[1]] == [Tensor]
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-4)


def test_an_unobserved_inner_row_skips_torchs_handling_of_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = nested()
    called, call = list[nn.Module](), nn.Module._call_impl

    def noted(module: nn.Module, *args: object, **kwargs: object) -> object:
        called.append(module)
        return call(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "_call_impl", noted)
    x = torch.randn(2, 4, 6, 6)
    expected = net(x)
    assert called == [net]
    handle = net[0].register_forward_hook(lambda *_: None)  # type: ignore[index]
    net(x)
    assert net[0] in called  # type: ignore[index]
    assert net[1] not in called[2:]  # type: ignore[index]
    handle.remove()
    copied = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(copied.train()(x), expected)
    assert type(fastinpaint.restore(net)[0]) is nn.Sequential  # type: ignore[index]


class Block(nn.Sequential):
    """A row of one's own class, as torchvision's and timm's are: only its layers are its own."""

    def __init__(self, activation: nn.Module, norm: bool = True) -> None:
        norms = [nn.BatchNorm2d(8)] if norm else []
        super().__init__(nn.Conv2d(4, 8, 1), *norms, activation, nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.out_channels = 4


class Doubled(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Reversed(nn.Sequential):
    def __iter__(self):
        return reversed(list(self._modules.values()))


def of_blocks(*blocks: nn.Module) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(2)
    stock = nn.Sequential(*blocks)
    return fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse"), stock


ACTIVATIONS = (nn.ReLU6(True), nn.SiLU(True), nn.Hardswish(), nn.LeakyReLU(0.3), nn.GELU(), nn.Sigmoid(), nn.PReLU())


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_rows_of_subclasses_with_any_activation(activation: nn.Module, norm: bool) -> None:
    net, stock = of_blocks(Block(activation, norm), Block(copy.deepcopy(activation), norm))
    assert isinstance(net[0], Block)  # type: ignore[index]
    assert isinstance(net[0], Sequential)  # type: ignore[index]
    for _ in range(2):
        compare(net, stock)
    compare(net.eval(), stock.eval())
    with torch.no_grad():
        x = torch.randn(2, 4, 6, 6)
        torch.testing.assert_close(net(x), stock(x), rtol=1e-4, atol=1e-4)


def test_no_activation_of_a_row_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    net, stock = of_blocks(Block(nn.SiLU()))
    monkeypatch.setattr(fastinpaint.nn.SiLU, "__call__", lambda self, *_: pytest.fail("it was called"))
    compare(net, stock)
    monkeypatch.undo()
    seen: list[Tensor] = []
    net[0][2].register_forward_hook(lambda _, x, y: seen.append(y))  # type: ignore[index]
    compare(net, stock)
    assert [type(y) for y in seen] == [Tensor]


def test_a_row_of_a_subclass_is_copied_pickled_and_restored() -> None:
    net, stock = of_blocks(Block(nn.SiLU()))
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other[0], Block)
        assert isinstance(other[0], Sequential)
        compare(other, copy.deepcopy(stock))
    restored = fastinpaint.restore(net)
    assert type(restored[0]) is Block  # type: ignore[index]
    compare(restored, stock)


@pytest.mark.parametrize("kind", [Doubled, Reversed])
def test_a_subclass_with_code_of_its_own_keeps_it(kind: type[nn.Sequential]) -> None:
    net, stock = of_blocks(nn.Conv2d(4, 4, 1), kind(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Tanh()))
    assert type(net[1]) is kind  # type: ignore[index]
    compare(net, stock)


class Held(nn.Module):
    """An activation in place of a map that is read later, and that somebody may hold as a plain tensor before."""

    def __init__(self, activation: nn.Module, held: bool) -> None:
        super().__init__()
        self.held = held
        self.conv, self.norm, self.activation = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        before = y.exp() if self.held else 0.0
        return self.activation(y) + 2 * y + before


@pytest.mark.parametrize("activation", [nn.ReLU6(True), nn.SiLU(True), nn.ReLU(True)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("held", [True, False], ids=["held", "deferred"])
def test_an_activation_in_place_changes_its_map(activation: nn.Module, held: bool) -> None:
    stock = Held(activation, held)
    net = fastinpaint.accelerate(copy.deepcopy(stock), objective="fuse")
    for _ in range(2):
        compare(net, stock)
