"""Pictures of measurements, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS_COLOUR, RIVAL_COLOUR = "#c4472b", "#8a94a6"


def save(figure: Figure, path: Path) -> None:
    """Write a PNG beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure)
    figure.savefig(beside, format="png", dpi=130)
    beside.replace(path)


def colour(contender: str) -> str:
    """Ours stand out."""
    return OURS_COLOUR if contender.startswith("fastinpaint") else RIVAL_COLOUR


def draw_bars(values: dict[str, float], title: str, unit: str, path: Path) -> None:
    """One horizontal bar a contender, its value written at its end."""
    figure = Figure(figsize=(7, 0.5 * len(values) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(values), list(values.values()), color=[colour(name) for name in values])
    axes.bar_label(bars, fmt=f"%.2f {unit}", padding=4)
    axes.set_xlim(0, 1.25 * max(values.values()))
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.set_title(title, loc="left")
    save(figure, path)


def draw_lines(series: dict[str, tuple[list[float], list[float]]], title: str, x: str, y: str, path: Path) -> None:
    """One line a contender, with its name at its right end."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for index, (name, (xs, ys)) in enumerate(series.items()):
        style = ("-", "--", ":", "-.")[index % 4]
        axes.plot(xs, ys, style, marker="o", color=colour(name), label=name)
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)
    save(figure, path)


def draw_roofline(points: list[dict[str, Any]], ceilings: dict[str, float], path: Path) -> None:
    """Layers as points: operations a byte against rate, under the machine's copy and matrix-product ceilings."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    intensity = np.logspace(-1, 4, 200)
    roof = np.minimum(intensity * ceilings["copy_gbs"], 1e3 * ceilings["matmul_tflops"])
    axes.loglog(intensity, roof, color="black", linewidth=1)
    for name in dict.fromkeys(p["contender"] for p in points):
        mine = [p for p in points if p["contender"] == name]
        marker = "o" if name.startswith("fastinpaint") else "x"
        axes.loglog([p["intensity"] for p in mine], [p["gflops"] for p in mine], marker, color=colour(name), label=name)
    axes.set(xlabel="floating-point operations a byte that must move", ylabel="GFLOP/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Every layer, forward and backward, under this machine's ceilings", loc="left")
    axes.legend(frameon=False)
    save(figure, path)


def draw_convergence(curves: dict[str, list[list[float]]], every: int, path: Path) -> None:
    """Loss against step, a point for every so many steps, one line a seed; plain PyTorch broad, fused thin upon it."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    looks: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("reference", "plain PyTorch", {"color": RIVAL_COLOUR, "linewidth": 4, "alpha": 0.5}),
        ("fused", "fused", {"color": OURS_COLOUR, "linewidth": 1.2}),
    )
    for key, name, look in looks:
        for seed, losses in enumerate(curves[key]):
            steps = every * (np.arange(len(losses)) + 0.5)
            axes.plot(steps, losses, **look, label=f"{name}, {len(curves[key])} seeds" if seed == 0 else None)
    axes.set(xlabel="step", ylabel=f"loss, 0 to 255, mean of {every} steps")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Same seeds, same data: plain PyTorch and the fused modules", loc="left")
    axes.legend(frameon=False)
    save(figure, path)
