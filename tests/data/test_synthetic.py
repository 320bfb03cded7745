"""Rendered clips are seeded, move, and can be learnt: visible pixels determine what a hole hides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fastinpaint.data.synthetic import synthetic_clip, write_synthetic
from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError


@pytest.mark.parametrize(("frames", "size"), [(5, 64), (1, 32), (3, 33)])
def test_shape_and_seed(frames: int, size: int) -> None:
    video = synthetic_clip(3, frames, size)
    assert video.shape == (frames, size, size, 3)
    assert video.dtype == np.uint8
    assert np.array_equal(video, synthetic_clip(3, frames, size))
    assert not np.array_equal(video, synthetic_clip(4, frames, size))


def test_clips_have_contrast_and_move_by_little() -> None:
    for seed in range(10):
        video = synthetic_clip(seed, 6, 64).astype(float)
        assert video.std() > 15
        step = np.abs(np.diff(video, axis=0)).mean()
        far = np.abs(video[0] - video[0][::-1, ::-1]).mean()  # what two unrelated places differ by
        assert 0.3 < step < 0.5 * far


def test_the_camera_shows_again_what_a_hole_hides() -> None:
    """The centre of frame 4 is found, shifted, in frame 0 but not in another clip, so a video network can fill it."""
    own, other = [], []
    for seed in range(12):
        video = synthetic_clip(seed, 5, 64)
        middle = video[4, 24:40, 24:40]
        for found, frame in ((own, video[0]), (other, synthetic_clip(seed + 100, 1, 64)[0])):
            found.append(cv2.matchTemplate(frame, middle, cv2.TM_CCOEFF_NORMED).max())
    assert np.median(own) > 0.75
    assert np.median(own) > np.median(other) + 0.2


def test_written_clips_read_back(tmp_path: Path) -> None:
    paths = write_synthetic(tmp_path / "clips", clips=2, frames=6, size=48, seed=7)
    assert [path.name for path in paths] == ["synthetic_000.mp4", "synthetic_001.mp4"]
    for i, path in enumerate(paths):
        with open_video(path) as reader:
            video = np.stack([frame.rgb for frame in reader]).astype(int)
        assert video.shape == (6, 48, 48, 3)
        error = np.abs(video - synthetic_clip(7 + i, 6, 48)).mean()
        assert error < 8  # H.264 halves the colour's resolution
        assert error < 0.3 * np.abs(video - synthetic_clip(8 - i, 6, 48)).mean()


def test_odd_size_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the size must be even.*got 33\.$"):
        write_synthetic(tmp_path, clips=1, frames=2, size=33)
