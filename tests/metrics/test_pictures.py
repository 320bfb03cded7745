"""What the pictures show."""

from __future__ import annotations

import numpy as np

from fastinpaint.metrics.evaluation import Example
from fastinpaint.metrics.pictures import GREY, difference_rows, frame_rows


def example() -> Example:
    """Six frames that change most between frames 3 and 4, inside the hole; what fills it flickers there."""
    video = np.full((6, 12, 12, 3), 50, np.uint8)
    mask = np.zeros((6, 12, 12), bool)
    mask[:, 3:9, 3:9] = True
    video[:2, 6, 6] = 51
    video[4:, 5, 4:8] = 90
    completed = np.full_like(video, 60)
    completed[4, 5, 5] = 160
    return Example(7, video, mask, {"CombCN": completed, "Telea": np.full_like(video, 70)})


def test_frames_show_input_networks_and_truth() -> None:
    rows = frame_rows([example()])
    assert [label for label, _ in rows] == ["sample 7\nframe 2", "sample 7\nframe 4"]
    pictures = rows[1][1]
    assert list(pictures) == ["input", "CombCN", "truth"]
    given = example()
    hole = given.mask[4]
    assert (pictures["input"][hole] == GREY).all()
    assert (pictures["input"][~hole] == 50).all()
    assert np.array_equal(pictures["CombCN"], given.results["CombCN"][4])
    assert np.array_equal(pictures["truth"], given.video[4])


def test_differences_show_the_pair_with_most_change_at_one_gain() -> None:
    rows = difference_rows([example()])
    assert [label for label, _ in rows] == ["sample 7\nframe 3", "sample 7\nframe 4", "difference\ntimes 6"]
    shown = rows[2][1]
    assert (shown["truth"][5, 5] == 240).all()
    assert shown["truth"].sum() == 4 * 3 * 240
    assert (shown["CombCN"][5, 5] == 255).all()
    assert shown["CombCN"].sum() == 3 * 255
