"""Each measure against its formula, computed pixel by pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fastinpaint.metrics import border_error, hole_l1, psnr, ssim, temporal_error, warping_error


def case(frames: int = 3, height: int = 5, width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    result, truth = rng.uniform(0, 255, (2, frames, height, width, 3))
    return result, truth, rng.random((frames, height, width)) > 0.6


def test_hole_l1() -> None:
    result, truth, mask = case()
    errors = [abs(result[p][c] - truth[p][c]) for p in np.ndindex(mask.shape) if mask[p] for c in range(3)]
    assert hole_l1(result, truth, mask) == pytest.approx(sum(errors) / len(errors))
    assert hole_l1(truth + 7 * mask[..., None], truth, mask) == pytest.approx(7)


def test_hole_l1_of_bytes_does_not_wrap() -> None:
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    mask = np.ones((1, 2, 2), np.uint8)
    assert hole_l1(black, white, mask) == hole_l1(white, black, mask) == 255


def test_temporal_error() -> None:
    result, truth, mask = case()
    errors = []
    for t, y, x, c in np.ndindex(2, 5, 6, 3):
        if mask[t, y, x] or mask[t + 1, y, x]:
            change = result[t + 1, y, x, c] - result[t, y, x, c]
            errors.append(abs(change - (truth[t + 1, y, x, c] - truth[t, y, x, c])))
    assert temporal_error(result, truth, mask) == pytest.approx(sum(errors) / len(errors))


def test_temporal_error_knows_flicker_from_a_steady_error() -> None:
    _, truth, mask = case(frames=4)
    steady, flicker = truth + 9, truth + 9 * np.array([1, -1, 1, -1])[:, None, None, None]
    assert temporal_error(steady, truth, mask) == pytest.approx(0, abs=1e-9)
    assert temporal_error(flicker, truth, mask) == pytest.approx(18)
    assert hole_l1(steady, truth, mask) == pytest.approx(hole_l1(flicker, truth, mask))


def test_psnr() -> None:
    result, truth, _ = case()
    values = [10 * np.log10(255**2 / np.mean((a - b) ** 2)) for a, b in zip(result, truth, strict=True)]
    assert psnr(result, truth) == pytest.approx(np.mean(values))
    result[0] = truth[0]
    assert psnr(result, truth) == pytest.approx(np.mean([100, *values[1:]]))


def test_ssim_is_the_formula_at_every_window() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 255, (2, 13, 12, 3))
    result = truth + rng.normal(0, 40, truth.shape)
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    c1, c2 = 6.5025, 58.5225
    values = []
    for t, top, left, c in np.ndindex(2, 3, 2, 3):
        x, y = (v[t, top : top + 11, left : left + 11, c] for v in (result, truth))
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(result, truth) == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(truth, truth) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r, t, m: hole_l1(r[:1], t, m), ("hole_l1", "(1, 5, 6, 3)", "(3, 5, 6, 3)")),
        (lambda r, t, m: hole_l1(r, t, m[:2]), ("mask must be (3, 5, 6)", "(2, 5, 6)")),
        (lambda r, t, m: hole_l1(r, t, m & False), ("hole_l1", "no hole")),
        (lambda r, t, m: border_error(r, t, m | True), ("border_error", "no hole has an edge")),
        (lambda r, t, m: temporal_error(r, t, m & False), ("temporal_error", "no hole")),
        (lambda r, t, m: temporal_error(r[:1], t[:1], m[:1]), ("at least 2 frames",)),
        (lambda r, t, m: psnr(r[..., :2], t[..., :2]), ("psnr", "[T, H, W, 3]")),
        (lambda r, t, m: ssim(r, t), ("at least 11 x 11", "5 x 6")),
    ],
    ids=["shape", "mask", "no-hole", "no-edge", "no-hole-in-time", "one-frame", "channels", "window"],
)
def test_what_cannot_be_measured_is_named(call, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=":") as caught:
        call(*case())
    assert all(word in str(caught.value) for word in words)


def test_warping_error_follows_the_truths_motion() -> None:
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8), (0, 0), 1.5)
    truth = np.stack([wide[:, 2 * t : 2 * t + 40] for t in range(4)])
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 12:28, 12:28] = True
    frozen, flicker = truth.copy(), truth.astype(np.int16)
    frozen[:, 12:28, 12:28] = truth[0, 12:28, 12:28]
    flicker[1::2] += 20
    own = warping_error(truth, truth, mask)
    assert own < 2
    assert warping_error(frozen, truth, mask) > 3 * own + 3
    assert warping_error(flicker.clip(0, 255).astype(np.uint8), truth, mask) == pytest.approx(20, abs=2)
    with pytest.raises(ValueError, match="at least 2 frames"):
        warping_error(truth[:1], truth[:1], mask[:1])


def test_border_error_counts_a_step_at_the_edge_and_nothing_deep_inside() -> None:
    truth = np.full((2, 20, 20, 3), 100, np.uint8)
    mask = np.zeros(truth.shape[:3], bool)
    mask[:, 4:16, 4:16] = True
    step, deep = truth.copy(), truth.copy()
    step[mask] += 30
    deep[:, 8:12, 8:12] += 30
    ring = np.zeros((20, 20), bool)
    ring[4:16, 4:16], ring[6:14, 6:14] = True, False
    pairs = int((ring[:, 1:] | ring[:, :-1]).sum() + (ring[1:] | ring[:-1]).sum())
    assert border_error(step, truth, mask) == pytest.approx(30 * 48 / pairs)
    assert border_error(deep, truth, mask) == 0
    assert border_error(truth, truth, mask) == 0
