"""Adapting the mixing network to a clip: holes of the same shape over its known pixels show what works there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fastinpaint.propagation.blend import Weights, shipped
from fastinpaint.propagation.likeness import likeness
from fastinpaint.propagation.mixing import Examples, Net, examples, fit, joined, mean_error
from fastinpaint.propagation.rounds import Clip

ADAPT_SECONDS = 60
"""The usual budget, on two cores."""
FRAMES = 32
"""Frames that are used, at most, from the middle of the window."""
SHORTEST = 8
"""Frames that are used even if the budget is too small for them."""
COPIES = (4, 12)
"""Copies of the hole, at least and at most."""
FOLDS = 4
"""Parts of the copies, at most, that are held out in turn."""
EVERY = 4
"""Frames from one that examples are taken from to the next."""
CORES, COST = 2, 1e-5
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
        weights: how much each counts, float32 ``[B]``: the more, the more pixels of the hole are like it.
    """

    down: int
    right: int
    examples: Examples
    frames: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    weights: Tensor

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
        video, hole, starts = video[frames], hole[frames], starts[frames].copy()
        starts[0] = True  # the frames before are not looked at
        bar = tqdm(range(count), desc="adapt", unit="copy", disable=None if self.progress else True, leave=False)
        rng = np.random.default_rng(self.seed)
        copies = gather(video, hole, starts, bar, rng)
        if len(copies) < 2:
            self.notify("adapt: no place for another hole of that shape, so the fill is as without adapting.")
            return shipped()
        copies = compared(copies, _shown(video, hole, np.zeros_like(hole), hole, starts, rng)[0], self.seed)
        held_out = tried(copies, hole, self.seed)
        share = strength(held_out)
        before, after = (float(np.average(errors, weights=held_out.counts)) for errors in held_out[:2])
        found = f"the error on held-out known pixels went from {before:.2f} to {after:.2f} of 255"
        if share < LEAST:
            self.notify(f"adapt: {found}, so the fill is as without adapting.")
            return shipped()
        self.notify(f"adapt: {found}, so the weights go {share:.0%} of the way to the adapted ones.")
        every = joined([copy.examples for copy in copies]), torch.cat([copy.weights for copy in copies])
        adapted = learnt(*every, self.seed).arrays()
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


def compared(copies: list[Copy], wanted: Examples, seed: int) -> list[Copy]:
    """Copies with weights by their `likeness` to the hole's own pixels, whose features alone are looked at."""
    net = Net.of(shipped())
    known = net.normalised(torch.cat([copy.examples.features for copy in copies]))
    weights = likeness(known, net.normalised(wanted.features), seed)
    each = weights.split([len(copy.rows) for copy in copies])
    return [copy._replace(weights=own) for copy, own in zip(copies, each, strict=True)]


class HeldOut(NamedTuple):
    """Copies of the hole that were held out, each ``[n]``.

    Attributes:
        before, after: weighted mean errors, 0 to 255, with the shipped weights and with adapted ones.
        counts: the sum of the weights.
    """

    before: np.ndarray
    after: np.ndarray
    counts: np.ndarray


def tried(copies: list[Copy], hole: np.ndarray, seed: int) -> HeldOut:
    """Errors at each copy with weights that are adapted to other copies.

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
                free = torch.from_numpy(~np.logical_or.reduce([copy.hidden_by(hole, other) for other in out]))
                rest.append((Examples(*(tensor[free] for tensor in copy.examples)), copy.weights[free]))
        data, weights = joined([examples for examples, _ in rest]), torch.cat([weights for _, weights in rest])
        net = learnt(data, weights, seed) if len(weights) else plain
        before[fold::folds] = [mean_error(plain, copy.examples, copy.weights) for copy in out]
        after[fold::folds] = [mean_error(net, copy.examples, copy.weights) for copy in out]
    return HeldOut(before, after, np.array([float(copy.weights.sum()) for copy in copies]))


def strength(held_out: HeldOut) -> float:
    """How far the weights go towards the adapted ones, in [0, 1].

        clip(SLOPE (G - SURE s), 0, 1),   G = sum_i c_i (b_i - a_i) / sum_i c_i b_i

    b and a are the errors of n copies before and after, c their counts. s is the standard error of the ratio G.
    """
    before, after, counts = held_out
    total, count = float((counts * before).sum()), len(before)
    if total <= 0:
        return 0.0
    gain = float((counts * (before - after)).sum()) / total
    spread = np.square(counts * (before - after - gain * before)).sum()
    error = float(np.sqrt(spread * count / (count - 1))) / total
    return float(np.clip(SLOPE * (gain - SURE * error), 0, 1))


def learnt(data: Examples, weights: Tensor, seed: int) -> Net:
    """The shipped network, trained further; each example counts by its weight."""
    net = Net.of(shipped())
    scale = weights / weights.mean() / (1 + mean_error(net, data, weights))
    with torch.enable_grad():
        fit(net, data, scale, STEPS, RATE, seed)
    return net


def gather(
    video: np.ndarray, hole: np.ndarray, starts: np.ndarray, numbers: Iterable[int], rng: np.random.Generator
) -> list[Copy]:
    """Copies of the hole, one for each number, but where there is no place for one."""
    copies = []
    for _ in numbers:
        (down, right), hidden = displaced(hole, rng)
        if hidden.any():
            found, frames, rows, columns = _shown(video, hole, hidden, hidden, starts, rng)
            copies.append(Copy(down, right, found, frames, rows, columns, torch.ones(len(found.truth))))
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
    video: np.ndarray,
    hole: np.ndarray,
    hidden: np.ndarray,
    wanted: np.ndarray,
    starts: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Examples, np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, features and truth at some of the wanted pixels, and where those are.

    Args:
        hidden: what is hidden beside the hole.
        wanted: pixels of the hole or hidden ones; truth is what the video holds there.
    """
    both = hole | hidden
    clip = Clip(np.where(both[..., None], 0, video).astype(np.uint8), both, starts)
    found = clip.search()
    parts, places = [], []
    for t in [t for t in range(len(video)) if wanted[t].any()][::EVERY]:
        rows, columns = clip.places[t]
        chosen = np.flatnonzero(wanted[t][rows, columns])
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
