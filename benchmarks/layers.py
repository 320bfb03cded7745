"""Forward, data gradient and weight gradient of every layer on the CPU, in GFLOP/s beside torch's.

    python benchmarks/layers.py --frames 8 --threads 2

Taps that fall on padding count as work for all. Ours takes the very tensors of torch's channels-last, the weight too.
Every result is checked against torch's before its time is taken; the contenders take turns, and the best of each one's
repetitions is printed. Freed memory stays mapped, torch's and ours: the system's time for fresh pages would be several
times that of a small layer, for whichever contender the allocator has nothing left. ``--clock cpu`` counts the time of
the process, which on one thread does not see what else the machine does.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.layers import LayerCase, layer_cases
from fastinpaint.ops import map_memory
from fastinpaint.ops.conv_block import cpu, cpu_choice
from fastinpaint.ops.types import Geometry, Source

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TOLERANCE = 1e-4  # of the relative error in norm between two float32 results
SECONDS = 0.3  # a pass of a layer is repeated for so long at least
IN_USE = 2 << 30  # bytes at one time in a step
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
Passes = dict[str, Callable[[], Tensor]]


def passes_of(case: LayerCase) -> tuple[Passes, Passes, Passes, list[bool]]:
    """The three passes by torch contiguous, torch channels-last and ours, and which of ours are own kernels."""
    torch.manual_seed(0)
    conv = case.conv
    x, weight = torch.randn(case.shape), torch.randn(conv.weight.shape) / conv.weight[0].numel() ** 0.5
    padding, extra = conv.padding, conv.output_padding
    assert not isinstance(padding, str)
    geometry = Geometry(conv.stride, padding, conv.dilation, extra, conv.transposed, conv.groups)
    args = (conv.stride, padding, conv.dilation, conv.transposed, extra, conv.groups)
    dy = torch.randn_like(torch.ops.aten.convolution(x, weight, None, *args))

    def torchs(memory_format: torch.memory_format) -> Passes:
        a, w, g = (t.contiguous(memory_format=memory_format) for t in (x, weight, dy))

        def backward(which: int) -> Tensor:
            mask = [which == 0, which == 1, False]
            return torch.ops.aten.convolution_backward(g, a, w, None, *args, mask)[which]

        return {
            "fwd": lambda: torch.ops.aten.convolution(a, w, None, *args),
            "dgrad": lambda: backward(0),
            "wgrad": lambda: backward(1),
        }

    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    a, w, g = (t.contiguous(memory_format=last) for t in (x, weight, dy))
    sources = [Source(a)]

    def ours_bwd(source: bool, of_weight: bool) -> Tensor:
        grads, dweight, _ = cpu.bwd(g, None, None, g, None, sources, w, geometry, [source], of_weight, False)
        result = grads[0].x if source else dweight
        assert result is not None
        return result

    ours: Passes = {
        "fwd": lambda: cpu.fwd(sources, w, None, geometry, False)[0],
        "dgrad": lambda: ours_bwd(True, False),
        "wgrad": lambda: ours_bwd(False, True),
    }
    own = [cpu_choice.own(name, sources, weight, geometry) is not None for name in cpu_choice.PASSES]
    return torchs(torch.contiguous_format), torchs(last), ours, own


def seconds(calls: list[Callable[[], Tensor]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """The best time of each call; the calls take turns, `repeats` times and for SECONDS at least."""
    best, turns, until = [float("inf")] * len(calls), 0, time.perf_counter() + SECONDS
    while turns < repeats or time.perf_counter() < until:
        turns += 1
        for i, call in enumerate(calls):
            start = clock()
            call()
            best[i] = min(best[i], clock() - start)
    return best


def keep_freed_memory() -> None:
    """Have freed memory handed out again instead of given back to the system, by malloc (glibc) and by our maps'."""
    # what our maps keep is a share of what was once in use: of one layer that is nothing, of a training step enough
    map_memory.empty((1, IN_USE // 4, 1, 1), torch.float32, torch.channels_last)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def main() -> None:
    """Print one line a layer, and the sums over the layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"GFLOP/s, F={options.frames}, {options.threads} threads, torch {torch.__version__}, {options.clock} clock.")
    print("Each cell: torch contiguous / torch channels-last / ours; * = own kernels.\n")
    print("| layer | weight | GFLOP | fwd | dgrad | wgrad | ours against torch's best |")
    print("|---|---|---|---|---|---|---|")
    total = [[0.0] * 3 for _ in cpu_choice.PASSES]
    for case in layer_cases(Workload(frames=options.frames)):
        if options.only not in case.name:
            continue
        *contenders, own = passes_of(case)
        flops, cells, ratios = 2 * case.macs(), [], []
        for i, name in enumerate(cpu_choice.PASSES):
            calls = [c[name] for c in contenders]
            reference, *others = [call() for call in calls]
            for result in others:
                error = float((result - reference).norm() / reference.norm())
                if not error < TOLERANCE:
                    raise SystemExit(f"{case.name} {name}: relative error {error:.1e}, nothing is reported.")
            times = seconds(calls, options.repeats, CLOCKS[options.clock])
            total[i] = [t + s for t, s in zip(total[i], times, strict=True)]
            cells.append(" / ".join(f"{flops / t / 1e9:.0f}" for t in times) + "*" * own[i])
            ratios.append(f"{min(times[:2]) / times[2]:.2f}")
        shape = "x".join(map(str, case.conv.weight.shape))
        print(f"| {case.name} | {shape} | {flops / 1e9:.2f} | {' | '.join(cells)} | {' '.join(ratios)} |", flush=True)
    sums = [" / ".join(f"{t * 1e3:.0f} ms" for t in part) for part in total]
    print(f"| all | | | {' | '.join(sums)} | {' '.join(f'{min(p[:2]) / p[2]:.2f}' for p in total)} |")


if __name__ == "__main__":
    main()
