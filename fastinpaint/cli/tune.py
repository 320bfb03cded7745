"""``fastinpaint tune``: measure the Triton tiles of every layer at your sizes, and remember the fastest."""

from __future__ import annotations

import argparse
import os

import torch
from tqdm import tqdm

import fastinpaint
from fastinpaint.errors import UserError
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.ops.conv_block import triton_tune

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=32, metavar="N", help="frames a sample (default: 32)")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="height and width (default: 128)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="videos a step (default: 1)")
    parser.add_argument("--r", type=int, default=2, choices=(1, 2, 4), help="how much smaller 3DCN's frames are")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every layer's channels (default: 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="precision of the step (default: bf16)")


def run(args: argparse.Namespace) -> None:
    """One training step on a GPU, in which every pass of every layer is measured that is not remembered yet."""
    if not torch.cuda.is_available():
        raise UserError("tune measures on a GPU, and torch finds none here.")
    os.environ["FASTINPAINT_TUNE"] = "1"
    model = VideoCompletionNet(ModelConfig(width=args.width, r=args.r)).cuda()
    fastinpaint.accelerate(model, backend="triton")
    shape = (args.batch, 3, args.frames, args.size, args.size)
    video, mask = torch.rand(shape, device="cuda"), torch.rand(shape, device="cuda")[:, :1].round()
    with tqdm(total=2, desc="tune", unit="pass") as progress:
        with torch.autocast("cuda", DTYPES[args.dtype], enabled=args.dtype != "fp32"):
            completed, coarse = model(video, mask)
        progress.update()
        (completed.float().mean() + coarse.float().mean()).backward()
        progress.update()
    print(f"remembered in {triton_tune.memory_file()}")
