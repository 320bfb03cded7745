"""Times every layer on the CPU beside torch's: the convolutions alone in GFLOP/s, then whole layers.

    python -m benchmarks.layers --frames 8 --threads 2

The first table is of the convolutions alone: forward, dgrad, wgrad. Taps on padding count as work for all. This library
gets the same channels-last tensors as torch, including the weight. ``=`` marks passes where it makes the same call as
torch, so that differences are noise. The second table is that of `benchmarks.whole_layers`.

Every result is compared with torch's before it is timed. Contenders alternate, in another order each turn. Figures are
medians. Ratios are medians of the ratios of single turns; ± is half the distance of their 20th and 80th percentiles.
Freed memory of torch and this library stays mapped, because mapping fresh pages would take several times as long as a
small layer. ``--clock cpu`` counts process time, which on one thread is independent of other load.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from benchmarks import whole_layers
from benchmarks.layer_tables import CLOCKS, conditions, keep_freed_memory, speedup_of_sums, speedup_over_best
from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.layers import LayerCase, layer_cases
from fastinpaint.bench.measure import time_pairwise
from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import onednn, select
from fastinpaint.ops.types import Geometry, Source

TOLERANCE = 1e-4  # relative error in norm between two float32 results
SECONDS = 0.1  # least time that a pass of a layer is repeated
Passes = dict[str, Callable[[], Tensor]]


def passes_of(case: LayerCase) -> tuple[Passes, Passes, Passes, list[str]]:
    """The three passes by torch contiguous, torch channels-last and ours, and the mark of each of ours."""
    torch.manual_seed(0)
    conv = case.conv
    x, weight = torch.randn(case.conv_shape), torch.randn(conv.weight.shape) / conv.weight[0].numel() ** 0.5
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
    rearranged = onednn.flat(geometry, weight) or onednn.needs_batch_padding(a, weight)
    own = select.select_kernels(sources, weight, geometry)
    marks = ["*" if mine is not None else "" if rearranged else "=" for mine in own]
    return torchs(torch.contiguous_format), torchs(last), ours, marks


def table(options: argparse.Namespace) -> None:
    """Print one line per convolution, and the sums over them."""
    print(f"Convolutions alone: GFLOP/s, {conditions(options)}.")
    print("Each cell: torch contiguous / torch channels-last / ours; * own kernels, = torch's own call.\n")
    print("| layer | weight | GFLOP | fwd | dgrad | wgrad | ours against torch's best, ±% |")
    print("|---|---|---|---|---|---|---|")
    total = [[0.0] * 3 for _ in select.PASSES]
    for case in layer_cases(Workload(frames=options.frames)):
        if options.only not in case.name:
            continue
        *contenders, marks = passes_of(case)
        flops, cells, ratios = 2 * case.macs(), [], []
        for i, name in enumerate(select.PASSES):
            calls = [c[name] for c in contenders]
            reference, *others = [call() for call in calls]
            for result in others:
                error = float((result - reference).norm() / reference.norm())
                if not error < TOLERANCE:
                    raise SystemExit(f"{case.name} {name}: relative error {error:.1e}, nothing is reported.")
            taken = time_pairwise(calls, options.repeats, SECONDS, CLOCKS[options.clock])
            times = [median(t) for t in taken]
            total[i] = [t + s for t, s in zip(total[i], times, strict=True)]
            cells.append(" / ".join(f"{flops / t / 1e9:.0f}" for t in times) + marks[i])
            ratios.append(speedup_over_best(taken) + marks[i].strip("*"))
        shape = "x".join(map(str, case.conv.weight.shape))
        print(f"| {case.name} | {shape} | {flops / 1e9:.2f} | {' | '.join(cells)} | {' '.join(ratios)} |", flush=True)
    sums = [" / ".join(f"{t * 1e3:.0f} ms" for t in part) for part in total]
    print(f"| all | | | {' | '.join(sums)} | {' '.join(map(speedup_of_sums, total))} |")


TABLES = {"alone": table, "whole": whole_layers.table}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="least turns of each")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--only", default="", help="layers whose name contains this")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for i, name in enumerate(options.tables):
        print("\n" * bool(i), end="")
        TABLES[name](options)


if __name__ == "__main__":
    main()
