"""`downsample` in plain torch: a video's holes filled, then video and mask reduced by r along H and W.

    filled = mask > 0 ? mean_pixel : video
    small[h, w] = mean of filled[r h + i, r w + j],   small_mask[h, w] = max of mask[r h + i, r w + j],   i, j < r

Where r does not divide H or W, the last row and column go on. No hole pixel of the video reaches the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastinpaint.ops.activation.reference import per_channel, wide


def fwd(video: Tensor, mask: Tensor, mean_pixel: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Video ``[N, C, T, ceil(H/r), ceil(W/r)]`` and mask ``[N, 1, T, ...]`` in their dtypes; mean_pixel is ``[C]``."""
    filled = torch.where(mask > 0, per_channel(wide(mean_pixel).to(wide(video).dtype), video), wide(video))
    pad = (0, -video.shape[-1] % r, 0, -video.shape[-2] % r, 0, 0)
    small = F.avg_pool3d(F.pad(filled, pad, mode="replicate"), (1, r, r)).to(video.dtype)
    return small, F.max_pool3d(F.pad(wide(mask), pad, mode="replicate"), (1, r, r)).to(mask.dtype)
