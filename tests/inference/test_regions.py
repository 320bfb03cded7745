import numpy as np
import pytest

from fastinpaint.inference.regions import Box, find_regions, whole_frame


def holes(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Masks of one frame."""
    mask = np.zeros((1, height, width), bool)
    for y0, y1, x0, x1 in boxes:
        mask[0, y0:y1, x0:x1] = True
    return mask


def test_a_hole_gets_a_window_of_twice_its_side_scaled_to_the_trained_size():
    (region,) = find_regions(holes(500, 800, (200, 300, 300, 360)), size=64)
    assert region.hole == Box(200, 300, 300, 360)
    assert region.window == Box(150, 350, 230, 430)
    assert (region.height, region.width) == (64, 64)


def test_a_small_hole_is_seen_at_full_resolution():
    (region,) = find_regions(holes(500, 800, (200, 210, 300, 310)), size=64)
    assert region.window == Box(173, 237, 273, 337)
    assert (region.height, region.width) == (64, 64)


def test_a_window_is_moved_into_the_frame():
    (region,) = find_regions(holes(500, 800, (0, 20, 780, 800)), size=64)
    assert region.window == Box(0, 64, 736, 800)


@pytest.mark.parametrize("shape", [(50, 200), (200, 50), (7, 9)])
def test_a_frame_smaller_than_the_window_is_seen_whole_and_keeps_its_shape(shape):
    mask = holes(*shape, (2, 5, 3, 6))
    (region,) = find_regions(mask, size=64)
    assert (region.height, region.width) == tuple(min(side, 64) for side in shape)
    box = region.window
    assert (box.y1 - box.y0, box.x1 - box.x0) == (region.height, region.width)


def test_a_large_hole_in_a_low_frame_is_scaled_evenly():
    (region,) = find_regions(holes(100, 400, (0, 100, 100, 200)), size=64)
    assert region.window == Box(0, 100, 50, 250)
    assert (region.height, region.width) == (32, 64)


def test_a_hole_larger_than_half_the_frame_is_not_scaled_more_than_the_frame_needs():
    (region,) = find_regions(holes(100, 128, (10, 90, 10, 110)), size=64)
    assert region.window == Box(0, 100, 0, 128)
    assert (region.height, region.width) == (50, 64)


def test_a_hole_that_moves_gets_one_window_with_room_for_its_way():
    masks = np.zeros((8, 500, 800), bool)
    for t in range(8):
        masks[t, 200:240, 300 + 20 * t : 340 + 20 * t] = True
    (region,) = find_regions(masks, size=64)
    assert region.hole == Box(200, 240, 300, 480)
    box = region.window
    assert (box.y1 - box.y0, box.x1 - box.x0) == (225, 225), "1.25 times the way, more than twice the hole"
    (region,) = find_regions(masks[:2], size=64)
    assert region.window.side == 80, "twice the hole, more than 1.25 times the way"


def test_holes_far_apart_get_a_window_each_and_near_ones_share():
    far = find_regions(holes(500, 800, (10, 30, 10, 30), (400, 430, 700, 730)), size=64)
    assert sorted(region.hole for region in far) == [Box(10, 30, 10, 30), Box(400, 430, 700, 730)]
    near = find_regions(holes(500, 800, (10, 20, 10, 20), (20, 30, 30, 40)), size=64)
    assert [region.hole for region in near] == [Box(10, 30, 10, 40)]


def test_every_hole_pixel_is_filled_by_some_region_and_seen_in_its_window():
    rng = np.random.default_rng(0)
    for density in (0.0001, 0.001, 0.01):
        mask = rng.random((1, 300, 500)) < density
        filled = np.zeros((300, 500), bool)
        for region in find_regions(mask, size=32):
            filled[region.hole.slices] = True
            hole, window = region.hole, region.window
            assert window.y0 <= hole.y0
            assert hole.y1 <= window.y1
            assert window.x0 <= hole.x0
            assert hole.x1 <= window.x1
        assert filled[mask[0]].all()


def test_no_hole_no_region():
    assert find_regions(holes(50, 50), size=32) == []
    assert whole_frame(holes(50, 50)) == []


def test_the_whole_frame_is_one_region_unscaled():
    (region,) = whole_frame(holes(50, 71, (1, 2, 1, 2), (40, 50, 60, 70)))
    assert region == (Box(0, 50, 0, 71), Box(0, 50, 0, 71), 50, 71)
