"""Random cases of `conv_block` for every backend: geometry, sources, addends, dtypes and memory formats.

    python -m fastinpaint.testing.fuzz --seed 7 --cases 200 --backend cpu

``--unjudged`` compares nothing. It is for sanitizers, which would otherwise check stock torch's kernels too.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.ops import layout
from fastinpaint.ops.activation.reference import channel_dims, wide
from fastinpaint.ops.conv_block import conv_block
from fastinpaint.ops.conv_block.checks import fitting_output_shape
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.types import Geometry, Source
from fastinpaint.testing.compare import FACTOR, error_ratio, jitter, mismatch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FORMATS = ("contiguous", "channels-last", "strided")
MOST_MACS = 400_000
JITTERS = 3
SINGLE_CASE_LIMIT = {False: 8.0, True: 32.0}  # a large mean amplifies the rounding of its last bit

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SourceCase:
    """One source: its channels and the operations on the raw map."""

    channels: int
    affine: bool
    relu: bool
    addend: bool


@dataclass(frozen=True)
class Case:
    """One call of `conv_block`. Its repr is Python code that recreates it."""

    seed: int
    batch: int
    space: tuple[int, ...]
    sources: tuple[SourceCase, ...]
    channels_out: int
    kernel: tuple[int, ...]
    geometry: Geometry
    bias: bool
    stats: bool
    dtype: torch.dtype
    memory_format: str
    large_mean: bool

    @property
    def channels(self) -> int:
        return sum(source.channels for source in self.sources)

    def weight_shape(self) -> tuple[int, ...]:
        groups = self.geometry.groups
        if self.geometry.transposed:
            return (self.channels, self.channels_out // groups, *self.kernel)
        return (self.channels_out, self.channels // groups, *self.kernel)

    def macs(self) -> int:
        weight = torch.Size(self.weight_shape())
        try:
            y = fitting_output_shape((self.batch, self.channels, *self.space), weight, self.geometry)
        except ValueError:
            return MOST_MACS + 1  # the kernel does not fit
        pixels = torch.Size((self.batch, *self.space) if self.geometry.transposed else (self.batch, *y[2:])).numel()
        return pixels * weight.numel()


def cases(seed: int, count: int, dtypes: Sequence[torch.dtype] = DTYPES) -> Iterator[Case]:
    """The first `count` cases of a seed, equal on all machines."""
    rng, found = random.Random(seed), 0
    while found < count:
        case = _draw(rng, dtypes)
        if case.macs() <= MOST_MACS:
            found += 1
            yield case


def _draw(rng: random.Random, dtypes: Sequence[torch.dtype]) -> Case:
    axes, groups = rng.choice((2, 3)), rng.choice((1, 1, 1, 1, 2, 3))
    transposed = rng.random() < 0.3
    sources = tuple(
        SourceCase(groups * rng.choice((1, 2, 3, 4, 8, 13)), rng.random() < 0.7, rng.random() < 0.7, rng.random() < 0.3)
        for _ in range(rng.choice((1, 1, 2, 3)))
    )
    kernel = tuple(rng.choice((1, 2, 3, 3, 3, 4, 5)) for _ in range(axes))
    stride = tuple(rng.choice((1, 1, 2, 3)) for _ in range(axes))
    dilation = tuple(rng.choice((1, 1, 1, 2, 4)) for _ in range(axes))
    padding = tuple(rng.randint(0, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True))
    extra = tuple(rng.randint(0, max(s, d) - 1) if transposed else 0 for s, d in zip(stride, dilation, strict=True))
    case = Case(
        seed=rng.randrange(2**31),
        batch=rng.choice((0, 1, 1, 1, 2, 2, 3)) if rng.random() < 0.2 else rng.choice((1, 2)),
        space=tuple(rng.choice((1, 2, 3, 5, 8, 11, 16)) for _ in range(axes)),
        sources=sources,
        channels_out=groups * rng.choice((1, 2, 3, 5, 8, 16)),
        kernel=kernel,
        geometry=Geometry(stride, padding, dilation, extra, transposed, groups),
        bias=rng.random() < 0.5,
        stats=rng.random() < 0.7,
        dtype=rng.choice(tuple(dtypes)),
        memory_format=rng.choice(FORMATS),
        large_mean=rng.random() < 0.1,
    )
    return _with_cropped_ends(case) if transposed else case


def _with_cropped_ends(case: Case) -> Case:
    """The transposed convolution with up to 3 rows cropped at the end of some axes."""
    rng = random.Random(case.seed)
    extra = tuple(n - rng.choice((0, 0, 1, 3)) for n in case.geometry.output_padding)
    return replace(case, geometry=case.geometry._replace(output_padding=extra))


class Inputs:
    """The tensors of a case and the upstream gradients, with equal values on every device."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(case.seed)
        self.case = case
        self.sources = [self._source(source) for source in case.sources]
        fan_in = max(1, case.channels // case.geometry.groups * torch.Size(case.kernel).numel())
        self.weight = (self._normal(case.weight_shape()) / fan_in**0.5).to(case.dtype)
        self.bias = self._normal((case.channels_out,)).to(case.dtype) if case.bias else None
        y = fitting_output_shape((case.batch, case.channels, *case.space), case.weight_shape(), case.geometry)
        count = max(1, torch.Size(y).numel() // y[1])
        self.dy = self._normal(y).to(case.dtype)
        vector = torch.float64 if case.dtype == torch.float64 else torch.float32
        self.dmean, self.dvar = ((self._normal((y[1],)) * count**0.5).to(vector) for _ in range(2))

    def _normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64).to(self.device)

    def _source(self, source: SourceCase) -> Source:
        case, channels = self.case, source.channels
        shape = (case.batch, channels, *case.space)
        level = self._normal((channels,)) * (1e3 if case.large_mean and case.dtype.itemsize >= 4 else 1.0)
        x = self._normal(shape) + level.view(1, -1, *[1] * len(case.space))
        mean = scale = shift = None
        if source.affine:
            vector = torch.float64 if case.dtype == torch.float64 else torch.float32
            scale, shift = (self._normal((channels,)).to(vector) for _ in range(2))
            mean = level.to(vector)
        x = self._away_from_zero(x.to(case.dtype), mean, scale, shift) if source.relu else x.to(case.dtype)
        addend = self._arranged(self._normal(shape).to(case.dtype)) if source.addend else None
        return Source(self._arranged(x), mean, scale, shift, source.relu, addend)

    def _away_from_zero(self, x: Tensor, mean: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Move values away from ReLU's kink, so that rounding cannot flip their sign."""
        mean, scale, shift = (None if vector is None else vector.double() for vector in (mean, scale, shift))
        near = _stock_activation([Source(x.double(), mean, scale, shift)]).abs() < 1e-2
        return torch.where(near, x + torch.full_like(x, 1.0), x)

    def _arranged(self, x: Tensor) -> Tensor:
        if self.case.memory_format == "channels-last":
            return layout.dense(x)
        if self.case.memory_format == "strided":
            return torch.stack([x, x], -1)[..., 0]
        return x

    def leaves(self, change: Change | None = None) -> tuple[list[Source], Tensor, Tensor | None, list[Tensor]]:
        """Sources, weight, bias and all leaves that require gradients, each transformed by `change`."""
        wanted: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            wanted.append((tensor if change is None else change(tensor)).detach().requires_grad_())
            return wanted[-1]

        def leaf_or_none(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else leaf(tensor)

        sources = [
            Source(leaf(x), leaf_or_none(mean), leaf_or_none(scale), leaf_or_none(shift), relu, leaf_or_none(addend))
            for x, mean, scale, shift, relu, addend in self.sources
        ]
        return sources, leaf(self.weight), leaf_or_none(self.bias), wanted


def _stock_activation(sources: Sequence[Source]) -> Tensor:
    """The activation by torch's own layers: batch norm in eval mode, ReLU, addition, concatenation."""
    parts = []
    for x, mean, scale, shift, relu, addend in sources:
        if mean is not None and scale is not None:
            fixed = mean.detach()
            half = 0.5  # var + eps is exactly 1; some torch versions reject an eps of 0
            x = F.batch_norm(x, fixed, torch.full_like(fixed, half), scale, shift, False, 0.0, half)
            # batch norm has no gradient for its running mean, so add a zero that has it
            zero = (fixed - mean) * scale
            x = x + zero.to(x.dtype).view(1, -1, *[1] * (x.dim() - 2))
        a = x.relu() if relu else x
        parts.append(a if addend is None else a + addend)
    return torch.cat(parts, 1)


def _stock(case: Case, inputs: Inputs, change: Change | None = None) -> list[Tensor]:
    """Results and gradients by torch's own layers and autograd. In float64 they are the exact reference."""
    sources, weight, bias, wanted = inputs.leaves(change)
    stride, padding, dilation, output_padding, transposed, groups = case.geometry
    a = _stock_activation(sources)
    torchs, less = [max(0, n) for n in output_padding], [min(0, n) for n in output_padding]
    y = torch.ops.aten.convolution(a, weight, bias, stride, padding, dilation, transposed, torchs, groups)
    y = F.pad(y, [end for n in reversed(less) for end in (0, n)])  # torch's op cannot crop rows at the end
    results = [y]
    if case.stats:
        var, mean = torch.var_mean(wide(y), channel_dims(y), correction=0)
        results += [mean, var]
    return results + _gradients(results, wanted, inputs, change)


def _gradients(
    results: Sequence[Tensor], wanted: Sequence[Tensor], inputs: Inputs, change: Change | None = None
) -> list[Tensor]:
    upstream = [inputs.dy, inputs.dmean, inputs.dvar][: len(results)]
    if change is not None:
        upstream = [change(g) for g in upstream]
    return list(torch.autograd.grad(results, wanted, upstream))


def run_case(case: Case, backend: str, device: str = "cpu", judged: bool = True) -> dict[str, float | str]:
    """By result or gradient: a description of what is wrong, or the backend's error over stock torch's.

    If not judged, stock torch does not run, and only shapes are checked.

    Raises:
        NotImplementedError: the backend cannot run the case (with the reason).
    """
    inputs = Inputs(case, device)
    sources, weight, bias, wanted = inputs.leaves()
    stride, padding, dilation, output_padding, transposed, groups = case.geometry
    found = conv_block(
        sources, weight, bias, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding,
        transposed=transposed, groups=groups, stats=case.stats, backend=backend,
    )  # fmt: skip
    results = [found] if isinstance(found, Tensor) else list(found)
    if results[0].shape != inputs.dy.shape:
        return {"y": f"shape {tuple(results[0].shape)}, expected {tuple(inputs.dy.shape)}"}
    ours = results + _gradients(results, wanted, inputs)
    if not judged:
        return {}
    stock, exact = _stock(case, inputs), _stock(case, inputs, Tensor.double)
    moved = [_stock(case, inputs, lambda t: jitter(t, inputs.generator)) for _ in range(JITTERS)]
    report: dict[str, float | str] = {}
    for i, name in enumerate(["y", "mean", "var"][: len(results)] + [f"d{name}" for name in _names(case)]):
        wrong = mismatch(ours[i], stock[i])
        report[name] = wrong or error_ratio(ours[i], stock[i], exact[i], case.dtype, [m[i] for m in moved])
    return report


def _names(case: Case) -> list[str]:
    names = []
    for i, source in enumerate(case.sources):
        fields = ["x"] + (["mean", "scale", "shift"] if source.affine else []) + (["addend"] if source.addend else [])
        names += [f"{field}[{i}]" for field in fields]
    return [*names, "weight", *(["bias"] if case.bias else [])]


def fuzz(
    seed: int,
    count: int,
    backend: str,
    dtypes: Sequence[torch.dtype] = DTYPES,
    device: str = "cpu",
    judged: bool = True,
) -> tuple[int, list[str], set[str]]:
    """Run the first `count` cases of a seed: the number that ran, what was wrong, and why others were refused.

    The rule of `fastinpaint.testing.compare` must hold for the mean over cases, by result and dtype. In a single case
    stock torch's error can be small by luck, so `SINGLE_CASE_LIMIT` times its error is allowed.
    """
    ran, wrong, refused = 0, [], set()
    every: dict[tuple[str, torch.dtype], list[float]] = {}
    for case in cases(seed, count, dtypes):
        try:
            report = run_case(case, backend, device, judged)
        except NotImplementedError as error:
            refused.add(str(error))
            continue
        ran += 1
        for name, found in report.items():
            if isinstance(found, str):
                wrong.append(f"{name}: {found}\n  {case}")
                continue
            if found > SINGLE_CASE_LIMIT[case.large_mean]:
                wrong.append(f"{name}: {found:.1f} times the error of stock torch\n  {case}")
            every.setdefault((name.partition("[")[0], case.dtype), []).append(min(found, SINGLE_CASE_LIMIT[False]))
    for (name, dtype), times in every.items():
        if sum(times) / len(times) > FACTOR:
            wrong.append(f"{name} in {dtype}: {sum(times) / len(times):.2f} times the error of stock torch on average")
    return ran, wrong, refused


def main() -> int:
    """The command line. Returns 1 if anything was wrong or nothing ran."""
    parser = argparse.ArgumentParser(prog="python -m fastinpaint.testing.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--backend", choices=registry.BACKENDS, default="reference")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--unjudged", action="store_true", help="compare nothing")
    args = parser.parse_args()
    narrow = args.backend in ("cuda", "triton", "library")  # these refuse float64
    dtypes = [dtype for dtype in DTYPES if not (narrow and dtype == torch.float64)]
    torch.backends.cudnn.allow_tf32 = False  # the rule compares true float32
    ran, wrong, refused = fuzz(args.seed, args.cases, args.backend, dtypes, args.device, not args.unjudged)
    if torch.device(args.device).type == "cuda":
        torch.cuda.synchronize()  # kernels whose results were not read may still be running
    verdict = "nothing compared" if args.unjudged else f"{len(wrong)} wrong"
    print(f"{args.backend}, seed {args.seed}: {ran} of {args.cases} cases ran, {verdict}.")
    print("\n".join([*wrong, *(f"refused: {reason}" for reason in sorted(refused))]))
    return 1 if wrong or not ran else 0


if __name__ == "__main__":
    raise SystemExit(main())
