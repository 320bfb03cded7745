"""``fastinpaint bench``: time and memory of a training step beside plain PyTorch, at your own sizes."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastinpaint.cli.options import path
from fastinpaint.errors import UserError, shown
from fastinpaint.models.config import RANGES
from fastinpaint.ranges import BATCH, FRAMES, SIDE, WIDTH, real, whole

if TYPE_CHECKING:
    from fastinpaint.bench.contenders import Workload

AXES = {"frames": "largest number of frames", "size": "largest H = W", "r": "smallest down-sampling r"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--frames", type=FRAMES, default=32, help="F, frames of a video (default 32)")
    parser.add_argument("--size", type=SIDE, default=128, help="H = W in pixels (default 128)")
    parser.add_argument("--batch", type=BATCH, default=1, help="videos a step (default 1)")
    parser.add_argument(
        "--r", type=RANGES["r"], default=2, choices=(1, 2, 4), help="how much smaller 3DCN works (default 2)"
    )
    parser.add_argument("--width", type=WIDTH, default=1.0, help="factor on the channels (default 1)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default float32)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--backend", default="auto", help="of the fused modules (default auto)")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="what to time (default: eager ones and ours)")
    parser.add_argument(
        "--seconds",
        type=real(0, 86_400, above=True),
        default=20.0,
        help="timed seconds for each contender (default 20)",
    )
    parser.add_argument(
        "--max-frames", type=real(0, 1e6, above=True), metavar="GB", help="find the sizes that fit in this memory"
    )
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES), help="what --max-frames varies")
    parser.add_argument(
        "--convergence", type=whole(1, 10**6), nargs="?", const=500, metavar="STEPS", help="train both and compare"
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="append the rows to this file, one JSON object a line")


def run(args: argparse.Namespace) -> None:
    """Run what was asked and print a table."""
    from fastinpaint.bench import rows
    from fastinpaint.bench.contenders import CONTENDERS, Workload
    from fastinpaint.bench.machine import describe
    from fastinpaint.inference import Settings
    from fastinpaint.models import ModelConfig
    from fastinpaint.models.sizes import require_step
    from fastinpaint.ops.dispatch.registry import requested

    device = Settings(device=args.device).torch_device()
    requested(args.backend)
    fields = [field.name for field in dataclasses.fields(Workload) if hasattr(args, field.name)]
    workload = Workload(**{name: getattr(args, name) for name in fields})
    unknown = [name for name in args.contenders or () if name not in CONTENDERS]
    if unknown:
        raise UserError(f"bench: unknown contender {shown(unknown[0])}; known: {', '.join(CONTENDERS)}.")
    if workload.torch_dtype and args.convergence is None and args.max_frames is None:
        config = ModelConfig(width=args.width, r=args.r)
        require_step("bench", config, (args.batch, args.frames, args.size), device)
    if args.out is not None:
        rows.check(args.out)
    found: Iterable[dict]
    if args.convergence is not None:
        found = convergence(args.convergence, args.backend, args.out)
    elif args.max_frames is not None:
        found = largest_sizes(workload, args.contenders, args.axes, args.max_frames)
    else:
        found = step_times(workload, args.contenders, args.seconds)
    for row in found:  # each at once, so that an interrupted search keeps its results
        if args.out is not None:
            rows.append(args.out, [describe(device) | row])
    if args.out is not None:
        print(f"rows added to {args.out}")


def step_times(workload: Workload, names: list[str] | None, seconds: float) -> Iterator[dict]:
    """Time the contenders in turn, count their kept bytes and peak memory, and print each."""
    import torch

    from fastinpaint.bench.budget import run_child
    from fastinpaint.bench.contenders import OURS, TOLERANCE, build, disagreement, is_ours
    from fastinpaint.bench.layers import layer_cases
    from fastinpaint.bench.machine import ceilings, rates
    from fastinpaint.bench.measure import kept_bytes, time_in_turn

    names = names or ["eager", "eager channels-last", *OURS]
    contenders = {name: build(name, workload) for name in names}
    reference = build("eager", dataclasses.replace(workload, dtype="float32"))
    for name, contender in contenders.items():
        apart = disagreement(contender, reference)
        if not apart <= TOLERANCE[workload.torch_dtype]:
            raise UserError(f"bench: the gradients of {name} are {apart:.1e} from plain PyTorch's: nothing was timed.")
    del reference
    device = torch.device(workload.device)
    timings = time_in_turn({name: c.step for name, c in contenders.items()}, device, seconds)
    kept = {name: kept_bytes(c.forward, c.model.parameters()) for name, c in contenders.items()}
    contenders.clear()
    flops = 6 * sum(case.needed_macs() for case in layer_cases(workload))
    ceiling = ceilings(device, workload.torch_dtype)
    rivals = [t.p50 for name, t in timings.items() if not is_ours(name)]
    best = min(rivals) if rivals else float("nan")
    print(f"{'':<22}{'s/step':>9}{'p20':>9}{'p80':>9}{'speed-up':>10}{'kept GiB':>10}{'peak GiB':>10}")
    for name, t in timings.items():
        child = run_child(name, workload)
        peak = float("nan") if child is None else child["peak_bytes"] / 2**30
        print(
            f"{name:<22}{t.p50:>9.3f}{t.p20:>9.3f}{t.p80:>9.3f}{best / t.p50:>9.2f}x"
            f"{kept[name] / 2**30:>10.3f}{peak:>10.2f}{'  noisy' if t.noisy else ''}",
            flush=True,
        )
        row = {"case": "step", "contender": name, "workload": dataclasses.asdict(workload)} | dataclasses.asdict(t)
        row |= {"noisy": t.noisy, "kept_bytes": kept[name], "peak_bytes": child and child["peak_bytes"]}
        yield row | rates(t.p50, flops, 0, ceiling)


def largest_sizes(workload: Workload, names: list[str] | None, axes: list[str], budget_gb: float) -> Iterator[dict]:
    """Find the largest sizes within the budget, by training at them, and print each beside the first rival's."""
    from fastinpaint.bench.budget import largest_within
    from fastinpaint.bench.contenders import OURS, is_ours

    for axis in axes:
        rival = 0
        for name in names or ["eager channels-last", *OURS]:
            found = largest_within(
                name, workload, axis, int(budget_gb * 1e9), lambda line: print(line, file=sys.stderr)
            )
            value = found["value"]
            ratio = f"  ({value / rival:.2f}x)" if rival and axis != "r" and is_ours(name) else ""
            print(f"{AXES[axis]} in {budget_gb:g} GB, {name}: {value or 'none'}{ratio}", flush=True)
            rival = rival if is_ours(name) else max(rival, value)
            row = {"case": f"largest {axis}", "contender": name, "workload": dataclasses.asdict(workload)}
            yield row | found | {"budget_gb": budget_gb}


def convergence(steps: int, backend: str, out: Path | None) -> list[dict]:
    """Train reference and fused from three seeds each, print the final losses, draw the curves beside ``--out``."""
    from fastinpaint.bench.convergence import STEPS_PER_POINT, compare
    from fastinpaint.bench.plots import draw_convergence

    curves = compare(steps, backend=backend)
    reference, fused = curves.final()
    print("final loss in [0, 255], mean of the last 50 steps, by seed")
    print(f"  plain PyTorch  {'  '.join(f'{v:7.3f}' for v in reference)}")
    print(f"  fused          {'  '.join(f'{v:7.3f}' for v in fused)}")
    print("  the fused runs end within the reference seeds' spread" if curves.agree() else "  THEY DISAGREE")
    picture = (out or Path("convergence.jsonl")).with_suffix(".png")
    thinned = curves.thinned()
    draw_convergence(thinned, STEPS_PER_POINT, picture)
    print(f"curves in {picture}")
    return [
        {"case": "convergence", "contender": "fastinpaint", "steps": steps, "backend": backend}
        | {"agree": curves.agree(), "final": {"reference": reference.tolist(), "fused": fused.tolist()}}
        | {"curves": thinned, "every": STEPS_PER_POINT}
    ]
