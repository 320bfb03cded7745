"""Adapting the mixing network to a clip: holes of the same shape over its known pixels show what works there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from tqdm import tqdm

from fastinpaint.propagation.blend import Weights, shipped
from fastinpaint.propagation.carry import Mosaic
from fastinpaint.propagation.mixing import Examples, Net, examples, fit, joined, mean_error
from fastinpaint.propagation.rounds import Clip

ADAPT_SECONDS = 60
"""The usual budget, on two cores."""
FRAMES = 32
"""Frames that are used, at most, from the middle of the window."""
SHORTEST = 8
"""Frames that are used even if the budget is too small for them."""
COPIES = (3, 9)
"""Copies of the hole, at least and at most; the first is held out."""
EVERY = 4
"""Frames from one that examples are taken from to the next."""
CORES, COST = 2, 3e-5
"""Cores that a second of the budget stands for, and CPU seconds that a hole pixel of a frame takes."""
DRAWS = 16
"""Random displacements that the best one is taken from, for each copy."""
APART = 3
"""Pixels between a hole and its copy."""
PIXELS = 12_000
"""Examples of a copy, at most."""
STEPS, RATE = 200, 2e-3
BETTER = 0.99
"""Share of the shipped weights' error that the adapted ones' must be below, or they are not used."""


@dataclass(frozen=True)
class Adaptation:
    """How to adapt.

    Attributes:
        seconds: the budget. It becomes a number of copies and frames by `COST`, not by a clock, so that the result
            depends on the clip and the seed alone.
        seed: of the displacements and the batches.
        notify: is given a sentence with the result.
        progress: whether a bar is drawn on stderr, if that is a terminal.
    """

    seconds: int = ADAPT_SECONDS
    seed: int = 0
    notify: Callable[[str], None] = lambda note: None
    progress: bool = False

    def weights(self, video: np.ndarray, hole: np.ndarray, starts: np.ndarray) -> Weights:
        """Weights for a clip: adapted ones where known pixels that were held out say that they are better.

        Args:
            video: uint8 ``[T, H, W, 3]``; its pixels inside holes have no influence.
            hole: bool ``[T, H, W]``.
            starts: bool ``[T]``, the first frames of scenes.
        """
        frames, copies = self._plan(hole)
        video, hole, starts = video[frames], hole[frames], starts[frames]
        rng = np.random.default_rng(self.seed)
        bar = tqdm(range(copies), desc="adapt", unit="copy", disable=None if self.progress else True, leave=False)
        held_out = np.zeros_like(hole)
        parts: list[Examples] = []
        for number in bar:
            hidden = displaced(hole, rng)
            wanted = hidden & ~held_out
            if wanted.any():
                parts.append(_gather(video, hole, hidden, wanted, starts, rng))
            if number == 0:
                held_out = hidden
        if not held_out.any() or len(parts) < 2:
            self.notify("adapt: no place for another hole of that shape, so the fill is as without adapting.")
            return shipped()
        test, learnt = parts[0], joined(parts[1:])
        net = Net.of(shipped())
        before = mean_error(net, test)
        scale = 1 / (1 + mean_error(net, learnt))
        with torch.enable_grad():
            fit(net, learnt, torch.full((len(learnt.truth),), scale), STEPS, RATE, self.seed)
        after = mean_error(net, test)
        found = f"the error on held-out known pixels went from {before:.2f} to {after:.2f} of 255"
        if after >= BETTER * before:
            self.notify(f"adapt: {found}, so the fill is as without adapting.")
            return shipped()
        self.notify(f"adapt: {found}, so the adapted weights are used.")
        return net.arrays()

    def _plan(self, hole: np.ndarray) -> tuple[slice, int]:
        """The frames and the number of copies that the budget is enough for."""
        count = min(len(hole), FRAMES)
        each = 2 * COST * float(hole.sum()) / len(hole)  # a frame of a copy, which has two holes
        affordable = int(self.seconds * CORES / (each * COPIES[0]))
        count = min(len(hole), max(SHORTEST, min(count, affordable)))
        start = (len(hole) - count) // 2
        copies = int(np.clip(self.seconds * CORES / (each * count), *COPIES))
        return slice(start, start + count), copies


def displaced(hole: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The hole moved by the draw that hides most known pixels, bool ``[T, H, W]``, without what is near the hole."""
    height, width = hole.shape[1:]
    reach = np.ones((2 * APART + 1, 2 * APART + 1), np.uint8)
    near = np.stack([cv2.dilate(frame.astype(np.uint8), reach) > 0 for frame in hole])
    best, most = np.zeros_like(hole), 0
    for _ in range(DRAWS):
        down, right = int(rng.integers(1 - height, height)), int(rng.integers(1 - width, width))
        moved = np.zeros_like(hole)
        rows, columns = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
        from_rows = slice(max(0, -down), height + min(0, -down))
        from_columns = slice(max(0, -right), width + min(0, -right))
        moved[:, rows, columns] = hole[:, from_rows, from_columns]
        moved &= ~near
        count = int(moved.sum())
        if count > most:
            best, most = moved, count
    return best


def _gather(
    video: np.ndarray,
    hole: np.ndarray,
    hidden: np.ndarray,
    wanted: np.ndarray,
    starts: np.ndarray,
    rng: np.random.Generator,
) -> Examples:
    """Candidates, features and truth at some of the wanted pixels, which are hidden beside the hole."""
    both = hole | hidden
    clip = Clip(np.where(both[..., None], 0, video).astype(np.uint8), both, starts)
    found = clip.search()
    mosaic = Mosaic(found.filled)
    parts = []
    for t in [t for t in range(len(video)) if wanted[t].any()][::EVERY]:
        place = clip.places[t]
        chosen = np.flatnonzero(wanted[t][place])
        most = max(1, PIXELS * EVERY // len(video))
        chosen = np.sort(rng.permutation(chosen)[:most])
        every = clip.candidates(t, found, mosaic)
        part = every._replace(
            values=every.values[:, chosen], present=every.present[:, chosen], features=every.features[chosen]
        )
        parts.append(examples(part, video[t][place][chosen]))
    return joined(parts)
