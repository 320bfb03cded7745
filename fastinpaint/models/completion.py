"""The whole system: 3DCN completes a small video; it guides CombCN, which completes the frames at full size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastinpaint.models.combcn import CombCN, TwoDCN
from fastinpaint.models.config import ModelConfig
from fastinpaint.models.preprocess import (
    as_frames,
    as_video,
    composite,
    corrected,
    downsample_mask,
    downsample_video,
    fill_holes,
)
from fastinpaint.models.threedcn import ThreeDCN


class VideoCompletionNet(nn.Module):
    """3DCN and CombCN joined (Wang et al. 2019, Fig. 2).

    Buffers:
        mean_pixel: ``[3]``, RGB in [0, 1]: the fill value of holes, set by the trainer (``chang2019``: 0).
    """

    mean_pixel: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        self.threedcn = ThreeDCN(self.config)
        self.combcn = CombCN(self.config)
        self.register_buffer("mean_pixel", torch.zeros(3))

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Complete a video. Its pixels inside the holes have no influence, unless the config's fill is ``propagated``.

        With that fill the outputs are mixed with the fill (see `corrected`).

        Args:
            video: ``[N, 3, T, H, W]``, RGB in [0, 1]; any T, H, W >= 1. With fill ``propagated`` the filled video.
            mask: ``[N, 1, T, H, W]``, any dtype, 1 = hole. With fill ``propagated`` the doubt, 1 - confidence.

        Returns:
            completed ``[N, 3, T, H, W]``, and 3DCN's output coarse ``[N, 3, T, ceil(H/r), ceil(W/r)]``. Neither is
            clamped or composited.
        """
        output, coarse = self.predict(video, mask)
        return (corrected(output, video, mask) if self.config.corrects else output), coarse

    def predict(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` with CombCN's own output in place of completed: ``[N, 4, ...]`` for fill ``propagated``."""
        mask = mask.to(video.dtype)
        filled = filled_video(self, video, mask)
        small = downsample_video(filled, self.config.r)
        small_mask = downsample_mask(mask, self.config.r)
        coarse = self._coarse(small, small_mask)
        guidance = composite(coarse, small, small_mask) if self.config.composite_guidance else coarse
        output = self.combcn(as_frames(torch.cat([filled, mask], 1)), as_frames(guidance))
        return as_video(output, len(video)), coarse

    def complete_coarse(self, video: Tensor, mask: Tensor) -> Tensor:
        """Run 3DCN alone, as in its pre-training; returns `forward`'s coarse output."""
        small = coarse_input(self, video, mask)
        return self._coarse(small[:, :3], small[:, 3:])

    def _coarse(self, small: Tensor, mask: Tensor) -> Tensor:
        output = self.threedcn(torch.cat([small, mask], 1))
        return corrected(output, small, mask) if self.config.corrects else output


def coarse_input(model: VideoCompletionNet, video: Tensor, mask: Tensor) -> Tensor:
    """3DCN's input ``[N, 4, T, ceil(H/r), ceil(W/r)]``."""
    mask, r = mask.to(video.dtype), model.config.r
    filled = filled_video(model, video, mask)
    return torch.cat([downsample_video(filled, r), downsample_mask(mask, r)], 1)


def complete_frames(model: TwoDCN, video: Tensor, mask: Tensor) -> Tensor:
    """2DCN over every frame of a video: ``[N, 3, T, H, W]`` from the arguments of `VideoCompletionNet.forward`."""
    output = predict_frames(model, video, mask)
    return corrected(output, video, mask) if model.config.corrects else output


def predict_frames(model: TwoDCN, video: Tensor, mask: Tensor) -> Tensor:
    """2DCN's own output over every frame, ``[N, 4, T, H, W]`` for fill ``propagated``."""
    mask = mask.to(video.dtype)
    filled = filled_video(model, video, mask)
    return as_video(model(as_frames(torch.cat([filled, mask], 1))), len(video))


def filled_video(model: VideoCompletionNet | TwoDCN, video: Tensor, mask: Tensor) -> Tensor:
    """The video with its holes filled as the networks see it: with this model's pixel, or as it came (propagated)."""
    return video if model.config.corrects else fill_holes(video, mask, fill_pixel(model))


def fill_pixel(model: VideoCompletionNet | TwoDCN) -> Tensor:
    """``[3]``: the fill value of this model's holes."""
    return torch.zeros_like(model.mean_pixel) if model.config.zero_fill else model.mean_pixel
