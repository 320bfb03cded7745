"""Holes are reproducible and distributed as their docstrings say."""

from __future__ import annotations

import numpy as np
import pytest

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.errors import UserError


def draw(kind: str, seed: int, shape: tuple[int, int, int] = (4, 128, 128)) -> np.ndarray:
    return make_holes(kind, *shape, np.random.default_rng(seed))


def box(frame: np.ndarray) -> tuple[int, int, int, int]:
    """top, left, height, width of the one rectangle in the frame."""
    rows, columns = np.flatnonzero(frame.any(1)), np.flatnonzero(frame.any(0))
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    assert frame[top : top + height, left : left + width].all()
    assert frame.sum() == height * width
    return top, left, height, width


@pytest.mark.parametrize("kind", HOLE_KINDS)
@pytest.mark.parametrize("shape", [(3, 128, 128), (2, 33, 70), (1, 1, 1), (2, 2, 3), (4, 1, 40)])
def test_shape_values_and_seed(kind: str, shape: tuple[int, int, int]) -> None:
    holes = draw(kind, 5, shape)
    assert holes.shape == shape
    assert holes.dtype == np.uint8
    assert set(np.unique(holes)) <= {0, 1}
    assert holes.any(axis=(1, 2)).all()
    assert np.array_equal(holes, draw(kind, 5, shape))


@pytest.mark.parametrize("kind", HOLE_KINDS)
def test_other_seeds_draw_other_holes(kind: str) -> None:
    assert len({draw(kind, seed).tobytes() for seed in range(20)}) == 20


def test_rectangle_is_the_papers() -> None:
    sizes, tops = [], []
    for seed in range(800):
        holes = draw("rectangle", seed, (2, 128, 64))
        assert np.array_equal(holes[0], holes[1])
        top, _, height, width = box(holes[0])
        sizes.append((height, width))
        tops.append(top / (128 - height))
    heights, widths = np.array(sizes).T
    assert (heights.min(), heights.max()) == (48, 64)  # 0.375 * 128, 0.5 * 128
    assert (widths.min(), widths.max()) == (24, 32)
    counts = np.bincount(heights - 48, minlength=17)  # uniform: each of the 17 sizes 47 times, give or take
    assert ((counts - 800 / 17) ** 2 / (800 / 17)).sum() < 39.3  # chi squared, 16 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.12
    assert np.mean(tops) == pytest.approx(0.5, abs=0.04)
    assert (min(tops), max(tops)) == (0, 1)


def test_rectangles_differ_from_frame_to_frame() -> None:
    holes = draw("rectangles", 0, (64, 128, 128))
    places = [box(frame) for frame in holes]
    assert len(set(places)) > 60
    assert all(48 <= height <= 64 and 48 <= width <= 64 for _, _, height, width in places)


def test_strokes_cover_a_fifth_and_drift() -> None:
    cover, kept = [], []
    for seed in range(200):
        holes = draw("strokes", seed, (8, 64, 64)).astype(bool)
        cover.append(holes.mean())
        kept.append((holes[0] & holes[1]).sum() / (holes[0] | holes[1]).sum())
        assert not np.array_equal(holes[0], holes[7])
    assert 0.15 < np.mean(cover) < 0.25
    assert min(cover) > 0.02
    assert max(cover) < 0.7
    assert np.mean(kept) > 0.8  # from frame to frame they move by little


def test_strokes_reach_every_part_of_the_frame() -> None:
    share = np.mean([draw("strokes", seed, (1, 32, 48))[0] for seed in range(300)], axis=0)
    assert share.min() > 0.01
    assert share.max() < 0.5


def test_unknown_kind_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"one of rectangle, rectangles, strokes; got 'disc'\.$"):
        draw("disc", 0)
