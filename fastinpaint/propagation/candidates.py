"""Everything that could fill a frame's hole, and what speaks for and against each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation import spatial
from fastinpaint.propagation.boxes import Box
from fastinpaint.propagation.carry import Mosaic, Source
from fastinpaint.propagation.evidence import Evidence, Ring, measure

SPATIAL = ("telea", "navier-stokes", "directional")
MOTIONS = ("still", "flow", "camera")
TEMPORAL = tuple(f"{motion} {side}" for motion in MOTIONS for side in ("past", "future"))
NAMES = SPATIAL + TEMPORAL
PAIRS = ((0, 1), (2, 3), (4, 5), (0, 2), (1, 3), (0, 4), (1, 5), (2, 4), (3, 5))
"""Temporal candidates that are compared with each other."""
NEVER = 5.0
"""log(1 + distance in frames) that stands for never seen."""
LIKE = 0.45
"""Share of the ring's error that a mean difference must explain before carried colours are corrected by it."""
FAR = 255.0
"""Grey levels of difference that stand for a candidate that is absent."""


class Candidates(NamedTuple):
    """One frame's hole pixels, N of them.

    Attributes:
        values: uint8 ``[K, N, 3]``, in the order of `NAMES`.
        present: bool ``[K, N]``.
        features: float32 ``[N, F]``, see `collect`.
    """

    values: np.ndarray
    present: np.ndarray
    features: np.ndarray


def collect(
    number: int,
    part: np.ndarray,
    hole: np.ndarray,
    box: Box,
    place: tuple[np.ndarray, np.ndarray],
    spatials: np.ndarray,
    sources: Sequence[Source],
    mosaic: Mosaic,
    known: np.ndarray,
) -> Candidates:
    """Candidates and features of one frame.

    Features: log depth in the hole; log contrasts (2); log differences between spatial candidates (2); for each
    temporal candidate log distance in time, log error and log offset on the ring, log age of the sources there,
    log length of the way, log difference from the directional candidate (6 each); log differences of `PAIRS`.

    Args:
        number: of the frame in the clip that `mosaic` and `known` hold.
        part, hole: uint8 ``[h, w, 3]``, bool ``[h, w]``: the frame and its hole inside `box`.
        place: rows and columns of the hole's pixels in the whole frame.
        spatials: uint8 ``[3, N, 3]``.
        sources: of the temporal candidates.
    """
    rows, columns = place[0] - box.top, place[1] - box.left
    ring = Ring(hole, box, place)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[rows, columns]
    values, present = list(spatials), [np.ones(len(rows), bool)] * len(spatials)
    features = [np.log1p(depth), *np.log1p(spatial.contrast(part, hole, rows, columns)).T]
    smooth = _Smoother(hole, rows, columns)
    differences = [(spatials[0], spatials[1]), (spatials[0], spatials[2])]
    for source in sources:
        seen = source.frame >= 0
        evidence = measure(part, number, ring, source, mosaic, known)
        values.append(relit(mosaic.sample(source.frame, source.x, source.y), evidence))
        present.append(seen)
        features += [
            np.where(seen, np.log1p(np.abs(source.frame - number)), NEVER),
            np.log1p(evidence.error),
            np.log1p(np.abs(evidence.offset)),
            evidence.age,
            np.log1p(np.hypot(source.x - place[1], source.y - place[0])) * seen,
        ]
    temporal = values[len(SPATIAL) :]
    differences += [(value, spatials[2]) for value in temporal]
    differences += [(temporal[a], temporal[b]) for a, b in PAIRS]
    exists = [present[0]] * 2 + present[len(SPATIAL) :] + [present[3 + a] & present[3 + b] for a, b in PAIRS]
    gaps = [np.abs(a.astype(np.int16) - b).mean(1).astype(np.float32) for a, b in differences]
    gaps = [np.where(there, gap, FAR) for gap, there in zip(smooth(gaps), exists, strict=True)]
    features += [np.log1p(gap) for gap in gaps]
    return Candidates(np.stack(values), np.stack(present), np.stack(features, 1).astype(np.float32))


def relit(value: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Carried colours made brighter or darker where the ring shows that the light has changed, so that no seam shows.

        value + s offset,   s = clip((|offset| / (error + 1) - LIKE) / LIKE, 0, 1)

    The error on the ring is hardly larger than the mean difference where only the light is another; where the ring's
    pattern differs, the source is another thing, and stays as it is.
    """
    share = ((np.abs(evidence.offset) / (evidence.error + 1) - LIKE) / LIKE).clip(0, 1)
    return np.rint(value + (share * evidence.offset)[:, None]).clip(0, 255).astype(np.uint8)


class _Smoother:
    """Averages over neighbouring pixels of the same hole."""

    def __init__(self, hole: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        self.shape, self.rows, self.columns = hole.shape, rows, columns
        self.total = cv2.GaussianBlur(hole.astype(np.float32), (0, 0), 1.5)[rows, columns]

    def __call__(self, gaps: Sequence[np.ndarray]) -> list[np.ndarray]:
        smoothed = []
        for gap in gaps:
            plane = np.zeros(self.shape, np.float32)
            plane[self.rows, self.columns] = gap
            smoothed.append(cv2.GaussianBlur(plane, (0, 0), 1.5)[self.rows, self.columns] / self.total)
        return smoothed
