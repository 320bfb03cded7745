"""Completing a video file: reader and masks in, network, writer out, one frame after another."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from fastinpaint.data.reader import Frame, VideoReader
from fastinpaint.data.video import open_video
from fastinpaint.errors import UserError
from fastinpaint.inference.boxes import HoleBox
from fastinpaint.inference.complete import complete_stream
from fastinpaint.inference.encoder import Encoding
from fastinpaint.inference.masks import Masks, MaskSettings, count_frames, no_hole, wrong_count
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.output import FolderWriter, TiffWriter, Writer, check_output, is_movie, whole_or_nothing
from fastinpaint.inference.settings import Settings, require_window


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
    boxes: Sequence[HoleBox | tuple[int, int, int, int]] = (),
    masks: MaskSettings | None = None,
    settings: Settings | None = None,
    encoding: Encoding | None = None,
    overwrite: bool = False,
    progress: bool = False,
    notify: Callable[[str], None] = warnings.warn,
) -> Written:
    """Fill the holes of a video file; memory does not grow with its length, and on any error nothing is written.

    Args:
        model: a `VideoCompletionNet` or a `TwoDCN`; None fills from other frames and the surroundings alone.
        video: a video file, a GIF or a folder of frames.
        output: a video or image file (see `MovieWriter`), or a folder for PNG or TIFF frames, which equal the source's
            decoded frames bit for bit outside the mask.
        mask, boxes: see `Masks`; at least one of them.
        masks: see `MaskSettings`.
        settings: see `Settings`.
        encoding: see `Encoding`.
        overwrite: whether an output that exists is replaced.
        progress: whether a bar is drawn on stderr, if that is a terminal.
        notify: is given each sentence that a person should read, such as what the output cannot hold.

    Raises:
        UserError: an input that cannot be read or does not fit, or an output that cannot be written.
    """
    target, encoding = Path(output), encoding or Encoding()
    check_output(target, [Path(path) for path in (video, mask) if path is not None], overwrite)
    with (
        open_video(video, keep_pictures=True) as reader,
        Masks(reader, mask, boxes, masks, notify) as holes,
    ):
        _check_lengths(reader, holes)
        settings = settings or Settings()
        require_window(model, settings, reader)
        first = next(reader)
        held: deque[tuple[Frame, np.ndarray]] = deque()
        pairs = _pairs(chain([first], reader), holes, reader, held, (masks or MaskSettings()).invert)
        done = complete_stream(model, pairs, settings, notify, progress)
        count = 0
        with whole_or_nothing(target) as beside, ExitStack() as stack:
            writer = _writer(beside, reader, first, encoding, notify)
            stack.callback(writer.release)
            for rgb in tqdm(done, total=reader.length_hint, unit="frame", disable=None if progress else True):
                frame, hole = held.popleft()
                writer.write(frame, rgb, hole)
                count += 1
            writer.close()
    return Written(target, count, reader.width, reader.height)


def _writer(path: Path, reader: VideoReader, first: Frame, encoding: Encoding, notify: Callable[[str], None]) -> Writer:
    if not is_movie(path):
        return FolderWriter(path, encoding.image_format)
    if path.suffix.lower() in (".tif", ".tiff"):
        return TiffWriter(path, reader.name)
    writer = MovieWriter(path, reader, first, encoding)
    for note in writer.notes:
        notify(note)
    return writer


def _pairs(
    frames: Iterator[Frame], masks: Masks, video: VideoReader, held: deque[tuple[Frame, np.ndarray]], invert: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(frame, mask) pairs, with each frame and mask put into `held` for the writer."""
    holes, count, start = False, 0, None
    for frame in frames:
        if frame.picture.interlaced_frame:
            raise UserError(
                f"{video.name}: frame {count} is interlaced, two moments in one picture, which would be filled as one; "
                "deinterlace the video first."
            )
        time = frame.pts * frame.time_base
        start = time if start is None else start
        mask = masks.take(float(time - start))
        if mask is None:
            raise UserError(wrong_count(masks, count, video, count + 1 + sum(1 for _ in frames)))
        holes = holes or bool(mask.any())
        count += 1
        held.append((frame, mask))
        yield frame.rgb, mask
    more = masks.more()
    if more:
        raise UserError(wrong_count(masks, count + more, video, count))
    if not holes:
        raise UserError(no_hole(masks.name, invert))


def _check_lengths(reader: VideoReader, masks: Masks) -> None:
    """Where the files say that there are too few masks or too many, count, so as not to find out after hours."""
    if masks.length_hint is None or reader.length_hint is None or masks.length_hint == reader.length_hint:
        return
    have, need = masks.length_hint, count_frames(reader.name)
    if have != need:
        have = masks.counted()
    if not need <= have < need + masks.tolerance:
        raise UserError(wrong_count(masks, have, reader, need))
