"""What a contender's step does besides the model's work."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinpaint.bench import contenders
from fastinpaint.bench.contenders import TrainingStepRun, Workload
from fastinpaint.ops.dispatch import native_cuda

TINY = Workload(frames=2, size=16, width=1 / 32)


class Notes(nn.Module):
    """A scaled copy of the video that notes the switch of the wgmma path, in forward and in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(())), list[str | None]()

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(os.environ.get(native_cuda.HOPPER))
        found = self.scale * video
        found.register_hook(lambda _: self.seen.append(os.environ.get(native_cuda.HOPPER)))
        return found, nn.functional.avg_pool3d(found, (1, 2, 2))


def test_variables_hold_while_it_runs_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native_cuda.HOPPER, raising=False)
    model = Notes()
    loss = TrainingStepRun(model, TINY, variables={native_cuda.HOPPER: "1"}).step()
    assert model.seen == ["1", "1"]
    assert native_cuda.HOPPER not in os.environ
    assert isinstance(loss, Tensor), "a number would wait for the device"


@pytest.mark.parametrize("name", ["eager", "fastinpaint"])
def test_forward_and_backward_read_no_value(name: str) -> None:
    """On a GPU that would wait for the device."""
    run = contenders.build(name, TINY)
    with Reads() as reads:
        run.gradients()
    assert reads.count == 0


class Reads(TorchDispatchMode):
    """Counts how often Python reads a value of a tensor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_graph_is_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device"):
        contenders.build("eager channels-last graph", TINY)


def test_a_step_that_is_no_graph_is_not_timed_as_one() -> None:
    run = TrainingStepRun(Notes(), TINY)
    run.graphed = contenders.GraphedStep(run._step, torch.device("cpu"), recorder=Refusing())
    with pytest.raises(RuntimeError, match="the step is no CUDA graph: not today"):
        run.warm_up()


class Refusing:
    """A recorder that captures nothing."""

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, work: Callable[[], None]) -> None:
        raise RuntimeError("not today")

    def replay(self) -> None:
        raise AssertionError("nothing was captured")
