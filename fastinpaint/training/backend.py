"""Swaps the model's layers for fused ones if asked: the only place where the trainer uses the kernels."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN, VideoCompletionNet, complete_frames
from fastinpaint.training.distributed import synchronise_batch_norm

BACKENDS = ("reference", "auto", "cpu", "cuda", "triton", "library")
MEMORY = ("default", "low", "least")

Model = TypeVar("Model", bound=VideoCompletionNet | TwoDCN)


def accelerate_model(model: Model, backend: str, memory: str = "default", shared: bool = False) -> Model:
    """Return ``model`` unchanged for ``reference``, else with its layers fused. Names of weights stay.

    Every layer is fused, as that is faster on these networks. Nothing is measured, so resumed runs choose the same.

    Args:
        shared: whether several processes train together. Batch norm then uses the statistics of all processes.

    Raises:
        UserError: the backend or memory is unknown, or the backend cannot run here (with the reason).
    """
    for name, value, known in (("backend", backend, BACKENDS), ("memory", memory, MEMORY)):
        if value not in known:
            raise UserError(f"{name}: unknown value {value!r}; known: {', '.join(known)}.")
    if backend == "reference" and memory != "default":
        raise UserError(f"memory: {memory} needs fused layers; choose a backend other than reference.")
    if shared and backend != "reference" and next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # has a fused form; DDP supports it on GPUs only
    elif shared:
        synchronise_batch_norm(model)
    if backend == "reference":
        return model
    from fastinpaint.accelerate import accelerate  # not imported by the reference trainer

    _try(accelerate(model, backend=backend, memory=memory, objective="fuse"), backend)
    return model


@torch.no_grad()
def _try(model: VideoCompletionNet | TwoDCN, backend: str) -> None:
    """Complete a small video, so that a backend that cannot run fails before anything is written."""
    video = torch.zeros(1, 3, 2, 16, 16).to(model.mean_pixel)
    mask, was_training = torch.ones_like(video[:, :1]), model.training
    model.eval()
    try:
        complete_frames(model, video, mask) if isinstance(model, TwoDCN) else model(video, mask)
    except NotImplementedError as error:
        raise UserError(f"backend {backend}: {error}") from None
    model.train(was_training)
