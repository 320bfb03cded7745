"""wgrad from boxes: every kind of convolution against the reference, and which convolutions take it."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block.triton import activate_first, boxes, tiles
from fastinpaint.ops.conv_block.triton.taps import problem
from fastinpaint.ops.types import Geometry
from fastinpaint.testing import interpreter
from tests.ops.conv_block.triton.test_conv_block import run
from tests.ops.triton.cases import CASES, Case

KINDS = [
    "2d", "2d-strided", "2d-dilated-dead-taps", "2d-concat", "2d-transposed", "2d-transposed-dilated", "3d-strided",
    "3d-strided-in-time", "3d-transposed", "3d-spatial-only",
]  # fmt: skip
MORE = {
    "stride-1-with-fewer-out-channels": Case((32,), 16, (5, 6), (3, 3), bias=True),
    "transposed-of-stride-1": Case((16,), 32, (4, 5), (3, 3), transposed=True),
    "transposed-of-stride-1-to-fewer": Case((32,), 16, (4, 5), (3, 3), transposed=True),
    "two-blocks-of-each": Case((40,), 72, (3, 4), (3, 3), samples=1),
    "shorter-than-its-stride": Case((16,), 16, (1, 5), (3, 3), stride=3),
    "a-plain-source": Case((16,), 16, (5, 4), (3, 3), options=({"affine": False, "relu": False},)),
}


def in_eights(case: Case) -> Case:
    """The case with channels that copy engines take."""
    channels = tuple(-(-c // 8) * 8 for c in case.channels)
    return case._replace(channels=channels, out_channels=-(-case.out_channels // 8) * 8)


@pytest.fixture
def small(monkeypatch) -> list[str]:
    """Boxes for few channels; a program takes two taps or one. Returns the roles of each launch."""
    monkeypatch.setattr(activate_first, "LEAST_CHANNELS", 16)
    monkeypatch.setattr(tiles, "BOX_TILES", (tiles.Tile(32, 16, 16, 4, 2),))
    found: list[str] = []
    upstream = boxes.roles

    def roles(conv, channels, out_channels):
        chosen = upstream(conv, channels, out_channels)
        found.append("G moves" if chosen.g_moves else "a moves")
        return chosen

    monkeypatch.setattr(boxes, "roles", roles)
    return found


@pytest.mark.parametrize("name", [*KINDS, *MORE])
def test_the_gradients_are_the_references(name, small):
    case = in_eights({**CASES, **MORE}[name])
    run(case, torch.bfloat16)
    channels, wider_g = sum(case.channels), case.out_channels > sum(case.channels)
    alike = case.stride * case.stride_t > 1 or channels == case.out_channels
    assert small == ["G moves" if (case.transposed if alike else not wider_g) else "a moves"]


def test_float16_too(small):
    run(in_eights(CASES["2d-strided"]), torch.float16)
    assert small == ["a moves"]


@pytest.mark.parametrize("name", ["2d", "2d-strided", "2d-transposed", "two-blocks-of-each"])
def test_three_taps_a_program(name, small, monkeypatch):
    monkeypatch.setattr(tiles, "BOX_TILES", (tiles.Tile(48, 16, 16, 4, 2),))
    run(in_eights({**CASES, **MORE}[name]), torch.bfloat16)
    assert small


def test_a_tile_is_a_product_per_tap():
    tile = tiles.Tile(192, 256, 64, 8, 3)
    assert [tiles.box_rows(tile, channels) for channels in (16, 64, 72, 256)] == [16, 64, 64, 64]
    assert [tiles.box_rows(tile._replace(m=256), channels) for channels in (64, 72, 256)] == [64, 128, 256]


def of(x, y, kernel=(3, 3), dtype=torch.bfloat16, **geometry):
    """Whether a convolution's weight gradient comes from boxes."""
    chosen = Geometry(**{"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "output_padding": (0, 0), **geometry})
    shape = (x[1], y[1], *kernel) if chosen.transposed else (y[1], x[1], *kernel)
    return activate_first.suits(torch.empty(shape, dtype=dtype, device="meta"), problem(x, y, kernel, chosen))


def test_which_convolutions_take_it(monkeypatch):
    x, y = (2, 64, 8, 8), (2, 128, 8, 8)
    assert of(x, y)
    assert of(x, y, dtype=torch.float16)
    assert of(x, y, transposed=True)
    assert not of(x, y, dtype=torch.float32)
    assert not of(x, y, kernel=(1, 1), padding=(0, 0))
    assert not of((2, 32, 8, 8), y)
    assert not of(x, (2, 32, 8, 8))
    assert not of((2, 68, 8, 8), y)
    monkeypatch.setenv(activate_first.ENVIRONMENT, "0")
    assert not of(x, y)


def test_a_device_without_copy_engines_does_not(monkeypatch):
    monkeypatch.setattr(activate_first.support, "has_copy_engines", lambda: False)
    assert not of((2, 64, 8, 8), (2, 128, 8, 8))


@pytest.mark.skipif(not interpreter.interpreting(), reason="launches are counted in the interpreter.")
def test_g_is_written_once_for_dgrad_and_wgrad(small):
    with interpreter.launches() as names:
        run(in_eights(CASES["2d"]), torch.bfloat16)
    assert names.count("write_gradient_kernel") == 1
    assert names.count("box_wgrad_kernel") == 1
    assert "conv_wgrad_kernel" not in names
