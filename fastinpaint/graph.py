"""A training step as one CUDA graph: recorded once, then launched whole, with no Python between its kernels.

A recording keeps addresses and not values. What changes from step to step must therefore lie in tensors that stay where
they are: the batch is copied into buffers, and the weights, Adam's moments, its count of steps and its learning rate,
the scale of the loss and the running statistics are changed in place. Numbers of Python's are frozen when it is
recorded, and a recording cannot wait for the device, so no step may ask for a value (``.item()``, ``bool(tensor)``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Steps launched one by one before the recording. The first compiles kernels, measures tiles and lets cuDNN choose, all
# of which a recording forbids, and makes Adam's moments; the others run as the recorded one will.
WARM_UP = 3

Step = Callable[..., Tensor]


def why_not(device: torch.device, processes: int) -> str | None:
    """Why no step can be recorded here, in one sentence, or None where it can be tried."""
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and this run is on the {device.type}."
    if processes > 1:
        return f"{processes} processes train together, and their exchange of gradients is not recorded."
    return None


class Recorder(Protocol):
    """What records work on a device and repeats it."""

    def aside(self) -> AbstractContextManager[None]:
        """Inside, work is launched as it will be when it is recorded, and is done once."""

    def record(self, work: Callable[[], None]) -> None:
        """Record the work without doing it.

        Raises:
            RuntimeError: it did what cannot be recorded.
        """

    def replay(self) -> None:
        """Do the recorded work on the current stream."""


class CudaRecorder:
    """A CUDA graph, with a stream of its own to warm up and to be recorded on."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that will be recorded: some of autograd's nodes remember where they first ran."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> None:
        # the stream is set twice: a recording that fails leaves its own behind. Other threads may go on using CUDA, as
        # the one that pins batches does.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"),
        ):
            work()

    def replay(self) -> None:
        self.graph.replay()


class GraphedStep:
    """Like the step it is given: launched kernel by kernel for ``WARM_UP`` batches, then recorded, then replayed.

    The step does everything from zeroed gradients to the optimizer's step, and returns a new tensor, as the loss:

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

    It must not ask for a value on the way (``.item()``, ``bool(tensor)``), and what changes from step to step must be a
    tensor on the device that is changed in place: a learning rate that is a Python number is frozen. A step that cannot
    be recorded, and a batch of other shapes than the first, run kernel by kernel; a warning says so
    once for the former.

    Args:
        step: takes a batch's tensors on the device.
        device: where the batch goes.
        recorder: records and replays; by default a CUDA graph of that device.
        reset: puts right what a step leaves behind in Python where its recording stops halfway, as gradients; no kernel
            of it has run.

    Raises:
        ValueError: the device is no CUDA device and no recorder is given.
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
        self.result: Tensor | None = None  # what the recorded step writes
        self.refusal: str | None = None

    def __call__(self, *batch: Tensor) -> Tensor:
        """The step's result for a batch, a tensor of its own; copies of pinned host tensors do not wait."""
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
        """Record the step; where it cannot be, say why and never try again."""

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
