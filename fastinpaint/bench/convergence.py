"""Compares the convergence of training with fused modules and with plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from fastinpaint import accelerate
from fastinpaint.data.holes import make_holes
from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.training.losses import total_loss

STEPS_PER_POINT = 10  # steps averaged per point of a curve


@dataclass(frozen=True)
class Curves:
    """Losses in [0, 255] of every step, ``[seeds, steps]``, of the reference and the fused modules."""

    reference: np.ndarray
    fused: np.ndarray

    def final(self, window: int = 50) -> tuple[np.ndarray, np.ndarray]:
        """The mean loss of the last steps by seed, of reference and fused."""
        return self.reference[:, -window:].mean(1), self.fused[:, -window:].mean(1)

    def thinned(self, every: int = STEPS_PER_POINT) -> dict[str, list[list[float]]]:
        """Means over groups of steps, by seed, for rows and pictures."""
        return {
            name: runs[:, : runs.shape[1] // every * every].reshape(len(runs), -1, every).mean(2).round(3).tolist()
            for name, runs in (("reference", self.reference), ("fused", self.fused))
        }

    def agree(self) -> bool:
        """Whether the fused runs' mean final loss is within the spread of the reference seeds about their mean."""
        reference, fused = self.final()
        spread = reference.max() - reference.min()
        return bool(abs(fused.mean() - reference.mean()) <= spread)


def train(
    seed: int, steps: int, backend: str | None, frames: int = 4, size: int = 32, width: float = 0.125
) -> list[float]:
    """Losses of a short joint training from scratch on rendered clips; `backend` None is plain PyTorch."""
    torch.manual_seed(seed)
    model = VideoCompletionNet(ModelConfig(width=width))
    if backend is not None:
        accelerate(model, backend=backend, objective="fuse")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    clips = [torch.from_numpy(synthetic_clip(1000 * seed + i, frames, size)) for i in range(32)]
    order, losses = np.random.default_rng(seed), []
    for _ in tqdm(range(steps), desc=f"seed {seed}, {backend or 'plain PyTorch'}", leave=False):
        chosen = torch.stack([clips[i] for i in order.integers(len(clips), size=2)])
        video = chosen.permute(0, 4, 1, 2, 3).float() / 255
        holes = np.stack([make_holes("rectangle", frames, size, size, order) for _ in range(2)])
        mask = torch.from_numpy(holes).float().unsqueeze(1)
        optimiser.zero_grad(set_to_none=True)
        completed, coarse = model(video, mask)
        loss = total_loss(completed, coarse, video, mask, model.config.r).total
        loss.backward()
        optimiser.step()
        losses.append(255 * float(loss.detach()))
    return losses


def compare(steps: int = 500, seeds: int = 3, backend: str = "auto") -> Curves:
    """Train both with the same seeds and data."""
    runs = {name: [train(seed, steps, name) for seed in range(seeds)] for name in (None, backend)}
    return Curves(np.asarray(runs[None]), np.asarray(runs[backend]))
