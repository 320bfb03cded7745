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
from fastinpaint.propagation.majority import Majority

SPATIAL = ("telea", "navier-stokes", "directional", "harmonic")
MOTIONS = ("still", "flow", "camera")
TEMPORAL = (*(f"{motion} {side}" for motion in MOTIONS for side in ("past", "future")), "majority")
NAMES = SPATIAL + TEMPORAL
PAIRS = ((0, 1), (2, 3), (4, 5), (0, 2), (1, 3), (0, 4), (1, 5), (2, 4), (3, 5), *((i, 6) for i in range(6)))
"""Temporal candidates that are compared with each other."""
NEVER = 5.0
"""log(1 + distance in frames) that stands for never seen."""
LIKE = 0.45
"""Share of the ring's error that a mean difference must explain before carried colours are corrected by it."""
LIGHT = 4.0
"""Multiple of the ring's usual error that an offset by light is at most."""
EVEN = (1.3, 2.0)
"""Multiples of the ring's deviation from a smooth offset at which an offset begins to count as light, and does in full.
Where a mask leaves out the edge of what it hides, that edge differs by much and the rest of the ring by little."""
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
    majority: Majority,
    mosaic: Mosaic,
    known: np.ndarray,
) -> Candidates:
    """Candidates and features of one frame.

    Features: log depth in the hole; log contrasts (2); support and log count of the majority; for each temporal
    candidate log distance in time, log error and log offset on the ring, log age of the sources there, log length of
    the way (5 each); log differences between spatial candidates (3), of each temporal one from the directional one,
    and of `PAIRS`.

    Args:
        number: of the frame in the clip that `mosaic` and `known` hold.
        part, hole: uint8 ``[h, w, 3]``, bool ``[h, w]``: the frame and its hole inside `box`.
        place: rows and columns of the hole's pixels in the whole frame.
        spatials: uint8 ``[4, N, 3]``, in the order of `SPATIAL`.
        sources: of the carried candidates.
        majority: of the frames that show the place, which is the last temporal candidate.
    """
    rows, columns = place[0] - box.top, place[1] - box.left
    ring = Ring(hole, box, place)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[rows, columns]
    values, present = list(spatials), [np.ones(len(rows), bool)] * len(spatials)
    features = [np.log1p(depth), *np.log1p(spatial.contrast(part, hole, rows, columns)).T]
    features += [majority.support, np.log1p(majority.shown)]
    smooth = _Smoother(hole, rows, columns)
    differences = [(spatials[0], spatials[1]), (spatials[0], spatials[2]), (spatials[2], spatials[3])]
    judged: dict[int, tuple[Evidence, np.ndarray]] = {}  # a still camera's sources are those of the same place
    for source in (*sources, majority.source):
        seen = source.frame >= 0
        if id(source) not in judged:
            evidence = measure(part, number, ring, source, mosaic, known)
            judged[id(source)] = evidence, relit(mosaic.sample(source.frame, source.x, source.y), evidence)
        evidence, value = judged[id(source)]
        values.append(value)
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
    there = present[len(SPATIAL) :]
    exists = [present[0]] * 3 + there + [there[a] & there[b] for a, b in PAIRS]
    gaps = [_gap(a, b) for a, b in differences]
    gaps = [np.where(there, gap, FAR) for gap, there in zip(smooth(gaps), exists, strict=True)]
    features += [np.log1p(gap) for gap in gaps]
    return Candidates(np.stack(values), np.stack(present), np.stack(features, 1).astype(np.float32))


def relit(value: np.ndarray, evidence: Evidence) -> np.ndarray:
    """Carried colours made brighter or darker where the ring shows that the light has changed, so that no seam shows.

        value + s offset,   s = clip((|offset| / (error + 1) - LIKE) / LIKE, 0, 1) exp(-(offset / limit)^2) e
        e = clip((|offset| / (spread + 1) - EVEN_0) / (EVEN_1 - EVEN_0), 0, 1)
        limit = LIGHT (1 + median of the error)

    The error on the ring is hardly larger than the mean difference where only the light is another; where the ring's
    pattern differs, the source is another thing, and stays as it is. Where most of the ring agrees with its sources,
    a large offset at some part of it is a thing that stands there, not light. Light is even: it
    shifts all of the ring alike.
    """
    share = ((np.abs(evidence.offset) / (evidence.error + 1) - LIKE) / LIKE).clip(0, 1)
    share *= np.exp(-((evidence.offset / (LIGHT * (1 + np.median(evidence.error)))) ** 2))
    share *= ((np.abs(evidence.offset) / (evidence.spread + 1) - EVEN[0]) / (EVEN[1] - EVEN[0])).clip(0, 1)
    return np.rint(value + (share * evidence.offset)[:, None]).clip(0, 255).astype(np.uint8)


def _gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean absolute difference of colours uint8 ``[N, 3]``: float32 ``[N]``."""
    apart = cv2.absdiff(a, b)
    return ((apart[:, 0].astype(np.uint16) + apart[:, 1] + apart[:, 2]) / 3).astype(np.float32)


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
