"""``fastinpaint prepare``: turn videos into training samples."""

from __future__ import annotations

import argparse

from fastinpaint.cli.options import box, path
from fastinpaint.data.prepare import CROPS, RANGES, PrepareConfig, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        type=path,
        help="a video, a GIF, a folder of frames, or a folder of any of these",
    )
    add(
        "--out",
        required=True,
        type=path,
        metavar="DATA",
        help="the folder to write; the same command continues an interrupted run",
    )
    add("--frames", type=RANGES["frames"], default=32, metavar="F", help="consecutive frames of a sample (default 32)")
    add(
        "--size",
        type=RANGES["size"],
        default=128,
        metavar="L",
        help="height and width of a sample in pixels (default 128)",
    )
    add("--crop", default="center", metavar="KIND", help=f"{', '.join(CROPS)}: which square is kept (default center)")
    add("--box", type=box, metavar="x,y,w,h", help="with --crop box: left, top, width, height; a square")
    add(
        "--stride",
        type=RANGES["stride"],
        metavar="N",
        help="frames from one sample's start to the next one's (default F)",
    )
    add(
        "--min-side",
        type=RANGES["min_side"],
        metavar="N",
        help="least side of the square in source pixels (default L / 2)",
    )
    add("--seed", type=RANGES["seed"], default=0, help="chooses which clips are for validation (default 0)")


def run(args: argparse.Namespace) -> None:
    """Prepare the samples and print how many were written."""
    names = ("frames", "size", "crop", "box", "stride", "min_side", "seed")
    summary = prepare(PrepareConfig(**{name: getattr(args, name) for name in names}), args.sources, args.out)
    print(f"{args.out}: {summary}")
