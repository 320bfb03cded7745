"""Writes a run's averaged weights in half precision, and where they come from, as they go into the package.

    python -m tools.weights.export RUN DRAWS WEIGHTS.safetensors FACTS.json

The weights are the last of the run. Batch norm and noise differ between training and use, where the average of the
weights is better than what the share of its pixels was learned for. So the share's bias is raised by what lowers the
error on the validation draws most.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastinpaint.inference.complete import weight
from fastinpaint.models import TwoDCN, predict_frames
from fastinpaint.models.preprocess import corrected
from fastinpaint.models.weights import load_weights, save_weights, weights_info
from fastinpaint.training.batches import to_float
from fastinpaint.training.draws import PropagatedDraws, seen, split_channels
from fastinpaint.training.logs import read_log
from fastinpaint.training.run_folder import RunFolder

FRAMES = 16
"""Frames that `inpaint` shows the network at once."""
JUDGED = (0, 6)
"""Frames of each validation draw that the share is chosen by."""
RAISES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


@torch.inference_mode()
def errors(model: TwoDCN, draw: np.ndarray, size: int) -> list[float]:
    """The mean error inside the hole of the draw's first frame for each of `RAISES`, 0 to 255."""
    video, doubt = split_channels(seen(draw, 1, size))
    pixels, mask = to_float(
        torch.from_numpy(video.copy())[None], torch.from_numpy(doubt.copy())[None], torch.device("cpu"), 255
    )
    truth, filled = pixels[:, :3], pixels[:, 3:]
    output, hole = predict_frames(model, filled, mask), (mask > 0).expand_as(truth)
    found = []
    for raised in RAISES:
        change = corrected(torch.cat([output[:, :3], output[:, 3:] + raised], 1), filled, mask) - filled
        found.append(255 * float((filled + weight(mask) * change - truth)[hole].abs().mean()))
    return found


def raise_share(model: TwoDCN, draws: PropagatedDraws, size: int) -> dict[float, float]:
    """Raise the bias of the share to the best of `RAISES`; returns the validation error of each."""
    means = torch.tensor([errors(model, draw[t:], size) for draw in draws for t in JUDGED]).mean(0).tolist()
    last = list(model.layers.values())[-1].get_submodule("conv")
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.bias[3] += RAISES[means.index(min(means))]
    return dict(zip(RAISES, means, strict=True))


def facts(run: Path, draws: Path) -> dict[str, Any]:
    """The options, the draws' seed, the clips' hashes, and the validation error by step.

    Weights that the run was begun with are named by their hash.
    """
    folder = RunFolder(run)
    index = json.loads((draws / "index.json").read_text())
    curve = {line["step"]: line["2dcn"] for line in read_log(folder.log) if line["event"] == "validation"}
    options = folder.stored_config().to_dict()
    if options["start"]:
        options["start"] = "sha256 " + hashlib.sha256(Path(options["start"]).read_bytes()).hexdigest()
    return {
        "options": options,
        "draws": {name: index[name] for name in ("seed", "frames", "side")},
        "counts": {split: len(index[split]) for split in ("train", "val")},
        "shares of clips in fresh views": {entry["clip"]: entry["share"] for entry in index["frames of clips"]},
        "clips": index["clips"],
        "validation": {step: round(value, 3) for step, value in curve.items()},
    }


def main() -> None:
    run, root, weights, target = map(Path, sys.argv[1:])
    last = run / "last.safetensors"
    model, info = load_weights(last), weights_info(last)
    assert isinstance(model, TwoDCN)
    size = info.extra["size"]
    raised = raise_share(model, PropagatedDraws(root, "val", 1, size), size)
    save_weights(weights, model.half(), {**info.extra, "frames": FRAMES})
    rounded = {f"{by:g}": round(error, 3) for by, error in raised.items()}
    target.write_text(json.dumps({**facts(run, root), "share raised by": rounded}, indent=1) + "\n")
    print(rounded)


if __name__ == "__main__":
    main()
