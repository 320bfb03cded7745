"""3DCN: completes a small version of the whole video (Wang et al. 2019, Table 1 top and Fig. 2a)."""

from __future__ import annotations

from torch import Tensor, nn

from fastinpaint.models.config import ModelConfig
from fastinpaint.models.layers import build_layers, join_skip
from fastinpaint.models.padding import pad_to_multiple
from fastinpaint.models.table import MULTIPLE, THREEDCN, THREEDCN_SKIPS


class ThreeDCN(nn.Module):
    """The 3D completion network: 12 layers. The output has the input's size and frames and is not composited."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        self.layers = build_layers(THREEDCN, THREEDCN_SKIPS, {}, self.config, dims=3)

    def forward(self, x: Tensor) -> Tensor:
        """Complete a video.

        Args:
            x: ``[N, 4, T, h, w]``, RGB in [0, 1] with the holes filled, and the mask (1 = hole); any T, h, w >= 1.

        Returns:
            ``[N, 3, T, h, w]``, RGB, linear (not clamped).
        """
        if x.dim() != 5 or x.shape[1] != 4:
            raise ValueError(f"ThreeDCN: x must be [N, 4, T, h, w], got {tuple(x.shape)}.")
        frames, height, width = x.shape[2:]
        x = pad_to_multiple(x, (self.config.time_stride**2, MULTIPLE, MULTIPLE))
        kept: dict[int, Tensor] = {}
        for name, layer in self.layers.items():
            number = int(name)
            if number in THREEDCN_SKIPS:
                x = join_skip(x, kept.pop(THREEDCN_SKIPS[number]), self.config)
            x = layer(x)
            if number in THREEDCN_SKIPS.values():
                kept[number] = x
        return x[:, :, :frames, :height, :width]
