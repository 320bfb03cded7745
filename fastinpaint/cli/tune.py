"""``fastinpaint tune``: measure every layer at your sizes, and remember which backend and which tiles are fastest."""

from __future__ import annotations

import argparse
import os

import torch
from tqdm import tqdm

import fastinpaint
from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.ops.dispatch import autotune as measured

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
USUAL = {"cuda": "bf16", "cpu": "fp32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measures every convolution of one training step by each backend that can run it, and Triton's by every tile "
        "that fits. What is fastest is remembered for this device, these versions and these kernels, in "
        "FASTINPAINT_CACHE or ~/.cache/fastinpaint, and taken wherever the backend is auto. FASTINPAINT_TUNE=0, or "
        "torch.use_deterministic_algorithms(True), leaves it all aside: then the choice is the same on every machine."
    )
    parser.add_argument("--frames", type=int, default=32, metavar="N", help="frames a sample (default: 32)")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="height and width (default: 128)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="videos a step (default: 1)")
    parser.add_argument("--r", type=int, default=2, choices=(1, 2, 4), help="how much smaller 3DCN's frames are")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every layer's channels (default: 1)")
    parser.add_argument("--device", choices=("auto", *USUAL), default="auto", help="what to measure (default: a GPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the step (default: bf16, on the CPU fp32)")


def run(args: argparse.Namespace) -> None:
    """One training step in which everything is measured that is not remembered yet."""
    for name in ("frames", "size", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto.")
    if torch.are_deterministic_algorithms_enabled():
        raise UserError("tune: torch.use_deterministic_algorithms(True) forbids to choose by measurements.")
    kind = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device.replace("auto", "cpu")
    device, dtype = torch.device("cuda:0" if kind == "cuda" else "cpu"), args.dtype or USUAL[kind]
    before = os.environ.get("FASTINPAINT_TUNE")
    os.environ["FASTINPAINT_TUNE"] = "1"
    try:
        _step(args, device, DTYPES[dtype])
    finally:
        os.environ.pop("FASTINPAINT_TUNE")
        if before is not None:
            os.environ["FASTINPAINT_TUNE"] = before
    counts = measured.counts(device)
    told = ", ".join(f"{name} for {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    print(f"remembered for {sum(counts.values())} convolutions: {told}\n{measured.memory_file(device)}")


def _step(args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """Forward and backward of the whole system, by auto."""
    model = VideoCompletionNet(ModelConfig(width=args.width, r=args.r)).to(device)
    fastinpaint.accelerate(model, objective="fuse")
    shape = (args.batch, 3, args.frames, args.size, args.size)
    video, mask = torch.rand(shape, device=device), torch.rand(shape, device=device)[:, :1].round()
    with tqdm(total=2, desc="tune", unit="pass", disable=None) as progress:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            completed, coarse = model(video, mask)
        progress.update()
        (completed.float().mean() + coarse.float().mean()).backward()
        progress.update()
