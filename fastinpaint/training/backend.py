"""The one place where the trainer meets the kernels: swap the model's layers for fused ones, if asked."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN, VideoCompletionNet, complete_frames
from fastinpaint.training.distributed import synchronise_batch_norm

BACKENDS = ("reference", "auto", "cpu", "cuda", "triton", "library")
MEMORY = ("default", "low")

Model = TypeVar("Model", bound=VideoCompletionNet | TwoDCN)


def accelerate_model(model: Model, backend: str, memory: str = "default", shared: bool = False) -> Model:
    """``model`` as it is for ``reference``, else with its layers swapped for fused ones; names of weights stay.

    Every layer is fused, which pays on these networks: a resumed run chooses as the first did, and nothing is measured.

    Args:
        shared: whether several processes train together; batch norm then takes its statistics over all of them.

    Raises:
        UserError: unknown backend or memory, or a backend that cannot run here, with its reason.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("memory", memory, MEMORY)):
        if value not in known:
            raise UserError(f"{name}: unknown value {value!r}; known: {', '.join(known)}.")
    if backend == "reference" and memory != "default":
        raise UserError(f"memory: {memory} needs fused layers; choose a backend other than reference.")
    if shared and backend != "reference" and next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # which has a fused form; DDP takes it on GPUs only
    elif shared:
        synchronise_batch_norm(model)
    if backend == "reference":
        return model
    from fastinpaint.accelerate import accelerate  # kept out of the reference trainer's imports

    _try(accelerate(model, backend=backend, memory=memory, objective="fuse"), backend)
    return model


@torch.no_grad()
def _try(model: VideoCompletionNet | TwoDCN, backend: str) -> None:
    """Complete a small video, so that a backend that cannot run here says so before anything is written."""
    video = torch.zeros(1, 3, 2, 16, 16).to(model.mean_pixel)
    mask, was_training = torch.ones_like(video[:, :1]), model.training
    model.eval()
    try:
        complete_frames(model, video, mask) if isinstance(model, TwoDCN) else model(video, mask)
    except NotImplementedError as error:
        raise UserError(f"backend {backend}: {error}") from None
    model.train(was_training)
