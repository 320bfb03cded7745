"""Where an accelerated model meets the rest of torch: hooks, checkpointing, compilers, copies."""

from __future__ import annotations

import copy
import io
import types
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastinpaint
from fastinpaint.nn import Deferred, region
from tests.accelerate.nets import AnisotropicUNet, Foreign, assert_same_step, step, tensors


def small(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_hooks_see_plain_tensors() -> None:
    net, seen = AnisotropicUNet().double(), []

    def look(module: nn.Module, *values: object) -> None:
        seen.append([type(t) for value in values for t in tensors(value)])

    hooked = [net.down[0], net.middle[0][1], net.last[2], net.middle]
    for module in hooked[:2]:
        module.register_forward_hook(look)
    fastinpaint.accelerate(net)
    hooked[2].register_forward_pre_hook(look)
    hooked[3].register_forward_hook(look)
    hooked[3].register_full_backward_hook(look)
    assert_same_step(net, fastinpaint.restore(copy.deepcopy(net)), small(2, 1, 2, 8, 8))
    assert len(seen) == 10
    assert {kind for kinds in seen for kind in kinds} == {Tensor}


@pytest.mark.parametrize("hooked", ["0.3", "1"], ids=["identity", "container"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_sees_every_tensor_plain(kind: str, hooked: str) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Identity())
    net = nn.Sequential(block, copy.deepcopy(block), nn.Conv2d(2, 2, 1)).double()
    fast, x, seen = fastinpaint.accelerate(copy.deepcopy(net)), small(2, 2, 3, 3), []
    for each in (fast, net):
        module, found = each.get_submodule(hooked), []
        getattr(module, f"register_{kind}_hook")(lambda _, *values, found=found: found.extend(tensors(values)))
        step(each, x)
        seen.append(found)
    assert {type(t) for t in seen[0]} == {Tensor}
    for ours, expected in zip(*seen, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_hook_watches_the_whole_gradient_of_what_it_sees() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.pool, self.last = (
                nn.Conv2d(1, 2, 1),
                nn.BatchNorm2d(2),
                nn.MaxPool2d(2),
                nn.Conv2d(2, 1, 2, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            inner = self.bn(self.conv(x))
            return self.pool(inner) + self.last(inner)

    torch.manual_seed(0)
    net, grads = Twice().double(), []
    fast, x = fastinpaint.accelerate(copy.deepcopy(net)), small(2, 1, 4, 4)
    for each in (fast, net):
        each.pool.register_forward_pre_hook(lambda _, args: args if args[0].register_hook(grads.append) else None)
        step(each, x)
    torch.testing.assert_close(grads[0], grads[1])


def test_parts_called_from_outside_return_plain_tensors() -> None:
    net = fastinpaint.accelerate(AnisotropicUNet().double())
    x = small(1, 1, 2, 8, 8)
    assert isinstance(net.first[0](x), Tensor)
    assert isinstance(net.first(x), Tensor)
    inside: list[type] = []
    net.last[0].forward = lambda value, forward=net.last[0].forward: (inside.append(type(value)), forward(value))[1]
    net(x)
    assert [issubclass(kind, Deferred) for kind in inside] == [True]


def test_an_exception_inside_leaves_no_trace() -> None:
    net = fastinpaint.accelerate(AnisotropicUNet())
    with pytest.raises(ValueError, match="channels"):
        net(torch.zeros(1, 2, 2, 8, 8))
    assert not region.inside()


class Checkpointed(nn.Module):
    """Blocks under `torch.utils.checkpoint`, called in the three usual ways."""

    def __init__(self, way: str, reentrant: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)) for c in (1, 4, 4, 4)
        )
        self.row, self.head, self.way, self.reentrant = (
            nn.Sequential(*self.blocks[1:]),
            nn.Conv2d(8, 1, 1),
            way,
            reentrant,
        )

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.blocks[0](x)
        run = partial(checkpoint, use_reentrant=self.reentrant)
        if self.way == "modules":
            for block in self.blocks[1:]:
                x = run(block, x)
        elif self.way == "closure":
            x = run(lambda x: self.blocks[2](self.blocks[1](x)), x)
        else:
            x = checkpoint_sequential(self.row, 2, x, use_reentrant=self.reentrant)
        return self.head(torch.cat([first, x], 1))


@pytest.mark.parametrize("memory", ["default", "low"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved tensor hooks", "reentrant"])
@pytest.mark.parametrize("way", ["modules", "closure", "sequential"])
def test_checkpointing(way: str, reentrant: bool, memory: str) -> None:
    torch.manual_seed(0)
    net = Checkpointed(way, reentrant).double()
    # fusing everything fails if the checkpoint is an autograd.Function; a trial detects that
    fast = fastinpaint.accelerate(copy.deepcopy(net), memory=memory, objective="speed" if reentrant else "fuse")
    assert_same_step(fast, net, small(2, 1, 6, 6).requires_grad_())


def test_checkpointing_a_whole_accelerated_model() -> None:
    net = AnisotropicUNet().double()
    pair = []
    for inner in (fastinpaint.accelerate(copy.deepcopy(net)), net):
        wrapped_forwards = nn.Module()
        wrapped_forwards.net = inner
        wrapped_forwards.forward = partial(checkpoint, inner, use_reentrant=False)  # type: ignore[method-assign]
        pair.append(wrapped_forwards)
    assert_same_step(*pair, small(1, 1, 2, 8, 8))


def rerun(function, x):
    """A checkpoint that `accelerate` cannot see from the model's code."""
    return checkpoint(function, x, use_reentrant=True)


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return rerun(self.b, self.bn(self.a(x)))


def test_a_hidden_reentrant_checkpoint_is_refused() -> None:
    net = fastinpaint.accelerate(Hidden())
    with pytest.raises(RuntimeError, match="use_reentrant=True, was given the deferred activation of layer 'bn'"):
        net(torch.randn(1, 1, 4, 4))


@pytest.mark.parametrize("make", [AnisotropicUNet, Foreign])
def test_compiles_whole_with_backward(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = make().double()
    x = small(2, 1, 8, 8) if make is Foreign else small(2, 1, 2, 8, 8)
    fast = torch.compile(fastinpaint.accelerate(copy.deepcopy(net)), fullgraph=True, backend="aot_eager")
    assert_same_step(fast, net, x)


class Joined(nn.Module):
    """Constructs that torch.compile supports only with help: a joined tuple, a returned dict, a tensor passed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
        self.act, self.last = nn.LeakyReLU(inplace=True), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"twice": self.last(torch.cat([self.act(y := self.block[0](x)), y], 1))}


class JoinedTuple(Joined):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"joined": self.last(torch.cat((self.block(x), self.first(x)), dim=1))}


@pytest.mark.parametrize("make", [Joined, JoinedTuple])
def test_constructs_that_are_hard_to_compile(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = make().double()
    fast = torch.compile(fastinpaint.accelerate(copy.deepcopy(net)), fullgraph=True, backend="aot_eager")
    assert_same_step(fast, net, small(2, 1, 3, 3))


@pytest.mark.slow
def test_compiles_whole_with_inductor() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1)).double()
    fast = torch.compile(fastinpaint.accelerate(copy.deepcopy(net)), fullgraph=True)
    assert_same_step(fast, net, small(2, 1, 8, 8))


def test_exports_in_eval_mode() -> None:
    net, x = Foreign().double().eval(), small(2, 1, 8, 8)
    with torch.no_grad():
        expected = tensors(net(x))
        exported = torch.export.export(fastinpaint.accelerate(net), (x,))
        found = tensors(exported.module()(x))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert any("fastinpaint.conv_block_fwd" in str(node.target) for node in exported.graph.nodes)


def test_exports_for_any_batch_and_size() -> None:
    torch.manual_seed(0)
    net = JoinedTuple().double().eval()
    sizes = {axis: torch.export.Dim(name, min=2, max=64) for axis, name in ((0, "n"), (2, "h"), (3, "w"))}
    with torch.no_grad():
        exported = torch.export.export(
            fastinpaint.accelerate(copy.deepcopy(net)), (small(2, 1, 4, 5),), dynamic_shapes=(sizes,)
        )
        found, expected = (tensors(each(x)) for x in [small(5, 1, 9, 7)] for each in (exported.module(), net))
    torch.testing.assert_close(found, expected)


def test_deep_copies_and_whole_pickles_work() -> None:
    torch.manual_seed(0)
    net = fastinpaint.accelerate(AnisotropicUNet().double(), memory="low")
    x, file = small(1, 1, 2, 8, 8), io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded, plain = torch.load(file, weights_only=False), fastinpaint.restore(copy.deepcopy(net))
    assert type(plain.head) is nn.Conv3d
    assert not plain._forward_hooks
    assert_same_step(copy.deepcopy(net), plain, x)
    assert_same_step(loaded, fastinpaint.restore(copy.deepcopy(net)), x)


def test_results_of_any_shape_are_plain() -> None:
    net = fastinpaint.accelerate(Foreign())
    result = net(torch.randn(2, 1, 8, 8))
    assert {type(t) for t in tensors(result)} == {Tensor}
    assert isinstance(result["logits"], list)


class Keeping(nn.Module):
    """Keeps maps as attributes, as for a log or a picture of them, and returns one in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.log: dict[str, Tensor] = {}
        self.maps: list[Tensor] = []

    def forward(self, x: Tensor) -> types.SimpleNamespace:
        self.maps.clear()
        self.first = y = self.body[1](self.body[0](x))
        self.maps.append(self.body[2](y))
        self.log["last"] = self.body[3](self.maps[0])
        return types.SimpleNamespace(map=self.body[3](y), more=[self.body[2](-y)])


def test_maps_that_a_model_keeps_are_read_after_a_step_of_the_optimiser() -> None:
    results = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        net = Keeping().double()
        log, maps = net.log, net.maps
        if accelerated:
            fastinpaint.accelerate(net, objective="fuse")
        found = net(torch.randn(2, 1, 8, 8, dtype=torch.float64))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2)
        results.append([net.first, maps[0], log["last"], found.map, found.more[0]])
        assert not any(isinstance(one, Deferred) for one in results[-1])
    torch.testing.assert_close(results[1], results[0])


def test_channels_last_and_non_contiguous_inputs() -> None:
    torch.manual_seed(0)
    net = AnisotropicUNet().double()
    fast, x = fastinpaint.accelerate(copy.deepcopy(net)), small(2, 1, 2, 8, 16)[..., ::2]
    assert_same_step(fast, net, x)
    assert_same_step(fast, net, x.contiguous(memory_format=torch.channels_last_3d))
    assert_same_step(fast.to(memory_format=torch.channels_last_3d), net, x)


def test_inference_mode_and_frozen_trunks() -> None:
    net, x = Foreign().double(), small(2, 1, 8, 8)
    fast = fastinpaint.accelerate(copy.deepcopy(net)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(tensors(fast(x))[0], tensors(net.eval()(x))[0])
    for model in (net, fast):
        model.train()
        model.stem.requires_grad_(False)
        model.stem.eval()
    assert_same_step(fast, net, x)
