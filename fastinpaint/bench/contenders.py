"""The contenders: the same training step of the whole system by plain PyTorch and by this library."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastinpaint.data.holes import make_holes
from fastinpaint.errors import UserError
from fastinpaint.graph import WARM_UP, GraphedStep
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.training.losses import total_loss


@dataclass(frozen=True)
class Workload:
    """The size of a training step: ``[batch, 3, frames, size, size]``, 3DCN at ``size / r``, in `dtype` on `device`."""

    frames: int = 32
    size: int = 128
    batch: int = 1
    r: int = 2
    width: float = 1.0
    dtype: str = "float32"
    device: str = "cpu"
    backend: str = "auto"
    seed: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """The compute dtype of the convolutions."""
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        if self.dtype not in known:
            raise UserError(f"bench: dtype must be one of {', '.join(known)}, got {self.dtype!r}.")
        return known[self.dtype]


class TrainingStepRun:
    """A model with its optimiser and one batch. `step` is a training step, `forward` computes the loss only.

    No step waits for the device.

    Args:
        call: the model, or its compiled form.
        variables: of the environment, while it runs.
        graph: whether a step is one CUDA graph.
    """

    def __init__(
        self,
        model: nn.Module,
        workload: Workload,
        call: Callable[..., Any] | None = None,
        variables: Mapping[str, str] | None = None,
        graph: bool = False,
    ) -> None:
        self.model, self.workload = model, workload
        self.call = model if call is None else call
        self.variables = variables or {}
        self.graphed = GraphedStep(lambda *_: self._step(), torch.device(workload.device)) if graph else None
        self._optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, capturable=graph)
        self.video, self.mask = batch(workload)

    def forward(self) -> Tensor:
        """The total loss, Eq. 3, ready for backward."""
        workload, device = self.workload, torch.device(self.workload.device)
        mixed = workload.torch_dtype != torch.float32
        with environment(self.variables), torch.autocast(device.type, workload.torch_dtype) if mixed else nullcontext():
            completed, coarse = self.call(self.video, self.mask)
        # as in training: every frame is known to have a hole, and the check would wait for the device
        return total_loss(completed, coarse, self.video, self.mask, workload.r, checked=True).total

    def gradients(self) -> Tensor:
        """Forward and backward; returns the loss and leaves the gradients on the parameters."""
        self._optimiser.zero_grad(set_to_none=True)
        loss = self.forward()
        with environment(self.variables):
            loss.backward()
        return loss.detach()

    def step(self) -> Tensor:
        """Forward, backward and Adam; returns the loss before the step."""
        return self._step() if self.graphed is None else self.graphed()

    def _step(self) -> Tensor:
        loss = self.gradients()
        self._optimiser.step()
        return loss

    def warm_up(self) -> None:
        """Steps until they are one graph, if they are to be.

        Raises:
            RuntimeError: the step cannot be captured; the message says why.
        """
        if self.graphed is None:
            return
        for _ in range(WARM_UP + 1):
            self.step()
        if self.graphed.refusal is not None:
            raise RuntimeError(f"bench: the step is no CUDA graph: {self.graphed.refusal}")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment has these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def batch(workload: Workload) -> tuple[Tensor, Tensor]:
    """Random pixels and the paper's training hole, equal for all contenders."""
    generator = torch.Generator().manual_seed(workload.seed)
    size, frames = workload.size, workload.frames
    video = torch.rand(workload.batch, 3, frames, size, size, generator=generator)
    holes = make_holes("rectangle", frames, size, size, np.random.default_rng(workload.seed))
    mask = torch.from_numpy(np.ascontiguousarray(holes)).float().expand(workload.batch, 1, frames, size, size)
    return video.to(workload.device), mask.contiguous().to(workload.device)


def plain(workload: Workload) -> VideoCompletionNet:
    """The reference model, seeded by the workload."""
    torch.manual_seed(workload.seed)
    return VideoCompletionNet(ModelConfig(width=workload.width, r=workload.r)).to(workload.device)


def channels_last(model: nn.Module) -> nn.Module:
    """Convert the convolution weights to channels-last; torch's convolutions then use that layout."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return model


def _checkpointed(workload: Workload) -> TrainingStepRun:
    model = channels_last(plain(workload))

    def wrapped(layer: nn.Sequential) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            return checkpoint(nn.Sequential.forward, layer, x, use_reentrant=False)

        return run

    for layer in layers(model):
        layer.forward = wrapped(layer)  # type: ignore[method-assign]
    return TrainingStepRun(model, workload)


def layers(model: nn.Module) -> Iterator[nn.Sequential]:
    """Every conv -> BN -> ReLU layer of both networks."""
    return (m for m in model.modules() if isinstance(m, nn.Sequential) and hasattr(m, "conv"))


def _compiled(workload: Workload, mode: str) -> TrainingStepRun:
    model = channels_last(plain(workload))
    return TrainingStepRun(model, workload, torch.compile(model, mode=mode))


def _accelerated(workload: Workload, memory: str, wgmma: bool = False, graph: bool = False) -> TrainingStepRun:
    from fastinpaint import accelerate

    model = accelerate(plain(workload), backend=workload.backend, memory=memory, objective="fuse")
    variables = {native_cuda.HOPPER: "1"} if wgmma else None
    return TrainingStepRun(model, workload, variables=variables, graph=graph)


def _by_backend(backend: str, workload: Workload, wgmma: bool = False, graph: bool = False) -> TrainingStepRun:
    return _accelerated(dataclasses.replace(workload, backend=backend), "default", wgmma, graph)


# Ours with one fixed GPU backend; plain "fastinpaint" chooses by workload.
BACKENDS = {f"fastinpaint {name}": name for name in ("cuda", "triton", "library")}
WGMMA = "fastinpaint cuda wgmma"
# What only a GPU runs.
GRAPHS: dict[str, Callable[[Workload], TrainingStepRun]] = {
    "eager channels-last graph": lambda w: TrainingStepRun(channels_last(plain(w)), w, graph=True),
    **{f"{name} graph": functools.partial(_by_backend, backend, graph=True) for name, backend in BACKENDS.items()},
    f"{WGMMA} graph": functools.partial(_by_backend, "cuda", wgmma=True, graph=True),
}
ON_GPUS = (*BACKENDS, WGMMA, *GRAPHS)
CONTENDERS: dict[str, Callable[[Workload], TrainingStepRun]] = {
    "eager": lambda w: TrainingStepRun(plain(w), w),
    "eager channels-last": lambda w: TrainingStepRun(channels_last(plain(w)), w),
    "eager checkpointed": _checkpointed,
    "compile": lambda w: _compiled(w, "default"),
    "compile reduce-overhead": lambda w: _compiled(w, "reduce-overhead"),
    "compile max-autotune": lambda w: _compiled(w, "max-autotune"),
    "fastinpaint": lambda w: _accelerated(w, "default"),
    "fastinpaint low": lambda w: _accelerated(w, "low"),
    "fastinpaint least": lambda w: _accelerated(w, "least"),
    **{name: functools.partial(_by_backend, backend) for name, backend in BACKENDS.items()},
    WGMMA: functools.partial(_by_backend, "cuda", wgmma=True),
    **GRAPHS,
}
# Allowed difference of gradients from plain PyTorch's. Rounding can flip the sign of a ReLU's input: torch's own two
# memory formats differ by 1.3e-3 in float32 at F=8.
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.3, torch.float16: 0.3}
OURS = ("fastinpaint", "fastinpaint low")


def is_ours(name: str) -> bool:
    """Whether a contender is this library, with any backend."""
    return name.startswith("fastinpaint")


def build(name: str, workload: Workload) -> TrainingStepRun:
    """Create the contender of that name. Raises a `UserError` that lists the known names."""
    if name not in CONTENDERS:
        raise UserError(f"bench: unknown contender {name!r}; known: {', '.join(CONTENDERS)}.")
    if workload.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
    return CONTENDERS[name](workload)


def disagreement(ours: TrainingStepRun, reference: TrainingStepRun) -> float:
    """The difference of two contenders' gradients over all parameters, relative to the reference's norm.

    The reference keeps its gradients and is run only once.
    """
    ours.gradients()
    if all(parameter.grad is None for parameter in reference.model.parameters()):
        reference.gradients()
    pairs = zip(ours.model.parameters(), reference.model.parameters(), strict=True)
    squares = [((a.grad - b.grad).double().square().sum(), b.grad.double().square().sum()) for a, b in pairs
               if a.grad is not None and b.grad is not None]  # fmt: skip
    return math.sqrt(sum(float(d) for d, _ in squares) / sum(float(n) for _, n in squares))
