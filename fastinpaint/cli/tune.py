"""``fastinpaint tune``: measure every layer at your sizes, and remember which backend and which tiles are fastest."""

from __future__ import annotations

import argparse
import logging
import os

import torch
from tqdm import tqdm

import fastinpaint
from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.models.config import RANGES
from fastinpaint.models.sizes import require_step
from fastinpaint.ops.dispatch import autotune, triton_support, tuning_cache
from fastinpaint.ranges import BATCH, FRAMES, SIDE, WIDTH

logger = logging.getLogger(__name__)

R = RANGES["r"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
USUAL = {"cuda": "bf16", "cpu": "fp32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures every convolution of one training step by each backend that can run it, and Triton's by every tile "
        "that fits. What is fastest is remembered for this device, these versions and these kernels, in "
        "FASTINPAINT_CACHE or ~/.cache/fastinpaint, and taken wherever the backend is auto. FASTINPAINT_TUNE=0, or "
        "torch.use_deterministic_algorithms(True), leaves it all aside: then the choice is the same on every machine."
    )
    parser.add_argument("--frames", type=FRAMES, default=32, metavar="N", help="frames a sample (default: 32)")
    parser.add_argument("--size", type=SIDE, default=128, metavar="PIXELS", help="height and width (default: 128)")
    parser.add_argument("--batch", type=BATCH, default=1, metavar="N", help="videos a step (default: 1)")
    parser.add_argument("--r", type=R, default=2, choices=(1, 2, 4), help="how much smaller 3DCN's frames are")
    parser.add_argument("--width", type=WIDTH, default=1.0, help="factor on every layer's channels (default: 1)")
    parser.add_argument("--device", choices=("auto", *USUAL), default="auto", help="what to measure (default: a GPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the step (default: bf16, on the CPU fp32)")


def run(args: argparse.Namespace) -> None:
    """Run one training step. It measures everything that the cache does not hold yet."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto.")
    if torch.are_deterministic_algorithms_enabled():
        raise UserError("tune: torch.use_deterministic_algorithms(True) forbids choosing by measurement.")
    kind = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device.replace("auto", "cpu")
    device, dtype = torch.device("cuda:0" if kind == "cuda" else "cpu"), args.dtype or USUAL[kind]
    require_step("tune", ModelConfig(width=args.width, r=args.r), (args.batch, args.frames, args.size), device)
    tuning_cache.check_writable(autotune.memory_file(device))
    before = os.environ.get("FASTINPAINT_TUNE")
    os.environ["FASTINPAINT_TUNE"] = "1"
    try:
        if kind == "cuda":
            _compile_ahead(args, device, DTYPES[dtype])
        _step(args, device, DTYPES[dtype])
    finally:
        os.environ.pop("FASTINPAINT_TUNE")
        if before is not None:
            os.environ["FASTINPAINT_TUNE"] = before
    counts = autotune.counts(device)
    told = ", ".join(f"{name} for {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    print(f"remembered for {sum(counts.values())} convolutions: {told}\n{autotune.memory_file(device)}")


def _compile_ahead(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Compile all that Triton's tiles need in several processes; one after the other it takes minutes."""
    if triton_support.why_not_on("tune", torch.empty(0, device=device)) is not None:
        return
    from fastinpaint.ops.conv_block.triton import ahead

    with ahead.collecting() as launches:  # the numbers of this step mean nothing: none of Triton's kernels runs
        _step(args, device, dtype, "triton")
    if failed := ahead.compile_new(launches):
        logger.warning("tune: %d of %d kernels do not compile here and are left out.", failed, len(launches))


def _step(args: argparse.Namespace, device: torch.device, dtype: torch.dtype, backend: str = "auto") -> None:
    """Forward and backward of the whole system."""
    model = VideoCompletionNet(ModelConfig(width=args.width, r=args.r)).to(device)
    fastinpaint.accelerate(model, backend, objective="fuse")
    shape = (args.batch, 3, args.frames, args.size, args.size)
    video, mask = torch.rand(shape, device=device), torch.rand(shape, device=device)[:, :1].round()
    with tqdm(total=2, desc="tune", unit="pass", disable=None) as progress:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            completed, coarse = model(video, mask)
        progress.update()
        (completed.float().mean() + coarse.float().mean()).backward()
        progress.update()
