"""Pixel operations around the networks in plain torch: filling holes, down-sampling, compositing."""

from __future__ import annotations

import torch
from torch import Tensor

from fastinpaint.models.padding import pad_to_multiple


def fill_holes(video: Tensor, mask: Tensor, mean_pixel: Tensor) -> Tensor:
    """``where(mask > 0, mean_pixel, video)``: the video's hole pixels, even NaN, do not reach the result.

    Args:
        video: ``[N, 3, *space]``, RGB in [0, 1].
        mask: ``[N, 1, *space]``, 1 = hole.
        mean_pixel: ``[3]``, RGB in [0, 1].

    Raises:
        ValueError: the mask or mean_pixel does not fit the video.
    """
    check_mask("fill_holes", video, mask)
    if tuple(mean_pixel.shape) != (3,):
        raise ValueError(f"fill_holes: mean_pixel must be [3], got {tuple(mean_pixel.shape)}.")
    fill = mean_pixel.to(video).view(1, 3, *[1] * (video.dim() - 2))
    return torch.where(mask > 0, fill, video)


def downsample_video(video: Tensor, r: int) -> Tensor:
    """Mean over r x r blocks: frames of ``ceil(H/r) x ceil(W/r)``. Blocks past the edge repeat the last row or column.

    Args:
        video: ``[N, C, T, H, W]``, holes already filled.
    """
    return _blocks(video, r).mean((-3, -1))


def downsample_mask(mask: Tensor, r: int) -> Tensor:
    """Maximum over r x r blocks ``[N, 1, T, ceil(H/r), ceil(W/r)]``: any hole pixel makes its block a hole."""
    return _blocks(mask, r).amax((-3, -1))


def composite(output: Tensor, video: Tensor, mask: Tensor) -> Tensor:
    """The output inside the holes and the video's pixels, bit for bit, outside. Both are ``[N, 3, *space]``."""
    check_mask("composite", output, mask)
    if output.shape != video.shape:
        raise ValueError(f"composite: video must be {tuple(output.shape)} as the output, got {tuple(video.shape)}.")
    return torch.where(mask > 0, output, video.to(output.dtype))


def corrected(output: Tensor, filled: Tensor, doubt: Tensor) -> Tensor:
    """The fill, corrected by a network where it is in doubt.

        filled + doubt * share * (pixels - filled),   share = sigmoid(fourth channel), or 1 without one

    Where the doubt is 0 the filled pixels stay bit for bit. The network predicts pixels, not their correction: trained
    to predict that from a start at 0, it stayed at 0.

    Args:
        output: ``[N, 3 or 4, *space]``, a network's output: pixels, and what their share comes from.
        filled: ``[N, 3, *space]``, the propagated fill.
        doubt: ``[N, 1, *space]``, 1 - confidence.
    """
    if output.shape[1] > 3:
        doubt = doubt.to(output.dtype)
        return composite(filled + doubt * output[:, 3:].sigmoid() * (output[:, :3] - filled), filled, doubt)
    return composite(filled + doubt * (output - filled), filled, doubt)


def as_frames(video: Tensor) -> Tensor:
    """``[N, C, T, H, W]`` as a batch of frames ``[N*T, C, H, W]``."""
    return video.transpose(1, 2).flatten(0, 1)


def as_video(frames: Tensor, samples: int) -> Tensor:
    """``[N*T, C, H, W]`` as ``[N, C, T, H, W]``, with N = `samples`."""
    return frames.unflatten(0, (samples, -1)).transpose(1, 2)


def _blocks(x: Tensor, r: int) -> Tensor:
    """x as ``[..., ceil(H/r), r, ceil(W/r), r]``. A view supports every dtype; torch's pooling does not."""
    return pad_to_multiple(x, (r, r)).unflatten(-1, (-1, r)).unflatten(-3, (-1, r))


def check_mask(name: str, video: Tensor, mask: Tensor) -> None:
    """Raise ValueError unless mask is ``[N, 1, *space]`` for a video ``[N, 3, *space]``."""
    if video.dim() not in (4, 5) or video.shape[1] != 3:
        raise ValueError(f"{name}: the video must be [N, 3, T, H, W] or [N, 3, H, W], got {tuple(video.shape)}.")
    expected = (video.shape[0], 1, *video.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(f"{name}: mask must be {expected} for a video {tuple(video.shape)}, got {tuple(mask.shape)}.")
