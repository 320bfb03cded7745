"""The split into training and validation samples."""

from __future__ import annotations

import numpy as np
import pytest

from fastinpaint.data.split import split_samples


def total(ranges: list[tuple[int, int, int]]) -> int:
    return sum(count for _, _, count in ranges)


@pytest.mark.parametrize("seed", range(20))
def test_five_to_one_by_clip(seed: int) -> None:
    starts = [list(range(n)) for n in np.random.default_rng(seed).integers(1, 9, 60)]
    train, val = split_samples(starts, 4, seed)
    assert not {clip for clip, _, _ in train} & {clip for clip, _, _ in val}
    assert sorted(train + val) == [(i, 0, len(clip)) for i, clip in enumerate(starts)]
    assert len(val) == 10
    assert 0.65 < 6 * total(val) / sum(map(len, starts)) < 1.01


def test_five_to_one_exactly_where_clips_are_alike() -> None:
    train, val = split_samples([[0, 4, 8]] * 60, 4, 0)
    assert (total(train), total(val)) == (150, 30)


def test_few_long_clips_do_not_send_all_short_ones_to_validation() -> None:
    starts = [list(range(n)) for n in [43, 11, 6, *[1] * 9]]
    train, val = split_samples(starts, 1, 0)
    assert len(val) == 2
    assert len(train) == 10


def test_seeded() -> None:
    starts = [[0]] * 30
    assert split_samples(starts, 4, 1) == split_samples(starts, 4, 1)
    assert len({str(split_samples(starts, 4, seed)) for seed in range(10)}) == 10


def test_two_clips_give_the_smaller_one_to_validation() -> None:
    assert split_samples([[0, 8, 16, 24], [0, 8, 16]], 8, 0) == ([(0, 0, 4)], [(1, 0, 3)])


def test_one_clip_is_split_in_time() -> None:
    assert split_samples([list(range(0, 96, 8))], 8, 0) == ([(0, 0, 10)], [(0, 10, 2)])


def test_one_clip_with_overlaps_shares_no_frame() -> None:
    starts = list(range(0, 48, 2))
    train, val = split_samples([starts], 8, 0)
    assert val == [(0, 20, 4)]
    assert starts[train[0][2] - 1] + 8 <= starts[20]
    assert train == [(0, 0, 17)]


def test_one_clip_too_short_to_split() -> None:
    assert split_samples([[0]], 8, 0) == ([(0, 0, 1)], [])
    assert split_samples([[0, 2, 4]], 8, 0) == ([(0, 0, 3)], [])
