"""Runs trained networks on numpy videos and composites the known pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastinpaint.models import TwoDCN, VideoCompletionNet, coarse_input, complete_frames
from fastinpaint.models.preprocess import composite, downsample_mask, downsample_video


def to_tensors(video: np.ndarray, mask: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 ``[T, H, W, 3]`` and ``[T, H, W]`` as float32 ``[1, 3, T, H, W]`` in [0, 1] and ``[1, 1, T, H, W]``."""
    pixels = torch.from_numpy(np.ascontiguousarray(video)).to(device).permute(3, 0, 1, 2)[None].float() / 255
    holes = torch.from_numpy(np.ascontiguousarray(mask > 0)).to(device)[None, None].float()
    return pixels, holes


def to_numpy(video: Tensor) -> np.ndarray:
    """``[1, 3, T, H, W]`` in [0, 1] as float32 ``[T, H, W, 3]`` in [0, 255], clamped."""
    return video[0].permute(1, 2, 3, 0).clamp(0, 1).mul(255).cpu().numpy()


@torch.no_grad()
def complete(model: VideoCompletionNet | TwoDCN, video: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Complete one video on the model's device and in its current mode.

    Args:
        video: uint8 ``[T, H, W, 3]``.
        mask: ``[T, H, W]``, true = hole.

    Returns:
        Composited float32 ``[T, h, w, 3]`` in [0, 255] by name: "2DCN"; or "3DCN (WxH)" at 3DCN's own size (if r > 1),
        "3DCN", the same enlarged (bilinear), and "CombCN".
    """
    pixels, holes = to_tensors(video, mask, model.mean_pixel.device)
    if isinstance(model, TwoDCN):
        return {"2DCN": to_numpy(composite(complete_frames(model, pixels, holes), pixels, holes))}
    completed, coarse = model(pixels, holes)
    results = {}
    if model.config.r > 1:
        low, (height, width) = coarse_input(model, pixels, holes), coarse.shape[-2:]
        results[f"3DCN ({width}x{height})"] = to_numpy(composite(coarse, low[:, :3], low[:, 3:]))
    enlarged = _enlarge(coarse, model.config.r, pixels.shape)
    results["3DCN"] = to_numpy(composite(enlarged, pixels, holes))
    results["CombCN"] = to_numpy(composite(completed, pixels, holes))
    return results


def truth_at(size: tuple[int, int], video: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true video (float32 in [0, 255]) and the mask at the size ``(h, w)``, as in 3DCN's loss."""
    height, width = video.shape[1:3]
    if size == (height, width):
        return video.astype(np.float32), mask > 0
    r = next(r for r in (2, 4) if (-(-height // r), -(-width // r)) == size)
    pixels, holes = to_tensors(video, mask, torch.device("cpu"))
    small = downsample_video(pixels, r)
    return to_numpy(small), downsample_mask(holes, r)[0, 0].numpy() > 0


def _enlarge(coarse: Tensor, r: int, shape: torch.Size) -> Tensor:
    """Enlarge 3DCN's output to the frames' size."""
    frames, height, width = shape[-3:]
    large = F.interpolate(coarse, scale_factor=(1, r, r), mode="trilinear", align_corners=False)
    return large[:, :, :frames, :height, :width]
