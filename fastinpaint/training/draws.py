"""Propagated draws: pieces of clips with holes that propagation has filled already, for training a correction.

A data set of draws is a folder with index.json and one array for each draw, uint8 ``[T, side, side, 7]``: the true
pixels, the propagated fill, and the doubt 255 (1 - confidence). `tools/weights/draws.py` makes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import torch
from torch import Tensor

from fastinpaint.errors import UserError
from fastinpaint.files import parse_json, read_text
from fastinpaint.training.batches import TrainBatches
from fastinpaint.training.colours import colour_change
from fastinpaint.training.config import TrainConfig
from fastinpaint.training.distributed import World
from fastinpaint.training.fresh import Frames, fresh_view

SMALLEST = 0.75
"""Least side of a crop, as a share of the draw's."""
LEAST = 0.01
"""Least share of a crop that is a hole."""
UPSIDE_DOWN = 0.1
"""Share of draws that are turned upside down."""


class PropagatedDraws(Sequence[np.ndarray]):
    """The draws of one split: ``draws[i]`` is uint8 ``[T, side, side, 7]``, a memory map.

    Args:
        root: the folder of the data set.
        split: "train" or "val".
        frames, size: frames and side in pixels of what the network sees of a draw.

    Attributes:
        mean_pixel: unused, as there is nothing left to fill; zeros.
        facts: seed and hashes of the clips.

    Raises:
        UserError: the folder holds no such data set, or the split is empty.
    """

    mean_pixel = (0.0, 0.0, 0.0)

    def __init__(self, root: str | Path, split: str, frames: int, size: int) -> None:
        self.root, self.frames, self.size = Path(root), frames, size
        if not (self.root / "index.json").is_file():
            raise UserError(f"{root}: must hold the index.json of propagated draws; it holds none.")
        try:
            index = parse_json(read_text(self.root / "index.json"))
            self.files = [self.root / entry["file"] for entry in index[split]]
            self.kinds = [str(entry["holes"]) for entry in index[split]]
            self.still: list[dict[str, Any]] = index.get("frames of clips", [])
            self.facts: dict[str, Any] = {"seed": index["seed"], "clips": index["clips"]}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.root / 'index.json'}: not an index of propagated draws ({error}).") from None
        if not self.files:
            raise UserError(f"{root}: the {split} split holds no draw.")

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        draw = np.load(self.files[index], mmap_mode="r")
        if draw.dtype != np.uint8 or draw.ndim != 4 or draw.shape[3] != 7 or len(draw) < self.frames:
            raise UserError(
                f"{self.files[index]}: must be uint8 [T, side, side, 7] of at least {self.frames} frames, "
                f"is {draw.dtype} {draw.shape}."
            )
        return draw


class DrawBatches(TrainBatches):
    """`TrainBatches` of draws: videos ``[..., 6]``, truth and fill, and the doubt 0 to 255 in place of masks.

    A share of `config.fresh` of the slots gets views made on the spot in place of draws.
    """

    def __init__(self, samples: PropagatedDraws, config: TrainConfig, world: World) -> None:
        super().__init__(samples, config, world)
        self.still = Frames.of(samples.root, samples.still) if config.fresh else None

    def _slot(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        draw, rng = self._drawn(step, slot)
        frames, size = self.config.view_frames, self.config.view_size
        if self.still is not None and rng.random() < self.config.fresh:
            views = [fresh_view(self.still.draw(rng), size, rng) for _ in range(frames)]
            return split_channels(np.concatenate(views))
        return split_channels(augmented(draw, frames, size, rng) if self.config.augment else seen(draw, frames, size))


def validation_draws(
    samples: Sequence[np.ndarray], config: TrainConfig, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's validation draws as `DrawBatches` gives them, one at a time, unchanged."""
    count = min(config.validation_samples or len(samples), len(samples))
    for index in range(world.rank, count, world.size):
        video, doubt = split_channels(seen(samples[index], config.view_frames, config.view_size))
        yield torch.from_numpy(video.copy())[None], torch.from_numpy(doubt.copy())[None]


def split_channels(draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[..., 7]`` as truth and fill ``[..., 6]``, and the doubt ``[...]``."""
    return draw[..., :6], draw[..., 6]


def seen(draw: np.ndarray, frames: int, size: int) -> np.ndarray:
    """The first frames of a draw, scaled as the network sees them: uint8 ``[frames, size, size, 7]``."""
    return scaled(draw[:frames], size)


def augmented(draw: np.ndarray, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random view of a draw: uint8 ``[frames, size, size, 7]``, some hole pixel in each frame.

    What is changed is changed alike in truth and fill: a stretch of time, forward or backward; a crop, scaled; mirror
    images; contrast, brightness, saturation and hue.
    """
    start = int(rng.integers(0, len(draw) - frames + 1))
    piece = cropped(draw[start : start + frames], rng)
    piece = scaled(piece[::-1] if rng.random() < 0.5 else piece, size)
    if rng.random() < 0.5:
        piece = piece[:, :, ::-1]
    if rng.random() < UPSIDE_DOWN:
        piece = piece[:, ::-1]
    matrix, offset = colour_change(rng)
    colours = piece[..., :6].reshape(*piece.shape[:3], 2, 3) @ matrix.T + offset
    colours = np.rint(colours.clip(0, 255)).astype(np.uint8).reshape(*piece.shape[:3], 6)
    return np.concatenate([colours, piece[..., 6:]], 3)


def cropped(draw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square that shows enough of the hole in each frame; the whole draw where none is found soon."""
    whole = draw.shape[1]
    side = round(rng.uniform(SMALLEST, 1) * whole)
    for _ in range(4):
        top, left = (int(i) for i in rng.integers(0, whole - side + 1, 2))
        square = draw[:, top : top + side, left : left + side]
        if ((square[..., 6] > 0).mean((1, 2)) >= LEAST).all():
            return square
    return draw


def scaled(draw: np.ndarray, size: int) -> np.ndarray:
    """Frames scaled by area; a pixel of which any part is in doubt keeps a doubt above 0."""
    parts = draw[..., :3], draw[..., 3:6], draw[..., 6:]  # OpenCV averages at most four channels at once
    frames = [
        [
            cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
            for frame in np.ascontiguousarray(part, np.float32)
        ]
        for part in parts
    ]
    small = np.concatenate([np.stack(part).reshape(len(draw), size, size, -1) for part in frames], 3)
    small[..., 6] = np.ceil(small[..., 6])
    return np.rint(small.clip(0, 255)).astype(np.uint8)
