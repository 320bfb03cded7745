"""Every way to fill one clip side by side: a sheet of frames with error maps, a moving picture, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.synthetic import write_mp4
from fastinpaint.metrics import hole_l1, nearest_in_time, telea
from fastinpaint.metrics.pictures import save_grid

GREY, SHEET_FRAMES = 128, 4
ERROR_GAIN = 4
OURS = "propagation"
"""The fill that `fastinpaint inpaint` makes without weights."""
LABEL_ROWS = 18  # pixels above each picture of the moving picture


def classical_fills(clip: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """By name, what two methods without motion and without learning give."""
    return {"Telea": telea(clip, mask), "nearest in time": nearest_in_time(clip, mask)}


def save_comparison(
    folder: Path, clip: np.ndarray, mask: np.ndarray, fills: Mapping[str, np.ndarray], truth: np.ndarray
) -> str:
    """Write sheet.png, errors.png and compare.mp4.

    Args:
        clip, truth: uint8 ``[T, H, W, 3]``, with and without what the mask hides.
        mask: bool ``[T, H, W]``.
        fills: by name, filled videos.

    Returns:
        a sentence with every fill's mean error inside the hole, the best one first, and another where that is not ours.
    """
    hole = np.where(mask[..., None], GREY, clip).astype(np.uint8)
    times = np.linspace(0, len(clip) - 1, SHEET_FRAMES + 2).round().astype(int)[1:-1].tolist()
    rows = {"source": clip, "hole": hole, **fills, "truth": truth}
    errors = {
        name: (np.abs(video.astype(np.int16) - truth) * mask[..., None] * ERROR_GAIN).clip(0, 255).astype(np.uint8)
        for name, video in fills.items()
    }
    for file, shown_rows in (("sheet.png", rows), ("errors.png", errors)):
        grid = [
            (name.replace(" ", "\n"), {f"frame {t}": video[t] for t in times}) for name, video in shown_rows.items()
        ]
        save_grid(grid, folder / file)
    shown = {"hole": hole, **fills, "truth": truth}
    write_mp4(folder / "compare.mp4", np.concatenate([_labelled(video, name) for name, video in shown.items()], 2))
    found = sorted((hole_l1(video, truth, mask), name) for name, video in fills.items())
    listed = ", ".join(f"{name} {error:.1f}" for error, name in found)
    verdict = "" if found[0][1] == OURS else f" {OURS.capitalize()} is not the best here."
    return f"Mean error inside the hole, 0 to 255, the best first: {listed}.{verdict}"


def _labelled(video: np.ndarray, name: str) -> np.ndarray:
    strip = np.full((LABEL_ROWS, *video.shape[2:]), 255, np.uint8)
    cv2.putText(strip, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(strip, (len(video), *strip.shape)), video], 1)
