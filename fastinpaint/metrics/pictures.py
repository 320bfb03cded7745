"""Draws results as in Figs. 3 and 4 of Wang et al. 2019."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fastinpaint.files import replacing
from fastinpaint.metrics.baselines import BASELINES
from fastinpaint.metrics.evaluation import Example

GREY = 128
CELL_INCHES = 1.7
DPI = 140
TITLE_WIDTH = 20  # characters of a line that fit above a picture


def frame_rows(examples: Sequence[Example]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Fig. 3: each sample's frames at one third and two thirds of its length, as labelled rows of labelled pictures."""
    rows = []
    for example in examples:
        frames = len(example.video)
        for t in sorted({frames // 3, 2 * frames // 3}):
            rows.append((f"sample {example.number}\nframe {t}", _pictures(example, t)))
    return rows


def difference_rows(examples: Sequence[Example]) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Fig. 4: the pair of successive frames whose truth changes most inside the hole, and their difference.

    Differences are absolute, and brightened by one factor per row, which its label states.
    """
    rows = []
    for example in examples:
        t = _most_changed(example)
        first, second = _pictures(example, t), _pictures(example, t + 1)
        rows.append((f"sample {example.number}\nframe {t}", first))
        rows.append((f"sample {example.number}\nframe {t + 1}", second))
        changes = {name: np.abs(second[name].astype(np.int16) - first[name]) for name in first}
        gain = max(1, int(255 / max(1.0, float(np.percentile(changes["truth"], 99.5)))))
        shown = {name: np.minimum(change * gain, 255).astype(np.uint8) for name, change in changes.items()}
        rows.append((f"difference\ntimes {gain}", shown))
    return rows


def save_grid(rows: Sequence[tuple[str, Mapping[str, np.ndarray]]], path: Path) -> None:
    """Write labelled rows of pictures uint8 ``[H, W, 3]`` as one PNG, with column names on top, atomically."""
    names = list(rows[0][1])
    titles = [textwrap.fill(name, TITLE_WIDTH) for name in names]
    height, width = rows[0][1][names[0]].shape[:2]
    cell = CELL_INCHES * min(1.0, width / height), CELL_INCHES * min(1.0, height / width)
    margin_left, margin_top = 0.75, 0.15 + 0.15 * max(title.count("\n") + 1 for title in titles)
    size = margin_left + cell[0] * len(names), margin_top + cell[1] * len(rows)
    figure = Figure(figsize=size, dpi=DPI)
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    figure.subplots_adjust(margin_left / size[0], 0.005, 0.995, 1 - margin_top / size[1], wspace=0.03, hspace=0.03)
    for line, (label, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        for ax, name in zip(line, names, strict=True):
            ax.imshow(pictures[name])
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9, pad=3)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def _pictures(example: Example, t: int) -> dict[str, np.ndarray]:
    """The input with grey holes, the networks' results and the truth at frame t."""
    hole = example.mask[t][..., None]
    networks = {name: video[t] for name, video in example.results.items() if name not in BASELINES}
    return {"input": np.where(hole, GREY, example.video[t]).astype(np.uint8), **networks, "truth": example.video[t]}


def _most_changed(example: Example) -> int:
    """The t whose pair of frames (t, t+1) has the largest true change inside the hole."""
    change = np.abs(np.diff(example.video.astype(np.int16), axis=0)).mean(3)
    holes = example.mask[1:] | example.mask[:-1]
    return int(np.argmax((change * holes).sum((1, 2)) / np.maximum(1, holes.sum((1, 2)))))
