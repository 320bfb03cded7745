"""``fastinpaint evaluate``: networks beside fills without learning, as numbers and pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from fastinpaint.cli.options import path
from fastinpaint.data.dataset import VideoSamples
from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.errors import UserError
from fastinpaint.inference import Settings, complete
from fastinpaint.inference.settings import RANGES
from fastinpaint.inference.trained import Seen, correction, seen_by
from fastinpaint.metrics import evaluate, save_report
from fastinpaint.metrics.clips import read_clip
from fastinpaint.models.weights import load_weights
from fastinpaint.propagation.adapt import ADAPT_SECONDS
from fastinpaint.ranges import POSITIVE_COUNT, SEED, whole
from fastinpaint.training.backend import BACKENDS, accelerate_model

CORRECTED = "propagation + network"
"""The method of `fastinpaint inpaint`, with the package's own network or the one named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights",
        metavar="RUN_OR_WEIGHTS",
        type=path,
        nargs="*",
        help="folders made by `fastinpaint train` (their best weights) or weights files; none with --video",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="DATA", type=path, help="folder made by `fastinpaint prepare`")
    what.add_argument("--video", metavar="CLIP", type=path, action="append", help="a video; may be repeated")
    parser.add_argument("--frames", metavar="N", type=POSITIVE_COUNT, default=64, help="of each --video (default: 64)")
    parser.add_argument(
        "--size",
        metavar="PX",
        type=whole(0, 4096),
        default=128,
        help="of each --video's middle square; 0: whole (default: 128)",
    )
    parser.add_argument(
        "--holes", metavar="|".join(HOLE_KINDS), default="rectangle", help="default: rectangle; random = rectangles"
    )
    parser.add_argument("--split", metavar="val|train", default="val", help="default: val")
    parser.add_argument("--out", metavar="DIR", type=path, help="write evaluation.json and pictures there")
    parser.add_argument(
        "--limit", metavar="N", type=POSITIVE_COUNT, help="measure N samples, spread evenly over the set"
    )
    parser.add_argument("--seed", metavar="N", type=SEED, default=0, help="of the holes (default: 0)")
    parser.add_argument(
        "--no-rivals", action="store_true", help="leave out OpenCV's inpainting and the temporal median"
    )
    parser.add_argument(
        "--adapt",
        type=RANGES["adapt"],
        nargs="?",
        const=ADAPT_SECONDS,
        default=0,
        metavar="SECONDS",
        help="measure the fill adapted to each clip too, for about SECONDS on two cores (default: %(const)s)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--backend", metavar="|".join(BACKENDS), default="reference", help="default: reference")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write what --out asks for; raises `UserError` for bad input."""
    device = Settings(device=args.device).torch_device()
    files = labelled(args.weights)
    loaded = {label: accelerate_model(load_weights(path).to(device), args.backend) for label, path in files.items()}
    models = {label: model for label, model in loaded.items() if not model.config.corrects}
    correcting: dict[str, tuple[nn.Module, Seen]] = {
        f"{CORRECTED}, {label}": (model, seen_by(files[label]))
        for label, model in loaded.items()
        if model.config.corrects
    }
    if args.video and not args.no_rivals:
        network, seen = correction()
        correcting[CORRECTED] = network.to(device), seen
    methods = {
        name: partial(complete, model, settings=Settings(device=args.device, frames=seen.frames, size=seen.size))
        for name, (model, seen) in correcting.items()
    }
    if args.video:
        samples: Sequence[np.ndarray] = [read_clip(path, args.frames, args.size) for path in args.video]
    elif loaded:
        samples = VideoSamples(args.data, args.split)
    else:
        raise UserError("--data: needs a run or weights to evaluate on it.")
    holes = "rectangles" if args.holes == "random" else args.holes
    found = evaluate(
        models,
        samples,
        holes,
        limit=args.limit,
        seed=args.seed,
        rivals=not args.no_rivals,
        adapt=args.adapt,
        methods=methods,
    )
    print(found.table())
    if args.out is not None:
        source = {"videos": list(map(str, args.video))} if args.video else {"data": str(args.data), "split": args.split}
        facts = {**source, "weights": [str(path) for path in args.weights]}
        print("written: " + ", ".join(map(str, save_report(found, args.out, facts))))


def labelled(paths: list[Path]) -> dict[str, Path]:
    """The weights file of each run or file, by a label that is unique: the last name, or the whole path if needed."""
    names = [path.resolve().stem if path.is_file() else path.resolve().name for path in paths]
    labels = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    return {label: weights_of(path) for label, path in zip(labels, paths, strict=True)}


def weights_of(path: Path) -> Path:
    """A weights file itself. For a run's folder its best weights, or the last ones if it kept no best."""
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: expected a run with best.safetensors or last.safetensors, found neither.")
