"""The baselines read known pixels only, keep them, and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from fastinpaint.metrics import BASELINES, navier_stokes, nearest_in_time, telea, temporal_median


def video_and_mask() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (4, 16, 18, 3), np.uint8)
    mask = np.zeros((4, 16, 18), bool)
    for t in range(4):
        mask[t, 4:9, 2 * t + 1 : 2 * t + 9] = True
    return video, mask


@pytest.mark.parametrize("name", BASELINES)
def test_known_pixels_stay_and_hidden_ones_have_no_influence(name: str) -> None:
    video, mask = video_and_mask()
    kept = video.copy()
    result = BASELINES[name](video, mask)
    assert result.dtype == np.uint8
    assert np.array_equal(video, kept)
    assert np.array_equal(result[~mask], video[~mask])
    changed = np.where(mask[..., None], 255 - video, video)
    assert np.array_equal(BASELINES[name](changed, mask), result)


@pytest.mark.parametrize("fill", [telea, navier_stokes])
def test_spatial_rivals_fill_a_plain_surface_frame_by_frame(fill) -> None:
    _, mask = video_and_mask()
    plain = np.empty((4, 16, 18, 3), np.uint8)
    plain[:] = (np.array([40, 90, 140, 190])[:, None] + np.array([0, 10, 20]))[:, None, None]
    filled = fill(np.where(mask[..., None], 0, plain).astype(np.uint8), mask)
    assert np.abs(filled.astype(int) - plain).max() <= 3  # OpenCV rounds at every step inwards; 2 is seen


def test_temporal_median_is_the_median_of_what_is_known() -> None:
    video, mask = video_and_mask()
    result = temporal_median(video, mask)
    hidden_always = mask.all(0)
    assert hidden_always.any()
    for t, y, x in np.argwhere(mask & ~hidden_always):
        known = [video[s, y, x] for s in range(4) if not mask[s, y, x]]
        assert np.array_equal(result[t, y, x], np.rint(np.median(known, 0))), (t, y, x)


def test_temporal_median_restores_a_still_scene() -> None:
    video, mask = video_and_mask()
    still, mask = np.repeat(video[:1], 4, 0), mask & ~mask.all(0)
    assert np.array_equal(temporal_median(np.where(mask[..., None], 0, still).astype(np.uint8), mask), still)


def test_temporal_median_is_telea_where_nothing_was_ever_known() -> None:
    video, mask = video_and_mask()
    always = np.broadcast_to(mask[0], mask.shape)
    assert np.array_equal(temporal_median(video, always), telea(video, always))


def test_nearest_in_time_weighs_both_sides_by_distance() -> None:
    video = np.empty((4, 8, 8, 3), np.uint8)
    video[:] = np.uint8([10, 99, 99, 40])[:, None, None, None]
    mask = np.zeros(video.shape[:3], bool)
    mask[1:3, 2:5, 2:5] = True
    filled = nearest_in_time(video, mask)
    assert (filled[1][mask[1]] == 20).all()  # (10 / 1 + 40 / 2) / (1 + 1 / 2)
    assert (filled[2][mask[2]] == 30).all()
    assert np.array_equal(filled[~mask], video[~mask])
    mask[:, 3, 3] = True
    assert nearest_in_time(video, mask)[3, 3, 3] == pytest.approx(telea(video, mask)[3, 3, 3], abs=1)
