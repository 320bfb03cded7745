"""Completing a video file: reader and masks in, network, writer out, one frame after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from fastinpaint.data.reader import Frame, VideoReader
from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference.complete import complete_stream
from fastinpaint.inference.masks import Masks, count_frames, no_hole
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.output import PngWriter, Writer, check_output, is_movie, whole_or_nothing
from fastinpaint.inference.settings import Settings


class Written(NamedTuple):
    """What `inpaint` wrote."""

    path: Path
    frames: int
    width: int
    height: int


def inpaint(
    model: nn.Module | None,
    video: str | Path,
    output: str | Path,
    *,
    mask: str | Path | None = None,
    boxes: Sequence[tuple[int, int, int, int]] = (),
    invert: bool = False,
    resize: bool = False,
    settings: Settings | None = None,
    crf: int = 16,
    lossless: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Written:
    """Fill the holes of a video file; memory does not grow with its length, and on any error nothing is written.

    Args:
        model: a `VideoCompletionNet` or a `TwoDCN`; None fills from other frames and the surroundings alone.
        video: a video file, a GIF or a folder of frames.
        output: a .mp4, .mov or .mkv file (see `MovieWriter`), or a folder for PNG frames, which equal the source's
            decoded frames bit for bit outside the mask.
        mask, boxes, invert, resize: see `Masks`. More masks than frames are no error; fewer are.
        settings: see `Settings`.
        crf, lossless: see `MovieWriter`.
        overwrite: whether an output that exists is replaced.
        progress: whether a bar is drawn on stderr, if that is a terminal.

    Raises:
        UserError: an input that cannot be read or does not fit, or an output that cannot be written.
    """
    target = Path(output)
    if not 0 <= crf <= 51:
        raise UserError(f"crf must be from 0 to 51, got {crf}.")
    check_output(target, [Path(path) for path in (video, mask) if path is not None], overwrite)
    with open_video(video) as reader, Masks(reader, mask, boxes, invert=invert, resize=resize) as masks:
        _check_lengths(reader, masks)
        first = next(reader)
        times: deque[tuple[int, Fraction]] = deque()
        pairs = _pairs(chain([first], reader), masks, reader.name, invert, times)
        done = complete_stream(model, pairs, settings or Settings())
        count = 0
        with whole_or_nothing(target) as beside, ExitStack() as stack:
            writer = _writer(beside, reader, first.time_base, crf, lossless)
            stack.callback(writer.release)
            for frame in tqdm(done, total=reader.length_hint, unit="frame", disable=None if progress else True):
                writer.write(frame, *times.popleft())
                count += 1
            writer.close()
    return Written(target, count, reader.width, reader.height)


def _writer(path: Path, reader: VideoReader, time_base: Fraction, crf: int, lossless: bool) -> Writer:
    if is_movie(path):
        return MovieWriter(path, reader, time_base, crf, lossless)
    return PngWriter(path)


def _pairs(
    frames: Iterator[Frame], masks: Masks, name: str, invert: bool, times: deque[tuple[int, Fraction]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(frame, mask) pairs, with each frame's time put into `times`."""
    holes = False
    for index, frame in enumerate(frames):
        mask = next(masks, None)
        if mask is None:
            raise UserError(_too_few(masks.name, index, name, index + 1 + sum(1 for _ in frames)))
        holes = holes or bool(mask.any())
        times.append((frame.pts, frame.time_base))
        yield frame.rgb, mask
    if not holes:
        raise UserError(no_hole(masks.name, invert))


def _check_lengths(reader: VideoReader, masks: Masks) -> None:
    """Where the files say that there are too few masks, count, so as not to find out after hours."""
    if masks.length_hint is None or reader.length_hint is None or masks.length_hint >= reader.length_hint:
        return
    have, need = count_frames(masks.name), count_frames(reader.name)
    if have < need:
        raise UserError(_too_few(masks.name, have, reader.name, need))


def _too_few(masks: str, have: int, video: str, need: int) -> str:
    return f"{masks}: each frame needs a mask; there are {have} masks for the {need} frames of {video}."
