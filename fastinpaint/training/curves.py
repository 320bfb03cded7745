"""Loss curves as in the paper's Fig. 5: training and validation loss, 3DCN above CombCN, one colour per run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastinpaint.training.checkpoints import replace_file
from fastinpaint.training.logs import read_log

MOST_POINTS = 400
"""Longer curves are drawn as means of equal groups of points, to stay readable."""

TITLES = {"3dcn": "3DCN", "combcn": "CombCN", "2dcn": "2DCN"}


def plot_curves(logs: Mapping[str, Path], out: Path) -> None:
    """Draw the ``log.jsonl`` of one or several runs as a PNG.

    Thin lines are the training loss, thick lines with dots the validation loss, both mean errors in [0, 255]. A dotted
    vertical line marks the start of a run's next phase.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = {label: read_log(path) for label, path in logs.items()}
    names = [name for name in TITLES if any(name in line for lines in runs.values() for line in lines)]
    figure = Figure(figsize=(8, 3.2 * max(1, len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(len(names), squeeze=False, sharex=True).flat if names else []
    for axes, name in zip(panels, names, strict=True):
        for number, (label, lines) in enumerate(runs.items()):
            _draw(axes, lines, name, label if len(runs) > 1 else "", f"C{number}")
        axes.set(title=TITLES[name], xlabel="step", ylabel="l1 loss in [0, 255]")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    replace_file(out, lambda beside: figure.savefig(beside, format="png", dpi=120))


def _draw(axes: Any, lines: list[dict[str, Any]], name: str, label: str, colour: str) -> None:
    styles: dict[str, dict[str, Any]] = {
        "train": {"linewidth": 0.8, "alpha": 0.6},
        "validation": {"linewidth": 1.8, "marker": "o", "markersize": 3},
    }
    for event, style in styles.items():
        points = _thinned([(line["step"], line[name]) for line in lines if line["event"] == event and name in line])
        if points:
            words = f"{label} {event}".strip()
            axes.plot(*zip(*points, strict=True), color=colour, label=words, **style)
    steps = [(line["step"], line["phase"]) for line in lines if line["event"] == "train"]
    for (step, phase), (_, following) in itertools.pairwise(steps):
        if following != phase:
            axes.axvline(step, color=colour, linestyle=":", linewidth=1)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    size = -(-len(points) // MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), max(1, size))]
    return [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
