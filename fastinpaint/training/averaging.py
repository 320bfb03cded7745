"""An exponential moving average of the weights, whose batch norm statistics are estimated before it is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from fastinpaint.models import TwoDCN, VideoCompletionNet, complete_frames


class Averaged:
    """The moving average of a network's weights.

        average <- decay * average + (1 - decay) * weights

    Args:
        model: the plain network. It is copied, so its layers may be replaced by fused ones afterwards.

    Attributes:
        model: the network with averaged weights.
    """

    def __init__(self, model: VideoCompletionNet | TwoDCN, decay: float) -> None:
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self._averaged.requires_grad_(False)
        self.model = cast(VideoCompletionNet | TwoDCN, self._averaged.module)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step. Buffers are copied as they are."""
        self._averaged.update_parameters(model)

    def resume(self, steps: int) -> None:
        """Go on with the weights that `model` has been given, which are the average of so many steps."""
        self._averaged.n_averaged.fill_(steps)

    def estimate_statistics(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set running means and variances of batch norm to the means over these videos and masks (see `forward`)."""
        with torch.no_grad():
            update_bn((torch.cat(batch, 1) for batch in batches), _Joined(self.model))
        self.model.eval()


class _Joined(nn.Module):
    """A network that takes video and mask as one tensor ``[N, 4, T, H, W]``, as torch's `update_bn` hands them over."""

    def __init__(self, model: VideoCompletionNet | TwoDCN) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> None:
        video, mask = x[:, :3], x[:, 3:]
        complete_frames(self.model, video, mask) if isinstance(self.model, TwoDCN) else self.model(video, mask)
