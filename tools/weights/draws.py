"""Fills many random pieces of the training clips by propagation, once and for all, for training the correction network.

    python -m tools.weights.draws CLIPS OUT [--train 1065] [--stills 394] [--val 140] [--seed 0]

A draw is a piece of a clip at random speed, a random square of it at 128x128, and a random hole. Draws of stills have
another frame, square and hole in each of their frames, which are filled one by one: what no frame shows. OUT/train,
OUT/stills and OUT/val get one array for each draw, uint8 ``[T, 128, 128, 7]``: the true pixels, the propagated fill,
and the doubt 255 (1 - confidence), which is 0 exactly where a pixel is known. OUT/index.json lists them with the clips'
hashes. What is there already is kept, so the command can be stopped and given again. About a second a draw.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fastinpaint.data.hole_mixtures import MIXTURE, STILLS, draw_hole
from fastinpaint.data.video import open_video
from fastinpaint.propagation import propagate
from tools.quality.cases import HELD_OUT, VALIDATION

SPLITS = ("val", "train", "stills")
FRAMES, SIDE = 12, 128
STORED_SIDE, STORED_FRAMES = 360, 700
"""Clips are kept decoded with at most this shorter side; those outside `GROUPS` with at most as many frames."""
STILL_SIDE = 144
"""Shorter side of the frames that views are made of on the spot."""
SPEEDS = (1, 1, 1, 2, 3)
WHOLE = 0.35
"""Share of draws that see the largest square of the frame; others see one of at least `SMALLEST` of its side."""
SMALLEST = 0.45
GROUPS = {"people/intel_asl_": 0.25, "everyday/mdn_tears_of_steel": 0.25}
"""Shares of training draws of clips whose names begin so; all others share the rest equally."""


def training_clips(clips: Path) -> list[str]:
    found = sorted(str(path.relative_to(clips)) for path in clips.glob("*/*") if path.parent.name != "licences")
    return [name for name in found if name not in HELD_OUT and name not in VALIDATION]


def shares(names: list[str]) -> np.ndarray:
    """Each clip's share of the draws."""
    group = [next((start for start in GROUPS if name.startswith(start)), "") for name in names]
    rest = 1 - sum(GROUPS[start] for start in set(group) if start)
    weight = np.array([GROUPS.get(start, rest) / group.count(start) for start in group])
    return weight / weight.sum()


def decoded(clips: Path, name: str, folder: Path) -> np.ndarray:
    """A memory map of the clip's frames, uint8 ``[N, h, w, 3]``, decoded at the first call."""
    target = folder / f"{name.replace('/', '_')}.npy"
    if not target.exists():
        most = None if name.startswith(tuple(GROUPS)) else STORED_FRAMES
        with open_video(clips / name) as reader:
            frames = [_small(frame.rgb) for frame in islice(reader, most)]
        part = target.with_suffix(".part.npy")
        np.save(part, np.stack(frames))
        part.replace(target)
    return np.load(target, mmap_mode="r")


def _small(rgb: np.ndarray, side: int = STORED_SIDE) -> np.ndarray:
    scale = side / min(rgb.shape[:2])
    return rgb if scale >= 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def small_frames(clips: Path, out: Path, names: list[str]) -> list[dict[str, Any]]:
    """Write each clip's frames, of a shorter side of at most `STILL_SIDE`; returns what the index says of each."""
    (out / "frames").mkdir(parents=True, exist_ok=True)
    (out / "decoded").mkdir(exist_ok=True)
    entries = []
    for name, share in zip(names, shares(names), strict=True):
        target = out / "frames" / f"{name.replace('/', '_')}.npy"
        if not target.exists():
            part = target.with_suffix(".part.npy")
            np.save(part, np.stack([_small(frame, STILL_SIDE) for frame in decoded(clips, name, out / "decoded")]))
            part.replace(target)
        entries.append({"file": f"frames/{target.name}", "clip": name, "share": round(float(share), 6)})
    return entries


def make_draw(frames: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """The kind of hole, and the draw."""
    count = len(frames)
    speed = min(int(rng.choice(SPEEDS)), (count - 1) // (FRAMES - 1))
    start = int(rng.integers(0, count - speed * (FRAMES - 1)))
    truth = square(frames[start : start + speed * (FRAMES - 1) + 1 : speed], rng)
    kind, holes = draw_hole(MIXTURE, FRAMES, SIDE, rng)
    return kind, filled_draw(truth, holes > 0)


def make_stills(frames: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A draw whose frames have nothing to do with each other."""
    parts = []
    for _ in range(FRAMES):
        start = int(rng.integers(0, len(frames)))
        _, hole = draw_hole(STILLS, 1, SIDE, rng)
        parts.append(filled_draw(square(frames[start : start + 1], rng), hole > 0))
    return "stills", np.concatenate(parts)


def square(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same random square of all frames, scaled."""
    height, width = frames.shape[1:3]
    largest = min(height, width)
    side = largest if rng.random() < WHOLE else int(rng.uniform(max(SMALLEST, SIDE / largest), 1) * largest)
    top, left = (int(rng.integers(0, length - side + 1)) for length in (height, width))
    piece = np.ascontiguousarray(frames[:, top : top + side, left : left + side])
    return np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in piece])


def filled_draw(truth: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """``[T, SIDE, SIDE, 7]``: truth, fill and doubt."""
    filled = propagate(np.where(hole[..., None], 0, truth).astype(np.uint8), hole)
    doubt = np.where(hole, np.rint(255 * (1 - filled.confidence)).clip(1, 255), 0).astype(np.uint8)
    return np.concatenate([truth, filled.video, doubt[..., None]], 3)


def make_draws(clips: Path, out: Path, split: str, names: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Write the draws of a split that are missing; returns what the index says of each."""
    (out / split).mkdir(parents=True, exist_ok=True)
    (out / "decoded").mkdir(exist_ok=True)
    weight = shares(names)
    entries = []
    for number in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        name = names[number % len(names)] if split == "val" else names[int(rng.choice(len(names), p=weight))]
        target, note = out / split / f"{number:05d}.npy", out / split / f"{number:05d}.json"
        if not note.exists():
            make = make_stills if split == "stills" else make_draw
            kind, draw = make(decoded(clips, name, out / "decoded"), rng)
            np.save(target, draw)
            note.write_text(json.dumps({"file": f"{split}/{target.name}", "clip": name, "holes": kind}))
        entries.append(json.loads(note.read_text()))
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1065)
    parser.add_argument("--stills", type=int, default=394)
    parser.add_argument("--val", type=int, default=140)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    names = training_clips(args.clips)
    val = make_draws(args.clips, args.out, "val", list(VALIDATION), args.val, args.seed)
    train = make_draws(args.clips, args.out, "train", names, args.train, args.seed)
    train += make_draws(args.clips, args.out, "stills", names, args.stills, args.seed)
    hashes = {name: hashlib.sha256((args.clips / name).read_bytes()).hexdigest() for name in [*names, *VALIDATION]}
    still = small_frames(args.clips, args.out, names)
    index = {"frames": FRAMES, "side": SIDE, "seed": args.seed, "clips": hashes, "train": train, "val": val}
    index["frames of clips"] = still
    (args.out / "index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    main()
