"""Training and validation samples, 5:1 (paper, "Data preparation")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VAL_SHARE = 1 / 6

Range = tuple[int, int, int]
"""Samples of one clip: (clip, first, count)."""


def split_samples(starts: Sequence[Sequence[int]], frames: int, seed: int) -> tuple[list[Range], list[Range]]:
    """Use a sixth of the clips, with at most a sixth of the samples, for validation. No clip is on both sides.

    Clips are visited in a seeded order and used for validation if they fit. If none fits, the clip with the fewest
    samples is used. Bounding the samples alone would move all short clips to validation. A single clip is split in
    time: its last sixth validates, and training samples that share frames with it are dropped.

    Args:
        starts: for every clip the increasing first frames of its samples; no clip is empty.
        frames: frames per sample.
        seed: seed of the order.

    Returns:
        The training and validation ranges. A single clip of one sample has no validation range.
    """
    counts = [len(clip) for clip in starts]
    if len(counts) == 1:
        return _split_in_time(starts[0], frames)
    room = round(VAL_SHARE * sum(counts))
    wanted = max(1, round(VAL_SHARE * len(counts)))
    chosen: set[int] = set()
    for clip in np.random.default_rng(seed).permutation(len(counts)).tolist():
        if counts[clip] <= room and len(chosen) < wanted:
            chosen.add(clip)
            room -= counts[clip]
    if not chosen:
        chosen.add(int(np.argmin(counts)))
    ranges = [(clip, 0, count) for clip, count in enumerate(counts)]
    return [r for r in ranges if r[0] not in chosen], [r for r in ranges if r[0] in chosen]


def _split_in_time(starts: Sequence[int], frames: int) -> tuple[list[Range], list[Range]]:
    total = len(starts)
    if total == 1:
        return [(0, 0, 1)], []
    count = max(1, round(VAL_SHARE * total))
    apart = sum(start + frames <= starts[total - count] for start in starts)
    if not apart:
        return [(0, 0, total)], []
    return [(0, 0, apart)], [(0, total - count, count)]
