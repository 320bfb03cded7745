"""The interface of video readers: an iterator over frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from fastinpaint.data.orientation import Orientation
from fastinpaint.errors import UserError

FOLDER_RATE = Fraction(25)


class DamagedVideo(UserError):
    """The video is truncated or damaged. The `frames_read` frames before that have all been returned."""

    def __init__(self, message: str, frames_read: int) -> None:
        super().__init__(message)
        self.frames_read = frames_read


class Frame(NamedTuple):
    """One frame as stored: `rgb` uint8 [H, W, 3], shown at `pts * time_base` seconds.

    `picture` is the decoder's `av.VideoFrame` with the source's own samples if the reader keeps pictures, else None.
    """

    rgb: np.ndarray
    pts: int
    time_base: Fraction
    picture: Any = None


class VideoReader:
    """A one-time iterator over the frames of a video in presentation order. Use it in a `with` statement.

    Attributes:
        name: the given path, for messages.
        width, height: of the frames as stored, in pixels.
        rotation: degrees by which a player turns the frames counter-clockwise (see `upright`). Frames are returned
            as stored, so a video written with the same rotation looks like its source.
        display_matrix: the nine integers that `rotation` comes from, in FFmpeg's order, or None.
        rate: frames per second, an average where the rate varies. Exact times are the `pts`.
        codec: FFmpeg's name of the codec, such as "h264"; empty if unknown.
        length_hint: the number of frames by the file's header, an estimate, or None.
    """

    name: str
    width: int
    height: int
    rotation: int = 0
    display_matrix: tuple[int, ...] | None = None
    rate: Fraction = FOLDER_RATE
    codec: str = ""
    length_hint: int | None = None

    @property
    def orientation(self) -> Orientation:
        """How a player rotates and mirrors the stored frames."""
        return Orientation.of(self.display_matrix)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        raise StopIteration

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Reading on raises StopIteration."""
