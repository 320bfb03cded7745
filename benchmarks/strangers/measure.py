"""Seconds a training step and kept bytes of public networks: stock in both layouts, and accelerated.

    python -m benchmarks.strangers.measure [NETWORK ...] [--rows FILE] [--turns 9] [--objective speed]
    python -m benchmarks.strangers.measure --table FILE ...

Everybody runs in one process, in alternating turns; medians. A network whose accelerated results differ from stock's is
not reported. ``--table`` prints the rows of files as a table in Markdown.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastinpaint
from benchmarks.strangers.networks import CASES, UNTUNED, batch
from fastinpaint.acceleration import trial
from fastinpaint.acceleration.example import float_tensors
from fastinpaint.acceleration.kept import kept_bytes
from fastinpaint.acceleration.layout import set_weights, to_channels_last
from fastinpaint.bench import rows
from fastinpaint.bench.machine import describe
from fastinpaint.bench.measure import Timing, time_pairwise

KIND = "strangers"
KNOWN = CASES | UNTUNED
STOCK = ("stock contiguous", "stock channels-last")
AGREE = 2e-2  # of the loss: float32 through a hundred layers of batch norm over a small batch


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    """A scalar of all floating results."""
    return torch.stack([t.float().square().mean() for t in float_tensors(net(x)) if t.requires_grad]).sum()


def step(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """One training step without its optimiser."""

    def run() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        loss_of(net, x).backward()

    return run


def shrunk(shape: tuple[int, ...], by: int) -> tuple[int, ...]:
    """A smaller input."""
    return (*shape[:-2], shape[-2] // by, shape[-1] // by)


def contenders(name: str, objective: str, smaller: int) -> tuple[dict[str, tuple[nn.Module, Tensor]], float]:
    """The same network three times, with its input; and the seconds that choosing took."""
    case = KNOWN[name]
    torch.manual_seed(0)
    plain, x = case.build().train(), batch(shrunk(case.shape, smaller))
    for module in plain.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0  # what it drops depends on the layout; losses are compared
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    last, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    set_weights(last, True)
    start = time.perf_counter()
    fastinpaint.accelerate(ours, example=x, objective=objective)
    taken = time.perf_counter() - start
    return {STOCK[0]: (plain, x), STOCK[1]: (last, to_channels_last(x)), f"accelerated, {objective}": (ours, x)}, taken


def measure(name: str, objective: str, turns: int, smaller: int = 1) -> list[dict[str, Any]]:
    """The rows of one network."""
    nets, choosing = contenders(name, objective, smaller)
    ours = next(reversed(nets))
    kept = {who: kept_bytes(lambda net=net, x=x: loss_of(net, x), net.parameters()) for who, (net, x) in nets.items()}
    losses = {}
    for who, (net, x) in nets.items():
        torch.manual_seed(1)  # functional dropout draws the same
        losses[who] = float(loss_of(net, x).detach())
    apart = abs(losses[ours] / losses[STOCK[0]] - 1)
    if not apart < AGREE:
        print(f"{name}: the losses are {apart:.1e} apart: not reported.", file=sys.stderr)
        return []
    steps = [step(net, x) for net, x in nets.values()]
    for run in steps:
        run()
    taken = time_pairwise(steps, turns, 0.0, trial.clock)
    report = nets[ours][0].fastinpaint_report
    shape = "x".join(map(str, shrunk(KNOWN[name].shape, smaller)))
    found = []
    for who, seconds in zip(nets, taken, strict=True):
        t = Timing.of(seconds)
        row = {"kind": KIND, "case": name, "input": shape, "contender": who, "kept_bytes": kept[who], "p20": t.p20}
        row |= {
            "p50": t.p50,
            "clock": trial.clock.__name__,
            "p80": t.p80,
            "runs": t.runs,
            "drift": t.drift,
            "noisy": t.noisy,
            "loss_apart": apart,
        }
        if who == ours:
            fused = sum(layer.choice != "stock" for layer in report.layers)
            row |= {"choosing_seconds": choosing, "fused": fused, "layers": len(report.layers), "limit": report.limit}
        found.append(row)
    machine = describe(torch.device("cpu"))
    return [machine | row for row in found]


def table(found: list[dict[str, Any]]) -> str:
    """One line a network, from its newest rows; then the geometric means."""
    newest = {(row["case"], row["contender"]): row for row in found if row["kind"] == KIND}
    lines = [
        "| network, input | contiguous ms | channels-last ms | accelerated ms | best / ours | kept MiB, best -> ours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    speeds, shares = [], []
    for case in dict.fromkeys(case for case, _ in newest):
        rows_of = {who: row for (name, who), row in newest.items() if name == case}
        stock = [rows_of[who] for who in STOCK]
        ours = next(row for who, row in rows_of.items() if who not in STOCK)
        best, least = min(row["p50"] for row in stock), min(row["kept_bytes"] for row in stock)
        speeds.append(best / ours["p50"])
        shares.append(ours["kept_bytes"] / least)
        times = " | ".join(f"{1e3 * row['p50']:.0f}" for row in (*stock, ours))
        kept = f"{least / 2**20:.0f} -> {ours['kept_bytes'] / 2**20:.0f}"
        lines.append(f"| {case} {ours['input']} | {times} | {speeds[-1]:.2f} | {kept} |")
    means = [math.exp(sum(map(math.log, values)) / len(values)) for values in (speeds, shares)]
    return "\n".join([*lines, f"| geometric mean of {len(speeds)} | | | | {means[0]:.2f} | {means[1]:.2f} of best |"])


def main() -> int:
    """Measure the networks that are named, or all; print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(KNOWN))
    parser.add_argument("--rows", type=Path, help="file that rows are appended to")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--objective", default="speed")
    parser.add_argument("--smaller", type=int, default=1, help="divide the height and width of every input by this")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count one thread's own seconds: on a machine that is busy"
    )
    parser.add_argument("--table", type=Path, nargs="+", help="print the rows of these files, and measure nothing")
    parser.add_argument("--report", action="store_true", help="print what was chosen for each layer")
    args = parser.parse_args()
    if args.table:
        print(table(rows.read(args.table)))
        return 0
    if args.cpu_time:
        torch.set_num_threads(1)
        trial.clock = time.process_time
    unknown = set(args.networks) - set(KNOWN)
    if unknown:
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}.")
    for name in args.networks or CASES:
        found = measure(name, args.objective, args.turns, args.smaller)
        if found:
            print(
                "\n".join(table(found).splitlines()[2:-1]),
                f"choosing {found[-1]['choosing_seconds']:.1f} s",
                flush=True,
            )
            if args.rows is not None:
                rows.append(args.rows, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
