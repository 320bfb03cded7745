"""Without a network the fill is propagation's; a network that corrects it changes it where it is doubtful only."""

from __future__ import annotations

import importlib

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastinpaint.inference import Settings, complete
from fastinpaint.inference.complete import TAPER, completed_stream, taper
from fastinpaint.propagation import propagate


class Corrector(nn.Module):
    """Adds a tenth to what it is given, as much as the mask channel says, and notes what it was given."""

    class config:
        fill = "propagated"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append((video, mask))
        return video + 0.1 * mask, video


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrections count in full, whether they help or not."""
    module = importlib.import_module("fastinpaint.inference.complete")  # the package has a function of that name
    monkeypatch.setattr(module, "strength_of", lambda correct, window: 1.0)


def clip() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(60, 180, (1, 32, 40, 3)).astype(np.uint8), 6, 0)
    mask = np.zeros(video.shape[:3], bool)
    mask[:, 10:20, 10:20] = True
    mask[3:, 10:20, 10:15] = False  # what is seen later
    return video, mask


def test_no_network_is_propagation() -> None:
    video, mask = clip()
    assert np.array_equal(complete(None, video, mask), propagate(video, mask).video)


def test_a_feather_fades_from_the_source_at_the_edge() -> None:
    video, mask = clip()
    result = complete(None, video, mask, Settings(feather=3))
    assert np.array_equal(result[~mask], video[~mask])
    assert np.array_equal(result[0, 14:16, 14:16], propagate(video, mask).video[0, 14:16, 14:16])
    assert not np.array_equal(result[mask], propagate(video, mask).video[mask])


def test_a_correction_is_scaled_by_doubt() -> None:
    video, mask = clip()
    model = Corrector()
    result = complete(model, video, mask, Settings(frames=6, full_frame=True))
    filled = propagate(video, mask)
    (given, doubt), *_ = model.seen
    assert torch.equal((given[0].permute(1, 2, 3, 0) * 255).round().to(torch.uint8), torch.from_numpy(filled.video))
    assert np.allclose(doubt[0, 0].numpy(), 1 - filled.confidence, atol=1e-6)
    assert np.array_equal(result[~mask], video[~mask])
    change = result[mask].astype(float) - filled.video[mask]
    unknown = 1 - filled.confidence[mask]
    depth = [cv2.distanceTransform(frame.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for frame in mask]
    expected = 25.5 * unknown * ((unknown - 0.8) / 0.2).clip(0, 1) * np.minimum(np.stack(depth)[mask] / TAPER, 1)
    assert np.allclose(change, expected[:, None], atol=1.01)
    assert (change[unknown <= 0.8] == 0).all()
    assert (change > 20).any()


def test_a_correction_counts_as_far_as_its_trial_says(monkeypatch: pytest.MonkeyPatch) -> None:
    video, mask = clip()
    settings = Settings(frames=6, full_frame=True)
    plain, full = propagate(video, mask).video.astype(float), complete(Corrector(), video, mask, settings)
    module = importlib.import_module("fastinpaint.inference.complete")
    monkeypatch.setattr(module, "strength_of", lambda correct, window: 0.25)
    quarter = complete(Corrector(), video, mask, settings)
    assert np.allclose(quarter - plain, (full - plain) / 4, atol=0.76)  # each is rounded
    assert (quarter - plain).max() > 4
    monkeypatch.setattr(module, "strength_of", lambda correct, window: 0.0)
    model = Corrector()
    assert np.array_equal(complete(model, video, mask, settings), plain)
    assert not model.seen


def test_a_window_without_doubt_is_not_shown_to_the_network() -> None:
    video, mask = clip()
    model, pairs = Corrector(), list(zip(video, 0.5 * mask.astype(np.float32), strict=True))
    doubtful = [(frame, 2 * doubt) for frame, doubt in pairs]
    settings = Settings(frames=6, overlap=0, full_frame=True)
    done = list(completed_stream(model, doubtful + pairs, settings))
    assert len(model.seen) == 1
    assert np.array_equal(np.stack(done[6:]), video)
    assert not np.array_equal(np.stack(done[:6]), video)


def test_a_correction_comes_in_from_the_edge_of_the_hole() -> None:
    hole = np.zeros((30, 30), bool)
    hole[5:25, 5:25] = True
    full, half = taper(hole, 1.0), taper(hole, 0.5)
    assert full[15, 4:9] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert half[15, 4:9] == pytest.approx(full[15, 4:9] / 2)
    assert (full[~hole] == 0).all()
    assert full[15, 15] == half[15, 15] == 1


def test_a_feather_fades_into_a_corrected_fill_too() -> None:
    video, mask = clip()
    plain = complete(Corrector(), video, mask, Settings(frames=6, full_frame=True))
    result = complete(Corrector(), video, mask, Settings(frames=6, full_frame=True, feather=3))
    assert np.array_equal(result[~mask], video[~mask])
    assert np.array_equal(result[0, 14:16, 14:16], plain[0, 14:16, 14:16])
    assert not np.array_equal(result[mask], plain[mask])
