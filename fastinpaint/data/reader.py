"""What a video's reader is, whatever it reads from: an iterator over frames."""

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
    """The video stops before its end. `frames_read` frames came before, and all of them were handed out."""

    def __init__(self, message: str, frames_read: int) -> None:
        super().__init__(message)
        self.frames_read = frames_read


class Frame(NamedTuple):
    """One frame as stored: `rgb` uint8 [H, W, 3], shown at `pts * time_base` seconds.

    `picture` is what the decoder gave, an `av.VideoFrame` with the source's own samples, where the reader was asked
    to keep it, else None.
    """

    rgb: np.ndarray
    pts: int
    time_base: Fraction
    picture: Any = None


class VideoReader:
    """An iterator over the frames of one video, in order of presentation, once. Use it in a `with` statement.

    Attributes:
        name: the path as given, for messages.
        width, height: of the frames as stored, in pixels.
        rotation: the counter-clockwise turn, in degrees, by which a player shows them (see `upright`). Frames come
            as stored, so that a video written with the same rotation looks like its source.
        display_matrix: the nine integers that `rotation` comes from, as FFmpeg keeps them, or None.
        rate: frames a second, an average where the rate varies; the times that count are the `pts`.
        codec: FFmpeg's name of what the frames are stored with, such as "h264"; empty where it is not known.
        length_hint: the number of frames as the file states it, or an estimate, or None where it says nothing.
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
        """How a player turns the stored frames, mirroring included."""
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
