"""fastinpaint inpaint VIDEO --mask MASK -o OUT [--weights W]"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from tqdm import tqdm

from fastinpaint.cli.options import path
from fastinpaint.errors import UserError, one_line
from fastinpaint.inference import Encoding, HoleBox, MaskSettings, Settings, inpaint, parse_box
from fastinpaint.inference.mask_pictures import CHANNELS
from fastinpaint.inference.settings import DTYPES, RANGES
from fastinpaint.inference.trained import CORRECTION, Seen, seen_by
from fastinpaint.models.weights import load_weights
from fastinpaint.propagation.adapt import ADAPT_SECONDS
from fastinpaint.ranges import whole
from fastinpaint.training.backend import BACKENDS, accelerate_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", type=path, help="a video, a GIF or a folder of frames")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        type=path,
        metavar="OUT",
        help="a video or image file, or a folder of frames",
    )
    parser.add_argument(
        "-w",
        "--weights",
        type=path,
        metavar="W",
        help="a .safetensors file from training (default: other frames and the surroundings fill the hole, and "
        "the package's own network corrects what no frame shows)",
    )
    parser.add_argument("--no-network", action="store_true", help="without --weights: leave the package's network out")
    _add_hole(parser.add_argument_group("where the hole is; masks and boxes together are a union"))
    look = parser.add_argument_group("what the network sees")
    look.add_argument(
        "--size", type=RANGES["size"], help="side of what the network sees, in pixels (default: as trained)"
    )
    look.add_argument("--full-frame", action="store_true", help="show it whole frames, unscaled, instead of windows")
    look.add_argument("--frames", type=RANGES["frames"], help="frames that it sees at once (default: as trained)")
    look.add_argument(
        "--overlap", type=RANGES["overlap"], help="frames that windows share and blend (default: a quarter)"
    )
    file = parser.add_argument_group("the output file")
    file.add_argument(
        "--crf", type=whole(0, 51), default=Encoding.crf, help="quality, 0 (best) to 51 (default: %(default)s)"
    )
    file.add_argument("--lossless", action="store_true", help="keep every sample bit for bit, in its pixel format")
    file.add_argument("--pix-fmt", metavar="NAME", help="store this pixel format, such as yuv420p")
    file.add_argument(
        "--drop-unsupported", action="store_true", help="go on without what OUT's format cannot hold of the source"
    )
    file.add_argument("--encode-audio", action="store_true", help="encode audio that OUT's format cannot hold again")
    file.add_argument(
        "--smart-copy",
        action=argparse.BooleanOptionalAction,
        help="copy stretches without a hole unencoded (default: where it is safe)",
    )
    file.add_argument("--image-format", choices=("png", "tiff"), default="png", help="of a folder of frames")
    file.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    run = parser.add_argument_group("how to run")
    run.add_argument(
        "--adapt",
        type=RANGES["adapt"],
        nargs="?",
        const=ADAPT_SECONDS,
        metavar="SECONDS",
        help="learn from the video's own known pixels first, for about SECONDS on two cores (default: %(const)s)",
    )
    run.add_argument(
        "--quality", choices=("standard", "high"), default="standard", help="high turns --adapt on (default: standard)"
    )
    run.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    run.add_argument(
        "--backend", choices=BACKENDS, default="reference", help="backend that computes the layers (default: reference)"
    )
    precision = run.add_mutually_exclusive_group()
    precision.add_argument("--fp16", dest="dtype", action="store_const", const="fp16", help="half precision autocast")
    precision.add_argument("--bf16", dest="dtype", action="store_const", const="bf16", help="bfloat16 autocast")
    parser.set_defaults(dtype=next(iter(DTYPES)))
    run.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def _add_hole(hole: argparse._ArgumentGroup) -> None:
    hole.add_argument(
        "-m", "--mask", type=path, help="one image, a folder of images or a video; white (any channel >= 128) = hole"
    )
    hole.add_argument(
        "--box",
        type=_box,
        action="append",
        default=[],
        metavar="X,Y,W,H[@SECONDS]",
        help="a rectangle, in pixels or with %% of the frame; with @SECONDS a key frame of one that moves; repeatable",
    )
    hole.add_argument(
        "--grow", type=whole(0, 1000), default=MaskSettings.grow, metavar="PX", help="widen it (default: %(default)s)"
    )
    hole.add_argument(
        "--feather", type=RANGES["feather"], default=0, metavar="PX", help="fade over this many pixels inside the mask"
    )
    hole.add_argument("--mask-invert", action="store_true", help="black = hole")
    hole.add_argument("--mask-resize", action="store_true", help="scale masks to the video's size")
    hole.add_argument("--mask-channel", choices=CHANNELS, default="auto", help="channel that marks the hole")
    hole.add_argument(
        "--label", type=whole(0, 65535), metavar="N", help="hole = this palette index or grey value of the mask"
    )
    hole.add_argument(
        "--mask-start", type=whole(0, 10**9), metavar="N", help="the first mask's frame; others may lack one"
    )
    hole.add_argument("--mask-step", type=whole(1, 10**9), default=1, metavar="N", help="use every Nth mask")
    hole.add_argument(
        "--mask-hold", type=_hold, metavar="N", help="frames that each mask is for, or auto: by its number"
    )


def run(args: argparse.Namespace) -> None:
    weights = args.weights or (None if args.no_network else CORRECTION)
    seen = seen_by(weights) if weights else Seen()
    settings = Settings(
        frames=args.frames if args.frames is not None else seen.frames,
        overlap=args.overlap,
        size=args.size if args.size is not None else seen.size,
        full_frame=args.full_frame,
        feather=args.feather,
        adapt=_adapt_seconds(args),
        device=args.device,
        dtype=args.dtype,
    )
    masks = MaskSettings(
        invert=args.mask_invert,
        resize=args.mask_resize,
        grow=args.grow,
        channel=args.mask_channel,
        label=args.label,
        start=args.mask_start,
        step=args.mask_step,
        hold=args.mask_hold,
    )
    encoding = Encoding(
        crf=args.crf,
        lossless=args.lossless,
        pix_fmt=args.pix_fmt,
        drop_unsupported=args.drop_unsupported,
        encode_audio=args.encode_audio,
        smart_copy=args.smart_copy,
        image_format=args.image_format,
    )
    model = None
    if weights:
        model = accelerate_model(load_weights(weights).to(settings.torch_device()), args.backend)
    start = time.perf_counter()
    try:
        done = inpaint(
            model,
            args.video,
            args.output,
            mask=args.mask,
            boxes=args.box,
            masks=masks,
            settings=settings,
            encoding=encoding,
            overwrite=args.overwrite,
            progress=not args.quiet,
            notify=_say,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"{settings.device} has too little memory for {settings.frames} frames at once; lower --frames or --size."
        ) from None
    if not args.quiet:
        seconds = time.perf_counter() - start
        rate = done.frames / seconds
        print(
            f"{done.path}: {done.frames} frames of {done.width}x{done.height} in {seconds:.1f} s, {rate:.1f} frames/s."
        )


def _adapt_seconds(args: argparse.Namespace) -> int:
    if args.adapt and args.weights:
        raise UserError("--adapt: it adapts the fill that needs no weights, so it cannot be combined with --weights.")
    if args.adapt is not None:
        return args.adapt
    return ADAPT_SECONDS if args.quality == "high" and not args.weights else 0


def _say(note: str) -> None:
    tqdm.write(one_line(f"fastinpaint inpaint: note: {note}"), file=sys.stderr)


def _box(text: str) -> HoleBox:
    try:
        return parse_box(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("box ").rstrip(".")) from None


def _hold(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number of frames or auto, got {text!r}")
    return int(text)
