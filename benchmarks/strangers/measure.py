"""Seconds a training step and kept bytes of public networks: stock in both layouts, and accelerated.

    python -m benchmarks.strangers.measure [NETWORK ...] [--rows FILE] [--turns 9] [--objective speed]
    python -m benchmarks.strangers.measure [NETWORK ...] --bfloat16      # under autocast
    python -m benchmarks.strangers.measure [NETWORK ...] --evaluation    # forward alone, under no_grad
    python -m benchmarks.strangers.measure [NETWORK ...] --evaluation inference_mode --input 1 3 224 224
    python -m benchmarks.strangers.measure [NETWORK ...] --compile       # torch.compile beside them, channels-last

Everybody runs in one process, in alternating turns, for 30 seconds at least; medians, and the median of the ratios
within turns. The heap is held, as a plan that leaves it large would make the next one pay for pages that it gave back.
A network whose accelerated results differ from stock's is not reported. ``benchmarks.strangers.tables`` prints tables
of the rows.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastinpaint
from benchmarks.strangers.networks import CASES, UNTUNED, batch
from benchmarks.strangers.tables import COMPILED, KIND, STOCK, runs_of, table
from fastinpaint.acceleration import heap, stopwatch
from fastinpaint.acceleration.example import float_tensors
from fastinpaint.acceleration.kept import kept_bytes
from fastinpaint.acceleration.layout import set_weights, to_channels_last
from fastinpaint.bench import rows
from fastinpaint.bench.machine import describe
from fastinpaint.bench.measure import Timing, time_pairwise

KNOWN = CASES | UNTUNED
LEAST_SECONDS = 30.0  # of a network's turns: a short step's median varies most
AGREE = {False: 2e-2, True: 0.1}  # of the loss, by bfloat16: a hundred layers of batch norm over a small batch


@dataclass
class Mode:
    """How a step runs.

    Attributes:
        bfloat16: whether under autocast to bfloat16.
        compiled: whether torch.compile's model runs beside the others.
        evaluation: "no_grad" or "inference_mode" for forward alone in evaluation mode; "" for a training step.
    """

    bfloat16: bool = False
    evaluation: str = ""
    compiled: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """The context of forward."""
        return torch.autocast("cpu", torch.bfloat16) if self.bfloat16 else nullcontext()


def loss_of(net: nn.Module, x: Tensor, mode: Mode) -> Tensor:
    """A scalar of all floating results."""
    with mode.autocast():
        found = float_tensors(net(x))
    return torch.stack([t.float().square().mean() for t in found if t.requires_grad or mode.evaluation]).sum()


def step(net: nn.Module, x: Tensor, mode: Mode) -> Callable[[], None]:
    """One training step without its optimiser, or one evaluation."""

    def train() -> None:
        for parameter in net.parameters():
            parameter.grad = None
        loss_of(net, x, mode).backward()

    def evaluate() -> None:
        with getattr(torch, mode.evaluation)(), mode.autocast():
            net(x)

    return evaluate if mode.evaluation else train


def shrunk(shape: tuple[int, ...], by: int) -> tuple[int, ...]:
    """A smaller input."""
    return (*shape[:-2], shape[-2] // by, shape[-1] // by)


def contenders(
    name: str, objective: str, shape: tuple[int, ...], mode: Mode
) -> tuple[dict[str, tuple[nn.Module, Tensor]], float]:
    """The same network three or four times, with its input, ours last; and the seconds that choosing took."""
    case = KNOWN[name]
    torch.manual_seed(0)
    plain, x = case.build().train(not mode.evaluation), batch(shape)
    for module in plain.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
            module.p = 0.0  # what it drops depends on the layout; losses are compared
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    last, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    set_weights(last, True)
    last.register_forward_pre_hook(lambda _, args: (to_channels_last(args[0]),))  # a loader gives contiguous batches
    start = time.perf_counter()
    with mode.autocast(), torch.set_grad_enabled(not mode.evaluation):
        fastinpaint.accelerate(ours, example=x, objective=objective)
    taken = time.perf_counter() - start
    found = {STOCK[0]: (plain, x), STOCK[1]: (last, x)}
    if mode.compiled and (fast := compiled(last, x, mode)) is not None:
        found[COMPILED] = (fast, x)
    return found | {f"accelerated, {objective}": (ours, x)}, taken


def compiled(net: nn.Module, x: Tensor, mode: Mode) -> nn.Module | None:
    """A copy of a network for torch.compile, compiled by one step; None, with its reason printed, where that fails."""
    torch._dynamo.reset()
    fast = torch.compile(copy.deepcopy(net))
    try:
        step(fast, x, mode)()
    except Exception as error:  # whatever its compilers raise
        print(f"torch.compile: {type(error).__name__}: {str(error).partition(chr(10))[0]}", file=sys.stderr)
        return None
    return fast


def paired_speed(taken: dict[str, list[float]], ours: str) -> float:
    """The better stock layout's time over ours in the same turn, the median over turns.

    The machine's speed changes within minutes, and the contenders of one turn see the same one.
    """
    best = min((taken[who] for who in STOCK), key=statistics.median)
    return statistics.median(stock / own for stock, own in zip(best, taken[ours], strict=True))


def measure(name: str, objective: str, turns: int, shape: tuple[int, ...], mode: Mode) -> list[dict[str, Any]]:
    """The rows of one network."""
    nets, choosing = contenders(name, objective, shape, mode)
    ours = next(reversed(nets))
    kept, losses = dict.fromkeys(nets, 0), {}
    for who, (net, x) in nets.items():
        torch.manual_seed(1)  # functional dropout draws the same
        with torch.set_grad_enabled(not mode.evaluation):
            losses[who] = float(loss_of(net, x, mode).detach())
            if not mode.evaluation:
                kept[who] = kept_bytes(lambda net=net, x=x: loss_of(net, x, mode), net.parameters())
    apart = abs(losses[ours] / losses[STOCK[0]] - 1)
    if not apart < AGREE[mode.bfloat16]:
        print(f"{name}: the losses are {apart:.1e} apart: not reported.", file=sys.stderr)
        return []
    steps = [step(net, x, mode) for net, x in nets.values()]
    with heap.held():
        for run in steps:
            run()
        taken = time_pairwise(steps, turns, LEAST_SECONDS, stopwatch.clock)
    report = nets[ours][0].fastinpaint_report
    found = []
    for who, seconds in zip(nets, taken, strict=True):
        t = Timing.of(seconds)
        row = {
            "kind": KIND,
            "case": name,
            "input": "x".join(map(str, shape)),
            "contender": who,
            "kept_bytes": kept[who],
            "p20": t.p20,
        }
        row |= {
            "p50": t.p50,
            "clock": stopwatch.clock.__name__,
            "p80": t.p80,
            "runs": t.runs,
            "drift": t.drift,
            "noisy": t.noisy,
            "loss_apart": apart,
            "mode": mode.evaluation or "training",
            "dtype": "bfloat16 autocast" if mode.bfloat16 else "float32",
        }
        if who == ours:
            fused = sum(layer.choice != "stock" for layer in report.layers)
            row |= {"choosing_seconds": choosing, "fused": fused, "layers": len(report.layers), "limit": report.limit}
            row["speed"] = paired_speed(dict(zip(nets, taken, strict=True)), ours)
            row["held_bytes"] = report.after.get("kept_bytes", kept[who])
        found.append(row)
    machine = describe(torch.device("cpu"))
    return [machine | row for row in found]


def main() -> int:
    """Measure the networks that are named, or all; print each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(KNOWN))
    parser.add_argument("--rows", type=Path, help="file that rows are appended to")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--objective", default="speed")
    parser.add_argument("--bfloat16", action="store_true", help="run forward under torch.autocast")
    parser.add_argument("--compile", action="store_true", help="time torch.compile's channels-last model too")
    parser.add_argument("--evaluation", nargs="?", const="no_grad", default="", choices=["no_grad", "inference_mode"])
    parser.add_argument("--input", type=int, nargs="+", help="the input's shape, in place of the network's own")
    parser.add_argument("--smaller", type=int, default=1, help="divide the height and width of every input by this")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count one thread's own seconds: on a machine that is busy"
    )
    parser.add_argument("--report", action="store_true", help="print what was chosen for each layer, and time no step")
    args = parser.parse_args()
    if args.cpu_time:
        torch.set_num_threads(1)
        stopwatch.clock = time.process_time
    unknown = set(args.networks) - set(KNOWN)
    if unknown:
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; known: {', '.join(KNOWN)}.")
    for name in args.networks or CASES:
        shape = tuple(args.input or shrunk(KNOWN[name].shape, args.smaller))
        mode = Mode(args.bfloat16, args.evaluation, args.compile)
        if args.report:
            nets, _ = contenders(name, args.objective, shape, mode)
            print(next(reversed(nets.values()))[0].fastinpaint_report, flush=True)
            continue
        found = measure(name, args.objective, args.turns, shape, mode)
        if found:
            print(
                "\n".join(table(runs_of(found)).splitlines()[2:-1]),
                f"choosing {found[-1]['choosing_seconds']:.1f} s",
                flush=True,
            )
            if args.rows is not None:
                rows.append(args.rows, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
