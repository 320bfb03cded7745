"""Video files that keep what their source had besides its pixels: every time stamp, the rotation, the sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError

from fastinpaint.data.container import ROUNDED, ContainerReader
from fastinpaint.data.reader import VideoReader
from fastinpaint.errors import UserError

MATRICES = {1, 4, 7, 9}  # of H.273, numbered alike by swscale; the others are BT.601's or taken for it
BT601, RGB = 5, 0
INT32_MAX = 2**31 - 1


class MovieWriter:
    """H.264 (lossless: RGB H.264 in .mp4 and .mov, FFV1 in .mkv), with the source's audio streams copied as they are.

    .mp4 and .mov keep the time base, so every frame keeps its exact time; .mkv counts milliseconds. Colours are stored
    as in the source (matrix and range) with 8 bits, in 4:2:0, or in 4:4:4 where a side is odd.

    Args:
        path: where to; its suffix decides.
        source: the reader of the source, open.
        time_base: the unit of the frames' time stamps, in seconds.
        crf: constant rate factor of H.264, 0 to 51; smaller is better and larger.
        lossless: pixels come back bit for bit.

    Raises:
        UserError: the format cannot hold the source's audio.
        OSError, FFmpegError: (here or later) the file cannot be written.
    """

    def __init__(
        self, path: Path, source: VideoReader, time_base: Fraction, crf: int = 16, lossless: bool = False
    ) -> None:
        self._original = _Original(source.name) if isinstance(source, ContainerReader) else None
        self._time_base = time_base
        suffix = path.suffix.lower()
        if suffix == ".mkv":  # not to be shifted as a whole where the sound begins a little before 0, as AAC does
            self._container = av.open(str(path), "w", "matroska", container_options={"avoid_negative_ts": "disabled"})
        else:
            units = (stream.time_base for stream in self._original.sound) if self._original else ()
            ticks = math.lcm(time_base.denominator, *(unit.denominator for unit in units if unit))
            scales = {"video_track_timescale": time_base.denominator, "movie_timescale": min(ticks, INT32_MAX)}
            options = {name: str(scale) for name, scale in scales.items()}
            self._container = av.open(str(path), "w", suffix[1:], container_options=options)
        codec, self._format, settings = _codec(suffix, source, crf, lossless)
        stream = self._container.add_stream(codec, source.rate, options=settings, time_base=time_base)
        self._stream = cast(av.VideoStream, stream)
        self._stream.width, self._stream.height, self._stream.pix_fmt = source.width, source.height, self._format
        if source.display_matrix is not None:
            self._stream.set_display_matrix(source.display_matrix)
        self._colours: dict[str, int] = {}
        if not lossless:
            self._colours = {"dst_colorspace": BT601}
        if self._original is not None:
            self._describe_like(self._original.pictures, lossless)
            self._original.join(self._container, suffix)

    def write(self, rgb: np.ndarray, pts: int, time_base: Fraction) -> None:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = picture.reformat(format=self._format, interpolation=ROUNDED, **self._colours)
        picture.pts, picture.time_base = round(pts * time_base / self._time_base), self._time_base
        if self._original is not None:
            self._original.copy(self._container, pts * time_base)
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._original is not None:
            self._original.copy(self._container, None)
        self._container.close()

    def release(self) -> None:
        for held in (self._container, self._original):
            if held is not None:
                with suppress(FFmpegError, OSError):
                    held.close()

    def _describe_like(self, pictures: av.VideoStream, lossless: bool) -> None:
        """The shape of a pixel, and what the numbers of the colours mean, unless they are RGB in source or output."""
        source, target = pictures.codec_context, self._stream.codec_context
        if pictures.sample_aspect_ratio:
            target.sample_aspect_ratio = pictures.sample_aspect_ratio
        if lossless or source.colorspace == RGB:
            return
        matrix = source.colorspace if source.colorspace in MATRICES else BT601
        self._colours = {"dst_colorspace": matrix, "dst_color_range": source.color_range}
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(target, name, getattr(source, name))


def _codec(suffix: str, source: VideoReader, crf: int, lossless: bool) -> tuple[str, str, dict[str, str]]:
    """Encoder, pixel format, options."""
    if lossless:
        return ("ffv1", "bgr0", {}) if suffix == ".mkv" else ("libx264rgb", "rgb24", {"qp": "0"})
    odd = source.width % 2 or source.height % 2
    return "libx264", "yuv444p" if odd else "yuv420p", {"crf": str(crf)}


class _Original:
    """The source a second time: its description, and the packets of its audio streams.

    Packets are passed on in step with the pictures, so that neither have to wait in memory for the others.
    """

    def __init__(self, name: str) -> None:
        self._input = av.open(name)
        cover = av.stream.Disposition.attached_pic
        self.pictures = next(stream for stream in self._input.streams.video if not stream.disposition & cover)
        self.sound = self._input.streams.audio
        self._packets = self._demux()
        self._next = next(self._packets, None)
        self._targets: dict[int, av.AudioStream] = {}

    def join(self, output: av.container.OutputContainer, suffix: str) -> None:
        """Add the audio streams to an output."""
        any_codec = suffix == ".mkv"  # it holds more than it lists
        for stream in self.sound:
            codec = stream.codec_context.name
            if not any_codec and codec not in output.supported_codecs:
                raise UserError(f"{suffix} files cannot hold the source's audio ({codec}) as it is; write a .mkv file.")
            self._targets[stream.index] = output.add_stream_from_template(stream)

    def copy(self, output: av.container.OutputContainer, until: Fraction | None) -> None:
        """Pass on the packets up to a time in seconds, or all that are left."""
        while self._next is not None:
            packet, time = self._next
            if until is not None and time > until:
                return
            packet.stream = self._targets[packet.stream.index]
            output.mux(packet)
            self._next = next(self._packets, None)

    def close(self) -> None:
        self._input.close()

    def _demux(self) -> Iterator[tuple[av.Packet, Fraction]]:
        """Audio packets with the time, in seconds, at which they are needed."""
        for packet in self._input.demux(self.sound) if self.sound else ():
            if packet.dts is None:
                packet.dts = packet.pts
            if packet.dts is not None and packet.time_base is not None:
                yield packet, packet.dts * packet.time_base
