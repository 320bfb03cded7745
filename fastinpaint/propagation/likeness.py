"""How like a hole's pixels known ones are: a copy of the hole is harder or easier to fill than the hole itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS, BATCH, RATE, DECAY = 150, 4096, 0.02, 0.05
LEAST, MOST = -3.0, 2.0
"""Least and most logarithm of a weight."""


def likeness(known: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """Weights that make known pixels count as often as pixels like them are wanted: the ratio of both densities.

        w(x) = exp(clip(a x + b, LEAST, MOST)),   a, b: logistic regression of "wanted" on x, both classes count alike

    A mean with these weights over known pixels estimates the mean over wanted ones (Shimodaira 2000).

    Args:
        known: normalised features ``[N, F]`` of pixels whose truth is known.
        wanted: the same of other pixels, ``[M, F]``.
        seed: of the batches.

    Returns:
        float32 ``[N]``.
    """
    x = torch.cat([known, wanted])
    label = torch.cat([torch.zeros(len(known)), torch.ones(len(wanted))])
    balance = torch.where(label > 0, len(label) / (2 * len(wanted)), len(label) / (2 * len(known)))
    layer = nn.Linear(x.shape[1], 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=DECAY)
    rng = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(STEPS):
            chosen = torch.randint(len(label), (min(BATCH, len(label)),), generator=rng)
            error = nn.functional.binary_cross_entropy_with_logits(
                layer(x[chosen])[:, 0], label[chosen], reduction="none"
            )
            optimizer.zero_grad()
            (balance[chosen] * error).mean().backward()
            optimizer.step()
    with torch.no_grad():
        return layer(known)[:, 0].clamp(LEAST, MOST).exp()
