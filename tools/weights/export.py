"""Writes a run's averaged weights in half precision, and where they come from, as they go into the package.

python -m tools.weights.export RUN DRAWS WEIGHTS.safetensors FACTS.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastinpaint.models.weights import load_weights, save_weights, weights_info
from fastinpaint.training.logs import read_log
from fastinpaint.training.run_folder import RunFolder

FRAMES = 16
"""Frames that `inpaint` shows the network at once."""


def facts(run: Path, draws: Path) -> dict[str, Any]:
    """The options, the draws' seed, the clips' hashes, and the validation error by step."""
    folder = RunFolder(run)
    index = json.loads((draws / "index.json").read_text())
    curve = {line["step"]: line for line in read_log(folder.log) if line["event"] == "validation"}
    return {
        "options": folder.stored_config().to_dict(),
        "draws": {name: index[name] for name in ("seed", "frames", "side")},
        "counts": {split: len(index[split]) for split in ("train", "val")},
        "clips": index["clips"],
        "validation": {
            step: {name: round(value, 3) for name, value in line.items() if isinstance(value, float)}
            for step, line in curve.items()
        },
    }


def main() -> None:
    run, draws, weights, target = map(Path, sys.argv[1:])
    last = run / "last.safetensors"
    save_weights(weights, load_weights(last).half(), {**weights_info(last).extra, "frames": FRAMES})
    target.write_text(json.dumps(facts(run, draws), indent=1) + "\n")


if __name__ == "__main__":
    main()
