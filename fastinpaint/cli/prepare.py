"""``fastinpaint prepare``: turn videos into training samples."""

from __future__ import annotations

import argparse

from fastinpaint.data.prepare import CROPS, PrepareConfig, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="a video, a GIF, a folder of frames, or a folder of any of these")
    add("--out", required=True, metavar="DATA", help="the folder to write; the same command again continues in it")
    add("--frames", type=int, default=32, metavar="F", help="consecutive frames of a sample (default 32)")
    add("--size", type=int, default=128, metavar="L", help="height and width of a sample in pixels (default 128)")
    add("--crop", default="center", metavar="KIND", help=f"{', '.join(CROPS)}: which square is kept (default center)")
    add("--box", type=_box, metavar="x,y,w,h", help="with --crop box: left, top, width, height; a square")
    add("--stride", type=int, metavar="N", help="frames from one sample's start to the next one's (default F)")
    add("--min-side", type=int, metavar="N", help="least side of the square in source pixels (default L / 2)")
    add("--seed", type=int, default=0, help="draws which clips validate (default 0)")


def run(args: argparse.Namespace) -> None:
    """Prepare and say what came of it."""
    names = ("frames", "size", "crop", "box", "stride", "min_side", "seed")
    summary = prepare(PrepareConfig(**{name: getattr(args, name) for name in names}), args.sources, args.out)
    print(f"{args.out}: {summary}")


def _box(text: str) -> tuple[int, ...]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be four whole numbers x,y,w,h; got {text!r}") from None
    return x, y, width, height
