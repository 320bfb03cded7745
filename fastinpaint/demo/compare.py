"""Every way to fill one clip side by side: a sheet of frames with error maps, a moving picture, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.synthetic import write_mp4
from fastinpaint.metrics import hole_l1, nearest_in_time, telea
from fastinpaint.metrics.pictures import save_grid

GREY, SHEET_FRAMES = 128, 6
ERROR_GAIN = 4
LABEL_ROWS = 18  # pixels above each picture of the moving picture


def classical_fills(clip: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """By name, what two methods without motion and without learning give."""
    return {"Telea": telea(clip, mask), "nearest in time": nearest_in_time(clip, mask)}


def save_comparison(
    folder: Path, clip: np.ndarray, mask: np.ndarray, fills: Mapping[str, np.ndarray], truth: np.ndarray
) -> str:
    """Write sheet.png and compare.mp4.

    Args:
        clip, truth: uint8 ``[T, H, W, 3]``, with and without what the mask hides.
        mask: bool ``[T, H, W]``.
        fills: by name, filled videos.

    Returns:
        a sentence with every fill's mean error inside the hole, the best one first.
    """
    hole = np.where(mask[..., None], GREY, clip).astype(np.uint8)
    times = np.linspace(0, len(clip) - 1, SHEET_FRAMES).round().astype(int).tolist()
    rows = {"source": clip, "hole": hole}
    for name, video in fills.items():
        rows[name] = video
        error = np.abs(video.astype(np.int16) - truth) * mask[..., None] * ERROR_GAIN
        rows[f"{name}\nerror x {ERROR_GAIN}"] = error.clip(0, 255).astype(np.uint8)
    rows["truth"] = truth
    save_grid([(name, {f"frame {t}": video[t] for t in times}) for name, video in rows.items()], folder / "sheet.png")
    shown = {"hole": hole, **fills, "truth": truth}
    write_mp4(folder / "compare.mp4", np.concatenate([_labelled(video, name) for name, video in shown.items()], 2))
    errors = sorted((hole_l1(video, truth, mask), name) for name, video in fills.items())
    listed = ", ".join(f"{name} {error:.1f}" for error, name in errors)
    return f"Mean error inside the hole, 0 to 255, the best first: {listed}."


def _labelled(video: np.ndarray, name: str) -> np.ndarray:
    strip = np.full((LABEL_ROWS, *video.shape[2:]), 255, np.uint8)
    cv2.putText(strip, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(strip, (len(video), *strip.shape)), video], 1)
