"""A training step as one CUDA graph: captured once, then replayed without Python between its kernels.

A graph stores addresses, not values. Everything that changes from step to step must therefore be a tensor at a fixed
address that is updated in place: the batch (copied into buffers), weights, Adam's moments, step count and learning
rate, the loss scale, and running statistics. Python numbers are frozen at capture. A capture cannot wait for the
device, so a step must not read a value (``.item()``, ``bool(tensor)``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Steps launched kernel by kernel before the capture. The first one compiles kernels, measures tiles, lets cuDNN choose
# (none of which a capture allows) and creates Adam's moments. The others run as the captured one will.
WARM_UP = 3

Step = Callable[..., Tensor]


def why_not(device: torch.device, processes: int) -> str | None:
    """Why steps cannot be captured here, in one sentence, or None."""
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and this run is on the {device.type}."
    if processes > 1:
        return f"{processes} processes train together, and their exchange of gradients is not recorded."
    return None


class Recorder(Protocol):
    """Captures work on a device and replays it."""

    def aside(self) -> AbstractContextManager[None]:
        """A context for warm-up: work runs once, on the stream of the later capture."""

    def record(self, work: Callable[[], None]) -> None:
        """Capture the work without running it.

        Raises:
            RuntimeError: the work contains something that cannot be captured.
        """

    def replay(self) -> None:
        """Run the captured work on the current stream."""


class CudaRecorder:
    """A CUDA graph with its own stream for warm-up and capture."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work runs on the capture stream, because some autograd nodes keep the stream of their first run."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> None:
        # The outer context restores the current stream, which a failed capture does not. "thread_local" lets other
        # threads, such as the one that pins batches, go on using CUDA.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            work()

    def replay(self) -> None:
        self.graph.replay()


class GraphedStep:
    """A training step that runs kernel by kernel for ``WARM_UP`` batches, is then captured, and from then on replayed.

    The step includes everything from ``zero_grad`` to ``optimizer.step`` and returns a new tensor, such as the loss:

        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=True)

        def step(x, target):
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            return loss.detach()

        graphed = fastinpaint.GraphedStep(step, torch.device("cuda"))
        for x, target in batches:
            loss = graphed(x, target)

    The step must not read a value (``.item()``, ``bool(tensor)``). What changes from step to step must be a device
    tensor updated in place: a learning rate that is a Python number is frozen. A step that cannot be captured runs
    kernel by kernel, with one warning. So does a batch whose shapes differ from the first one's.

    ``torch.cuda.make_graphed_callables`` is torch's own way, for the model alone. It takes an accelerated model.

    Args:
        step: takes a batch's tensors on the device.
        device: where the batch goes.
        recorder: captures and replays; by default a CUDA graph on that device.
        reset: undoes what a failed capture left in Python, such as gradients. No kernel of that step has run.

    Raises:
        ValueError: the device is not a CUDA device and no recorder is given.
    """

    def __init__(
        self,
        step: Step,
        device: torch.device,
        recorder: Recorder | None = None,
        reset: Callable[[], None] | None = None,
    ) -> None:
        if recorder is None:
            if (reason := why_not(device, 1)) is not None:
                raise ValueError(f"GraphedStep: {reason}")
            recorder = CudaRecorder(device)
        self.step, self.device, self.recorder, self.reset = step, device, recorder, reset or (lambda: None)
        self.buffers: tuple[Tensor, ...] = ()
        self.warmed = 0
        self.result: Tensor | None = None  # written by the captured step
        self.refusal: str | None = None

    def __call__(self, *batch: Tensor) -> Tensor:
        """Run the step on a batch; returns its result in a new tensor. Copies of pinned tensors are asynchronous."""
        if not self.buffers:
            self.buffers = tuple(torch.empty_like(t, device=self.device) for t in batch)
        kinds = [[(t.shape, t.dtype) for t in tensors] for tensors in (batch, self.buffers)]
        if self.refusal is not None or kinds[0] != kinds[1]:
            return self.step(*(t.to(self.device, non_blocking=True) for t in batch))
        for buffer, tensor in zip(self.buffers, batch, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        if self.warmed < WARM_UP:
            self.warmed += 1
            with self.recorder.aside():
                return self.step(*self.buffers)
        if self.result is None and not self._record():
            return self.step(*self.buffers)
        assert self.result is not None
        self.recorder.replay()
        return self.result.clone()  # the next replay writes over it

    def _record(self) -> bool:
        """Capture the step. If that fails, log the reason and never try again."""

        def work() -> None:
            self.result = self.step(*self.buffers)

        try:
            self.recorder.record(work)
        except RuntimeError as error:
            cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            self.refusal, self.result = str(cause).partition("\n")[0], None
            self.reset()
            logger.warning("graph: steps are launched one by one: recording failed: %s", self.refusal)
            return False
        return True
