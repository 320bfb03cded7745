"""The fast path to an operator's body is used unless something observes the dispatcher, with equal bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastinpaint.ops.conv_block import conv_block
from fastinpaint.ops.dispatch.fast_path import can_bypass_dispatcher
from fastinpaint.ops.types import Source
from tests.ops.common import BACKENDS, leaf


class Seen(TorchDispatchMode):
    """The operators of this library that are called through torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastinpaint":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Own(Tensor):
    """A tensor subclass."""


def test_the_dispatcher_is_bypassed_by_default() -> None:
    assert can_bypass_dispatcher(torch.zeros(1), None, torch.nn.Parameter(torch.zeros(1)))
    assert not can_bypass_dispatcher(torch.zeros(1), torch.zeros(1).as_subclass(Own))


@pytest.mark.parametrize("watch", [Seen, BaseTorchFunctionMode, torch.profiler.profile], ids=lambda kind: kind.__name__)
def test_modes_and_the_profiler_see_operators(watch) -> None:
    with watch():
        assert not can_bypass_dispatcher(torch.zeros(1))
    assert can_bypass_dispatcher(torch.zeros(1))


def test_functorch_sees_operators() -> None:
    found = []
    torch.func.vmap(lambda x: (found.append(can_bypass_dispatcher(x)), x)[1])(torch.zeros(2))
    assert found == [False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_paths_give_the_same_bits(backend: str) -> None:
    vectors = [torch.rand(16) for _ in range(3)]
    x, weight, bias = (leaf(*shape, dtype=torch.float32) for shape in ((2, 16, 6, 5), (16, 16, 3, 3), (16,)))

    def run() -> list[Tensor]:
        source = Source(x, *vectors, relu=True)
        y, mean, var = conv_block(source, weight, bias, padding=1, stats=True, backend=backend)
        loss = (y * y.detach().sin()).sum() + mean.sum() + var.sum()
        return [y, mean, var, *torch.autograd.grad(loss, [x, weight, bias])]

    plain = run()
    with Seen() as seen:
        watched = run()
    assert seen.names == ["fastinpaint::conv_block_fwd", "fastinpaint::conv_block_bwd"]
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_single_frames_result_may_be_changed_in_place() -> None:
    """A kernel may return a view of its own allocation. Autograd must not treat it as a view of an argument."""
    x, weight = leaf(1, 16, 2, 4, 4, dtype=torch.float32), leaf(8, 16, 1, 3, 3, dtype=torch.float32)
    conv_block(x, weight, padding=(0, 1, 1)).relu_().sum().backward()
    expected = torch.autograd.grad(torch.nn.functional.conv3d(x, weight, padding=(0, 1, 1)).relu().sum(), [x, weight])
    torch.testing.assert_close([x.grad, weight.grad], list(expected))
