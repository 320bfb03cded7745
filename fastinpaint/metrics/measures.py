"""Errors of a completed video against the truth. Videos are ``[T, H, W, 3]`` in [0, 255], masks ``[T, H, W]``."""

from __future__ import annotations

import cv2
import numpy as np

PSNR_IDENTICAL = 100.0
"""dB; stands for the infinite PSNR of an exact frame in a mean."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5

BORDER = 2
"""Pixels inside a hole's edge over which `border_error` looks for a seam."""


def hole_l1(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """The mean absolute error of a colour value inside the holes, in [0, 255]: 255 times Eq. 1 of Wang et al. 2019.

        sum over holes of |result - truth| / (3 * number of hole pixels)

    Raises:
        ValueError: for shapes that do not fit, or no hole.
    """
    check("hole_l1", result, truth, mask)
    return _mean_error(result, truth, _holes("hole_l1", mask))


def temporal_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean error of the frame-to-frame change, in [0, 255]: small for a result without flicker.

        mean of |(result[t+1] - result[t]) - (truth[t+1] - truth[t])|

    over the pixels that are a hole in frame t or t+1. Elsewhere a composited result has no such error.

    Raises:
        ValueError: for shapes that do not fit, less than two frames, or no hole.
    """
    check("temporal_error", result, truth, mask)
    if len(truth) < 2:
        raise ValueError("temporal_error: needs at least 2 frames, got 1.")
    holes = _holes("temporal_error", mask)
    change, true_change = (np.diff(video.astype(np.float64), axis=0) for video in (result, truth))
    return _mean_error(change, true_change, holes[1:] | holes[:-1])


def warping_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean change of a result along the true motion (flicker), in [0, 255]. The truth's own value is above 0 too.

        mean of |result[t](p) - result[t+1](p + flow_t(p))|

    over hole pixels p of frame t that are visible in frame t+1: the truth's DIS flow to frame t+1 and back ends within
    a pixel of p.

    Raises:
        ValueError: for shapes that do not fit, less than two frames, or no hole.
    """
    check("warping_error", result, truth, mask)
    if len(truth) < 2:
        raise ValueError("warping_error: needs at least 2 frames, got 1.")
    holes = _holes("warping_error", mask)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.rint(frame).astype(np.uint8), cv2.COLOR_RGB2GRAY) for frame in truth]
    columns, rows = np.meshgrid(
        np.arange(truth.shape[2], dtype=np.float32), np.arange(truth.shape[1], dtype=np.float32)
    )
    total, count = 0.0, 0
    for t in range(len(truth) - 1):
        flow, back = dis.calc(grey[t], grey[t + 1], None), dis.calc(grey[t + 1], grey[t], None)  # type: ignore[call-overload]
        x, y = columns + flow[..., 0], rows + flow[..., 1]
        gap = np.hypot(*np.moveaxis(flow + cv2.remap(back, x, y, cv2.INTER_LINEAR), 2, 0))
        seen = holes[t] & (gap < 1) & (x >= 0) & (x <= columns[0, -1]) & (y >= 0) & (y <= rows[-1, 0])
        warped = cv2.remap(result[t + 1].astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += float(np.abs(warped[seen] - result[t][seen]).sum())
        count += 3 * int(seen.sum())
    return total / max(count, 1)


def border_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """How visible the edge of the holes is, in [0, 255]: the error of gradients along it.

        mean of |(result[q] - result[p]) - (truth[q] - truth[p])|

    over neighbours p and q of one frame, side by side or one above the other, of which one is a hole pixel at most
    `BORDER` pixels from a known one.

    Raises:
        ValueError: for shapes that do not fit, no hole, or frames that are holes all over.
    """
    check("border_error", result, truth, mask)
    holes = _holes("border_error", mask)
    reach = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)
    near = np.stack([cv2.dilate((~hole).astype(np.uint8), reach) > 0 for hole in holes]) & holes
    if not near.any():
        raise ValueError("border_error: the frames are holes all over, so no hole has an edge.")
    gap, total, count = result.astype(np.float64) - truth, 0.0, 0
    for axis in (1, 2):
        first, second = (np.take(near, range(start, near.shape[axis] + start - 1), axis) for start in (0, 1))
        errors = np.abs(np.diff(gap, axis=axis)).mean(-1)[first | second]
        total, count = total + float(errors.sum()), count + errors.size
    return total / max(count, 1)


def psnr(result: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: ``20 log10(255 / rms error)`` of each whole frame, averaged over frames.

    An exact frame counts as `PSNR_IDENTICAL`.
    """
    check("psnr", result, truth)
    squares = np.square(result.astype(np.float64) - truth).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        values = 10 * np.log10(255**2 / squares)
    return float(np.minimum(values, PSNR_IDENTICAL).mean())


def ssim(result: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004, Eq. 13) of whole frames, averaged over frames.

        (2 mx my + C1) (2 sxy + C2) / ((mx^2 + my^2 + C1) (sx^2 + sy^2 + C2)),
        C1 = (0.01 * 255)^2,   C2 = (0.03 * 255)^2

    Means and covariances are computed per colour under a Gaussian window of 11 x 11 pixels, sigma 1.5, wherever the
    window lies inside the frame.

    Raises:
        ValueError: for shapes that do not fit, or frames smaller than the window.
    """
    check("ssim", result, truth)
    if min(truth.shape[1:3]) < SSIM_WINDOW:
        height, width = truth.shape[1:3]
        raise ValueError(f"ssim: frames must be at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {height} x {width}.")
    return float(np.mean([_frame_ssim(x, y) for x, y in zip(result, truth, strict=True)]))


def _frame_ssim(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    mx, my = _window_mean(x), _window_mean(y)
    vx, vy = _window_mean(x * x) - mx * mx, _window_mean(y * y) - my * my
    cov = _window_mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def _window_mean(frame: np.ndarray) -> np.ndarray:
    kernel, half = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA), SSIM_WINDOW // 2
    return cv2.sepFilter2D(frame, cv2.CV_64F, kernel, kernel)[half:-half, half:-half]


def _mean_error(result: np.ndarray, truth: np.ndarray, holes: np.ndarray) -> float:
    return float(np.abs(result[holes].astype(np.float64) - truth[holes]).mean())


def _holes(name: str, mask: np.ndarray) -> np.ndarray:
    holes = mask > 0
    if not holes.any():
        raise ValueError(f"{name}: the mask has no hole.")
    return holes


def check(name: str, result: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Raise ValueError unless result and truth have the same shape ``[T, H, W, 3]`` and mask is ``[T, H, W]``."""
    if truth.ndim != 4 or truth.shape[3] != 3 or result.shape != truth.shape:
        raise ValueError(f"{name}: result and truth must both be [T, H, W, 3], got {result.shape} and {truth.shape}.")
    if mask is not None and mask.shape != truth.shape[:3]:
        raise ValueError(f"{name}: mask must be {truth.shape[:3]}, got {mask.shape}.")
