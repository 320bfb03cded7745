"""Trains the small network of `fastinpaint.propagation.blend` on known pixels that were hidden.

    python -m tools.blend.train CLIP [CLIP ...] --cache DIR --out fastinpaint/propagation/blend.npz

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
from torch import Tensor, nn

from fastinpaint.data.holes import HOLE_KINDS, make_holes
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation.blend import USUAL
from fastinpaint.propagation.candidates import MOTIONS, NAMES, PAIRS, SPATIAL
from fastinpaint.propagation.carry import Mosaic
from fastinpaint.propagation.rounds import Clip

FRAMES, SIZE, EVERY, PIXELS = 64, 128, 9, 8000
HIDDEN = 24
CONTEXT, EACH = 3, 5
"""Features before those of the temporal candidates, and features of each of them (see `collect`)."""


def gather(path: Path, kind: str, target: Path) -> None:
    """Candidates, features and truth at hole pixels of a clip."""
    video = read_clip(path, FRAMES, SIZE)
    hole = make_holes(kind, len(video), video.shape[1], video.shape[2], np.random.default_rng(len(path.name))) > 0
    clip = Clip(np.where(hole[..., None], 0, video).astype(np.uint8), hole, np.arange(len(video)) == 0)
    sources, _, filled = clip.sources()
    mosaic = Mosaic(filled)
    found = [(clip.candidates(t, sources, mosaic), video[t][clip.places[t]]) for t in range(1, len(video), EVERY)]
    truth = np.concatenate([colours for _, colours in found])
    chosen = np.sort(np.random.default_rng(0).permutation(len(truth))[:PIXELS])
    np.savez(
        target,
        values=np.concatenate([c.values for c, _ in found], 1)[:, chosen],
        present=np.concatenate([c.present for c, _ in found], 1)[:, chosen],
        features=np.concatenate([c.features for c, _ in found])[chosen],
        truth=truth[chosen],
    )


def mirrored_in_time() -> tuple[list[int], list[int]]:
    """The order of candidates and of features after past and future change places."""
    swap = [1, 0, 3, 2, 5, 4]
    candidates = [*range(len(SPATIAL)), *(len(SPATIAL) + i for i in swap)]
    features = list(range(CONTEXT))
    for i in swap:
        features += range(CONTEXT + EACH * i, CONTEXT + EACH * (i + 1))
    start = CONTEXT + EACH * len(swap)
    features += [start, start + 1, *(start + 2 + i for i in swap)]
    start += 2 + len(swap)
    pairs = [tuple(sorted((swap[a], swap[b]))) for a, b in PAIRS]
    features += [start + PAIRS.index(pair) for pair in pairs]
    return candidates, features


class Net(nn.Module):
    """The network that `blend` evaluates."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("std", features.std(0) + 1e-3)
        self.first = nn.Linear(features.shape[1], HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, len(NAMES) + 1)

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Shares ``[B, K]`` and the expected log(1 + error) ``[B]``."""
        x = ((features - self.mean) / self.std).clamp(-USUAL, USUAL)
        out = self.last(torch.relu(self.second(torch.relu(self.first(x)))))
        return torch.softmax(out[:, :-1].masked_fill(~present, -1e4), 1), out[:, -1]

    def arrays(self) -> dict[str, np.ndarray]:
        """What `blend.npz` holds."""
        named = {"mean": self.mean, "std": self.std}
        for number, layer in enumerate((self.first, self.second, self.last), start=1):
            named[f"a{number}"], named[f"b{number}"] = layer.weight, layer.bias
        return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in named.items()}


Data = tuple[Tensor, Tensor, Tensor, Tensor]


def load(path: Path) -> Data:
    """values ``[B, K, 3]``, present ``[B, K]``, features ``[B, F]``, truth ``[B, 3]``."""
    with np.load(path) as z:
        values = torch.from_numpy(z["values"].astype(np.float32)).permute(1, 0, 2)
        truth = torch.from_numpy(z["truth"].astype(np.float32))
        return values, torch.from_numpy(z["present"]).T, torch.from_numpy(z["features"]), truth


def errors(net: Net, values: Tensor, present: Tensor, features: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The blend's absolute error ``[B]`` and that of the expected log error."""
    share, expected = net(features, present)
    error = ((share[..., None] * values).sum(1) - truth).abs().mean(1)
    return error, (expected - torch.log1p(error.detach())).abs()


def fit(files: list[Data], steps: int, seed: int = 0) -> Net:
    """Clips and kinds count alike: each by 1 / (1 + the error of its best candidates)."""
    torch.manual_seed(seed)
    scale = [torch.full((len(d[3]),), 1 / (1 + float(_best(d)))) for d in files]
    values, present, features, truth = (torch.cat(parts) for parts in zip(*files, strict=True))
    weight = torch.cat(scale) / torch.cat(scale).mean()
    candidates, order = mirrored_in_time()
    net = Net(features)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        i = torch.randint(len(truth), (4096,))
        v, p, f = values[i], present[i], features[i]
        if step % 2:
            v, p, f = v[:, candidates], p[:, candidates], f[:, order]
        error, surprise = errors(net, v, p, f, truth[i])
        loss = (weight[i] * error).mean() + 0.2 * surprise.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net


def _best(data: Data) -> Tensor:
    values, present, _, truth = data
    return (values - truth[:, None]).abs().mean(2).masked_fill(~present, 999).amin(1).mean()


@torch.no_grad()
def report(net: Net, files: dict[str, Data]) -> None:
    """Error of the blend beside Telea's, by kind of hole."""
    for kind in HOLE_KINDS:
        rows = [
            (float(errors(net, *d)[0].mean()), float((d[0][:, 0] - d[3]).abs().mean()))
            for name, d in files.items()
            if name.startswith(kind + "_")
        ]
        if rows:
            blend, telea = np.mean(rows, 0)
            each = " ".join(f"{b:.1f}/{t:.1f}" for b, t in rows)
            print(f"{kind}: blend {blend:.2f}, Telea {telea:.2f}; by clip {each}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--folds", type=int, default=0, help="validate on every n-th clip in turn first")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.cache.mkdir(parents=True, exist_ok=True)
    files: dict[str, Data] = {}
    clip_of = {}
    for number, path in enumerate(args.clips):
        for kind in HOLE_KINDS:
            target = args.cache / f"{kind}_{path.stem}.npz"
            if not target.exists():
                gather(path, kind, target)
            files[target.name], clip_of[target.name] = load(target), number
    print(f"{len(args.clips)} clips, features {next(iter(files.values()))[2].shape[1]}, motions {', '.join(MOTIONS)}")
    for fold in range(args.folds):
        kept = [d for name, d in files.items() if clip_of[name] % args.folds != fold]
        report(fit(kept, args.steps), {n: d for n, d in files.items() if clip_of[n] % args.folds == fold})
    net = fit(list(files.values()), args.steps)
    report(net, files)
    if args.out:
        np.savez(args.out, allow_pickle=False, **net.arrays())


if __name__ == "__main__":
    main()
