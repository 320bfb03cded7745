"""The sliding box that the mixing network learns from stays inside the frame and moves."""

from __future__ import annotations

import numpy as np
import pytest

from tools.blend.train import KINDS, holes


@pytest.mark.parametrize("seed", range(4))
def test_a_sliding_box_keeps_its_size_and_uncovers_what_it_hid(seed: int) -> None:
    hole = holes("box", 40, 64, 96, np.random.default_rng(seed))
    sizes = hole.sum((1, 2))
    assert 0.08 < sizes.min() / (64 * 96) <= sizes.max() / (64 * 96) < 0.27
    assert hole.any(0).sum() > 1.2 * sizes.max()
    assert not np.array_equal(hole[0], hole[20])


def test_every_kind_gives_bool_holes() -> None:
    for kind in KINDS:
        hole = holes(kind, 5, 32, 48, np.random.default_rng(0))
        assert hole.dtype == np.bool_
        assert hole.shape == (5, 32, 48)
