"""``fastinpaint demo``: the whole system in a few minutes, no file needed."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastinpaint.cli.options import path
from fastinpaint.demo.run import PAGE, run_demo
from fastinpaint.training.backend import BACKENDS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=path, default=Path("demo"), metavar="DIR", help="a new folder, or the folder of an earlier demo"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="reference", help="backend that computes the layers")


def run(args: argparse.Namespace) -> None:
    """Run the demo, print its table and say where the page is; raises `UserError` for bad input."""
    found = run_demo(args.out, args.backend)
    print(
        f"\n{found.table()}\n\nOpen {args.out / PAGE}; completed.mp4, sheet.png, curves.png and the rest lie beside it."
    )
