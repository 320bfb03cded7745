"""Completing a video file: reader and masks in, network, writer out, one frame after another."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from fastinpaint.inference.copies import Copies, CopyError, find_copies
from fastinpaint.inference.encoder import Encoding
from fastinpaint.inference.masks import Masks, MaskSettings, count_frames, no_hole, wrong_count
from fastinpaint.inference.movie import MovieWriter
from fastinpaint.inference.output import FolderWriter, TiffWriter, Writer, check_output, is_movie, whole_or_nothing
from fastinpaint.inference.pipeline import ahead, behind, depth
from fastinpaint.inference.settings import Settings, require_window


class Written(NamedTuple):
    """What `inpaint` wrote. `copied` frames were copied without being encoded."""

    path: Path
    frames: int
    width: int
    height: int
    copied: int = 0


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
    masks = masks or MaskSettings()

    def once(encoding: Encoding) -> Written:
        with (
            open_video(video, keep_pictures=True) as reader,
            Masks(reader, mask, boxes, masks, notify) as holes,
        ):

            def copies() -> Copies | None:
                if encoding.smart_copy is False or holes.is_fixed:
                    return None
                with Masks(reader, mask, boxes, replace(masks, grow=0), notify=lambda note: None) as again:
                    return find_copies(reader, again)

            return _fill(model, reader, holes, target, settings or Settings(), encoding, copies, progress, notify)

    try:
        return once(encoding)
    except CopyError as error:
        notify(f"{error}, so the frames are filled again and all are encoded.")
        return once(replace(encoding, smart_copy=False))


def _fill(
    model: nn.Module | None,
    reader: VideoReader,
    holes: Masks,
    target: Path,
    settings: Settings,
    encoding: Encoding,
    copies: Callable[[], Copies | None],
    progress: bool,
    notify: Callable[[str], None],
) -> Written:
    """Decode, fill and encode, each in a thread of its own."""
    _check_lengths(reader, holes)
    require_window(model, settings, reader)
    first = next(reader)
    held: deque[tuple[Frame, np.ndarray]] = deque()
    pairs = _pairs(chain([first], reader), holes, reader, held)
    most, count = depth(reader.height, reader.width), 0
    with whole_or_nothing(target) as beside, ExitStack() as stack:
        writer = _writer(beside, reader, first, encoding, copies, notify)
        stack.callback(writer.release)

        def write_one(item: tuple[Frame, np.ndarray, np.ndarray]) -> None:
            writer.write(*item)

        with ahead(pairs, most) as decoded, behind(write_one, most) as write:
            done = complete_stream(model, decoded, settings, notify, progress)
            for rgb in tqdm(done, total=reader.length_hint, unit="frame", disable=None if progress else True):
                frame, hole = held.popleft()
                write((frame, rgb, hole))
                count += 1
        writer.close()
        writer.check(beside)
    return Written(target, count, reader.width, reader.height, writer.copied)


def _writer(
    path: Path,
    reader: VideoReader,
    first: Frame,
    encoding: Encoding,
    copies: Callable[[], Copies | None],
    notify: Callable[[str], None],
) -> Writer:
    if not is_movie(path):
        return FolderWriter(path, encoding.image_format)
    if path.suffix.lower() in (".tif", ".tiff"):
        return TiffWriter(path, reader.name)
    writer = MovieWriter(path, reader, first, encoding, copies)
    for note in writer.notes:
        notify(note)
    return writer


def _pairs(
    frames: Iterator[Frame], masks: Masks, video: VideoReader, held: deque[tuple[Frame, np.ndarray]]
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
        raise UserError(no_hole(masks.name, masks.invert))


def _check_lengths(reader: VideoReader, masks: Masks) -> None:
    """Where the files' headers disagree on the number of masks, count before the work, not after hours of it."""
    if masks.length_hint is None or reader.length_hint is None or masks.length_hint == reader.length_hint:
        return
    have, need = masks.length_hint, count_frames(reader.name)
    if have != need:
        have = masks.counted()
    if not need <= have < need + masks.tolerance:
        raise UserError(wrong_count(masks, have, reader, need))
