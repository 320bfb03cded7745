"""A 3D U-Net like nnU-Net's on one volume: bytes kept for backward with and without `accelerate`.

python examples/unet_3d.py
"""

import itertools

import torch
from torch import Tensor, nn

import fastinpaint


def double(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [nn.Conv3d(channels, channels_out, 3, padding=1), nn.BatchNorm3d(channels_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet3d(nn.Module):
    """Three levels; the decoder concatenates the encoder's maps."""

    def __init__(self, channels_in: int = 1, classes: int = 2, width: int = 16) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([channels_in, *sizes[:-1]], sizes, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in itertools.pairwise(sizes))
        self.merge = nn.ModuleList(double(2 * a, a) for a in sizes[:-1])
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, down in enumerate(self.down):
            x = down(x if level == 0 else nn.functional.max_pool3d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(reversed(self.up), reversed(self.merge), reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        return self.head(x)


def kept_bytes(model: nn.Module, volume: Tensor) -> int:
    """Bytes that autograd keeps for backward, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(volume).square().mean()
    loss.backward()
    return sum(kept.values())


def main() -> tuple[int, int]:
    torch.manual_seed(0)
    model, volume = UNet3d(), torch.randn(1, 1, 32, 32, 32)
    before = kept_bytes(model, volume)
    after = kept_bytes(fastinpaint.accelerate(model, example=volume, objective="memory"), volume)
    print(f"kept for backward: {before / 2**20:.1f} MiB plain, {after / 2**20:.1f} MiB accelerated")
    return before, after


if __name__ == "__main__":
    main()
