"""Well-known designs that no package at hand builds: each as its paper has it, with fewer channels or blocks."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class _Residual(nn.Module):
    """Residual blocks between a head and a tail, and a sum over all of them."""

    head: nn.Module
    body: nn.ModuleList
    after: nn.Module
    tail: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.head(x)
        for block in self.body:
            x = x + block(x)
        return self.tail(first + self.after(x))


class EDSR(_Residual):
    """Super-resolution by residual blocks without norms and a pixel shuffle (Lim et al. 2017), "baseline"."""

    def __init__(self, channels: int = 64, blocks: int = 8, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.after = nn.Conv2d(channels, channels, 3, padding=1)
        self.tail = nn.Sequential(
            nn.Conv2d(channels, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale),
            nn.Conv2d(channels, 3, 3, padding=1),
        )  # fmt: skip


class SRResNet(_Residual):
    """Super-resolution with batch norm and PReLU (Ledig et al. 2017)."""

    def __init__(self, channels: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.PReLU(),
                nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.after = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.tail = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(),
            nn.Conv2d(channels, 3, 9, padding=4),
        )  # fmt: skip


def discriminator(channels: int = 64) -> nn.Sequential:
    """A patch discriminator with spectral norm and LeakyReLU (Isola et al. 2017, Miyato et al. 2018)."""
    wide = [3, channels, 2 * channels, 4 * channels, 8 * channels]
    layers: list[nn.Module] = []
    for i, (given, made) in enumerate(pairwise(wide)):
        conv = nn.Conv2d(given, made, 4, 2 if i < 3 else 1, 1)
        layers += [parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, parametrizations.spectral_norm(nn.Conv2d(wide[-1], 1, 4, 1, 1)))


def autoencoder(channels: int = 32) -> nn.Sequential:
    """Strided convolutions down and transposed ones up, with batch norm and ReLU (DCGAN's, Radford et al. 2016)."""
    wide = [3, channels, 2 * channels, 4 * channels, 8 * channels]
    layers: list[nn.Module] = []
    for given, made in pairwise(wide):
        layers += [nn.Conv2d(given, made, 4, 2, 1, bias=False), nn.BatchNorm2d(made), nn.LeakyReLU(0.2, inplace=True)]
    for given, made in pairwise(wide[:0:-1]):
        layers += [nn.ConvTranspose2d(given, made, 4, 2, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())


class UNet3D(nn.Module):
    """A 3D U-Net whose layers are group norm, convolution and ReLU, in this order (pytorch-3dunet's default)."""

    def __init__(self, channels: int = 16, levels: int = 3) -> None:
        super().__init__()
        wide = [channels * 2**i for i in range(levels)]

        def double(given: int, made: int) -> nn.Sequential:
            middle = max(given, made // 2)
            sizes = ((given, middle), (middle, made))
            return nn.Sequential(
                *(
                    nn.Sequential(nn.GroupNorm(min(8, a), a), nn.Conv3d(a, b, 3, padding=1, bias=False), nn.ReLU(True))
                    for a, b in sizes
                )
            )

        self.down = nn.ModuleList(double(a, b) for a, b in zip([1, *wide], wide, strict=False))
        self.up = nn.ModuleList(double(a + b, b) for a, b in zip(wide[:0:-1], wide[-2::-1], strict=False))
        self.pool, self.head = nn.MaxPool3d(2), nn.Conv3d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = nn.functional.interpolate(x, skip.shape[2:], mode="nearest")
            x = block(torch.cat([skip, x], 1))
        return self.head(x)
