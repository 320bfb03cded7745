from itertools import pairwise

import numpy as np
import pytest

from fastinpaint.inference.temporal import blend, sliding


@pytest.mark.parametrize("length", [1, 4, 8])
@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9, 20, 23])
def test_windows_cover_the_sequence_in_order_and_are_full(length, stride, count):
    stride = min(stride, length)
    settled_items, starts = [], []
    for window, settled in sliding(range(count), length, stride):
        assert len(window) == min(length, count)
        assert window == list(range(window[0], window[0] + len(window)))
        assert settled_items == list(range(window[0])), "the window starts where the last one was settled"
        starts.append(window[0])
        settled_items += window[:settled]
    assert settled_items == list(range(count))
    assert all(later - earlier <= stride for earlier, later in pairwise(starts))


def test_no_more_is_read_than_one_stride_ahead():
    read = []

    def items():
        for index in range(1000):
            read.append(index)
            yield index

    windows = sliding(items(), 8, 6)
    next(windows)
    assert len(read) == 14
    next(windows)
    assert len(read) == 20


def test_blend_is_the_weighted_mean_inside_the_mask_and_exact_outside():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, (6, 7, 3), np.uint8)
    mask = rng.random((6, 7)) < 0.5
    old, new = source.copy(), source.copy()
    old[mask], new[mask] = 200, 100
    out = blend(old, new, mask, 0.25)
    assert (out[mask] == 175).all()
    assert (out[~mask] == source[~mask]).all()
    assert (old[mask] == 200).all(), "arguments stay as they are"
    assert (new[mask] == 100).all()
