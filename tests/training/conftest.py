"""A tiny prepared data set, so that a step takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastinpaint.data.store import FORMAT, VERSION, clip_writer, write_json
from fastinpaint.data.synthetic import synthetic_clip

FRAMES, SIZE, TRAIN, VAL = 4, 32, 7, 3


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``fastinpaint prepare`` would leave of two clips: one to train on, one to validate."""
    root = tmp_path_factory.mktemp("data")
    (root / "clips").mkdir()
    clips = []
    for seed, count in enumerate((TRAIN, VAL)):
        frames = synthetic_clip(seed, count * FRAMES, SIZE).reshape(count, FRAMES, SIZE, SIZE, 3)
        with clip_writer(root / "clips" / f"{seed}.npy", frames.shape[1:]) as writer:
            for sample in frames:
                writer.append(sample)
        clips.append({"file": f"{seed}.npy", "samples": count})
    index = {"format": FORMAT, "version": VERSION, "frames": FRAMES, "size": SIZE, "mean_pixel": [0.5, 0.4, 0.3]}
    write_json(root / "index.json", {**index, "clips": clips, "train": [[0, 0, TRAIN]], "val": [[1, 0, VAL]]})
    return root


@pytest.fixture
def samples() -> list[np.ndarray]:
    """Five samples whose pixels say which they are; each row's pixels grow to the right."""
    ramp = np.arange(16, dtype=np.uint8)[:, None]
    return [np.broadcast_to(ramp + 40 * i, (2, 12, 16, 3)).copy() for i in range(5)]
