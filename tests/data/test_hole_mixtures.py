"""The holes that the correction network is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from fastinpaint.data.hole_mixtures import MIXTURE, STILLS


@pytest.mark.parametrize("kind", [*MIXTURE, *STILLS])
def test_every_frame_has_a_hole_and_something_around_it(kind: str) -> None:
    make = {**MIXTURE, **STILLS}[kind][1]
    for seed in range(20):
        holes = make(5, 40, np.random.default_rng(seed))
        assert holes.shape == (5, 40, 40)
        assert set(np.unique(holes)) == {0, 1}
        share = holes.mean((1, 2))
        assert ((share > 0) & (share < 0.75)).all()
        moves = not np.array_equal(holes[0], holes[-1])
        assert moves == (kind in ("moving rectangle", "moving object", "rectangles", "strokes")) or kind == "strokes"


@pytest.mark.parametrize("mixture", [MIXTURE, STILLS])
def test_the_shares_are_of_a_whole(mixture: dict) -> None:
    assert sum(share for share, _ in mixture.values()) == pytest.approx(1)
