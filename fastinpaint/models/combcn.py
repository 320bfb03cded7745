"""CombCN: completes single frames at full size, guided by 3DCN (Wang et al. 2019, Table 1 bottom and Fig. 2b)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastinpaint.models.config import ModelConfig
from fastinpaint.models.layers import build_layers, join_skip
from fastinpaint.models.padding import pad_ends, pad_to_multiple
from fastinpaint.models.table import COMBCN, COMBCN_SKIPS, GUIDANCE_PLACES, MULTIPLE


class TwoDCN(nn.Module):
    """2DCN: CombCN without guidance, the paper's single-frame baseline.

    Buffers:
        mean_pixel: ``[3]``, RGB in [0, 1]: the fill value of holes, set by the trainer.
    """

    mean_pixel: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        self.layers = build_layers(COMBCN, COMBCN_SKIPS, {}, self.config, dims=2)
        self.register_buffer("mean_pixel", torch.zeros(3))

    def forward(self, frames: Tensor) -> Tensor:
        """Complete frames ``[B, 4, H, W]`` (RGB in [0, 1] with holes filled, and the mask) to ``[B, 3, H, W]``."""
        if frames.dim() != 4 or frames.shape[1] != 4:
            raise ValueError(f"TwoDCN: frames must be [B, 4, H, W], got {tuple(frames.shape)}.")
        height, width = frames.shape[2:]
        x = pad_to_multiple(frames, (MULTIPLE, MULTIPLE))
        kept: dict[int, Tensor] = {}
        for name, layer in self.layers.items():
            number = int(name)
            if number in COMBCN_SKIPS:
                x = join_skip(x, kept.pop(COMBCN_SKIPS[number]), self.config)
            x = layer(x)
            if number in COMBCN_SKIPS.values():
                kept[number] = x
        return x[:, :, :height, :width]


class CombCN(nn.Module):
    """The 3D-2D combined completion network: 17 layers and two guidance convolutions.

    Two 3x3 convolutions turn 3DCN's frames into maps. The maps are added to CombCN's first and last maps of the same
    size (r=2: the outputs of layers 2 and 14). The skip connection from the first one branches off before the addition.
    With ``guidance="before"`` they are added to the convolution outputs of those layers, before BN and ReLU.
    """

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        self.config = config or ModelConfig()
        first, after_last = GUIDANCE_PLACES[self.config.r]
        self.places = (first, after_last - 1)
        if self.config.preset == "chang2019":
            self.layers = build_layers(COMBCN, COMBCN_SKIPS, {n + 1: 3 for n in self.places}, self.config, dims=2)
            self.guidance = nn.ModuleDict()
        else:
            self.layers = build_layers(COMBCN, COMBCN_SKIPS, {}, self.config, dims=2)
            widths = {n: self.config.channels(COMBCN[n - 1].channels) for n in self.places}
            bias = self.config.guidance == "after"  # batch norm would cancel it
            self.guidance = nn.ModuleDict({str(n): nn.Conv2d(3, w, 3, padding=1, bias=bias) for n, w in widths.items()})

    def forward(self, frames: Tensor, guidance: Tensor) -> Tensor:
        """Complete frames.

        Args:
            frames: ``[B, 4, H, W]``, RGB in [0, 1] with the holes filled, and the mask (1 = hole); any H, W >= 1.
            guidance: ``[B, 3, ceil(H/r), ceil(W/r)]``, 3DCN's completion of the same frames.

        Returns:
            ``[B, 3, H, W]``, RGB, linear (not clamped).
        """
        guidance = self._padded_guidance(frames, guidance)
        height, width = frames.shape[2:]
        x = pad_to_multiple(frames, (MULTIPLE, MULTIPLE))
        kept: dict[int, Tensor] = {}
        for name, layer in self.layers.items():
            number = int(name)
            if number in COMBCN_SKIPS:
                x = join_skip(x, kept.pop(COMBCN_SKIPS[number]), self.config)
            before = name in self.guidance and self.config.guidance == "before"
            if before:
                conv, norm, relu = layer.children()
                x = relu(norm(conv(x) + self.guidance[name](guidance)))
            else:
                x = layer(x)
            if number in COMBCN_SKIPS.values():
                kept[number] = x
            if number in self.places and self.config.preset == "chang2019":
                x = torch.cat([x, guidance], 1)
            elif number in self.places and not before:
                x = x + self.guidance[name](guidance)
        return x[:, :, :height, :width]

    def _padded_guidance(self, frames: Tensor, guidance: Tensor) -> Tensor:
        """The guidance, padded to match the padded frames. Raises ValueError for wrong shapes."""
        if frames.dim() != 4 or frames.shape[1] != 4:
            raise ValueError(f"CombCN: frames must be [B, 4, H, W], got {tuple(frames.shape)}.")
        r, (batch, _, height, width) = self.config.r, frames.shape
        expected = (batch, 3, -(-height // r), -(-width // r))
        if tuple(guidance.shape) != expected:
            raise ValueError(
                f"CombCN: guidance must be {expected} for frames {tuple(frames.shape)} and r={r}, "
                f"got {tuple(guidance.shape)}."
            )
        return pad_ends(guidance, [-(-n // MULTIPLE) * MULTIPLE // r - -(-n // r) for n in (height, width)])
