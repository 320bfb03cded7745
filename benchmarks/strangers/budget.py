"""Kept bytes against time: `accelerate(model, memory=...)` beside torch.compile's activation_memory_budget.

    python -m benchmarks.strangers.budget [NETWORK ...] [--budgets 1 0.3 0.1] [--frames 4] [--turns 3] [--no-compile]

One row a budget: the MiB that autograd keeps between forward and backward, the same with the most that backward holds
of maps it computes again (counted for `accelerate` alone), and milliseconds a step, all in alternating turns of one
process. A budget is a share of the stock model's kept bytes. "paper" is the network of Wang et al. 2019; others are the
timing set's.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

import fastinpaint
from benchmarks.strangers.networks import CASES, batch
from fastinpaint.acceleration import trial
from fastinpaint.acceleration.example import float_tensors
from fastinpaint.acceleration.kept import RecomputedBytes, kept_bytes
from fastinpaint.acceleration.layout import set_weights, to_channels_last
from fastinpaint.bench import rows
from fastinpaint.bench.machine import describe
from fastinpaint.bench.measure import Timing, time_pairwise
from fastinpaint.models import ModelConfig, VideoCompletionNet

KIND = "budget"
MIB = 2**20
Run = Callable[[], Tensor]


def network(name: str, frames: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in training mode and its inputs."""
    torch.manual_seed(0)
    if name != "paper":
        return CASES[name].build().train(), (batch(CASES[name].shape),)
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


def contenders(name: str, args: argparse.Namespace) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """The stock model, torch.compile at each budget, and ours at each budget, ready to be timed."""
    net, inputs = network(name, args.frames)
    last, last_inputs = copy.deepcopy(net), to_channels_last(inputs)
    set_weights(last, True)
    yield "stock, channels-last", last, last_inputs
    for budget in [] if args.no_compile else args.budgets:
        torch._dynamo.reset()
        compiled: Any = torch.compile(copy.deepcopy(last))
        with torch._functorch.config.patch(activation_memory_budget=budget):
            loss(compiled, last_inputs)().backward()
        yield f"torch.compile, budget {budget:g}", compiled, last_inputs
    yield "accelerate, speed", fastinpaint.accelerate(copy.deepcopy(net), example=inputs), inputs
    for budget in args.budgets:
        if budget < 1:
            ours = fastinpaint.accelerate(copy.deepcopy(net), example=inputs, memory=budget)
            yield f"accelerate, memory={budget:g}", ours, inputs
    yield "accelerate, memory", fastinpaint.accelerate(copy.deepcopy(net), example=inputs, objective="memory"), inputs


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one network."""
    found, steps = [], []
    for who, net, inputs in contenders(name, args):
        run = loss(net, inputs)
        kept, again = kept_bytes(run, net.parameters()), RecomputedBytes()
        with again.counting():
            run().backward()
        found.append(
            {"kind": KIND, "case": name, "contender": who, "kept_bytes": kept, "held_bytes": kept + again.most}
        )
        steps.append(lambda run=run: run().backward())
    for row, seconds in zip(found, time_pairwise(steps, args.turns, 0.0, trial.clock), strict=True):
        timing = Timing.of(seconds)
        row |= {"p50": timing.p50, "runs": timing.runs, "clock": trial.clock.__name__}
    return [describe(torch.device("cpu")) | row for row in found]


def table(found: list[dict[str, Any]]) -> str:
    """One line a contender."""
    lines = ["| network | contender | kept MiB | with recomputed maps | ms |", "| --- | --- | --- | --- | --- |"]
    for row in found:
        kept = f"{row['kept_bytes'] / MIB:.0f} | {row['held_bytes'] / MIB:.0f}"
        lines.append(f"| {row['case']} | {row['contender']} | {kept} | {1e3 * row['p50']:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure the networks that are named; print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["paper"], choices=["paper", *CASES], metavar="NETWORK")
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.3, 0.1])
    parser.add_argument("--frames", type=int, default=4, help="frames of the paper's network")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out: it compiles for a minute")
    parser.add_argument("--cpu-time", action="store_true", help="count one thread's own seconds: on a busy machine")
    parser.add_argument("--rows", type=Path, help="file that rows are appended to")
    args = parser.parse_args()
    if args.cpu_time:
        torch.set_num_threads(1)
        trial.clock = time.process_time
    for name in args.networks:
        found = measure(name, args)
        print(table(found), flush=True)
        if args.rows is not None:
            rows.append(args.rows, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
