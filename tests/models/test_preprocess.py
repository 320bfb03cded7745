"""Filling, down-sampling and compositing against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastinpaint.models.preprocess import as_frames, as_video, composite, downsample_mask, downsample_video, fill_holes


def test_fill_holes_puts_the_mean_pixel_in_and_keeps_the_rest() -> None:
    video, mask = torch.rand(2, 3, 2, 4, 5), (torch.rand(2, 1, 2, 4, 5) > 0.5).float()
    mean = torch.tensor([0.1, 0.5, 0.9])
    filled = fill_holes(video, mask, mean)
    for n, t, y, x in np.ndindex(2, 2, 4, 5):
        expected = mean if mask[n, 0, t, y, x] else video[n, :, t, y, x]
        assert torch.equal(filled[n, :, t, y, x], expected)


@pytest.mark.parametrize("r", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 12), (5, 7), (1, 3)], ids=str)
def test_down_sampling_is_the_mean_of_squares_and_any_hole(r: int, size: tuple[int, int]) -> None:
    video, mask = torch.rand(1, 3, 2, *size), (torch.rand(1, 1, 2, *size) > 0.8).float()
    small, small_mask = downsample_video(video, r), downsample_mask(mask, r)
    height, width = size
    assert small.shape[-2:] == small_mask.shape[-2:] == (-(-height // r), -(-width // r))
    for y, x in np.ndindex(*small.shape[-2:]):
        rows = [min(y * r + i, height - 1) for i in range(r)]
        columns = [min(x * r + i, width - 1) for i in range(r)]
        square = video[..., rows, :][..., columns]
        torch.testing.assert_close(small[..., y, x], square.mean((-2, -1)))
        assert torch.equal(small_mask[..., y, x], mask[..., rows, :][..., columns].amax((-2, -1)))


def test_composite_takes_known_pixels_bit_for_bit() -> None:
    video, mask = torch.rand(1, 3, 2, 4, 4), (torch.rand(1, 1, 2, 4, 4) > 0.5).float()
    output = torch.full_like(video, float("nan"))
    result = composite(output, video, mask)
    hole = mask.expand_as(video) > 0
    assert torch.equal(result[~hole], video[~hole])
    assert result[hole].isnan().all()


def test_frames_and_back() -> None:
    video = torch.rand(2, 3, 4, 5, 6)
    frames = as_frames(video)
    assert torch.equal(frames[5], video[1, :, 1])
    assert torch.equal(as_video(frames, 2), video)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda v, m: fill_holes(v[:, :2], m, torch.zeros(3)), "[N, 3, T, H, W]"),
        (lambda v, m: fill_holes(v, m[:, :, :1], torch.zeros(3)), "mask"),
        (lambda v, m: fill_holes(v, m, torch.zeros(1)), "mean_pixel"),
        (lambda v, m: composite(v, v[:, :, :1], m), "video"),
    ],
    ids=["channels", "mask", "mean_pixel", "composite"],
)
def test_wrong_shapes_are_named(call, word: str) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        call(torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4))
    assert word in str(caught.value)
