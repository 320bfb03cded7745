"""A fused model compiles its Triton kernels before its first call. On the CPU: nothing is compiled or launched."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton")

import fastinpaint
from fastinpaint.acceleration import first_call, trial
from fastinpaint.ops.conv_block.triton import ahead
from fastinpaint.ops.dispatch import triton_support


class Machine:
    """Triton on a GPU that does nothing: what was compiled ahead, what was launched, and in which order."""

    def __init__(self) -> None:
        self.compiled: list[set[str]] = []
        self.launched: list[str] = []

    def compile_new(self, launches: Sequence[ahead.Launch]) -> int:
        self.compiled.append({repr(launch) for launch in launches})
        return 0

    def run(self, kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        assert self.compiled, "launched before anything was compiled"
        self.launched.append(repr(ahead.describe(kernel, args, options)))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    from triton.runtime.jit import JITFunction

    if not ahead.can_collect():
        pytest.skip("the kernels are interpreted")
    found = Machine()
    monkeypatch.setattr(triton_support, "INTERPRETING", True)  # tensors of the CPU pass
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, **options: found.run(kernel, *args, **options))
    monkeypatch.setattr(ahead, "compile_new", found.compile_new)
    return found


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)]
    return fastinpaint.accelerate(nn.Sequential(*layers), "triton")


def step(model: nn.Module, x: Tensor) -> None:
    model(x).sum().backward()


def test_a_step_launches_nothing_that_was_not_compiled_before(machine: Machine) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    step(model, x)
    (compiled,) = machine.compiled
    assert machine.launched
    assert set(machine.launched) <= compiled
    for kernel in ("conv_fwd_kernel", "conv_dgrad_kernel", "conv_wgrad_kernel", "conv_finish_kernel"):
        assert kernel in str(compiled)
    step(model, x)
    assert len(machine.compiled) == 1


def test_the_first_call_without_gradients_compiles_its_own(machine: Machine) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8)
    step(model, x)
    machine.launched.clear()
    with torch.no_grad():
        model.eval()(x)
        model(x)
    assert len(machine.compiled) == 2
    assert set(machine.launched) <= machine.compiled[1]
    assert first_call.FIRST_CALL not in vars(model)
    assert not any(hook is first_call.before_first_call for hook in model._forward_pre_hooks.values())


def test_the_step_before_the_first_call_leaves_the_model_as_it_was(machine: Machine) -> None:
    model, x = net(), torch.randn(2, 3, 8, 8, requires_grad=True)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    kinds = [type(module) for module in model.modules()]
    y = model(x)
    assert type(y) is Tensor
    assert y.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [type(module) for module in model.modules()] == kinds
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_failure_is_told_and_the_step_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(launches: Sequence[ahead.Launch]) -> int:
        machine.compile_new(launches)
        raise OSError("no space left")

    monkeypatch.setattr(ahead, "compile_new", fails)
    model, x = net(), torch.randn(2, 3, 8, 8)
    with caplog.at_level(logging.WARNING):
        step(model, x)
        step(model, x)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == trial.ONE_BY_ONE % "no space left"
    assert machine.launched


def test_each_of_several_processes_runs_the_step(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """So collective operations inside a model find those of the other processes."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    step(net(), torch.randn(2, 3, 8, 8))
    (compiled,) = machine.compiled
    assert set(machine.launched) <= compiled


def test_under_a_checkpoint_it_says_that_kernels_compile_one_by_one(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.compiled.append(set())
    model, x = net(), torch.randn(2, 3, 8, 8, requires_grad=True)
    with caplog.at_level(logging.WARNING):
        checkpoint(model, x, use_reentrant=False).sum().backward()
    assert machine.compiled == [set()]
    assert "under checkpoints" in caplog.text


def test_restore_takes_the_hook_away(machine: Machine) -> None:
    model = fastinpaint.restore(net())
    assert not model._forward_pre_hooks
    assert first_call.FIRST_CALL not in vars(model)
