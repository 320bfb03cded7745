"""A thing that passes a still place is outvoted; the camera is still where only things move; light is not a thing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fastinpaint.propagation import propagate
from fastinpaint.propagation.boxes import around
from fastinpaint.propagation.camera import between, register
from fastinpaint.propagation.candidates import NAMES, relit
from fastinpaint.propagation.carry import Mosaic
from fastinpaint.propagation.evidence import Evidence
from fastinpaint.propagation.majority import TOLERANCE, Votes
from fastinpaint.propagation.rounds import Clip

HEIGHT, WIDTH, FRAMES = 64, 96, 28


def ground(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """A pavement: a smooth random picture of little contrast, uint8 ``[H, W, 3]``."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.rint(190 + smooth / smooth.std() * 14).clip(0, 255).astype(np.uint8)


def passing(speed: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A dark, patterned thing that walks over still ground: the video, and bool ``[T, H, W]``, where the thing is."""
    thing = (ground(26, 16, 5).astype(np.int16) * 2 - 300).clip(0, 120).astype(np.uint8)
    video = np.repeat(ground()[None], FRAMES, 0)
    there = np.zeros(video.shape[:3], bool)
    for t in range(FRAMES):
        left = round(speed * t) - 6
        first, last = max(0, left), min(WIDTH, left + 16)
        video[t, 24:50, first:last] = thing[:, first - left : last - left]
        there[t, 24:50, first:last] = True
    return video, there


def sliding(left: int, speed: float, width: int = 26) -> np.ndarray:
    """A box that slides to the left."""
    mask = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    for t in range(FRAMES):
        start = int(left - speed * t)
        mask[t, 14:46, max(0, start) : max(0, start + width)] = True
    return mask


STARTS = np.arange(FRAMES) == 0


def test_a_camera_is_exactly_still_although_a_thing_passes() -> None:
    video, _ = passing()
    assert np.array_equal(register(video, ~sliding(70, 2.0), STARTS), np.tile(np.eye(3), (FRAMES, 1, 1)))


def test_a_pan_is_registered_to_its_first_frame_without_drift() -> None:
    wide = cv2.GaussianBlur(ground(HEIGHT, 3 * WIDTH), (0, 0), 1.0)
    shifts = [np.float32([[1, 0, -4 - 1.7 * t], [0, 1, 0]]) for t in range(FRAMES)]
    video = np.stack([cv2.warpAffine(wide, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC) for shift in shifts])
    known = np.ones(video.shape[:3], bool)
    found = register(video, known, STARTS)
    assert np.abs(found[:, 0, 2] - 1.7 * np.arange(FRAMES)).max() < 1.0
    places = [(np.array([30]), np.array([40]))] * FRAMES
    assert np.allclose(between(found, places, STARTS).past[9], [[1.7, 0]], atol=0.3)
    cut = STARTS | (np.arange(FRAMES) == 9)
    assert np.array_equal(register(video, known, cut)[9], np.eye(3))
    assert not between(found, places, cut).past[9].any()  # type: ignore[union-attr]


def test_a_thing_that_passes_is_outvoted() -> None:
    video, mask = passing()[0], sliding(70, 2.0)
    votes, mosaic = Votes(video, mask, np.tile(np.eye(3), (FRAMES, 1, 1)), STARTS), Mosaic(video)
    for t in range(0, FRAMES, 3):
        box, place = around(mask[t], 4), np.nonzero(mask[t])
        assert box is not None
        found = votes.of(t, box, place)
        assert (found.source.frame >= 0).all()
        assert not mask[found.source.frame, place[0], place[1]].any()
        gap = np.abs(mosaic.sample(*found.source).astype(int) - ground()[place])
        assert gap.max() <= TOLERANCE
        assert (found.support >= 0.4).all()


def test_no_frame_of_another_scene_and_no_hidden_place_is_asked() -> None:
    video, mask = passing()[0], np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    mask[:, 20:30, 20:30] = True
    mask[20, 20:30, 20:30] = False
    starts = STARTS | (np.arange(FRAMES) == 14)
    votes = Votes(video, mask, np.tile(np.eye(3), (FRAMES, 1, 1)), starts)
    box = around(mask[3], 2)
    assert box is not None
    place = np.array([25]), np.array([25])
    first, second = votes.of(3, box, place), votes.of(22, box, place)
    assert (first.source.frame[0], first.shown[0], first.support[0]) == (-1, 0, 0)
    assert (second.source.frame[0], second.shown[0], second.support[0]) == (20, 1, 1)


@pytest.mark.parametrize("speed", [3.0, 4.0])
def test_a_thing_half_covered_does_not_bleed_into_the_ground_beside_it(speed: float) -> None:
    """Measured 0.72 and 0.69, with 0.2 % of the pixels wrong by more than 30; without the majority 1.6 and 1.3 %."""
    video, there = passing()
    mask = sliding(60, speed)
    filled = propagate(video, mask).video
    apart = np.stack([cv2.dilate(frame.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0 for frame in there]) & mask
    error = np.abs(filled.astype(int) - video).max(3)[apart]
    assert error.mean() < 1.0
    assert (error > 30).mean() < 0.005


def test_a_thing_at_the_ring_is_no_light_and_light_is_corrected() -> None:
    value = np.full((100, 3), 200, np.uint8)
    offset, error = np.zeros(100, np.float32), np.ones(100, np.float32)
    offset[:30], error[:30] = -80, 80
    age = np.zeros(100, np.float32)
    assert np.array_equal(relit(value, Evidence(offset, error, age)), value)
    light = Evidence(np.full(100, -20, np.float32), np.full(100, 20, np.float32), age)
    assert np.abs(relit(value, light).astype(int) - 180).max() <= 2


@pytest.mark.parametrize("rim", [0, 2, 3])
def test_the_edge_of_a_thing_that_the_mask_leaves_out_is_no_light(rim: int) -> None:
    video = np.repeat(ground()[None], 14, 0)
    hole = np.zeros(video.shape[:3], bool)
    for t in range(14):
        hole[t, 20:42, 4 + 5 * t : 24 + 5 * t] = True
        edge = cv2.dilate(hole[t].astype(np.uint8), np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)) > 0
        video[t][edge] = 60
    clip = Clip(video, hole, np.arange(14) == 0)
    found = clip.search()
    values = clip.candidates(7, found, found.mosaic).values[NAMES.index("majority")]
    error = np.abs(values.astype(int) - ground()[clip.places[7]]).mean(1)
    assert np.median(error) < 2
    assert error.mean() < 6
