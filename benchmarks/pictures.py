"""Draws the pictures that one machine's rows allow, with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastinpaint.bench.contenders import OURS, Workload, is_ours
from fastinpaint.bench.layers import layer_cases
from fastinpaint.bench.plots import draw_bars, draw_convergence, draw_layers, draw_lines, draw_roofline

Row = dict[str, Any]
Captions = dict[Path, str]
PASSES = {"forward": "forward", "backward": "backward"}
UNITS = {"frames": "frames", "size": "pixels", "r": ""}
TITLES = {
    "frames": "The largest number of frames that trains in {gb:g} GB, {size}x{size}",
    "size": "The largest H = W that trains in {gb:g} GB, {frames} frames",
    "r": "The smallest down-sampling r that trains in {gb:g} GB, {frames} frames of {size}x{size}",
}


def sizes(row: Row) -> tuple[int, int, int]:
    """Frames, size and batch of a row with a workload; else zeros."""
    work = row.get("workload", {})
    return work.get("frames", 0), work.get("size", 0), work.get("batch", 0)


def newest(found: list[Row]) -> list[Row]:
    """The last row of each case, contender, size and budget."""
    ordered = sorted(found, key=lambda row: row["date"])
    keys = [(row["case"], row["contender"], sizes(row), row.get("budget_gb")) for row in ordered]
    return list(dict(zip(keys, ordered, strict=True)).values())


def draw_all(found: list[Row], everything: list[Row], out: Path) -> Captions:
    """Draw all possible pictures. ``found`` has the newest rows, ``everything`` also the older ones."""
    return {
        **draw_step(found, out),
        **draw_frames(found, out),
        **draw_budgets(found, out),
        **draw_convergences(found, out),
        **draw_all_layers(found, out),
        **draw_history(everything, out),
    }


def draw_step(found: list[Row], out: Path) -> Captions:
    """Bars of the largest measured training step: time, kept bytes, peak memory."""
    steps = [row for row in found if row["case"] == "step" and "p50" in row]
    if not steps:
        return {}
    largest = max(map(sizes, steps))
    steps = [row for row in steps if sizes(row) == largest]
    about = f"F={largest[0]}, {largest[1]}x{largest[1]}, batch {largest[2]}, {steps[0]['workload']['dtype']}"
    wanted = (
        ("p50", 1.0, "s", f"One training step of the whole system: {about}", "step_time.png"),
        ("kept_bytes", 2**-30, "GiB", f"Kept between forward and backward: {about}", "step_kept.png"),
        ("peak_bytes", 2**-30, "GiB", f"Peak memory of training: {about}", "step_peak.png"),
    )
    captions = {}
    for key, factor, unit, title, name in wanted:
        values = {row["contender"]: factor * row[key] for row in steps if row.get(key)}
        if values:
            draw_bars(values, title, unit, out / name)
            captions[out / name] = f"fastinpaint bench --frames {largest[0]} --size {largest[1]}"
    return captions


def draw_frames(found: list[Row], out: Path) -> Captions:
    """Step time and peak memory against F, for contenders measured at several F."""
    by_name: dict[str, dict[int, Row]] = {}
    for row in found:
        if row["case"] == "step" and "p50" in row and sizes(row)[1:] == (128, 1):
            by_name.setdefault(row["contender"], {})[sizes(row)[0]] = row
    captions = {}
    for key, factor, unit, title, name in (
        ("p50", 1.0, "seconds", "Time of a training step against the number of frames, 128x128", "frames_time.png"),
        ("peak_bytes", 2**-30, "GiB", "Peak memory of training against the number of frames, 128x128",
         "frames_memory.png"),
    ):  # fmt: skip
        points = {who: {f: factor * row[key] for f, row in sorted(rows.items()) if row.get(key)}
                  for who, rows in by_name.items()}  # fmt: skip
        series = {who: ([float(f) for f in of], list(of.values())) for who, of in points.items() if len(of) > 1}
        if series:
            draw_lines(series, title, "F, frames of a video", unit, out / name)
            captions[out / name] = "fastinpaint bench --frames 8, and 32; pytest benchmarks --benchmark-only"
    return captions


def draw_budgets(found: list[Row], out: Path) -> Captions:
    """The largest sizes within a budget, from the last search. Each was found by training at it and at the next one."""
    captions = {}
    for axis, unit in UNITS.items():
        rows = [row for row in found if row["case"] == f"largest {axis}" and row["value"]]
        if not rows:
            continue
        last = max(rows, key=lambda row: row["date"])
        alike = [row for row in rows if all(row.get(key) == last.get(key) for key in ("budget_gb", "workload"))]
        frames, size, _ = sizes(last)
        title, path = TITLES[axis].format(gb=last["budget_gb"], frames=frames, size=size), out / f"largest_{axis}.png"
        draw_bars({row["contender"]: float(row["value"]) for row in alike}, title, unit, path, digits=0)
        captions[path] = f"fastinpaint bench --max-frames {last['budget_gb']:g} --axes {axis}"
    return captions


def draw_convergences(found: list[Row], out: Path) -> Captions:
    """Loss curves of the newest comparison."""
    rows = [row for row in found if row["case"] == "convergence" and "curves" in row]
    if not rows:
        return {}
    path = out / "convergence.png"
    draw_convergence(rows[-1]["curves"], rows[-1]["every"], path)
    return {path: f"fastinpaint bench --convergence {rows[-1]['steps']}"}


def draw_all_layers(found: list[Row], out: Path) -> Captions:
    """Every layer under the machine's ceilings, and its time beside torch's faster layout."""
    rows = [row for row in found if row.get("kind") == "layer" and row["case"].rsplit(" ", 1)[-1] in PASSES]
    if not rows:
        return {}
    panels = {title: [row for row in rows if row["case"].endswith(which)] for which, title in PASSES.items()}
    captions = {out / "roofline.png": "pytest benchmarks --benchmark-only", out / "layers.png": ""}
    # the ceiling is the best undisturbed rate
    ceilings = {key: max(row["ceilings"][key] for row in rows) for key in rows[-1]["ceilings"]}
    draw_roofline({k: v for k, v in panels.items() if v}, ceilings, out / "roofline.png")
    times: dict[str, dict[str, float]] = {}
    place = {case.name: i for i, case in enumerate(layer_cases(Workload(frames=1, size=16)))}
    names = dict.fromkeys(row["case"].rsplit(" ", 1)[0] for row in rows)  # a layer's last turn decides when it has rows
    for name in sorted(names, key=lambda name: place.get(name, len(place))):
        of = {(row["case"].rsplit(" ", 1)[1], row["contender"]): row["p50"]
              for row in rows if row["case"].rsplit(" ", 1)[0] == name}  # fmt: skip
        ours = {which: t for (which, who), t in of.items() if who == OURS[0]}
        rivals = {which: min(t for (w, who), t in of.items() if w == which and not is_ours(who)) for which in ours}
        times[name] = {"ours": sum(ours.values()), "rival": sum(rivals.values())}
    draw_layers(times, "Every layer: forward and backward", out / "layers.png")
    captions[out / "layers.png"] = captions[out / "roofline.png"]
    return captions


def draw_history(everything: list[Row], out: Path) -> Captions:
    """The step's speed-up over the fastest rival of the same run, by run."""
    runs: dict[str, dict[str, float]] = {}
    for row in sorted(everything, key=lambda row: row["date"]):
        if row["case"] == "step" and "p50" in row:
            runs.setdefault(f"{row['date'][:10]}  {row['commit']}  F={sizes(row)[0]}", {})[row["contender"]] = row[
                "p50"
            ]
    speed = {run: min((t for who, t in times.items() if not is_ours(who)), default=0.0) / times[OURS[0]]
             for run, times in runs.items() if OURS[0] in times}  # fmt: skip
    speed = {run: value for run, value in speed.items() if value}
    if len(speed) < 2:
        return {}
    path = out / "history.png"
    draw_bars(speed, "Speed-up of a training step over the fastest rival of the same run", "x", path)
    return {path: "all rows of benchmarks/results"}
