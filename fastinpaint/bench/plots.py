"""Draws measurements with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from fastinpaint.training.checkpoints import replace_file

OURS_COLOUR, RIVAL_COLOUR = "#c4472b", "#8a94a6"
# By contender: the displayed name, its shade and its marker.
STYLES = {
    "eager": ("PyTorch", "#b3bac7", "s"),
    "eager channels-last": ("PyTorch, channels-last", "#8a94a6", "o"),
    "eager checkpointed": ("PyTorch, checkpointed", "#6d7789", "D"),
    "compile": ("torch.compile", "#4d5769", "^"),
    "compile max-autotune": ("torch.compile, max-autotune", "#2f3746", "v"),
    "cudnn graph": ("cuDNN's graph", "#2f3746", "P"),
    "fastinpaint": ("fastinpaint", "#c4472b", "o"),
    "fastinpaint low": ('fastinpaint, memory="low"', "#e08b5a", "o"),
    "fastinpaint least": ('fastinpaint, memory="least"', "#f0b896", "o"),
    "fastinpaint cuda": ("fastinpaint, CUDA C++", "#8f2d16", "s"),
    "fastinpaint triton": ("fastinpaint, Triton", "#d9694c", "D"),
    "fastinpaint library": ("fastinpaint, cuDNN's convolutions", "#e9a284", "^"),
}


def label(contender: str) -> str:
    """The contender's displayed name."""
    return STYLES[contender][0] if contender in STYLES else contender


def colour(contender: str) -> str:
    """The contender's colour; this library's contenders stand out."""
    return STYLES[contender][1] if contender in STYLES else OURS_COLOUR


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=130))


def draw_bars(values: dict[str, float], title: str, unit: str, path: Path, digits: int = 2) -> None:
    """Draw one horizontal bar per contender, with value and unit at its end."""
    figure = Figure(figsize=(7.5, 0.42 * len(values) + 0.9), layout="constrained")
    axes = figure.subplots()
    names = [label(name) for name in values]
    bars = axes.barh(names, list(values.values()), color=[colour(name) for name in values])
    axes.bar_label(bars, [f"{v:.{digits}f} {unit}".rstrip() for v in values.values()], padding=4)
    axes.set_xlim(0, 1.25 * max(values.values()))
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    figure.suptitle(title, x=0.01, ha="left")
    save(figure, path)


def draw_lines(series: dict[str, tuple[list[float], list[float]]], title: str, x: str, y: str, path: Path) -> None:
    """Draw one line per contender through its measured points."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (xs, ys) in series.items():
        axes.plot(xs, ys, color=colour(name), marker=STYLES.get(name, ("", "", "o"))[2], label=label(name))
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xticks(sorted({value for xs, _ in series.values() for value in xs}))
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    axes.legend(frameon=False)
    save(figure, path)


def draw_roofline(panels: dict[str, list[dict[str, Any]]], ceilings: dict[str, float], path: Path) -> None:
    """Draw layers as points, one panel per pass: operations per byte against rate, under the machine's two ceilings."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    every = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    points = [p for panel in panels.values() for p in panel]
    low, high = (np.log10(f(p["intensity"] for p in points)) for f in (min, max))
    intensity = np.logspace(low - 0.2, high + 0.2, 100)
    roof = np.minimum(intensity * ceilings["copy_gbs"], 1e3 * ceilings["matmul_tflops"])
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        measured = "copy and matrix product, measured (Winograd multiplies less)"
        axes.loglog(intensity, roof, color="black", linewidth=1, label=measured)
        for name in dict.fromkeys(p["contender"] for p in panel):
            mine = [p for p in panel if p["contender"] == name]
            marker = STYLES.get(name, ("", "", "o"))[2] if name.startswith("fastinpaint") else "x"
            xy = [p["intensity"] for p in mine], [p["gflops"] for p in mine]
            axes.loglog(*xy, marker, color=colour(name), label=label(name), markersize=5)
        axes.set_title(title)
        axes.set_xlabel("floating-point operations a byte that must move")
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("GFLOP/s")
    every[0].yaxis.set_major_formatter("{x:g}")
    every[0].yaxis.set_minor_formatter(NullFormatter())
    figure.legend(*every[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def draw_layers(times: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """Draw two thin bars per layer, in milliseconds: the faster of plain PyTorch's layouts, and ours."""
    figure = Figure(figsize=(7.5, 0.27 * len(times) + 1.1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(times))
    for offset, name, shade in ((-0.2, "rival", RIVAL_COLOUR), (0.2, "ours", OURS_COLOUR)):
        title_of = "PyTorch, the faster layout" if name == "rival" else "fastinpaint"
        axes.barh(places + offset, [1e3 * t[name] for t in times.values()], 0.36, color=shade, label=title_of)
    axes.set_yticks(places, list(times))
    axes.set_ylim(len(times) - 0.4, -0.6)
    axes.set_xlabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def draw_convergence(curves: dict[str, list[list[float]]], every: int, path: Path) -> None:
    """Draw loss against step, one line per seed, with a thin fused line over a broad one of plain PyTorch."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    looks: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("reference", "PyTorch", {"color": RIVAL_COLOUR, "linewidth": 4, "alpha": 0.5}),
        ("fused", "fastinpaint", {"color": OURS_COLOUR, "linewidth": 1.2}),
    )
    for key, name, look in looks:
        for seed, losses in enumerate(curves[key]):
            steps = every * (np.arange(len(losses)) + 0.5)
            axes.plot(steps, losses, **look, label=f"{name}, {len(curves[key])} seeds" if seed == 0 else None)
    axes.set(xlabel="step", ylabel=f"loss, 0 to 255, mean of {every} steps")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([40, 50, 60, 70, 80, 100, 120, 150, 200, 300]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Same seeds, same data: plain PyTorch and the fused modules", x=0.01, ha="left")
    axes.legend(frameon=False)
    save(figure, path)
