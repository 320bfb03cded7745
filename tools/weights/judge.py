"""Compares corrections on the validation draws, by kind of hole: the table by which the network's design is chosen.

    python -m tools.weights.judge DRAWS SIZE WEIGHTS_OR_RUN ...

Mean error inside the holes, 0 to 255, at the size that the network sees, where the correction counts as in `inpaint`.
The first row is the fill itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from fastinpaint.cli.evaluate import labelled
from fastinpaint.inference.complete import weight
from fastinpaint.models import TwoDCN, VideoCompletionNet, complete_frames
from fastinpaint.models.weights import load_weights
from fastinpaint.training.batches import to_float
from fastinpaint.training.draws import PropagatedDraws, seen, split_channels

Network = TwoDCN | VideoCompletionNet


@torch.inference_mode()
def errors(draw: np.ndarray, models: dict[str, Network]) -> dict[str, float]:
    """Of a draw as it is seen: the fill's mean error, and each model's."""
    video, doubt = split_channels(draw)
    video_, doubt_ = torch.from_numpy(video.copy())[None], torch.from_numpy(doubt.copy())[None]
    pixels, mask = to_float(video_, doubt_, torch.device("cpu"), 255)
    truth, filled = pixels[:, :3], pixels[:, 3:]
    hole = (mask > 0).expand_as(truth)
    found = {"fill": filled}
    for label, model in models.items():
        result = complete_frames(model, filled, mask) if isinstance(model, TwoDCN) else model(filled, mask)[0]
        found[label] = filled + weight(mask) * (result - filled)
    return {name: 255 * float((result - truth)[hole].abs().mean()) for name, result in found.items()}


def main() -> None:
    size = int(sys.argv[2])
    draws = PropagatedDraws(sys.argv[1], "val", 8, size)
    models = {label: load_weights(path) for label, path in labelled([Path(name) for name in sys.argv[3:]]).items()}
    rows = [errors(seen(draw, 8, size), models) for draw in draws]
    kinds = sorted(set(draws.kinds))
    print("| network | all | " + " | ".join(f"{kind} ({draws.kinds.count(kind)})" for kind in kinds) + " |")
    print("|" + " --- |" * (2 + len(kinds)))
    for name in rows[0]:
        means = [
            np.mean([row[name] for row, own in zip(rows, draws.kinds, strict=True) if own == kind]) for kind in kinds
        ]
        print(
            f"| {name} | {np.mean([row[name] for row in rows]):.2f} | " + " | ".join(f"{m:.2f}" for m in means) + " |"
        )


if __name__ == "__main__":
    main()
