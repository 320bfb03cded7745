"""The data of a training step: a pure function of (seed, step), independent of workers and of resumed runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastinpaint.data.holes import make_holes
from fastinpaint.errors import UserError
from fastinpaint.training.config import TrainConfig
from fastinpaint.training.distributed import World

ORDER, STEP, VALIDATION = range(3)
"""First words of the seeds, so that each use has its own random stream."""


class TrainBatches(Dataset[tuple[Tensor, Tensor]]):
    """``batches[step]`` is this rank's share of a step: ``accumulate`` parts of n videos.

    Slots of a step are numbered over all ranks and parts. A slot's sample, flip and hole depend only on its number, so
    splitting a step over ranks or parts does not change its data.
    """

    def __init__(self, samples: Sequence[np.ndarray], config: TrainConfig, world: World) -> None:
        if config.batch % (config.accumulate * world.size):
            raise UserError(
                f"batch: {config.batch} videos cannot be shared equally by {world.size} processes "
                f"of {config.accumulate} parts each."
            )
        self.samples, self.config = samples, config
        share = config.batch // world.size
        self.slots = range(world.rank * share, (world.rank + 1) * share)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Videos uint8 ``[accumulate, n, T, H, W, 3]`` and masks uint8 ``[accumulate, n, T, H, W]``, 1 = hole."""
        videos, masks = zip(*(self._slot(step, slot) for slot in self.slots), strict=True)
        parts = self.config.accumulate
        return _stacked(videos).unflatten(0, (parts, -1)), _stacked(masks).unflatten(0, (parts, -1))

    def _slot(self, step: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        video, rng = self._drawn(step, slot)
        if self.config.flip and rng.random() < 0.5:
            video = video[:, :, ::-1]
        return video, _holes(self.config.holes, video, rng)

    def _drawn(self, step: int, slot: int) -> tuple[np.ndarray, np.random.Generator]:
        """The slot's sample, and what its other choices are drawn from."""
        rng = np.random.default_rng([self.config.seed, STEP, step, slot])
        epoch, place = divmod(step * self.config.batch + slot, len(self.samples))
        return self.samples[int(_order(self.config.seed, epoch, len(self.samples))[place])], rng


def load_steps(batches: TrainBatches, steps: range, workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of ``steps`` in order, prefetched by ``workers`` processes (0: loaded in this one)."""
    loader = DataLoader(
        batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin, worker_init_fn=_ignore_ctrl_c
    )
    return iter(loader)


def validation_batches(
    samples: Sequence[np.ndarray], config: TrainConfig, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's validation samples, one at a time. A sample has the same hole at every validation."""
    count = min(config.validation_samples or len(samples), len(samples))
    for index in range(world.rank, count, world.size):
        video = samples[index]
        rng = np.random.default_rng([config.seed, VALIDATION, index])
        yield _stacked([video]), _stacked([_holes(config.holes, video, rng)])


def to_float(videos: Tensor, masks: Tensor, device: torch.device, full: int = 1) -> tuple[Tensor, Tensor]:
    """uint8 ``[n, T, H, W, C]``, ``[n, T, H, W]`` as float32 ``[n, C, T, H, W]``, ``[n, 1, T, H, W]``, both in [0, 1].

    Args:
        full: the masks' value of a hole: 1, or 255 for doubts.
    """
    videos, masks = videos.to(device, non_blocking=True), masks.to(device, non_blocking=True)
    return videos.permute(0, 4, 1, 2, 3).float().div(255).contiguous(), masks.unsqueeze(1).float().div(full)


def _holes(kind: str, video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frames, height, width, _ = video.shape
    return make_holes(kind, frames, height, width, rng)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, epoch]).permutation(length)


def _stacked(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.uint8, copy=False))


def _ignore_ctrl_c(worker: int) -> None:
    """Make a worker ignore Ctrl-C, which reaches it too. The main process ends it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
