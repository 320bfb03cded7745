"""Networks that do something plain, so that a test can say what must come out."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Paint(nn.Module):
    """Answers every video with one colour, RGB in [0, 1], and notes what it was shown."""

    def __init__(self, *colour: float) -> None:
        super().__init__()
        self.register_buffer("colour", torch.tensor(colour or (1.0, 0.0, 0.5)))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        self.seen.append((video, mask))
        return self.colour.view(1, 3, 1, 1, 1).expand_as(video), None


class FillMean(nn.Module):
    """Answers with each frame's mean over its known pixels: says whether a hole pixel leaked in."""

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        known = 1 - mask
        mean = (video * known).sum((3, 4), keepdim=True) / known.sum((3, 4), keepdim=True).clamp(min=1)
        return mean.expand_as(video), None


class Count(nn.Module):
    """Answers the k-th call with the grey k / 10, so that the result tells which window a frame is from."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        self.calls += 1
        return torch.full_like(video, self.calls / 10), None


class Fail(nn.Module):
    """Works for some calls, then raises."""

    def __init__(self, error: BaseException, after: int = 0) -> None:
        super().__init__()
        self.error, self.left = error, after

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return torch.zeros_like(video), None
