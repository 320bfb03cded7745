"""A correction brings no colour into a clip whose known pixels have none, and keeps the colours that a clip has."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinpaint.inference import Settings, complete
from fastinpaint.inference.chroma import limited, span_of
from fastinpaint.propagation import propagate


class Brown(nn.Module):
    """Fills with brown, whatever it is given."""

    class config:
        fill = "propagated"

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        colour = torch.tensor([0.6, 0.4, 0.2]).view(1, 3, 1, 1, 1)
        return torch.where(mask > 0, colour.expand_as(video), video), video


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections count in full."""
    module = importlib.import_module("fastinpaint.inference.complete")  # the package has a function of that name
    monkeypatch.setattr(module, "strength_of", lambda correct, window: 1.0)


def clip(tint: float, colours: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A still clip of one colour cast, with noise in its channels, and a hole."""
    rng = np.random.default_rng(0)
    light = rng.uniform(60, 180, (1, 48, 64, 1)) + tint * np.array([1, 0, -1])
    noise = colours * rng.normal(0, 1, (1, 48, 64, 3))
    video = np.repeat(np.rint(light + noise).clip(0, 255).astype(np.uint8), 4, 0)
    mask = np.zeros(video.shape[:3], bool)
    mask[:, 14:34, 20:44] = True
    return video, mask


def corrected(video: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fill with the brown correction, and without it, at the hole's pixels."""
    result = complete(Brown(), video, mask, Settings(frames=4, full_frame=True))
    assert np.array_equal(result[~mask], video[~mask])
    return result[mask].astype(int), propagate(video, mask).video[mask].astype(int)


def test_a_grey_clip_stays_grey_and_takes_the_light() -> None:
    result, plain = corrected(*clip(0))
    assert (np.ptp(result, axis=1) == 0).all()
    assert np.abs(result - plain).mean() > 2


def test_a_clip_of_one_tint_keeps_that_tint() -> None:
    result, _ = corrected(*clip(8))
    assert np.abs((result[:, 0] - result[:, 2]) - 16).max() <= 2


def test_a_coloured_clip_takes_the_correction_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    video, mask = clip(0, 60)
    limit, _ = corrected(video, mask)
    module = importlib.import_module("fastinpaint.inference.complete")
    monkeypatch.setattr(module, "span_of", lambda window: None)
    free, _ = corrected(video, mask)
    assert np.abs(limit - free).max() <= 1
    assert np.ptp(free, axis=1).max() > 60


def test_a_rare_colour_does_not_widen_the_span_and_the_colour_of_the_fill_stays() -> None:
    frame = np.full((160, 160, 3), 90, np.uint8)
    frame[:8] = (250, 20, 20)
    doubt = np.zeros((160, 160), np.float32)
    assert np.ptp(span_of([(frame, doubt)])) > 0.5  # a row of twenty
    frame[:8, 8:] = 90
    span = span_of([(frame, doubt)])
    assert not span.any()
    red = np.array([[0.9, 0.1, 0.1]], np.float32)
    assert np.allclose(limited(red, red, span), red, atol=1e-6)
    assert np.allclose(limited(red, np.full_like(red, 0.3), span), red.mean(), atol=1e-6)


def test_all_colours_are_allowed_where_nothing_is_known() -> None:
    frame, rng = np.zeros((16, 16, 3), np.uint8), np.random.default_rng(0)
    colours = rng.uniform(0, 1, (50, 3)).astype(np.float32)
    span = span_of([(frame, np.ones((16, 16), np.float32))])
    assert np.allclose(limited(colours, np.zeros_like(colours), span), colours, atol=1e-6)
