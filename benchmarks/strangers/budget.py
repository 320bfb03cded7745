"""Kept bytes against time: `accelerate(model, memory=...)` beside torch.compile's activation_memory_budget.

    python -m benchmarks.strangers.budget [NETWORK ...] [--budgets 1 0.3 0.1] [--smaller 2] [--turns 3] [--rows FILE]
    python -m benchmarks.strangers.budget --table FILE

Each contender takes turns with the stock channels-last model, its yardstick. One row a contender: the MiB that autograd
keeps between forward and backward, the most that it keeps and backward computes again at a time (the latter is counted
for `accelerate` alone), the milliseconds of a step, and those of the yardstick in the same turns. A budget is a share
of the stock model's bytes that are kept between forward and backward. "paper" is the network of Wang et al. 2019, and
others are the timing set's.

With ``--rows`` a run resumes: contenders that have a row in the file are not measured again, and ``--seconds`` ends a
run between two contenders.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

import fastinpaint
from benchmarks.strangers.measure import shrunk
from benchmarks.strangers.networks import CASES, batch
from fastinpaint.accelerate import MEMORY
from fastinpaint.acceleration import stopwatch
from fastinpaint.acceleration.example import float_tensors
from fastinpaint.acceleration.kept import KeptBytes, kept_bytes
from fastinpaint.acceleration.layout import set_weights, to_channels_last
from fastinpaint.bench import rows
from fastinpaint.bench.machine import describe
from fastinpaint.bench.measure import Timing, time_pairwise
from fastinpaint.models import ModelConfig, VideoCompletionNet

KIND = "budget"
MIB = 2**20
Run = Callable[[], Tensor]
Contender = tuple[nn.Module, tuple[Tensor, ...]]  # a network and its inputs
Build = Callable[[], Contender]


def network(name: str, args: argparse.Namespace) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in training mode and its inputs."""
    torch.manual_seed(0)
    if name != "paper":
        return CASES[name].build().train(), (batch(shrunk(CASES[name].shape, args.smaller)),)
    frames = args.frames
    mask = torch.zeros(1, 1, frames, 128, 128)
    mask[..., 32:80, 40:96] = 1
    return VideoCompletionNet(ModelConfig()).train(), (torch.rand(1, 3, frames, 128, 128), mask)


def loss(net: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    """A function that returns a scalar of all floating results."""

    def run() -> Tensor:
        for parameter in net.parameters():
            parameter.grad = None
        return torch.stack([t.float().square().mean() for t in float_tensors(net(*inputs)) if t.requires_grad]).sum()

    return run


def contenders(name: str, args: argparse.Namespace) -> dict[str, Build]:
    """By name, functions that make a network ready to be timed: torch.compile at each budget, and ours."""
    net, inputs = network(name, args)

    def compiled(budget: float) -> Contender:
        torch._dynamo.reset()
        last, last_inputs = channels_last(net, inputs)
        made: Any = torch.compile(last)
        with torch._functorch.config.patch(activation_memory_budget=budget):
            loss(made, last_inputs)().backward()
        return made, last_inputs

    def ours(**options: Any) -> Contender:
        return fastinpaint.accelerate(copy.deepcopy(net), example=inputs, **options), inputs

    def fused(tier: str) -> Contender:
        last, last_inputs = channels_last(net, inputs)
        return fastinpaint.accelerate(last, objective="fuse", memory=tier), last_inputs

    found: dict[str, Build] = {f"torch.compile, budget {b:g}": functools.partial(compiled, b) for b in args.budgets}
    found["accelerate, speed"] = ours
    for budget in args.budgets:
        if budget < 1:
            found[f"accelerate, memory={budget:g}"] = functools.partial(ours, memory=budget)
    found["accelerate, memory"] = functools.partial(ours, objective="memory")
    for tier in MEMORY:
        found[f"accelerate, every layer fused, {tier}"] = functools.partial(fused, tier)
    return {who: build for who, build in found.items() if args.only in who}


def channels_last(net: nn.Module, inputs: tuple[Tensor, ...]) -> Contender:
    """A copy of the stock model and its inputs as channels-last."""
    last = copy.deepcopy(net)
    set_weights(last, True)
    return last, to_channels_last(inputs)


def measure(name: str, args: argparse.Namespace, who: str, build: Build) -> dict[str, Any]:
    """The row of one contender."""
    net, inputs = build()
    last, last_inputs = channels_last(*network(name, args))
    run, stock = loss(net, inputs), loss(last, last_inputs)
    kept, peak = kept_bytes(run, net.parameters()), KeptBytes(net.parameters())
    with peak.counting():
        with peak.saving():
            result = run()
        result.backward()
    stock_kept = kept_bytes(stock, last.parameters())
    stock().backward()
    seconds, stock_seconds = time_pairwise(
        [lambda: run().backward(), lambda: stock().backward()], args.turns, 0.0, stopwatch.clock
    )
    timing, yardstick = Timing.of(seconds), Timing.of(stock_seconds)
    shape = [list(t.shape) for t in inputs]
    row = {"kind": KIND, "case": name, "input": shape, "contender": who, "runs": timing.runs}
    row |= {
        "kept_bytes": kept,
        "held_bytes": max(kept, peak.most),
        "p50": timing.p50,
        "clock": stopwatch.clock.__name__,
    }
    return describe(torch.device("cpu")) | row | {"stock_p50": yardstick.p50, "stock_kept_bytes": stock_kept}


def table(found: list[dict[str, Any]]) -> str:
    """One line a contender, ordered by network and kept bytes."""
    lines = [
        "| network | contender | kept MiB | with recomputed maps | ms | stock channels-last ms | of stock's time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(found, key=lambda row: (row["case"], -row["held_bytes"])):
        kept = f"{row['kept_bytes'] / MIB:.0f} | {row['held_bytes'] / MIB:.0f}"
        times = f"{1e3 * row['p50']:.0f} | {1e3 * row['stock_p50']:.0f} | {row['p50'] / row['stock_p50']:.2f}"
        lines.append(f"| {row['case']} | {row['contender']} | {kept} | {times} |")
    return "\n".join(lines)


def main() -> int:
    """Measure the networks that are named; print and keep each contender's row as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"paper (default), {', '.join(CASES)}")
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.3, 0.1])
    parser.add_argument("--frames", type=int, default=4, help="frames of the paper's network")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--smaller", type=int, default=1, help="divide the height and width of other inputs by this")
    parser.add_argument("--only", default="", metavar="TEXT", help="contenders whose name holds this, as accelerate")
    parser.add_argument("--cpu-time", action="store_true", help="count one thread's own seconds: on a busy machine")
    parser.add_argument("--rows", type=Path, help="file that rows are appended to, and read to resume")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no contender after this time")
    parser.add_argument("--table", type=Path, nargs="+", help="print the rows of these files, and measure nothing")
    args = parser.parse_args()
    unknown = set(args.networks) - {"paper", *CASES}
    if unknown:
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; known: paper, {', '.join(CASES)}.")
    if args.table:
        print(table([row for row in rows.read(args.table) if row["kind"] == KIND]))
        return 0
    if args.cpu_time:
        torch.set_num_threads(1)
        stopwatch.clock = time.process_time
    known = rows.read([args.rows]) if args.rows is not None and args.rows.exists() else []
    done = {(row["case"], row["contender"], str(row["input"])) for row in known}
    began = time.perf_counter()
    for name in args.networks or ["paper"]:
        shape = str([list(t.shape) for t in network(name, args)[1]])
        for who, build in contenders(name, args).items():
            if (name, who, shape) in done or time.perf_counter() - began > args.seconds:
                continue
            row = measure(name, args, who, build)
            print(table([row]).splitlines()[-1], flush=True)
            if args.rows is not None:
                rows.append(args.rows, [row])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
