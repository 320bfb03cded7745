"""Learning the weights of `fastinpaint.propagation.blend` from known pixels that were hidden."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastinpaint.propagation.blend import USUAL, Weights
from fastinpaint.propagation.candidates import NAMES, PAIRS, SPATIAL, Candidates

HIDDEN = 24
"""Width of the two hidden layers."""
CONTEXT, EACH, SURROUNDINGS = 5, 5, 3
"""Features before those of the temporal candidates, of each of them, and between spatial ones (see `collect`)."""
SURPRISE = 0.2
"""Weight of the expected error's loss."""
DECISIVE = 0.1
"""Share of the candidates' own errors in the loss."""
AWAKE = 1.0
"""Weight of the shares' cross entropy at the first step; it falls to 0 at the last."""
STEEP = 1.5
"""A candidate deserves a share in proportion to (1 + its error) to the power of minus this."""
ABSENT = -1e4
"""Score of a candidate that no frame shows."""
BATCH = 4096
LAYERS = ("first", "second", "last")


class Examples(NamedTuple):
    """Hidden pixels: values ``[B, K, 3]``, present ``[B, K]``, features ``[B, F]``, truth ``[B, 3]``."""

    values: Tensor
    present: Tensor
    features: Tensor
    truth: Tensor


def examples(candidates: Candidates, truth: np.ndarray) -> Examples:
    """Of a frame's hidden pixels, whose truth is uint8 ``[B, 3]``."""
    values = torch.from_numpy(candidates.values.astype(np.float32)).permute(1, 0, 2)
    present, features = torch.from_numpy(candidates.present).T, torch.from_numpy(candidates.features)
    return Examples(values, present, features, torch.from_numpy(truth.astype(np.float32)))


def joined(parts: list[Examples]) -> Examples:
    return Examples(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class Net(nn.Module):
    """The network that `blend` evaluates."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        sizes = (len(mean), HIDDEN, HIDDEN, len(NAMES) + 1)
        self.first, self.second, self.last = (nn.Linear(a, b) for a, b in pairwise(sizes))

    @classmethod
    def of(cls, weights: Weights) -> Net:
        """The network that has these weights."""
        net = cls(*(torch.from_numpy(weights[name].copy()) for name in ("mean", "std")))
        with torch.no_grad():
            for number, name in enumerate(LAYERS, start=1):
                layer = net.get_submodule(name)
                for parameter, key in ((layer.weight, f"a{number}"), (layer.bias, f"b{number}")):
                    parameter.copy_(torch.from_numpy(weights[key]))  # type: ignore[operator]
        return net

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the shares ``[B, K]``, and the expected log(1 + error) ``[B]``."""
        out = self.last(torch.relu(self.second(torch.relu(self.first(self.normalised(features))))))
        return torch.log_softmax(out[:, :-1].masked_fill(~present, ABSENT), 1), out[:, -1]

    def normalised(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).clamp(-USUAL, USUAL)

    def arrays(self) -> Weights:
        """What `blend` reads."""
        named = {"mean": self.mean, "std": self.std}
        for number, layer in enumerate((self.first, self.second, self.last), start=1):
            named[f"a{number}"], named[f"b{number}"] = layer.weight, layer.bias
        return {name: tensor.detach().numpy().astype(np.float32) for name, tensor in named.items()}


class Errors(NamedTuple):
    """Of pixels, all ``[B]``.

    Attributes:
        blend: absolute error of the blend.
        each: of the candidates, averaged by their shares.
        surprise: of the expected log(1 + error).
        missed: cross entropy of the shares with those that the candidates' own errors deserve.
    """

    blend: Tensor
    each: Tensor
    surprise: Tensor
    missed: Tensor


def errors(net: Net, data: Examples) -> Errors:
    """What a network gets wrong."""
    logarithm, expected = net(data.features, data.present)
    share = logarithm.exp()
    blend = ((share[..., None] * data.values).sum(1) - data.truth).abs().mean(1)
    own = (data.values - data.truth[:, None]).abs().mean(2)
    deserved = torch.softmax((-STEEP * torch.log1p(own)).masked_fill(~data.present, ABSENT), 1)
    missed = -(deserved * logarithm).sum(1)
    return Errors(blend, (share * own).sum(1), (expected - torch.log1p(blend.detach())).abs(), missed)


@torch.no_grad()
def mean_error(net: Net, data: Examples, weights: Tensor | None = None) -> float:
    """Of the blend, 0 to 255; weights ``[B]`` of the examples, or None for equal ones."""
    error = errors(net, data).blend
    return float(error.mean() if weights is None else (weights * error).sum() / weights.sum())


def mirrored_in_time() -> tuple[list[int], list[int]]:
    """The order of candidates and of features after past and future change places."""
    swap = [1, 0, 3, 2, 5, 4, 6]
    candidates = [*range(len(SPATIAL)), *(len(SPATIAL) + i for i in swap)]
    features = list(range(CONTEXT))
    for i in swap:
        features += range(CONTEXT + EACH * i, CONTEXT + EACH * (i + 1))
    start = CONTEXT + EACH * len(swap)
    features += [*range(start, start + SURROUNDINGS), *(start + SURROUNDINGS + i for i in swap)]
    start += SURROUNDINGS + len(swap)
    pairs = [tuple(sorted((swap[a], swap[b]))) for a, b in PAIRS]
    features += [start + PAIRS.index(pair) for pair in pairs]
    return candidates, features


def fit(
    net: Net,
    data: Examples,
    weight: Tensor,
    steps: int,
    rate: float,
    seed: int,
    noise: float = 0.0,
    awake: float = AWAKE,
) -> None:
    """Train in place with AdamW and a cosine schedule; every other batch is mirrored in time.

        mean of weight * ((1 - DECISIVE) |blend - truth| + DECISIVE sum_k w_k |value_k - truth|)
        + SURPRISE * mean of |e - log(1 + |blend - truth|)| - awake (1 - step / steps) * mean of sum_k d_k log w_k

    The first sum is smallest where one candidate has all of a pixel, so the net chooses between two that differ. Mixing
    them would show a ghost. The second keeps a candidate alive whose share is small: its gradient does not vanish with
    the share, as that of the blend does. `d_k` are the shares that the candidates' errors deserve.

    Args:
        weight: of each pixel, ``[B]``.
        steps: of `BATCH` pixels.
        rate: the first learning rate.
        seed: of the batches and the noise.
        noise: standard deviation of what is added to the features, as a share of theirs.
        awake: weight of the shares' cross entropy at the first step.
    """
    candidates, order = mirrored_in_time()
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        chosen = torch.randint(len(data.truth), (min(BATCH, len(data.truth)),), generator=rng)
        batch = Examples(*(tensor[chosen] for tensor in data))
        if step % 2:
            batch = Examples(
                batch.values[:, candidates], batch.present[:, candidates], batch.features[:, order], batch.truth
            )
        shaken = batch.features + noise * net.std * torch.randn(batch.features.shape, generator=rng)
        found = errors(net, batch._replace(features=shaken))
        loss = (weight[chosen] * torch.lerp(found.blend, found.each, DECISIVE)).mean()
        loss = loss + SURPRISE * found.surprise.mean() + awake * (1 - step / steps) * found.missed.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
