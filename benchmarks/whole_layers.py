"""The table of whole layers. `fastinpaint.bench.whole_layers` defines a layer."""

from __future__ import annotations

from argparse import Namespace
from statistics import median

import torch

from benchmarks.layer_tables import CLOCKS, conditions, speedup_of_sums, speedup_over_best
from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.measure import time_pairwise
from fastinpaint.bench.whole_contenders import Fused, LayerRun, Named, Plain
from fastinpaint.bench.whole_layers import Inputs, WholeLayer, whole_layers

TOLERANCE = 1e-4  # relative error in norm between two float32 results
SECONDS = 0.1  # least time that each pass of a layer is repeated
COLUMNS = ("fwd", "bwd", "fwd+bwd")


def table(options: Namespace) -> None:
    """Print one line per layer, and the sums over the layers."""
    print(f"Whole layers: milliseconds, {conditions(options)}.")
    print("Each cell: torch contiguous / torch channels-last / ours.\n")
    print(f"| layer | {' | '.join(COLUMNS)} | ours against torch's best, ±% |")
    print("|---|---|---|---|---|")
    total = [[0.0] * 3 for _ in COLUMNS]
    for layer in whole_layers(Workload(frames=options.frames)):
        name = layer.case.name
        if options.only not in name or name.startswith("guidance"):
            continue
        taken = times(layer, options)
        middle = [[median(contender) for contender in contenders] for contenders in taken]
        total = [[t + m for t, m in zip(*pair, strict=True)] for pair in zip(total, middle, strict=True)]
        cells = [" / ".join(f"{1e3 * m:.2f}" for m in contenders) for contenders in middle]
        title = name if layer.guidance is None else f"{name} + guidance"
        print(f"| {title} | {' | '.join(cells)} | {' '.join(map(speedup_over_best, taken))} |", flush=True)
    sums = [" / ".join(f"{1e3 * t:.0f}" for t in contenders) for contenders in total]
    print(f"| all | {' | '.join(sums)} | {' '.join(map(speedup_of_sums, total))} |")


def times(layer: WholeLayer, options: Namespace) -> list[list[list[float]]]:
    """The seconds of each turn, by column and contender."""
    inputs = Inputs.random(layer, "cpu", torch.float32)
    plain = [Plain(layer, inputs, last) for last in (False, True)]
    contenders: list[LayerRun] = [*plain, Fused(layer, inputs)]
    check(layer.case.name, [contender.results() for contender in contenders])
    clock = CLOCKS[options.clock]
    forward = time_pairwise([c.forward for c in contenders], options.repeats, SECONDS, clock)
    backward = time_pairwise([c.backward for c in contenders], options.repeats, SECONDS, clock)
    both = [[f + b for f, b in zip(*pair, strict=False)] for pair in zip(forward, backward, strict=True)]
    return [forward, backward, both]


def check(name: str, results: list[Named]) -> None:
    """Stop if a result differs from the first contender's."""
    for other in results[1:]:
        for what, expected in results[0].items():
            error = float((other[what] - expected).norm() / expected.norm())
            if not error < TOLERANCE:
                raise SystemExit(f"{name} {what}: relative error {error:.1e}, nothing is reported.")
