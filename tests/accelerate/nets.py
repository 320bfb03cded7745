"""Small versions of public network designs, a few lines each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastinpaint.nn import Deferred


def conv3(channels_in: int, channels_out: int, kernel: tuple[int, ...] = (1, 3, 3), **options: object) -> nn.Sequential:
    conv = nn.Conv3d(channels_in, channels_out, kernel, padding=tuple(k // 2 for k in kernel), **options)
    return nn.Sequential(conv, nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True))


class AnisotropicUNet(nn.Module):
    """A 3D U-Net of flat kernels and strides, as for microscopy; torch.cat skips."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = conv3(1, 4), conv3(4, 8, stride=(1, 2, 2))
        self.middle = nn.Sequential(conv3(8, 8, (3, 3, 3)), conv3(8, 8))
        self.up = nn.ConvTranspose3d(8, 4, (1, 2, 2), (1, 2, 2))
        self.last, self.head = conv3(8, 4), nn.Conv3d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        x = self.up(self.middle(self.down(skip)))
        return self.head(self.last(torch.cat([skip, x], dim=1)))


class Residual(nn.Module):
    """R(2+1)D: a spatial and a temporal convolution, batch norm, addition, then ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(channels_in, 6, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.bn1, self.relu = nn.BatchNorm3d(6), nn.ReLU(inplace=True)
        self.time = nn.Conv3d(6, channels_out, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(channels_out)
        self.downsample = None
        if stride != 1 or channels_in != channels_out:
            conv = nn.Conv3d(channels_in, channels_out, 1, (1, stride, stride), bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm3d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        residual = x
        out = self.bn2(self.time(self.relu(self.bn1(self.space(x)))))
        if self.downsample is not None:
            residual = self.downsample(x)
        out += residual
        return self.relu(out)


class R2Plus1D(nn.Module):
    """A small video classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv3(1, 4, (3, 3, 3))
        self.layers = nn.Sequential(Residual(4, 4, 1), Residual(4, 8, 2), Residual(8, 8, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool3d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layers(self.stem(x))).flatten(1))


class Foreign(nn.Module):
    """A 2D net with pooling, interpolation, GroupNorm, Linear and a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1, inplace=True))
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)
        self.group = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.gate, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = F.max_pool2d(self.stem(x), 2)
        y = F.relu(self.bn(self.conv(x)), inplace=True)
        z = self.group(y) * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        up = F.interpolate(y + z, scale_factor=2, mode="bilinear")
        return {"map": up, "logits": [self.fc(z.amax((2, 3))), (y[:, ::2] - y[:, 1::2]).abs()]}


class Shared(nn.Module):
    """One batch norm under two convolutions, one block in two places, one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice, self.bn = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
        )
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1), self.bn, nn.ReLU())
        self.stages = nn.ModuleList([self.block, self.block])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.bn(self.enter(x)).relu()
        b = self.twice(self.twice(a))
        for stage in self.stages:
            b = stage(b)
        return self.bn(b) + a, self.twice(b)


class PreActivation(nn.Module):
    """Dense blocks in the order batch norm, ReLU, convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.dense = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 * i), nn.ReLU(inplace=True), nn.Conv2d(4 * i, 4, 3, padding=1))
            for i in (1, 2, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.dense:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "anisotropic 3d u-net": (AnisotropicUNet, (2, 1, 3, 8, 8)),
    "r(2+1)d": (R2Plus1D, (2, 1, 4, 8, 8)),
    "foreign layers": (Foreign, (2, 1, 8, 8)),
    "shared modules": (Shared, (2, 1, 6, 6)),
    "pre-activation": (PreActivation, (2, 1, 6, 6)),
}


def tensors(result: object) -> list[Tensor]:
    """Every plain tensor of a result, in order. Deferred activations do not count."""
    assert not isinstance(result, Deferred)
    if isinstance(result, Tensor):
        return [result]
    items = result.values() if isinstance(result, dict) else result
    return [tensor for item in items for tensor in tensors(item)]  # type: ignore[union-attr]


def step(net: nn.Module, *inputs: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Results, gradients and buffers of one training step with a loss that weighs every value differently."""
    net.zero_grad()
    results = tensors(net(*inputs))
    loss = sum((r * torch.linspace(-1, 2, r.numel(), dtype=r.dtype).view_as(r)).square().sum() for r in results)
    loss.backward()  # type: ignore[union-attr]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]
    return [r.detach() for r in results], grads, [b.clone() for b in net.buffers()]


def assert_same_step(ours: nn.Module, expected: nn.Module, *inputs: Tensor) -> None:
    """Equal to 1e-10, relative to the largest value of each tensor and of all gradients."""
    for mine, theirs in zip(step(ours, *inputs), step(expected, *inputs), strict=True):
        largest = max(float(t.abs().max()) for t in theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(float(b.abs().max()), 1e-3 * largest))
