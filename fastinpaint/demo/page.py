"""The demo's page: plain HTML beside the files that it shows, which a browser opens from the disk."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch

from fastinpaint._version import __version__
from fastinpaint.demo.compare import ERROR_GAIN
from fastinpaint.metrics import Evaluation
from fastinpaint.metrics.evaluation import COLUMNS, NOTE, SOURCE

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastinpaint demo</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #888; --tint: #8881; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 64rem; margin: 3rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem }
p, figcaption, footer { max-width: 46rem } figcaption, footer, .soft { color: var(--soft); font-size: .9rem }
figure { margin: 0 } img { width: 100%; background: #fff; border-radius: 6px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem } video { width: 100%; border-radius: 6px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; max-width: 46rem }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } tr.best { background: var(--tint); font-weight: 600 }
a { color: inherit }
</style>
<h1>fastinpaint demo</h1>
<p class="soft">Video inpainting by jointly learning temporal structure and spatial details (Wang et al., AAAI 2019),
trained from nothing on $clips rendered clips in $minutes minutes on this machine.</p>

<h2>A scribble removed from a clip the networks have never seen</h2>
<div class="pair">
<figure><video src="input.mp4" autoplay loop muted playsinline controls></video><figcaption>source</figcaption></figure>
<figure><video src="filled.mp4" autoplay loop muted playsinline controls></video>
<figcaption>filled by what other frames show and what surrounds the hole: what <code>fastinpaint inpaint</code> does
without weights</figcaption></figure>
</div>
<p><video src="compare.mp4" autoplay loop muted playsinline controls></video></p>
<p>$errors</p>
<p><img src="sheet.png" alt="frames of the source, the hole, each fill and the truth"></p>
<p class="soft">Errors inside the hole, times $gain:</p>
<p><img src="errors.png" alt="error maps of each fill"></p>

<h2>Measured on validation clips</h2>
$table
<p class="soft">$samples samples of $frames frames, $size x $size pixels, holes: $holes. $note</p>

<h2>Frames</h2>
<p><img src="frames.png" alt="completed frames of each network beside the truth"></p>
<h2>What changes from frame to frame</h2>
<p><img src="differences.png" alt="frame differences of each network beside the truth"></p>
<h2>Training</h2>
<p><img src="curves.png" alt="loss curves"></p>

<h2>How it was made</h2>
<table>$steps</table>
<p>The networks have $width of the paper's channels. 3DCN was trained alone for $pretrain_steps steps and with CombCN
for $joint_steps more; 2DCN for $joint_steps. So short a training shows that the parts work together, not how good they
get.</p>
<footer>fastinpaint $version, torch $torch, Python $python. Beside this page: <a href="filled.mp4">filled.mp4</a>,
<a href="completed.mp4">completed.mp4</a> (the network), <a href="compare.mp4">compare.mp4</a>,
<a href="input.mp4">input.mp4</a>, <a href="mask.mp4">mask.mp4</a>, <a href="table.txt">table.txt</a>,
<a href="evaluation.json">evaluation.json</a>, the weights in <a href="completion/">completion</a> and
<a href="2dcn/">2dcn</a>, the <a href="clips/">clips</a> and the samples in <a href="data/">data</a>.</footer>
</html>
""")


def write_page(
    path: Path, found: Evaluation, size: Mapping[str, Any], seconds: Mapping[str, float], errors: str
) -> None:
    """Write the page.

    Args:
        found: the evaluation.
        size: the fields of `DemoSize`.
        seconds: what each step took.
        errors: a sentence on what each fill got wrong on the held-out clip.
    """
    steps = [f"<tr><td>{html.escape(task)}</td><td>{took:.0f} s</td></tr>" for task, took in seconds.items()]
    text = PAGE.substitute(
        clips=size["clips"],
        gain=ERROR_GAIN,
        errors=html.escape(errors),
        minutes=f"{sum(seconds.values()) / 60:.1f}",
        table=_table(found),
        samples=found.samples,
        frames=found.frames,
        size=found.size[0],
        holes=found.holes,
        note=html.escape(" ".join(NOTE.split())),
        steps="".join(steps),
        width=f"{size['width']:g}",
        pretrain_steps=size["pretrain_steps"],
        joint_steps=size["steps"],
        version=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
    )
    path.write_text(text, encoding="utf-8")


def _table(found: Evaluation) -> str:
    """Table 2 as HTML; the fill with the smallest error inside the holes stands out."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in ("method", *(title for title, _ in COLUMNS.values())))
    fills = [name for name in found.means if not name.startswith("3DCN (") and name != SOURCE]
    best = min(fills, key=lambda name: found.means[name].hole_l1)
    rows = []
    for name, scores in found.means.items():
        forms = [form for _, form in COLUMNS.values()]
        cells = ["-" if value is None else form.format(value) for form, value in zip(forms, scores, strict=True)]
        data = "".join(f"<td>{cell}</td>" for cell in (html.escape(name), *cells))
        rows.append(f"<tr{' class=best' if name == best else ''}>{data}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
