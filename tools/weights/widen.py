"""Doubles the width of a 2DCN: the same function at first, to be trained on (Net2Net, Chen et al. 2016).

    python -m tools.weights.widen WEIGHTS.safetensors WIDER.safetensors [NOISE]

Every channel gets a twin with the same weights, and what reads a channel shares its weight between both. Random shares
and noise on the weights let the twins part in training.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fastinpaint.models import TwoDCN
from fastinpaint.models.table import COMBCN, COMBCN_SKIPS
from fastinpaint.models.weights import load_weights, save_weights, weights_info

NOISE = 0.02
"""Standard deviation of the noise, over that of a layer's weights."""
APART = 0.3
"""How far the share of a weight that a twin gets lies from one half, at most."""


def widened(model: TwoDCN, noise: float, seed: int = 0) -> TwoDCN:
    """A network of twice the width; without noise the same function up to rounding."""
    rng = torch.Generator().manual_seed(seed)
    wide = TwoDCN(replace(model.config, width=2 * model.config.width))
    state = wide.state_dict()
    for key, value in model.state_dict().items():
        _, _, name = key.partition("layers.")
        last = name.startswith(f"{len(COMBCN)}.")
        if key.endswith("conv.weight"):
            number = int(name.split(".")[0])
            transposed = isinstance(model.get_submodule(key.removesuffix(".weight")), nn.ConvTranspose2d)
            state[key] = _weight(value, number, transposed, noise, rng)
        elif name and value.dim() == 1 and not last:
            state[key] = torch.cat([value, value])
        else:
            state[key] = value
    wide.load_state_dict(state)
    return wide


def _weight(weight: Tensor, number: int, transposed: bool, noise: float, rng: torch.Generator) -> Tensor:
    """A layer's weight; an input that a skip joins is two maps, each of which has its twins beside it."""
    out, into = (1, 0) if transposed else (0, 1)
    if number < len(COMBCN):
        weight = torch.cat([weight, weight], out)
    if number > 1:
        parts = weight.chunk(2, into) if number in COMBCN_SKIPS else [weight]
        weight = torch.cat([torch.cat(_shared(part, noise, rng), into) for part in parts], into)
    return weight + noise * weight.std() * torch.randn(weight.shape, generator=rng)


def _shared(part: Tensor, noise: float, rng: torch.Generator) -> list[Tensor]:
    """A weight in two parts whose sum it is; without noise in equal ones."""
    share = 0.5 + (noise > 0) * APART * (2 * torch.rand((*part.shape[:2], 1, 1), generator=rng) - 1)
    return [share * part, (1 - share) * part]


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    model = load_weights(source).float()
    assert isinstance(model, TwoDCN)
    save_weights(target, widened(model, float(sys.argv[3]) if sys.argv[3:] else NOISE), weights_info(source).extra)


if __name__ == "__main__":
    main()
