"""wgrad of wide layers on wgmma, checked by `fastinpaint.testing.rule`. It also runs on sanitized libraries:

FI_LIBRARY=... python -m tests.ops.conv_block.cuda.hopper_wgrad --seeds 1,2 bfloat16,float16 "stride 2" ...

runs each case in each dtype in each schedule, and prints the kernels that were launched.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cuda, reference
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.testing.rule import check, double
from tests.ops.cuda.small_cases import DTYPES, Conv, conv_inputs, moved
from tools.verify import emulated

# The paper's wide layers with fewer channels, and with tails of tiles, channels, sources and units.
CASES = {
    "3x3": Conv((9, 17), (72,), (False,), 136, (3, 3), (1, 1), (1, 1), (1, 1)),
    "two sources": Conv((9, 18), (136, 64), (True, False), 72, (3, 3), (1, 1), (1, 1), (1, 1)),
    "dilation 2": Conv((9, 17), (72,), (False,), 64, (3, 3), (1, 1), (2, 2), (2, 2)),
    "dilation 4": Conv((9, 17), (64,), (True,), 72, (3, 3), (1, 1), (4, 4), (4, 4)),
    "dilation 8": Conv((9, 17), (72,), (False,), 64, (3, 3), (1, 1), (8, 8), (8, 8)),
    "dilation 16": Conv((20, 24), (72,), (False,), 64, (3, 3), (1, 1), (16, 16), (16, 16)),
    "odd channels": Conv((4, 6), (70, 3), (False, True), 61, (3, 3), (1, 1), (1, 1), (1, 1)),
    "5x5": Conv((6, 10), (8,), (False,), 16, (5, 5), (1, 1), (2, 2), (1, 1)),
    "stride 2": Conv((17, 34), (64, 8), (True, False), 72, (3, 3), (2, 2), (1, 1), (1, 1)),
    "transposed": Conv((9, 10), (72, 8), (False, True), 64, (4, 4), (2, 2), (1, 1), (1, 1), True),
    "3d, dilation 4": Conv((3, 6, 7), (72,), (False,), 72, (3, 3, 3), (1, 1, 1), (1, 4, 4), (1, 4, 4)),
    "3d, transposed": Conv((3, 5, 6), (72,), (False,), 8, (4, 4, 4), (1, 2, 2), (2, 1, 1), (1, 1, 1), True),
    "3d, frames alone": Conv((3, 4, 6), (8,), (False,), 16, (3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1)),
    "large mean": Conv((8, 16), (64,), (False,), 64, (3, 3), (1, 1), (1, 1), (1, 1), mean=1e3),
    "several tiles": Conv((8, 32), (256,), (True,), 320, (3, 3), (1, 1), (1, 1), (1, 1)),
}


def inputs(conv: Conv, dtype: torch.dtype) -> tuple:
    """Arguments of `bwd` on the CPU that request only dweight, with statistics and deferred activations."""
    sources, weight, bias, geometry = conv_inputs(conv, dtype)
    y, mean, _ = reference.fwd(double(sources), weight.double(), bias.double(), geometry, True)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(dtype)
    dmean, dvar = (torch.randn(conv.channels, generator=generator) for _ in range(2))
    return dy, dmean, dvar, y.to(dtype), mean.float(), sources, weight, geometry, [False] * len(sources), True, False


def gradient(given: tuple, device: str) -> Tensor:
    """dweight of the CUDA kernels, on the CPU."""
    return cuda.bwd(*(moved(v, device) for v in given))[1].cpu()


def run(conv: Conv, dtype: torch.dtype, device: str) -> None:
    """Check dweight and plain torch's against float64.

    Stock torch's bfloat16 gradient of a transposed 3D weight has infinities on some CPUs (2.13, oneDNN): there the
    rounded exact one takes its place.
    """
    given = inputs(conv, dtype)
    exact, plain = reference.bwd(*(double(v) for v in given))[1], reference.bwd(*given)[1]
    check("dweight", gradient(given, device), plain if plain.isfinite().all() else exact.to(dtype), exact)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.conv_block.cuda.hopper_wgrad")
    parser.add_argument("--seeds", default=os.environ.get("FI_SEED", "0"))
    parser.add_argument("dtypes")
    parser.add_argument("cases", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[native_cuda.HOPPER] = "all"
    with emulated.installed(Path(os.environ["FI_LIBRARY"])):
        for seed, dtype, name in product(arguments.seeds.split(","), arguments.dtypes.split(","), arguments.cases):
            os.environ["FI_SEED"] = seed
            run(CASES[name], DTYPES[dtype], "cpu")
        print("\n".join(sorted(emulated.launched())))


if __name__ == "__main__":
    main()
