"""Pieces of the propagation: smooth extension, sources along a motion, samples, lines through holes."""

from __future__ import annotations

import cv2
import numpy as np

from fastinpaint.propagation.boxes import Box, around
from fastinpaint.propagation.carry import Mosaic, carry
from fastinpaint.propagation.flow import Motion
from fastinpaint.propagation.handover import FRAMES, hand_over
from fastinpaint.propagation.pyramid import extend
from fastinpaint.propagation.spatial import directional, harmonic, opencv
from fastinpaint.propagation.steady import KEEP, light, steady


def test_extend_keeps_what_counts_and_continues_a_constant() -> None:
    values = np.full((33, 20, 2), 7.0, np.float32)
    weight = np.zeros((33, 20), np.float32)
    weight[:, :6] = 1
    values[:, 6:] = 1e6
    assert np.allclose(extend(values, weight), 7.0, atol=0.2)


def test_around_is_none_without_a_hole_and_ends_at_the_frame() -> None:
    mask = np.zeros((2, 10, 12), bool)
    assert around(mask, 3) is None
    mask[0, 1, 2], mask[1, 5, 11] = True, True
    assert around(mask, 2) == Box(0, 8, 0, 12)


def sources(motion: float | None, step: int, starts: list[int]):
    hole = np.zeros((4, 8, 8), bool)
    hole[1:3, 3, 3:5] = True
    places = [np.nonzero(frame) for frame in hole]
    ways = None if motion is None else [np.tile(np.float32([motion, 0]), (len(rows), 1)) for rows, _ in places]
    first = np.isin(np.arange(4), starts)
    return carry(hole, places, ways, step, first)


def test_still_sources_are_the_nearest_frames_that_show_the_place() -> None:
    past, future = sources(None, 1, [0]), sources(None, -1, [0])
    assert [list(past[t].frame) for t in (1, 2)] == [[0, 0], [0, 0]]
    assert [list(future[t].frame) for t in (1, 2)] == [[3, 3], [3, 3]]
    assert list(past[2].x) == [3, 4]


def test_sources_follow_the_motion_and_keep_fractions_of_a_pixel() -> None:
    past = sources(-0.75, 1, [0])
    assert list(past[1].frame) == [0, 0]
    assert np.allclose(past[1].x, [2.25, 3.25])
    assert list(past[2].frame) == [1, 0]  # the first has left the hole, the second passes through it
    assert np.allclose(past[2].x, [2.25, 2.5])


def test_no_source_lies_beyond_a_cut_or_outside_the_frame() -> None:
    assert list(sources(None, 1, [0, 2])[2].frame) == [-1, -1]
    assert list(sources(None, -1, [0, 2])[1].frame) == [-1, -1]
    assert list(sources(50.0, 1, [0])[1].frame) == [-1, -1]


def test_samples_at_whole_positions_are_exact_copies_in_every_frame() -> None:
    video = np.random.default_rng(0).integers(0, 256, (5, 9, 11, 3)).astype(np.uint8)
    mosaic = Mosaic(video)
    frame, y, x = (index.ravel() for index in np.indices((5, 9, 11)))
    found = mosaic.sample(frame.astype(np.int32), x.astype(np.float32), y.astype(np.float32))
    assert np.array_equal(found.reshape(video.shape), video)
    assert not mosaic.sample(np.int32([-1]), np.float32([3]), np.float32([3])).any()


def test_samples_beside_the_edge_see_what_was_written_last() -> None:
    mosaic = Mosaic(np.full((2, 9, 11, 3), 200, np.uint8))
    everywhere = np.nonzero(np.ones((9, 11), bool))
    mosaic.write([everywhere] * 2, [np.full((99, 3), 90, np.uint8)] * 2)
    assert (mosaic.frames == 90).all()
    found = mosaic.sample(np.int32([0, 1, 0, 1]), np.float32([3, 3, 4, 4]), np.float32([0.5, 0.5, 7.5, 7.5]))
    assert (found == 90).all()


def test_stripes_are_drawn_through_a_hole() -> None:
    columns = np.repeat(np.random.default_rng(1).integers(0, 256, (20, 3)), 4, 0)[:40]
    frame = np.broadcast_to(columns, (40, 40, 3)).astype(np.uint8)
    hole = np.zeros((40, 40), bool)
    hole[14:26, 8:32] = True
    broken = np.where(hole[..., None], 128, frame).astype(np.uint8)
    filled, rival = directional(broken, hole), opencv(broken, hole, cv2.INPAINT_TELEA)
    errors = [np.abs(fill[hole].astype(int) - frame[hole]).mean() for fill in (filled, rival)]
    assert errors[0] < 0.6 * errors[1]
    assert np.array_equal(filled[~hole], frame[~hole])


def test_a_membrane_continues_a_slope_and_stays_between_what_is_around_it() -> None:
    rows, columns = np.indices((40, 50))
    frame = np.repeat(np.rint(40 + 2.0 * columns + 1.0 * rows)[..., None], 3, 2).astype(np.uint8)
    hole = np.zeros((40, 50), bool)
    hole[10:30, 12:38] = True
    filled = harmonic(np.where(hole[..., None], 255, frame).astype(np.uint8), hole)
    assert np.abs(filled.astype(int) - frame)[hole].max() <= 6
    assert np.array_equal(filled[~hole], frame[~hole])
    around = frame[9:31, 11:39][~hole[9:31, 11:39]]
    assert around.min() <= filled[hole].min() <= filled[hole].max() <= around.max()


def calmed(values: np.ndarray, doubt: float) -> np.ndarray:
    """One row of hole pixels, float ``[T, N]``, after `steady` without motion."""
    count, length = values.shape
    filled = np.repeat(np.rint(values).astype(np.uint8)[:, None, :, None], 3, 3)
    places = [(np.zeros(length, int), np.arange(length))] * count
    still = [np.zeros((length, 2), np.float32)] * count
    motion = Motion([None, *still[1:]], [*still[1:], None])
    doubts = [np.full(length, doubt, np.float32)] * count
    return np.stack([frame[:, 0] for frame in steady(filled, doubts, motion, places, np.arange(count) == 0)])


def test_a_doubtful_flicker_is_averaged_away_and_a_sure_one_stays() -> None:
    values = 100 + np.random.default_rng(0).normal(0, 4, (40, 50))
    assert calmed(values, 1.0)[10:-10].std(0).mean() < 0.12 * values.std(0).mean()
    assert np.array_equal(calmed(values, 0.0), np.rint(values))


def test_a_large_change_is_averaged_over_fewer_frames_than_a_small_one() -> None:
    def late(height: float) -> float:
        """The share of a step that has not come through six frames after it."""
        values = np.full((60, 3), 100.0)
        values[30:] += height
        return float((100 + height - calmed(values, 1.0)[36].mean()) / height)

    assert late(100) < 0.7 * late(4)
    assert late(100) < KEEP**6


def test_an_average_follows_the_light_around_the_hole() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (30, 20, 20, 1))
    lit = np.array([90.0, 100, 110]) + np.where(np.arange(30) < 12, 0, 60)[:, None, None, None]
    filled = np.rint(lit + noise).astype(np.uint8)
    place = np.nonzero(np.pad(np.ones((8, 8), bool), 6))
    still, doubts = [np.zeros((64, 2), np.float32)] * 30, [np.ones(64, np.float32)] * 30
    starts = np.arange(30) == 0
    calm = np.stack(steady(filled, doubts, Motion([None, *still[1:]], [*still[1:], None]), [place] * 30, starts))
    assert np.abs(calm - lit[:, 0]).mean((1, 2)).max() < 2
    assert calm[:12].std(0).mean() < 1
    assert not light(filled[3:5], [place, place]).any()  # noise
    assert np.abs(light(filled[11:13], [place, place]) - 60).max() <= 1
    everywhere = np.nonzero(np.ones((20, 20), bool))
    assert not light(filled[11:13], [everywhere, everywhere]).any()


def test_pixels_extended_at_places_are_those_of_the_whole_plane() -> None:
    rng = np.random.default_rng(2)
    values, weight = rng.normal(0, 9, (21, 34, 3)).astype(np.float32), (rng.random((21, 34)) < 0.3).astype(np.float32)
    place = np.nonzero(weight == 0)
    assert np.array_equal(extend(values, weight, place), extend(values, weight)[place])


def test_what_a_later_window_shows_otherwise_comes_in_over_several_frames() -> None:
    filled = np.full((12, 9, 9, 3), 100, np.uint8)
    place = np.nonzero(np.pad(np.ones((3, 3), bool), 3))
    filled[:3, 3:6, 3:6] = 50
    still = [np.zeros((9, 2), np.float32)] * 12
    for old, new, share in ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.5, 0.2, 0.5), (0.0, 0.0, 0.0)):
        calm = [filled[t][place].astype(np.float32) for t in range(12)]
        doubts = [np.full(9, old if t < 3 else new, np.float32) for t in range(12)]
        hand_over(calm, filled, doubts, Motion(still, still), [place] * 12, np.arange(12) == 0, 3)
        fades = np.maximum(1 - np.arange(1, 10) / (FRAMES + 1), 0) * share
        assert np.allclose([frame.mean() for frame in calm[3:]], 100 - 50 * fades, atol=0.1)
    calm = [filled[t][place].astype(np.float32) for t in range(12)]
    hand_over(calm, filled, doubts, Motion(still, still), [place] * 12, np.arange(12) == 3, 3)
    assert (np.stack(calm[3:]) == 100).all()  # a cut
