"""Filling a short clip: sources along three motions, the majority of its frames, and the candidates of each frame."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from fastinpaint.propagation import spatial
from fastinpaint.propagation.boxes import CORES, MARGIN, around
from fastinpaint.propagation.camera import between, register
from fastinpaint.propagation.candidates import SPATIAL, Candidates, collect
from fastinpaint.propagation.carry import Mosaic, Place, Source, carry
from fastinpaint.propagation.flow import Motion, by_flow
from fastinpaint.propagation.majority import Votes
from fastinpaint.propagation.midway import midway
from fastinpaint.propagation.shown import telea

INSIDE = (0.0, 0.5, 0.5)
"""What measured flow inside holes counts for in each round."""


class Found(NamedTuple):
    """What a clip's frames show of each other's holes.

    Attributes:
        sources: of every carried candidate, for all frames.
        votes: of the frames at the same place of the scene.
        motion: the flow.
        mosaic: the video filled along the flow, which candidates are sampled from.
    """

    sources: list[list[Source]]
    votes: Votes
    motion: Motion
    mosaic: Mosaic

    @property
    def filled(self) -> np.ndarray:
        """uint8 ``[T, H, W, 3]``."""
        return self.mosaic.frames


class Clip:
    """A clip and its holes, with what every round needs of them."""

    def __init__(
        self, video: np.ndarray, hole: np.ndarray, starts: np.ndarray, fills: list[np.ndarray] | None = None
    ) -> None:
        self.video, self.hole, self.starts, self.known = video, hole, starts, ~hole
        self.boxes = [around(frame, MARGIN) for frame in hole]
        self.places: list[Place] = [(rows, columns) for rows, columns in map(np.nonzero, hole)]
        if fills is None:
            with ThreadPoolExecutor(CORES) as pool:
                fills = list(pool.map(telea, video, hole))
        self.telea = fills

    def along(self, motion: Motion | None) -> list[list[Source]]:
        """Sources along a motion, or at the same place: past and future, each for all frames."""
        past, future = (None, None) if motion is None else motion
        return [carry(self.hole, self.places, way, step, self.starts) for way, step in ((past, 1), (future, -1))]

    def search(self) -> Found:
        """Find what other frames show of every hole.

        Each step measures motion on what the step before it filled in: the camera's on holes filled from the same
        place, the flow on holes filled along the camera's motion, and the flow again on holes filled along the flow.
        Without the camera's, the flow of a moving shot follows the holes' own rough fill.
        """
        still, mosaic = self.along(None), Mosaic(self.video)
        self.nearest(still[0], still[1], mosaic)
        cameras = register(mosaic.frames, self.known, self.starts)
        fixed = np.array_equal(cameras, np.broadcast_to(np.eye(3), cameras.shape))
        camera = still
        if not fixed:
            camera = self.along(between(cameras, self.places, self.starts))
            self.nearest(camera[0], camera[1], mosaic)
        for inside in INSIDE:
            motion = by_flow(mosaic.frames, self.known, self.places, self.starts, inside)
            motion = midway(mosaic.frames, self.known, self.places, self.starts, motion)
            moving = self.along(motion)
            self.nearest(moving[0], moving[1], mosaic)
        votes = Votes(self.video, self.hole, cameras, self.starts)
        return Found([*still, *moving, *camera], votes, motion, mosaic)

    def nearest(self, past: list[Source], future: list[Source], mosaic: Mosaic) -> None:
        """Fill holes from the nearest frames of both sides, weighted by 1 / distance; by Telea where none shows.

        Args:
            mosaic: the frames that are sampled from, and then filled.
        """

        def fill(t: int) -> np.ndarray:
            colours, total = np.zeros((3, len(self.places[t][0])), np.float32), np.float32(0)
            for source in (past[t], future[t]):
                weight = (source.frame >= 0) / np.maximum(np.abs(source.frame - t), 1).astype(np.float32)
                colours += weight * mosaic.sample(source.frame, source.x, source.y).T
                total = total + weight
            value = np.rint(colours / np.maximum(total, 1e-6)).astype(np.uint8)
            return np.where(total > 0, value, self.telea[t].T).T

        with ThreadPoolExecutor(CORES) as pool:
            mosaic.write(self.places, list(pool.map(fill, range(len(self.places)))))

    def around(self, t: int) -> tuple[np.ndarray, np.ndarray, Place]:
        """Frame t around its hole, the hole there, and rows and columns of its pixels there."""
        box, (rows, columns) = self.boxes[t], self.places[t]
        if box is None:
            raise ValueError(f"candidates: frame {t} has no hole.")
        return self.video[t][box.slices], self.hole[t][box.slices], (rows - box.top, columns - box.left)

    def candidates(self, t: int, found: Found, mosaic: Mosaic) -> Candidates:
        """Of frame t, which has a hole; the mosaic is that of `found.filled`."""
        part, hole, inside = self.around(t)
        box = self.boxes[t]
        assert box is not None
        rows, columns = self.places[t]
        if hole.all():  # a frame without surroundings: what was carried along the flow stands for them
            carried = mosaic.sample(
                np.full(len(rows), t, np.int32), columns.astype(np.float32), rows.astype(np.float32)
            )
            spatials = np.stack([carried] * len(SPATIAL))
        else:
            lines, membrane = spatial.directional(part, hole)[inside], spatial.harmonic(part, hole)[inside]
            stokes = spatial.opencv(part, hole, cv2.INPAINT_NS)[inside]
            spatials = np.stack([self.telea[t], stokes, lines, membrane])
        majority = found.votes.of(t, box, self.places[t])
        sources = [carried[t] for carried in found.sources]
        return collect(t, part, hole, box, self.places[t], spatials, sources, majority, mosaic, self.known)
