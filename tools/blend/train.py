"""Trains the small network of `fastinpaint.propagation.blend` on known pixels that were hidden.

    python -m tools.blend.train CLIP[@FRAME] ... --cache DIR --out fastinpaint/propagation/blend.safetensors

Every clip is hidden by each kind of hole; every few frames the candidates and features of some hole pixels are kept in
DIR, one file for a clip and a kind. The network then learns weights that make the blend's absolute error small, and
the error to be expected. Minutes on two cores; the result depends on the clips and the seed alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation.candidates import MOTIONS, Candidates
from fastinpaint.propagation.carry import Mosaic
from fastinpaint.propagation.mixing import Examples, Net, examples, fit, joined, mean_error
from fastinpaint.propagation.rounds import Clip

FRAMES, SIZE, EVERY, PIXELS = 40, 128, 6, 4000
KINDS = (*HOLE_KINDS, "box")
HOLES = {"rectangle": 2}
"""Holes of a kind that are drawn for each clip, where more than one: a fixed one is a single example of its content."""
RATE = 4e-3
NOISE = 0.3
"""Of the features, as a share of their standard deviation: held-out clips gain 0.7 % on fixed rectangles by it."""


def box(frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A box of 0.3 to 0.5 of each side that slides through the frame and back, bool ``[T, H, W]``.

    It is the hole of a thing that passes: what it hides, other frames show, often with something else in front.
    """
    size = np.array([height, width]) * rng.uniform(0.3, 0.5, 2)
    room = np.array([height, width]) - size
    at, speed = rng.uniform(0, 1, 2) * room, rng.uniform(0.01, 0.04, 2) * rng.choice([-1, 1], 2) * (height, width)
    hole = np.zeros((frames, height, width), bool)
    for t in range(frames):
        way = (at + speed * t) % (2 * room)
        top, left = np.where(way > room, 2 * room - way, way)
        hole[t, int(top) : int(top + size[0]), int(left) : int(left + size[1])] = True
    return hole


def holes(kind: str, frames: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool ``[T, H, W]``."""
    return box(frames, height, width, rng) if kind == "box" else make_holes(kind, frames, height, width, rng) > 0


def gather(clip_name: str, kind: str, number: int, target: Path) -> None:
    """Candidates, features and truth at the pixels of the hole of that number; of a clip, from @FRAME on."""
    name, _, start = clip_name.partition("@")
    video = read_clip(name, int(start or 0) + FRAMES, SIZE)[int(start or 0) :]
    frames, height, width = video.shape[:3]
    hole = holes(kind, frames, height, width, np.random.default_rng([len(Path(clip_name).name), number]))
    clip = Clip(np.where(hole[..., None], 0, video).astype(np.uint8), hole, np.arange(len(video)) == 0)
    searched = clip.search()
    mosaic = Mosaic(searched.filled)
    found = [(clip.candidates(t, searched, mosaic), video[t][clip.places[t]]) for t in range(1, len(video), EVERY)]
    truth = np.concatenate([colours for _, colours in found])
    chosen = np.sort(np.random.default_rng(0).permutation(len(truth))[:PIXELS])
    np.savez(
        target,
        values=np.concatenate([c.values for c, _ in found], 1)[:, chosen],
        present=np.concatenate([c.present for c, _ in found], 1)[:, chosen],
        features=np.concatenate([c.features for c, _ in found])[chosen],
        truth=truth[chosen],
    )


def load(path: Path) -> Examples:
    """What `gather` kept."""
    with np.load(path) as z:
        return examples(Candidates(z["values"], z["present"], z["features"]), z["truth"])


def train(files: list[Examples], steps: int, seed: int = 0) -> Net:
    """Clips and holes count alike: each by 1 / (1 + the error of its best candidates)."""
    torch.manual_seed(seed)
    data = joined(files)
    weight = torch.cat([torch.full((len(file.truth),), 1 / (1 + float(_best(file)))) for file in files])
    net = Net(data.features.mean(0), data.features.std(0) + 1e-3)
    fit(net, data, weight / weight.mean(), steps, RATE, seed, NOISE)
    return net


def _best(data: Examples) -> Tensor:
    """Mean error of the best candidate of each pixel."""
    errors = (data.values - data.truth[:, None]).abs().mean(2)
    return errors.masked_fill(~data.present, 999).amin(1).mean()


@torch.no_grad()
def report(net: Net, files: dict[str, Examples]) -> None:
    """Error of the blend beside Telea's, by kind of hole."""
    for kind in KINDS:
        rows = [
            (mean_error(net, d), float((d.values[:, 0] - d.truth).abs().mean()))
            for name, d in files.items()
            if name.startswith(kind + "_")
        ]
        if rows:
            blend, telea = np.mean(rows, 0)
            each = " ".join(f"{b:.1f}/{t:.1f}" for b, t in rows)
            print(f"{kind}: blend {blend:.2f}, Telea {telea:.2f}; by clip {each}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", metavar="CLIP[@FRAME]", nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--folds", type=int, default=0, help="validate on every n-th clip in turn first")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    files: dict[str, Examples] = {}
    clip_of = {}
    for number, name in enumerate(args.clips):
        stem = Path(name).stem + name.partition("@")[2]
        for kind in KINDS:
            for hole in range(HOLES.get(kind, 1)):
                target = args.cache / f"{kind}_{hole}_{stem}.npz"
                if not target.exists():
                    part = target.with_name(f"part_{target.name}")
                    gather(name, kind, hole, part)
                    part.replace(target)
                files[target.name], clip_of[target.name] = load(target), number
    print(f"{len(args.clips)} clips, {len(files)} holes, motions {', '.join(MOTIONS)}")
    for fold in range(args.folds):
        kept = [d for name, d in files.items() if clip_of[name] % args.folds != fold]
        report(train(kept, args.steps), {n: d for n, d in files.items() if clip_of[n] % args.folds == fold})
    net = train(list(files.values()), args.steps)
    report(net, files)
    if args.out:
        save_file({name: array.astype(np.float16) for name, array in net.arrays().items()}, args.out)


if __name__ == "__main__":
    main()
