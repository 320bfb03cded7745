"""Adapting the mixing network to a clip: holes of the same shape over its known pixels show what works there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

from fastinpaint.propagation.blend import Weights, shipped
from fastinpaint.propagation.mixing import Examples, Net, examples, fit, joined, mean_error
from fastinpaint.propagation.rounds import Clip

ADAPT_SECONDS = 60
"""The usual budget, on two cores."""
FRAMES = 32
"""Frames that are used, at most, from the middle of the window."""
SHORTEST = 8
"""Frames that are used even if the budget is too small for them."""
COPIES = (3, 9)
"""Copies of the hole, at least and at most."""
FOLDS = 4
"""Parts of the copies, at most, that are held out in turn."""
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
SURE = 1.0
"""Standard errors of the mean that are taken off the gain on held-out copies."""
SLOPE = 10.0
"""How far the weights go towards the adapted ones by a gain of the whole error."""
LEAST = 0.05
"""Share of the way to the adapted weights below which the shipped ones are used."""


class Copy(NamedTuple):
    """A copy of the hole over known pixels.

    Attributes:
        down, right: how far it lies from the hole, in pixels.
        examples: candidates and truth at some of its pixels.
        frames, rows, columns: where these are, each ``[B]``.
    """

    down: int
    right: int
    examples: Examples
    frames: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    def hidden_by(self, hole: np.ndarray, other: Copy) -> np.ndarray:
        """Which of the examples' pixels the other copy of the hole ``[T, H, W]`` hides: bool ``[B]``."""
        rows, columns = self.rows - other.down, self.columns - other.right
        height, width = hole.shape[1:]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return inside & hole[self.frames, rows.clip(0, height - 1), columns.clip(0, width - 1)]


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
        """Weights for a clip: from the shipped ones towards adapted ones, as far as held-out known pixels say.

        Args:
            video: uint8 ``[T, H, W, 3]``; its pixels inside holes have no influence.
            hole: bool ``[T, H, W]``.
            starts: bool ``[T]``, the first frames of scenes.
        """
        frames, count = self._plan(hole)
        video, hole, starts = video[frames], hole[frames], starts[frames]
        bar = tqdm(range(count), desc="adapt", unit="copy", disable=None if self.progress else True, leave=False)
        copies = gather(video, hole, starts, bar, np.random.default_rng(self.seed))
        if len(copies) < 2:
            self.notify("adapt: no place for another hole of that shape, so the fill is as without adapting.")
            return shipped()
        before, after = tried(copies, hole, self.seed)
        share = strength(before, after)
        found = f"the error on held-out known pixels went from {before.mean():.2f} to {after.mean():.2f} of 255"
        if share < LEAST:
            self.notify(f"adapt: {found}, so the fill is as without adapting.")
            return shipped()
        self.notify(f"adapt: {found}, so the weights go {share:.0%} of the way to the adapted ones.")
        adapted = learnt(joined([copy.examples for copy in copies]), self.seed).arrays()
        return {name: old + np.float32(share) * (adapted[name] - old) for name, old in shipped().items()}

    def _plan(self, hole: np.ndarray) -> tuple[slice, int]:
        """The frames and the number of copies that the budget is enough for."""
        count = min(len(hole), FRAMES)
        each = 2 * COST * float(hole.sum()) / len(hole)  # a frame of a copy, which has two holes
        affordable = int(self.seconds * CORES / (each * COPIES[0]))
        count = min(len(hole), max(SHORTEST, min(count, affordable)))
        start = (len(hole) - count) // 2
        copies = int(np.clip(self.seconds * CORES / (each * count), *COPIES))
        return slice(start, start + count), copies


def tried(copies: list[Copy], hole: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean errors of each copy, 0 to 255, with the shipped weights and with weights adapted to other copies.

    No pixel of a copy that is held out is learnt from, whichever copies hide it.
    """
    folds = min(FOLDS, len(copies))
    before, after = np.zeros((2, len(copies)))
    plain = Net.of(shipped())
    for fold in range(folds):
        out = copies[fold::folds]
        rest = []
        for number, copy in enumerate(copies):
            if number % folds != fold:
                free = ~np.logical_or.reduce([copy.hidden_by(hole, other) for other in out])
                rest.append(Examples(*(tensor[torch.from_numpy(free)] for tensor in copy.examples)))
        data = joined(rest)
        net = learnt(data, seed) if len(data.truth) else plain
        before[fold::folds] = [mean_error(plain, copy.examples) for copy in out]
        after[fold::folds] = [mean_error(net, copy.examples) for copy in out]
    return before, after


def strength(before: np.ndarray, after: np.ndarray) -> float:
    """How far the weights go towards the adapted ones, in [0, 1].

    clip(SLOPE (mean(gain) - SURE std(gain) / sqrt(n)) / mean(before), 0, 1),   gain = before - after

    Args:
        before, after: mean errors of n held-out copies.
    """
    gain = before - after
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return float(np.clip(SLOPE * (gain.mean() - SURE * error) / max(before.mean(), 1e-6), 0, 1))


def learnt(data: Examples, seed: int) -> Net:
    """The shipped network, trained further."""
    net = Net.of(shipped())
    scale = 1 / (1 + mean_error(net, data))
    with torch.enable_grad():
        fit(net, data, torch.full((len(data.truth),), scale), STEPS, RATE, seed)
    return net


def gather(
    video: np.ndarray, hole: np.ndarray, starts: np.ndarray, numbers: Iterable[int], rng: np.random.Generator
) -> list[Copy]:
    """Copies of the hole, one for each number, but where there is no place for one."""
    copies = []
    for _ in numbers:
        (down, right), hidden = displaced(hole, rng)
        if hidden.any():
            copies.append(Copy(down, right, *_shown(video, hole, hidden, starts, rng)))
    return copies


def displaced(hole: np.ndarray, rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray]:
    """The hole moved by the draw that hides most known pixels, without what is near the hole.

    Returns:
        by how many pixels down and right, and the known pixels it hides, bool ``[T, H, W]``.
    """
    height, width = hole.shape[1:]
    reach = np.ones((2 * APART + 1, 2 * APART + 1), np.uint8)
    near = np.stack([cv2.dilate(frame.astype(np.uint8), reach) > 0 for frame in hole])
    place, best, most = (0, 0), np.zeros_like(hole), 0
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
            place, best, most = (down, right), moved, count
    return place, best


def _shown(
    video: np.ndarray, hole: np.ndarray, hidden: np.ndarray, starts: np.ndarray, rng: np.random.Generator
) -> tuple[Examples, np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, features and truth at some of the pixels that are hidden beside the hole, and where those are."""
    both = hole | hidden
    clip = Clip(np.where(both[..., None], 0, video).astype(np.uint8), both, starts)
    found = clip.search()
    parts, places = [], []
    for t in [t for t in range(len(video)) if hidden[t].any()][::EVERY]:
        rows, columns = clip.places[t]
        chosen = np.flatnonzero(hidden[t][rows, columns])
        most = max(1, PIXELS * EVERY // len(video))
        chosen = np.sort(rng.permutation(chosen)[:most])
        every = clip.candidates(t, found, found.mosaic)
        part = every._replace(
            values=every.values[:, chosen], present=every.present[:, chosen], features=every.features[chosen]
        )
        rows, columns = rows[chosen], columns[chosen]
        parts.append(examples(part, video[t][rows, columns]))
        places.append((np.full(len(rows), t), rows, columns))
    frames, rows, columns = (np.concatenate(axis) for axis in zip(*places, strict=True))
    return joined(parts), frames, rows, columns
