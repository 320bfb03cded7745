"""Hides pixels of many random pieces of clips, and keeps what could fill them, for training the mixing network.

    python -m tools.blend.draws CLIPS OUT [--train 500] [--val 63] [--seed 0] [--decoded DIR]

A draw is a piece of a clip at random speed, a square of it that stands still or moves like a hand-held camera, perhaps
with flickering light or noise, and a random hole. Some draws are whole squares instead: the middle of frames as they
are, under the holes that `tools.quality` measures with. Every few frames the candidates, features and truth of
some of its pixels are kept, one file for each draw. OUT/train has clips that nothing is measured on, OUT/val those
validated on (`tools.quality.cases`). What is there already is kept, so the command can be stopped and given again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.hole_mixtures import Mixture, border, moving_rectangle, object_shape, still_shape
from fastinpaint.data.holes import make_holes
from fastinpaint.propagation.rounds import Clip
from fastinpaint.propagation.shown import Frames, stacked
from tools.quality.cases import VALIDATION
from tools.weights.draws import decoded, training_clips

SPLITS = ("train", "val")
FRAMES = (20, 40)
WHOLE, WHOLE_SIDE = 0.45, 128
"""Share of training draws that are whole squares, and the side of these. Validation draws come in both forms."""
SIDES, SIDE_SHARES = (128, 192, 256), (0.75, 0.17, 0.08)
SPEEDS = (1, 1, 1, 2, 3)
EVERY, PIXELS = 6, 4000
"""Frames from one that is looked at to the next, and pixels that are kept of a draw, at most."""
GROUPS = {"people/intel_asl_": 0.18, "everyday/mdn_tears_of_steel": 0.3}
"""Shares of draws of clips whose names begin so; all others share the rest equally."""
ARM = 0.6
"""Share of removals in which an arm holds the thing."""
SMALLEST = 0.4
"""Least side of a square, as a share of the frame's shorter side."""
MOVING, FLICKER, NOISY = 0.45, 0.15, 0.25
"""Shares of draws whose square moves, whose light changes, and that get noise."""
PAN, ZOOM, TURN, SHAKE = 0.012, 0.004, 0.15, 0.003
"""Standard deviations: speed in sides of the square per frame, growth per frame, degrees per frame, and shaking in
sides."""
FINE = 2
"""Side of a square while it is cut out, over its side in the draw."""


def box(frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """A box of 0.3 to 0.5 of each side that slides through the frame and back, uint8 ``[T, side, side]``.

    It is the hole of a thing that passes: what it hides, other frames show, often with something else in front.
    """
    size = rng.uniform(0.3, 0.5, 2) * side
    room = side - size
    at, speed = rng.uniform(0, 1, 2) * room, rng.uniform(0.01, 0.04, 2) * rng.choice([-1, 1], 2) * side
    hole = np.zeros((frames, side, side), np.uint8)
    for t in range(frames):
        way = (at + speed * t) % (2 * room)
        top, left = np.where(way > room, 2 * room - way, way)
        hole[t, int(top) : int(top + size[0]), int(left) : int(left + size[1])] = 1
    return hole


HOLES: Mixture = {
    "removal": (0.06, object_shape),
    "rectangle": (0.14, lambda frames, side, rng: make_holes("rectangle", frames, side, side, rng)),
    "rectangles": (0.15, lambda frames, side, rng: make_holes("rectangles", frames, side, side, rng)),
    "strokes": (0.25, lambda frames, side, rng: make_holes("strokes", frames, side, side, rng)),
    "moving rectangle": (0.1, moving_rectangle),
    "moving object": (0.1, object_shape),
    "box": (0.12, box),
    "still shape": (0.04, still_shape),
    "border": (0.04, border),
}
"""Kinds of holes with their shares of the draws; a removal's hides a thing that is put there (`with_thing`)."""
WHOLE_HOLES: Mixture = {
    "whole rectangle": (0.5, HOLES["rectangle"][1]),
    "whole rectangles": (0.25, HOLES["rectangles"][1]),
    "whole strokes": (0.25, HOLES["strokes"][1]),
}
"""The same of whole squares."""


def shares(names: list[str]) -> np.ndarray:
    """Each clip's share of the draws."""
    group = [next((start for start in GROUPS if name.startswith(start)), "") for name in names]
    rest = 1 - sum(GROUPS[start] for start in set(group) if start)
    weight = np.array([GROUPS.get(start, rest) / group.count(start) for start in group])
    return weight / weight.sum()


def piece(clip: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square piece of a clip ``[N, h, w, 3]`` in space and time: uint8 ``[T, side, side, 3]``."""
    frames = _frames(clip, rng)
    speed = min(int(rng.choice(SPEEDS)), max(1, (len(clip) - 1) // max(1, frames - 1)))
    start = int(rng.integers(0, len(clip) - speed * (frames - 1)))
    maps = _path(frames, clip.shape[1:3], side, rng)
    fine = (FINE * side, FINE * side)
    cut = [
        cv2.warpAffine(frame, matrix, fine, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT)
        for frame, matrix in zip(clip[start : start + speed * (frames - 1) + 1 : speed], maps, strict=True)
    ]
    video = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in cut])
    return _lit(video, rng)


def whole(clip: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The middle square of some frames of a clip ``[N, h, w, 3]``, one after another: uint8 ``[T, side, side, 3]``."""
    frames = _frames(clip, rng)
    start = int(rng.integers(0, len(clip) - frames + 1))
    height, width = clip.shape[1:3]
    most = min(height, width)
    top, left = (height - most) // 2, (width - most) // 2
    cut = clip[start : start + frames, top : top + most, left : left + most]
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in cut])


def _frames(clip: np.ndarray, rng: np.random.Generator) -> int:
    return min(int(rng.integers(FRAMES[0], FRAMES[1] + 1)), len(clip))


def _path(frames: int, shape: tuple[int, ...], side: int, rng: np.random.Generator) -> np.ndarray:
    """From each square's pixels to those of the clip's frames: float64 ``[T, 2, 3]``."""
    most = float(min(shape))
    moving = rng.random() < MOVING
    own = most * rng.uniform(SMALLEST, 0.8 if moving else 1.0)
    steps = np.arange(frames)
    grown, turned = np.ones(frames), np.zeros(frames)
    shaken: np.ndarray = np.zeros((frames, 2))
    speed = np.zeros(2)
    if moving:
        grown = np.exp(rng.normal(0, ZOOM) * (steps - frames / 2)).clip(0.8, 1.2)
        turned = np.deg2rad(rng.normal(0, TURN) * steps).clip(-0.1, 0.1)
        speed = rng.normal(0, PAN, 2) * own
        shaken = cv2.GaussianBlur(rng.normal(0, rng.uniform(0, 2) * SHAKE * own, (frames, 2)), (1, 5), 0.8)
    half = own * grown.max() * (0.6 if moving else 0.5)  # of the turned square, at most
    room = np.maximum(np.array(shape[::-1]) - 2 * half, 1e-3)
    folded = np.mod(rng.uniform(0, 1, 2) * room + steps[:, None] * speed, 2 * room)
    middle: np.ndarray = half + np.minimum(folded, 2 * room - folded) + shaken
    scale = own * grown / (FINE * side)
    if not moving:
        middle = np.rint(middle)
    cos, sin = scale * np.cos(turned), scale * np.sin(turned)
    axes = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)
    corner = middle - 0.5 - axes @ np.full(2, (FINE * side - 1) / 2)
    return np.concatenate([axes, corner[..., None]], 2)


def _lit(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Perhaps with light that changes slowly, and with noise."""
    changed = video.astype(np.float32)
    if rng.random() < FLICKER:
        swing = 1 + rng.uniform(0.02, 0.15) * np.sin(rng.uniform(0.05, 0.6) * np.arange(len(video)) + rng.uniform(0, 6))
        changed *= swing[:, None, None, None].astype(np.float32)
    if rng.random() < NOISY:
        changed += rng.normal(0, rng.uniform(1, 6), video.shape).astype(np.float32)
    return np.rint(changed).clip(0, 255).astype(np.uint8)


def with_thing(video: np.ndarray, hole: np.ndarray, texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The video with a thing in it that moves with the hole, as one that is to be removed.

    It fills the hole and may reach beyond the hole's edge by a few pixels. An arm, which no mask covers, may hold it.

    Args:
        video: uint8 ``[T, side, side, 3]``.
        hole: bool ``[T, side, side]``, at least a pixel in every frame.
        texture: of the thing and its arm, uint8 ``[side, side, 3]``.
    """
    side = video.shape[1]
    rim, arm = int(rng.choice(4)), rng.random() < ARM
    angle, turn, length = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.02), rng.uniform(0.3, 1.0) * side
    thickness = max(2, round(rng.uniform(0.05, 0.15) * side))
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    result, first = video.copy(), np.zeros(2)
    for t, own in enumerate(hole):
        middle = np.array([axis.mean() for axis in np.nonzero(own)])[::-1]
        first = middle if t == 0 else first
        plane = cv2.dilate(own.astype(np.uint8), reach)
        if arm:
            way = np.array([np.cos(angle + turn * t), np.sin(angle + turn * t)])
            ends = [tuple(int(x) for x in np.rint(point)) for point in (middle, middle + length * way)]
            cv2.line(plane, ends[0], ends[1], 1, thickness)
        shift = np.column_stack([np.eye(2), middle - first])
        moved = cv2.warpAffine(texture, shift, (side, side), borderMode=cv2.BORDER_REFLECT)
        share = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), 0.8)[..., None]
        result[t] = np.rint(video[t] + share * (moved - video[t].astype(np.float32)))
    return result


def gather(
    video: np.ndarray, hole: np.ndarray, rng: np.random.Generator, truth: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Candidates, features and truth at some of the hole's pixels; None takes what the video holds there for true."""
    true = video if truth is None else truth
    window = Frames(zip(video, hole, strict=True)).take(len(video))
    clip = Clip(*stacked(window), [shown.telea for shown in window])
    searched = clip.search()
    looked_at = range(int(rng.integers(EVERY)), len(video), EVERY)
    found = [(clip.candidates(t, searched, searched.mosaic), true[t][clip.places[t]]) for t in looked_at]
    colours = np.concatenate([shown for _, shown in found])
    chosen = np.sort(rng.permutation(len(colours))[:PIXELS])
    return {
        "values": np.concatenate([c.values for c, _ in found], 1)[:, chosen],
        "present": np.concatenate([c.present for c, _ in found], 1)[:, chosen],
        "features": np.concatenate([c.features for c, _ in found])[chosen].astype(np.float16),
        "truth": colours[chosen],
    }


def make_draws(clips: Path, out: Path, split: str, count: int, seed: int, store: Path) -> None:
    """Write the draws of a split that are missing. Their names say number, kind of hole and clip."""
    target = out / split
    target.mkdir(parents=True, exist_ok=True)
    store.mkdir(parents=True, exist_ok=True)
    names = list(VALIDATION) if split == "val" else training_clips(clips)
    weight, kinds = shares(names), [*HOLES, *WHOLE_HOLES]
    there = {path.name.split("_")[0] for path in target.glob("*.npz")}
    for number in range(count):
        if f"{number:05d}" in there:
            continue
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        if split == "val":  # every clip gets every kind alike
            name, kind = names[number % len(names)], kinds[number // len(names) % len(kinds)]
            holes = WHOLE_HOLES if kind in WHOLE_HOLES else HOLES
        else:
            name = names[int(rng.choice(len(names), p=weight))]
            holes = WHOLE_HOLES if rng.random() < WHOLE else HOLES
            kind = str(rng.choice(list(holes), p=[share for share, _ in holes.values()]))
        clip = decoded(clips, name, store)
        if holes is WHOLE_HOLES:
            video = whole(clip, WHOLE_SIDE, rng)
        else:
            video = piece(clip, int(rng.choice(SIDES, p=SIDE_SHARES)), rng)
        hole = holes[kind][1](len(video), video.shape[1], rng)
        path = target / f"{number:05d}_{kind}_{Path(name).stem}.npz"
        part = target / f"part_{number:05d}.npz"
        seen = video
        if kind == "removal":
            other = names[int(rng.choice(len(names), p=weight))]
            texture = piece(decoded(clips, other, store), video.shape[1], rng)[0]
            seen = with_thing(video, hole > 0, texture, rng)
        np.savez(part, **gather(seen, hole > 0, rng, video))  # type: ignore[arg-type]  # its stub takes bools alone
        part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--val", type=int, default=84)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoded", type=Path, help="where decoded clips are kept; OUT/decoded")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    for split in SPLITS[::-1]:
        make_draws(args.clips, args.out, split, getattr(args, split), args.seed, args.decoded or args.out / "decoded")


if __name__ == "__main__":
    main()
