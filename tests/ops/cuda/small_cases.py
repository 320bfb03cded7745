"""Small calls of every CUDA kernel, checked by `fastinpaint.testing.rule`. They also run on sanitized libraries:

FI_LIBRARY=... python -m tests.ops.cuda.small_cases --seeds 1,2 bfloat16,tf32 3d "2d forward" ...

runs each case in each dtype in each schedule, and prints the kernels that were launched.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.activation import reference as activation_reference
from fastinpaint.ops.batch_norm import cuda as batch_norm
from fastinpaint.ops.batch_norm import reference as batch_norm_reference
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.ops.conv_block import cuda, reference
from fastinpaint.ops.types import Geometry, Source
from fastinpaint.testing.rule import check, check_all, check_grads, double, source
from tests.ops.cuda import tf32
from tools.verify import emulated

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Conv(NamedTuple):
    """One convolution: channels of its sources, whether each has an addend, sizes and geometry."""

    space: tuple[int, ...]
    sources: tuple[int, ...]
    addends: tuple[bool, ...]
    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool = False
    mean: float = 0.0
    output_padding: tuple[int, ...] | None = None
    groups: int = 1


CONVS = {
    "2d": Conv((9, 17), (16,), (False,), 24, (3, 3), (1, 1), (1, 1), (1, 1)),
    "stride 2, two sources": Conv((9, 17), (8, 40), (False, True), 24, (3, 3), (2, 2), (1, 1), (1, 1)),
    "dilation 4, dead taps": Conv((9, 17), (8,), (True,), 70, (3, 3), (1, 1), (4, 4), (4, 4)),
    "stride 2, four chunks": Conv((9, 17), (8, 136), (False, True), 8, (3, 3), (2, 2), (1, 1), (1, 1)),
    "dilation 8, three chunks": Conv((20, 12), (136,), (False,), 8, (3, 3), (1, 1), (8, 8), (8, 8)),
    "dilation 16": Conv((6, 40), (8,), (False,), 8, (3, 3), (1, 1), (16, 16), (16, 16)),
    "3d": Conv((3, 6, 7), (8,), (False,), 8, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "time stride 2": Conv((4, 5, 6), (8,), (False,), 8, (3, 3, 3), (2, 1, 1), (1, 1, 1), (1, 1, 1)),
    "odd channels": Conv((6, 7), (5, 3), (True, False), 7, (3, 3), (1, 1), (1, 1), (1, 1)),
    "transposed 2d": Conv((5, 6), (8,), (False,), 16, (4, 4), (2, 2), (1, 1), (1, 1), True),
    "transposed 3d": Conv((2, 5, 6), (8, 8), (False, True), 16, (4, 4, 4), (1, 2, 2), (1, 1, 1), (1, 1, 1), True),
    "frame left off": Conv(
        (4, 5, 6), (16,), (False,), 16, (4, 4, 4), (1, 2, 2), (1, 1, 1), (1, 1, 1), True, output_padding=(-1, 0, -3)
    ),
    "3 channels in": Conv((9, 17), (3,), (False,), 16, (3, 3), (1, 1), (1, 1), (1, 1)),
    "4 channels in, 5x5": Conv((9, 17), (4,), (False,), 40, (5, 5), (1, 1), (2, 2), (1, 1)),
    "4 channels in, 5x5x5": Conv((3, 9, 8), (4,), (False,), 16, (5, 5, 5), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    "3 channels out": Conv((9, 17), (16,), (False,), 3, (3, 3), (1, 1), (1, 1), (1, 1)),
    "72 channels out": Conv((9, 17), (8,), (False,), 72, (3, 3), (1, 1), (1, 1), (1, 1)),
    "large mean": Conv((8, 16), (8,), (False,), 8, (3, 3), (1, 1), (1, 1), (1, 1), mean=1e3),
    "unequal splits": Conv((184, 16), (96,), (False,), 96, (1, 1), (1, 1), (0, 0), (1, 1)),  # the last one has no tiles
    "128 columns": Conv((128, 136), (8,), (False,), 72, (1, 1), (1, 1), (0, 0), (1, 1)),
    "1x1, one pixel": Conv((1, 1), (8,), (False,), 8, (1, 1), (1, 1), (0, 0), (1, 1)),
    "depthwise": Conv((9, 17), (40,), (True,), 40, (3, 3), (1, 1), (1, 1), (1, 1), groups=40),
    "depthwise, 5x5, stride 2": Conv((9, 17), (24,), (False,), 24, (5, 5), (2, 2), (2, 2), (1, 1), groups=24),
    "depthwise, 7x7, dilation 2": Conv((10, 34), (8,), (False,), 8, (7, 7), (1, 1), (6, 6), (2, 2), groups=8),
    "depthwise, dilation 16": Conv((20, 33), (8,), (True,), 8, (3, 3), (1, 1), (16, 16), (16, 16), groups=8),
    "depthwise 3d": Conv((3, 6, 7), (36,), (True,), 36, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), groups=36),
    "depthwise 3x1x1": Conv((5, 4, 9), (16,), (False,), 16, (3, 1, 1), (2, 1, 1), (1, 0, 0), (1, 1, 1), groups=16),
    "depthwise 1x3x3": Conv((2, 6, 7), (16,), (False,), 16, (1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), groups=16),
    "depthwise 1x11": Conv((3, 19), (8,), (False,), 8, (1, 11), (1, 1), (0, 5), (1, 1), groups=8),
    "depthwise, odd channels": Conv((6, 7), (7,), (True,), 7, (3, 3), (1, 1), (1, 1), (1, 1), groups=7),
    "depthwise, transposed": Conv((5, 6), (16,), (True,), 16, (4, 4), (2, 2), (1, 1), (1, 1), True, groups=16),
    "depthwise, three tiles to a block": Conv(
        (1600, 1, 2), (8,), (False,), 8, (3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1), groups=8
    ),
    "groups of 4": Conv((9, 17), (64,), (True,), 64, (3, 3), (1, 1), (1, 1), (1, 1), groups=16),
    "groups of 24, stride 2": Conv((9, 17), (72,), (False,), 72, (3, 3), (2, 2), (1, 1), (1, 1), groups=3),
    "groups of 128": Conv((5, 6), (256,), (False,), 256, (1, 1), (1, 1), (0, 0), (1, 1), groups=2),
    "groups, 5 of 3 to 2": Conv((6, 7), (15,), (True,), 10, (3, 3), (1, 1), (1, 1), (1, 1), groups=5),
    "groups, two to each channel": Conv((6, 7), (24,), (True,), 48, (3, 3), (1, 1), (1, 1), (1, 1), groups=24),
    "groups 3d": Conv((3, 6, 7), (32,), (False,), 32, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), groups=4),
    "groups, transposed": Conv((5, 6), (32,), (True,), 48, (4, 4), (2, 2), (1, 1), (1, 1), True, groups=4),
}


def moved(value, device: str):
    """Tensors and sources, also in lists, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Source):
        return Source(*(moved(v, device) for v in value))
    return [moved(v, device) for v in value] if isinstance(value, list) else value


def conv_inputs(conv: Conv, dtype: torch.dtype, seed: int = 0) -> tuple[list[Source], Tensor, Tensor, Geometry]:
    """Sources, weight, bias and geometry of a case, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    sources = [
        source((2, c, *conv.space), dtype, generator, affine=c > 4, addend=addend, mean=conv.mean)
        for c, addend in zip(conv.sources, conv.addends, strict=True)
    ]
    channels = sum(conv.sources)
    shape = (channels, conv.channels) if conv.transposed else (conv.channels, channels)
    weight = torch.randn(shape[0], shape[1] // conv.groups, *conv.kernel, generator=generator)
    weight /= (channels // conv.groups * 9) ** 0.5
    bias = torch.randn(conv.channels, generator=generator)
    extra = conv.output_padding or (0,) * len(conv.kernel)
    geometry = Geometry(conv.stride, conv.padding, conv.dilation, extra, conv.transposed, conv.groups)
    return sources, weight.to(dtype), bias.to(dtype), geometry


def check_fwd(conv: Conv, dtype: torch.dtype, device: str, torchs: ModuleType = reference) -> None:
    """Forward with statistics; `torchs` is plain PyTorch in the same dtype."""
    inputs = *conv_inputs(conv, dtype), True
    got = moved(list(cuda.fwd(*(moved(v, device) for v in inputs))), "cpu")
    check_all(("y", "mean", "var"), got, torchs.fwd(*inputs), reference.fwd(*(double(v) for v in inputs)))


def check_bwd(conv: Conv, dtype: torch.dtype, device: str, torchs: ModuleType = reference) -> None:
    """Every gradient.

    Stock torch's bfloat16 gradient of a transposed 3D weight has infinities on some CPUs (2.13, oneDNN): there the
    rounded exact one takes its place.
    """
    sources, weight, bias, geometry = conv_inputs(conv, dtype)
    exact = reference.fwd(double(sources), weight.double(), bias.double(), geometry, True)
    generator = torch.Generator().manual_seed(1)
    y, mean = exact[0].to(dtype), exact[1].float()
    dy = torch.randn(y.shape, generator=generator).to(dtype)
    dmean, dvar = (torch.randn(conv.channels, generator=generator) for _ in range(2))
    inputs = dy, dmean, dvar, y, mean, sources, weight, geometry, [True] * len(sources), True, True
    grads, *rest = cuda.bwd(*(moved(v, device) for v in inputs))
    plain, exact = torchs.bwd(*inputs), reference.bwd(*(double(v) for v in inputs))
    check_grads([type(g)(*(None if t is None else t.cpu() for t in g)) for g in grads], plain[0], exact[0])
    finite = [p if p.isfinite().all() else e.to(dtype) for p, e in zip(plain[1:], exact[1:], strict=True)]
    check_all(("dweight", "dbias"), moved(rest, "cpu"), finite, exact[1:])


def check_activation(dtype: torch.dtype, device: str) -> None:
    """Forward of a concatenation, backward with its sums, statistics and G."""
    generator = torch.Generator().manual_seed(0)
    for channels, space in (((16, 24), (3, 5, 7)), ((5, 3), (6, 7)), ((8,), (40, 40))):
        sources = [source((2, c, *space), dtype, generator, addend=i == 0) for i, c in enumerate(channels)]
        there = moved(sources, device)
        exact = activation_reference.fwd(double(sources))
        check("a", activation.fwd(there).cpu(), activation_reference.fwd(sources), exact)
        da, needs = torch.randn(exact.shape, generator=generator).to(dtype), [True] * len(sources)
        grads = activation.bwd(da.to(device), there, needs)
        check_grads(
            [type(g)(*(None if t is None else t.cpu() for t in g)) for g in grads],
            activation_reference.bwd(da, sources, needs),
            activation_reference.bwd(da.double(), double(sources), needs),
        )
        x = (exact + 1000).to(dtype)
        stats = moved(list(activation.batch_stats(x.to(device))), "cpu")
        check_all(("mean", "var"), stats, reference.batch_stats(x), reference.batch_stats(x.double()))
        vectors = [torch.randn(x.shape[1], generator=generator) for _ in range(3)]
        inputs = da, vectors[0], vectors[1], exact.to(dtype), vectors[2]
        g = cuda.stats_bwd(*(moved(v, device) for v in inputs)).cpu()
        check("G", g, reference.stats_bwd(*inputs), reference.stats_bwd(*(double(v) for v in inputs)))


def check_batch_norm(dtype: torch.dtype, device: str) -> None:
    """Forward with all updates, and backward, for parameters of this dtype and more channels than threads."""
    generator = torch.Generator().manual_seed(0)
    mean, var, *parameters = (torch.rand(150, generator=generator) + 0.1 for _ in range(6))

    def forward(module: ModuleType, vectors: list[Tensor], where: str) -> list[Tensor]:
        mean, var, weight, bias, *old = (moved(v.clone(), where) for v in vectors)
        running = Running(*old, torch.tensor(4, device=where), None)
        scale, shift = module.fwd(mean, var, weight, bias, running, torch.tensor(9.0, device=where), 1e-3)
        return [v.cpu() for v in (scale, shift, running.mean, running.var)]

    inputs = [mean, var, *(v.to(dtype) for v in parameters)]
    exact = forward(batch_norm_reference, [double(v) for v in inputs], "cpu")
    names = ("scale", "shift", "running_mean", "running_var")
    check_all(names, forward(batch_norm, inputs, device), forward(batch_norm_reference, inputs, "cpu"), exact)
    given = inputs[:3]
    got = [v.cpu() for v in batch_norm.bwd(*(moved(v, device) for v in given), 1e-3, True)]
    exact = batch_norm_reference.bwd(*(double(v) for v in given), 1e-3, True)
    check_all(("dvar", "dweight"), got, batch_norm_reference.bwd(*given, 1e-3, True), exact)


OTHERS = {
    "activation": check_activation,
    "batch_norm": check_batch_norm,
}


def run(name: str, dtype: str, device: str) -> None:
    """Run one case of `OTHERS` or `CONVS` in one of `DTYPES`. "... forward" runs only a convolution's forward."""
    if name in OTHERS:
        OTHERS[name](DTYPES[dtype], device)
        return
    conv, torchs = CONVS[name.removesuffix(" forward")], tf32 if dtype == "tf32" else reference
    with tf32.allowed(dtype == "tf32"):
        check_fwd(conv, DTYPES[dtype], device, torchs)
        if not name.endswith(" forward"):
            check_bwd(conv, DTYPES[dtype], device, torchs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ops.cuda.small_cases")
    parser.add_argument("--seeds", default=os.environ.get("FI_SEED", "0"))
    parser.add_argument("dtypes")
    parser.add_argument("cases", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with emulated.installed(Path(os.environ["FI_LIBRARY"])):
        for seed, dtype, name in product(arguments.seeds.split(","), arguments.dtypes.split(","), arguments.cases):
            os.environ["FI_SEED"] = seed
            if dtype != "tf32" or name not in OTHERS:  # only convolutions know it
                run(name, dtype, "cpu")
        print("\n".join(sorted(emulated.launched())))


if __name__ == "__main__":
    main()
