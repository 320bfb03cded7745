"""Launches are prepared once: a layer's later steps describe no problem, choose no tile and call no dispatcher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.conv_block.triton import activate_first, tiles
from fastinpaint.testing import launches


def net() -> nn.Sequential:
    """Of 8 to 24 channels: plain, strided and transposed convolutions with batch norm."""
    layers: list[nn.Module] = []
    up = nn.ConvTranspose2d(24, 16, 4, stride=2, padding=1)
    for conv in (nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1), up):
        conv.bias = None
        layers += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 8, 3, bias=False))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The grids of the dispatchers that were asked for, with all launches left out."""
    grids: list[object] = []
    upstream = launches._Kernel.__getitem__

    def note(kernel: launches._Kernel, grid: object) -> object:
        grids.append(grid)
        return upstream(kernel, grid)

    monkeypatch.setattr(launches._Kernel, "__getitem__", note)
    return grids


@pytest.mark.parametrize("written", [False, True], ids=["prologues in the loop", "activate first"])
def test_a_warm_step_prepares_nothing(written: bool, asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activate_first, "LEAST_CHANNELS", 8)
    monkeypatch.setattr(tiles, "BOX_TILES", (tiles.Tile(16, 8, 16, 4, 2),))
    monkeypatch.setenv(activate_first.ENVIRONMENT, str(int(written)))
    with launches.without_launches("triton") as launched:
        fast, x = fastinpaint.accelerate(net(), backend="triton"), torch.randn(2, 8, 8, 8)
        seen = []
        for _ in range(2):
            launched.clear()
            asked.clear()
            with torch.autocast("cpu", torch.bfloat16):
                loss = fast(x).float().square().mean()
            loss.backward()
            seen.append((len(asked), list(launched)))
    (first, cold), (again, warm) = seen
    assert first > 0
    assert again == 0
    assert set(cold) == set(warm)
    assert ("box_wgrad_kernel" in warm, "write_gradient_kernel" in warm) == (written, written)
