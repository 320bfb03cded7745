"""Cuts are found; motion, flashes and changes of light are not taken for cuts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fastinpaint.data.scenes import FLASH, SAME_SCENE, similarity, split_scenes, thumbnail
from fastinpaint.data.synthetic import synthetic_clip


def scenes_of(video: np.ndarray) -> list[int]:
    numbered = list(split_scenes(video, lambda frame: frame))
    assert np.array_equal(np.stack([frame for _, frame in numbered]), video)
    return [scene for scene, _ in numbered]


def pan(seed: int, frames: int, step: float, height: int = 96, width: int = 128) -> np.ndarray:
    """A camera that pans right over one picture by `step` of the frame's width per frame."""
    world = cv2.resize(synthetic_clip(seed, 1, 256)[0], (1024, 256), interpolation=cv2.INTER_CUBIC)
    return np.stack([world[40 : 40 + height, (x := round(t * step * width)) : x + width] for t in range(frames)])


def test_cuts_between_clips() -> None:
    lengths = [5, 9, 4, 12]
    video = np.concatenate([synthetic_clip(i, n, 96) for i, n in enumerate(lengths)])
    assert scenes_of(video) == [i for i, n in enumerate(lengths) for _ in range(n)]


@pytest.mark.parametrize("seed", range(8))
def test_no_cut_within_a_clip(seed: int) -> None:
    assert set(scenes_of(synthetic_clip(seed, 12, 96))) == {0}


def test_the_threshold_has_room_on_both_sides() -> None:
    clips = [[thumbnail(frame) for frame in synthetic_clip(seed, 2, 96)] for seed in range(10)]
    within = [similarity(first, second) for first, second in clips]
    across = [similarity(a, b) for i, (a, _) in enumerate(clips) for b, _ in clips[:i]]
    assert min(within) > SAME_SCENE + 0.1
    assert max(across) < SAME_SCENE - 0.07


@pytest.mark.parametrize("step", [0.02, 0.05, 0.08])
def test_a_fast_pan_is_no_cut(step: float) -> None:
    assert set(scenes_of(pan(1, 15, step))) == {0}


@pytest.mark.parametrize("length", range(1, FLASH + 1))
@pytest.mark.parametrize("light", [255, 0], ids=["white", "black"])
def test_a_flash_is_no_cut(length: int, light: int) -> None:
    video = synthetic_clip(2, 12, 96)
    video[5 : 5 + length] = light
    assert set(scenes_of(video)) == {0}


def test_a_cut_right_after_a_flash_is_found() -> None:
    video = np.concatenate([synthetic_clip(2, 6, 96), synthetic_clip(3, 8, 96)])
    video[5] = 255
    numbers = scenes_of(video)
    assert numbers[4] == 0
    assert numbers[6:] == [numbers[6]] * 8
    assert numbers[6] > 0


def test_a_long_black_passage_ends_the_scene() -> None:
    video = synthetic_clip(2, 20, 96)
    video[6:14] = 0
    numbers = scenes_of(video)
    assert numbers[5] == 0
    assert numbers[6] == numbers[13] == 1
    assert numbers[14] == numbers[19] == 2


@pytest.mark.parametrize("gain", [0.7, 1.3])
def test_a_jump_of_exposure_is_no_cut(gain: float) -> None:
    video = synthetic_clip(4, 10, 96).astype(float)
    video[5:] *= gain
    assert set(scenes_of(np.clip(video, 0, 255).astype(np.uint8))) == {0}


def test_an_object_that_enters_fast_is_no_cut() -> None:
    """A bright body on an empty road: little else has structure, yet most of the picture stays."""
    video = np.full((12, 96, 128, 3), 100, np.uint8)
    for t in range(12):
        cv2.ellipse(video[t], (40, 130 - 12 * t), (18, 30), 0, 0, 360, (240, 240, 250), -1)
    assert set(scenes_of(video)) == {0}


def test_dither_is_no_cut() -> None:
    """A body that moves over a ramp, in the eight colours of a coarse palette with random dither."""
    rng = np.random.default_rng(0)
    video = np.full((10, 48, 64, 3), np.linspace(20, 90, 64)[:, None])
    for t in range(10):
        video[t, 8:24, 2 * t : 2 * t + 16] = (220, 160, 100)
    dithered = np.clip(np.floor(video / 36 + rng.random(video.shape)) * 36, 0, 255).astype(np.uint8)
    assert set(scenes_of(dithered)) == {0}


def test_plain_scenes_differ_by_brightness_within_the_picture() -> None:
    """Two pictures without texture that share no outline."""
    left, right = np.full((2, 6, 96, 128, 3), 60, np.uint8)
    left[:, :, :64] = 200
    right[:, 60:] = 200
    assert scenes_of(np.concatenate([left, right])) == [0] * 6 + [1] * 6


def test_portrait_and_tiny_frames() -> None:
    video = np.concatenate([synthetic_clip(0, 5, 96)[:, :, :54], synthetic_clip(1, 5, 96)[:, :, :54]])
    assert scenes_of(video) == [0] * 5 + [1] * 5
    assert scenes_of(np.zeros((3, 2, 2, 3), np.uint8)) == [0, 0, 0]


def test_nothing_in_nothing_out() -> None:
    assert list(split_scenes([], lambda frame: frame)) == []
