"""Trains the small network of `fastinpaint.propagation.blend` on known pixels that were hidden.

    python -m tools.blend.train DRAWS --out fastinpaint/propagation/blend.safetensors [--further]

DRAWS is the folder that `tools.blend.draws` made. The network learns weights that make the blend's absolute error small
and the error to be expected, from DRAWS/train; DRAWS/val says what it reaches on clips that it did not see. Minutes on
one core; the result depends on the draws and the seed alone. `--further` trains the package's weights on, and goes half
of the way to the result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from fastinpaint.propagation.blend import Weights, shipped
from fastinpaint.propagation.candidates import NAMES, Candidates
from fastinpaint.propagation.mixing import Examples, Net, examples, fit, joined, mean_error

STEPS, RATE = 1500, 4e-3
NOISE = 0.3
"""Of the features, as a share of their standard deviation: clips left out gain 0.7 % on fixed rectangles by it."""
FURTHER_RATE, FURTHER_NOISE, FURTHER_AWAKE, WAY = 1e-3, 0.15, 0.1, 0.5
"""Of training that goes on: rate, noise, weight of the cross entropy, and share of the way to the result."""
ALIVE = 1e-3
"""Mean share below which a candidate counts as one that the network ignores."""


def load(path: Path) -> Examples:
    """What `tools.blend.draws.gather` kept."""
    with np.load(path) as z:
        return examples(Candidates(z["values"], z["present"], z["features"].astype(np.float32)), z["truth"])


def read(folder: Path) -> dict[str, Examples]:
    """Draws by the names of their files."""
    return {path.name: load(path) for path in sorted(folder.glob("[0-9]*.npz"))}


def train(draws: list[Examples], steps: int, seed: int = 0, start: Weights | None = None) -> Net:
    """Draws count alike: each by 1 / (1 + the error of its best candidates).

    Args:
        start: weights to go on from; the result lies between them and the trained ones, at `WAY`. None starts again.
    """
    torch.manual_seed(seed)
    data = joined(draws)
    weight = torch.cat([torch.full((len(draw.truth),), 1 / (1 + float(_best(draw)))) for draw in draws])
    weight /= weight.mean()
    if start is None:
        net = Net(data.features.mean(0), data.features.std(0) + 1e-3)
        fit(net, data, weight, steps, RATE, seed, NOISE)
        return net
    net = Net.of(start)
    fit(net, data, weight, steps, FURTHER_RATE, seed, FURTHER_NOISE, FURTHER_AWAKE)
    trained = net.arrays()
    return Net.of({name: old + np.float32(WAY) * (trained[name] - old) for name, old in start.items()})


def _best(data: Examples) -> Tensor:
    """Mean error of the best candidate of each pixel."""
    apart = (data.values - data.truth[:, None]).abs().mean(2)
    return apart.masked_fill(~data.present, 999).amin(1).mean()


@torch.no_grad()
def report(nets: dict[str, Net], draws: dict[str, Examples]) -> str:
    """A table of mean errors by kind of hole: each network's blend, Telea, the best candidates; and the shares.

    The blend's are before the caution of `fastinpaint.propagation.blend`.
    """
    kinds = sorted({name.split("_")[1] for name in draws})
    rows: dict[str, dict[str, float]] = {"Telea": {}, "best candidate": {}}
    for name, data in draws.items():
        rows["Telea"][name] = float((data.values[:, 0] - data.truth).abs().mean())
        rows["best candidate"][name] = float(_best(data))
    lines = [f"| blend | all | {' | '.join(kinds)} |", "|" + " --- |" * (2 + len(kinds))]
    for label, net in nets.items():
        rows[label] = {name: mean_error(net, data) for name, data in draws.items()}
    for label, row in rows.items():
        means = [np.mean([error for name, error in row.items() if name.split("_")[1] == kind]) for kind in kinds]
        cells = " | ".join(f"{mean:.2f}" for mean in means)
        lines.append(f"| {label} | {np.mean(list(row.values())):.2f} | {cells} |")
    for label, net in nets.items():
        share = torch.stack([net(data.features, data.present)[0].exp().mean(0) for data in draws.values()]).mean(0)
        ignored = [name for name, value in zip(NAMES, share.tolist(), strict=True) if value < ALIVE]
        each = ", ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, share.tolist(), strict=True))
        lines.append(f"\n{label}: {each}; ignored: {', '.join(ignored) or 'none'}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draws", metavar="DRAWS", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--further", action="store_true", help="go on from the package's weights")
    args = parser.parse_args()
    start = shipped() if args.further else None
    net = train(list(read(args.draws / "train").values()), args.steps, start=start)
    if args.out:
        save_file({name: array.astype(np.float16) for name, array in net.arrays().items()}, args.out)
    print(report({"shipped": Net.of(shipped()), "trained": net}, read(args.draws / "val")))


if __name__ == "__main__":
    main()
