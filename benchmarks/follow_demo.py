"""Compares training of the demo by fused layers and by plain PyTorch, step by step and at the end.

    OMP_NUM_THREADS=1 python -m benchmarks.follow_demo [--seeds 3] [--pretrain-steps 150] [--steps 450]

It uses the demo's data, network and options with fewer steps, and trains each seed by both backends. It prints the
largest relative difference of losses up to a step and, for the end of each run, the mean of the last losses and the
evaluation on other clips. The backends agree if their means differ by no more than the reference's seeds do.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch

from fastinpaint.data.dataset import VideoSamples
from fastinpaint.demo.run import HOLES, DemoSize, make_data, train_config
from fastinpaint.metrics import evaluate
from fastinpaint.models.weights import load_weights
from fastinpaint.training import train
from fastinpaint.training.logs import read_log

AT = (1, 5, 10, 20, 50, 100)
NETWORKS = ("3DCN", "CombCN")
LAST = "last losses"
WINDOW = 50


def losses_of(run: Path) -> list[float]:
    """The total loss of every step."""
    return [line["total"] for line in read_log(run / "log.jsonl") if line["event"] == "train"]


def ends_of(run: Path, data: Path) -> dict[str, float]:
    """The mean of the last losses, and the mean errors inside the holes of the validation samples, 0 to 255."""
    found = evaluate(
        {"completion": load_weights(run / "last.safetensors")}, VideoSamples(data, "val"), HOLES, rivals=False
    )
    last = losses_of(run)[-WINDOW:]
    return {LAST: sum(last) / len(last), **{name: found.means[name].hole_l1 for name in NETWORKS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain-steps", type=int, default=150)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--backend", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = DemoSize(pretrain_steps=args.pretrain_steps, steps=args.steps)
    ends: dict[str, list[dict[str, float]]] = {"reference": [], args.backend: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_data(folder, size)
        for seed in range(args.seeds):
            for backend, found in ends.items():
                options = {"seed": seed, "validate_every": 0, "log_every": 1}
                config = dataclasses.replace(train_config(size, "paper", backend), **options)
                train(config, folder / "data", folder / f"{backend}-{seed}")
                found.append(ends_of(folder / f"{backend}-{seed}", folder / "data"))
            plain, fused = (losses_of(folder / f"{backend}-{seed}") for backend in ends)
            apart = [abs(b / a - 1) for a, b in zip(plain, fused, strict=True)]
            steps = [step for step in AT if step <= len(apart)]
            told = ", ".join(f"{step}: {max(apart[:step]):.1e}" for step in steps)
            print(f"seed {seed}: losses differ at most, up to step {told}", flush=True)
            for backend, found in ends.items():
                figures = ", ".join(f"{name} {value:.2f}" for name, value in found[-1].items())
                print(f"seed {seed}: {backend} ends at: {figures}", flush=True)
    for name in (LAST, *NETWORKS):
        plain, fused = ([found[name] for found in runs] for runs in ends.values())
        means, spread = [sum(plain) / len(plain), sum(fused) / len(fused)], max(plain) - min(plain)
        verdict = "within" if abs(means[1] - means[0]) <= spread else "outside"
        print(f"{name}: mean {means[0]:.2f} and {means[1]:.2f}, {verdict} the seeds' spread of {spread:.2f}")


if __name__ == "__main__":
    main()
