"""Reads video files through PyAV (FFmpeg's libraries)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError
from av.video.reformatter import Interpolation

from fastinpaint.data.bounds import MOST_PIXELS, check_frame_size
from fastinpaint.data.reader import FOLDER_RATE, DamagedVideo, Frame, VideoReader
from fastinpaint.data.timeline import Timeline
from fastinpaint.errors import UserError

# Round colours to nearest. Without these flags swscale's RGB is up to one level too dark, about one level on average
# in coloured pictures. ACCURATE_RND without FULL_CHR_H_INT is two levels too dark.
ROUNDED = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
LIMITS = {"max_pixels": str(MOST_PIXELS)}
DURATION_SLACK = 0.25  # seconds of tolerance on the length that a Matroska header states


class ContainerReader(VideoReader):
    """The frames of a file's first video stream.

    A missing timestamp becomes one frame after the last; a repeated one becomes one tick after it. Timestamps that wrap
    or jump, as in transport streams, are made continuous (see `Timeline`).
    """

    def __init__(self, name: str, keep_pictures: bool = False) -> None:
        self.name = name
        self._keep_pictures = keep_pictures
        try:
            self._container = av.open(name, metadata_errors="replace")  # titles may be of any bytes
        except (FFmpegError, OSError) as error:
            raise UserError(f"{name}: not a video that can be read: {_reason(error)}.") from None
        try:
            self._stream = main_video(name, self._container)
            check_frame_size(name, self._stream.width, self._stream.height)
            self._decoder = _decoder(self._stream)
            self._read = 0
            self._last_pts: int | None = None
            self._frames = self._decode()
            self._first: Frame | None = next(self._frames, None)
            if self._first is None:
                raise DamagedVideo(f"{name}: not one frame can be decoded; the file is empty or damaged.", 0)
        except BaseException:
            self._container.close()
            raise

    def __next__(self) -> Frame:
        frame = self._first or next(self._frames)
        self._first = None
        if frame.rgb.shape[:2] != (self.height, self.width):
            size = f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}"
            raise UserError(
                f"{self.name}: every frame must be {self.width}x{self.height} like the first one; "
                f"frame {self._read} is {size}."
            )
        self._read += 1
        return frame

    def close(self) -> None:
        self._first, self._frames = None, iter(())
        self._container.close()

    def _decode(self) -> Iterator[Frame]:
        """Yield every frame. Raises DamagedVideo at the end if the file is shorter than its header says."""
        packets = 0
        end = 0.0
        decoded = 0
        try:
            for packet in Timeline(self._container).packets():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not self._stream:
                    continue
                packets += packet.size > 0
                for picture in self._decoder.decode(packet):
                    if decoded == 0:
                        self._describe(picture)
                    decoded += 1
                    rgb = picture.to_ndarray(format="rgb24", interpolation=ROUNDED)
                    kept = picture if self._keep_pictures else None
                    yield Frame(rgb, self._pts(picture), self._time_base(picture), kept)
        except FFmpegError as error:
            message = f"{self.name}: damaged: {decoded} frames could be read, then {_reason(error)}."
            raise DamagedVideo(message, decoded) from None
        stated = self._cut_short(packets, end)
        if decoded and stated:
            raise DamagedVideo(f"{self.name}: cut short: {decoded} frames could be read of {stated}.", decoded)

    def _describe(self, picture: av.VideoFrame) -> None:
        """Fill in the attributes. Only the first decoded picture gives the size and rotation reliably."""
        stream = self._stream
        self.width, self.height = picture.width, picture.height
        self.rotation = picture.rotation
        self.codec = stream.codec.canonical_name
        matrix = side_data(picture).get("DISPLAYMATRIX")
        if matrix is not None:
            self.display_matrix = struct.unpack("=9i", matrix[:36])
        self.rate = stream.average_rate or stream.guessed_rate or FOLDER_RATE
        seconds = self._container.duration / av.time_base if self._container.duration else None
        self.length_hint = stream.frames or (round(seconds * self.rate) if seconds else None)

    def _time_base(self, picture: av.VideoFrame) -> Fraction:
        return picture.time_base or self._stream.time_base or 1 / self.rate

    def _pts(self, picture: av.VideoFrame) -> int:
        """The picture's timestamp, made strictly increasing, as writers require."""
        last, pts = self._last_pts, picture.pts
        if pts is None:
            step = max(1, round(1 / (self.rate * self._time_base(picture))))
            pts = 0 if last is None else last + step
        elif last is not None:
            pts = max(pts, last + 1)
        self._last_pts = pts
        return pts

    def _cut_short(self, packets: int, end: float) -> str | None:
        """The length that the header states if the file holds less, else None. Not every format states one."""
        container = self._container
        formats = container.format.name.split(",")
        if "mp4" in formats and packets < len(self._stream.index_entries):
            return f"{len(self._stream.index_entries)}"
        if "matroska" in formats and container.duration:
            seconds = container.duration / av.time_base
            return f"{seconds:.2f} seconds" if end < seconds - DURATION_SLACK else None
        if "gif" in formats and not Path(self.name).read_bytes().rstrip(b"\0").endswith(b";"):
            return "a GIF whose last byte is missing"
        return None


def side_data(picture: Any) -> dict[str, bytes]:
    """A picture's side data by FFmpeg's names; empty where PyAV does not know one of the kinds."""
    try:
        return {side.type.name: bytes(side) for side in picture.side_data}
    except ValueError:
        return {}


def main_video(name: str, container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a cover picture."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            if stream.codec_context is None:
                raise UserError(f"{name}: a video stream that can be decoded is needed; its codec is unknown.")
            stream.thread_type = "AUTO"
            return stream
    kinds = ", ".join(stream.type for stream in container.streams) or "nothing"
    raise UserError(f"{name}: a video stream is needed; this file holds {kinds}.")


def _decoder(stream: av.VideoStream) -> Any:
    """The decoder of a stream. Transparent VP8 and VP9 need libvpx, as FFmpeg's own decoders ignore transparency."""
    libvpx = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec.canonical_name)
    if libvpx is None or stream.metadata.get("alpha_mode") != "1":
        stream.codec_context.options = LIMITS
        return stream
    decoder = av.CodecContext.create(libvpx, "r")
    decoder.options = LIMITS
    return decoder


def _reason(error: Exception) -> str:
    """FFmpeg's or the system's error text, without the number and the file name."""
    text = getattr(error, "strerror", None) or str(error)
    return text[0].lower() + text[1:]
