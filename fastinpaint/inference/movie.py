"""Video files that keep what their source had besides the holes: samples, times, tags, rotation, sound and the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError

from fastinpaint.data.container import ContainerReader
from fastinpaint.data.reader import Frame, VideoReader
from fastinpaint.errors import UserError
from fastinpaint.inference import hdr
from fastinpaint.inference.copies import BY_HEADER, NAL, SELF_CONTAINED, Copier, Copies, CopyError
from fastinpaint.inference.encoder import MUXERS, PICTURES, STILLS, Encoding, Plan, plan
from fastinpaint.inference.palette import with_palette
from fastinpaint.inference.pixels import what_it_holds, without_alpha, working_format
from fastinpaint.inference.planes import convert, is_opaque, paste
from fastinpaint.inference.streams import OtherStreams

INT32_MAX = 2**31 - 1
CONSTANT_RATE = frozenset({"mpeg2video", "mpeg4"})
"""Encoders that count frames at a constant rate, not ticks."""


class MovieWriter:
    """One video file, or one still image, whose pictures are the source's own where there is no hole.

    .mp4, .mov and .ts keep the time base, so every frame keeps its exact time; .mkv and .webm count milliseconds, .gif
    hundredths of a second, .avi frames. What is kept and what cannot be is in docs/video.md.

    Args:
        path: where to; its suffix decides (see `encoder.MUXERS`).
        source: the reader of the source, open.
        first: its first frame, with its picture.
        encoding: see `Encoding`.
        find_copies: says which pictures can be copied, where the output could hold them.

    Attributes:
        notes: what the user should know, one sentence each.
        copied: the number of pictures that are copied.

    Raises:
        UserError: the format cannot hold what the source has.
        OSError, FFmpegError: (here or later) the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        source: VideoReader,
        first: Frame,
        encoding: Encoding,
        find_copies: Callable[[], Copies | None] = lambda: None,
    ) -> None:
        self._suffix = path.suffix.lower()
        self._original = OtherStreams(source.name) if isinstance(source, ContainerReader) else None
        self._drop = encoding.drop_unsupported
        self._source_format = first.picture.format.name
        codec = source.codec if self._original is not None or self._suffix in STILLS else ""
        size = source.width, source.height
        self.plan: Plan = plan(codec, self._source_format, size, self._suffix, encoding)
        self._opaque = is_opaque(first.picture)
        always = source.codec in ("gif", "webp") and self._suffix not in (".gif", ".apng", ".webp")  # used or not
        if self._opaque and encoding.pix_fmt is None and (always or "transparency" in self.plan.lost):
            self.plan = plan(codec, without_alpha(self._source_format), size, self._suffix, encoding)
        self.notes = list(self.plan.notes)
        self._refuse_losses()
        self._palette = self._suffix == ".gif"
        self._constant = self._suffix == ".avi" or self.plan.encoder in CONSTANT_RATE
        self._time_base = 1 / source.rate if self._constant else first.time_base
        self._start = self._origin(first.pts * first.time_base)
        self._last: int | None = None
        self._lengths: dict[int, int] = {}  # how long pictures are shown that are still in the encoder, by their time
        self._name, self._rate, self._size = source.name, source.rate, size
        self._like = first.picture
        self._copier = self._copying(source, encoding, find_copies)
        self._container = self._open(path)
        self._encoder: Any = None
        self._stream = self._add_stream(source)
        if self._original is not None:
            self.notes += self._original.join(self._container, self._suffix, encoding, self._start)

    def write(self, frame: Frame, rgb: np.ndarray, mask: np.ndarray) -> None:
        """Encode a frame of the source with the masked pixels of `rgb`, uint8 [H, W, 3], in it."""
        if self._suffix in STILLS and self._last is not None:
            raise UserError(
                f"{self._suffix} holds one image, and {self._name} has more frames; write a video or a folder."
            )
        time = frame.pts * frame.time_base
        tick = self._tick(time - self._start)
        if self._original is not None:
            self._original.copy(self._container, time)
        if self._copier is not None and self._copier.copies():
            self._mux(self._copier.take(frame, None, 0))
            return
        picture = self._filled(frame.picture, rgb, mask)
        picture.pict_type = 0  # the encoder's choice, not the source's
        picture.pts, picture.time_base = tick, self._time_base
        length = round((frame.picture.duration or 0) * frame.time_base / self._time_base)
        if self._copier is not None:
            self._mux(self._copier.take(frame, picture, length))
            return
        self._lengths[picture.pts] = length
        self._encode(with_palette(picture) if self._palette else picture)

    def close(self) -> None:
        if self._copier is not None:
            self._mux(self._copier.end())
        else:
            self._encode(None)
        if self._original is not None:
            self._original.copy(self._container, None)
        self._container.close()

    def check(self, path: Path) -> None:
        """Where pictures were copied, decode the output and compare it.

        Raises:
            CopyError: it does not hold what it should.
        """
        if self._copier is not None:
            self._copier.check(path)

    def release(self) -> None:
        for held in (self._container, self._original, self._copier):
            if held is not None:
                with suppress(FFmpegError, OSError):
                    held.close()

    def _copying(
        self, source: VideoReader, encoding: Encoding, find_copies: Callable[[], Copies | None]
    ) -> Copier | None:
        """The copier of packets, if the output can hold the source's as they are."""
        self.copied = 0
        codec = av.Codec(self.plan.encoder, "w").canonical_name
        same = self._original is not None and codec == source.codec and self.plan.pix_fmt == self._source_format
        beside = source.codec in ("vp8", "vp9") and what_it_holds(self._source_format).alpha
        reason = f"{self._suffix} files cannot hold the source's pictures as they are"
        if same and not beside and self._suffix not in PICTURES and source.codec in SELF_CONTAINED | BY_HEADER | NAL:
            reason = "no group of pictures that stands for itself is without a hole"
            copies = find_copies()
            if copies is not None and not (self._constant and copies.groups.delay):
                try:
                    copier = Copier(self._name, copies, self._context, self._ticks, self._time_base)
                except CopyError as error:
                    reason = str(error)
                else:
                    self.copied, count = int(copies.keep.sum()), len(copies.keep)
                    self.notes.append(
                        f"{self.copied} of {count} frames are in stretches without a hole and are copied."
                    )
                    return copier
        if encoding.smart_copy:
            self.notes.append(f"all frames are encoded: {reason}.")
        return None

    def _add_stream(self, source: VideoReader) -> Any:
        """The stream of pictures, described like the source's."""
        if self._copier is not None and source.codec not in NAL:
            stream = self._stream_like(self._copier.stream)
            stream.codec_context.extradata = self._copier.header or None
            if source.codec == "prores":
                stream.codec_context.codec_tag = self._copier.stream.codec_context.codec_tag
        elif self._original is not None and hdr.beside(self._original.pictures, self._like, self.plan.encoder):
            stream = self._stream_like(self._original.pictures)
            self._encoder = self._context({})
            self._encoder.flags |= int(Flags.global_header)
            self._encoder.open()
            self._describe(stream.codec_context)
            stream.codec_context.extradata = self._encoder.extradata
            if self.plan.encoder == "prores_ks":
                stream.codec_context.codec_tag = self._encoder.codec_tag
        else:
            options: Any = {"options": self._options({}), "time_base": self._time_base}
            stream = cast(Any, self._container.add_stream(self.plan.encoder, self._rate, **options))
            self._describe(stream.codec_context)
            self._encoder = stream
            if self._copier is not None:
                if source.codec == "hevc" and MUXERS[self._suffix] in ("mp4", "mov"):
                    stream.codec_context.codec_tag = "hev1"  # which has parameter sets in packets too
                stream.codec_context.open()
                stream.codec_context.extradata = self._copier.header or None
        if source.display_matrix is not None:
            stream.set_display_matrix(source.display_matrix)
        if self._original is not None and self._suffix not in PICTURES:
            unwanted = ("encoder", "alpha_mode", "rotate")
            tags = self._original.pictures.metadata
            stream.metadata.update({k: v for k, v in tags.items() if _is_kept(k, unwanted)})
            stream.disposition = self._original.pictures.disposition
        return stream

    def _stream_like(self, other: Any) -> Any:
        """A stream with all that the source's says of itself, HDR10's side data included, but the frame rate."""
        stream = cast(Any, self._container.add_stream_from_template(other, opaque=True))
        stream.time_base = self._time_base
        return stream

    def _context(self, more: dict[str, str]) -> Any:
        """An encoder of its own, with options added."""
        context: Any = av.CodecContext.create(self.plan.encoder, "w")
        context.options = self._options(more)
        context.time_base, context.framerate = self._time_base, self._rate
        self._describe(context)
        return context

    def _mux(self, packets: Iterable[av.Packet]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self._container.mux(packet)

    def _encode(self, picture: Any) -> None:
        """Encode, and pass on the packets that are ready. Each gets the source's duration, which encoders drop."""
        for packet in self._encoder.encode(picture):
            length = self._lengths.pop(packet.pts, 0) if packet.time_base == self._time_base else 0
            if length:
                packet.duration = length
            packet.stream = self._stream
            self._container.mux(packet)

    def _filled(self, picture: Any, rgb: np.ndarray, mask: np.ndarray) -> Any:
        """The source's picture with the hole's samples replaced, in the format that the encoder takes."""
        if self._opaque and not is_opaque(picture) and not what_it_holds(self.plan.pix_fmt).alpha and not self._drop:
            raise UserError(
                "the source's transparency begins after its first frame, too late for this output; start again with "
                "--pix-fmt bgra to keep it, or with --drop-unsupported to go on without."
            )
        picture = convert(picture, working_format(picture.format.name))
        if mask.any():
            picture.make_writable()
            paste(picture, rgb, mask)
        return picture if self._palette else convert(picture, self.plan.pix_fmt)

    def _ticks(self, time: Fraction) -> int:
        """A time of the source in the output's units."""
        return round((time - self._start) / self._time_base)

    def _tick(self, time: Fraction) -> int:
        """The next picture's time in the encoder's units."""
        tick = round(time / self._time_base)
        if self._constant and self._last is not None and tick <= self._last:
            raise UserError(
                f"{self._name}: {self._suffix} files with this codec hold one frame rate, {1 / self._time_base}, and "
                f"frames come faster at {float(time):.3f} s; write a .mkv file."
            )
        self._last = tick
        return tick

    def _origin(self, first: Fraction) -> Fraction:
        """Seconds by which all times are moved: 0 unless the output cannot begin at the source's first time."""
        if self._suffix in (".avi", *PICTURES):
            return first
        return min(self._original.start, first) if self._original is not None and first < 0 else Fraction(0)

    def _refuse_losses(self) -> None:
        if not self.plan.lost:
            return
        lost = " and ".join(self.plan.lost)
        if not self._drop:
            raise UserError(
                f"{self._suffix} files cannot hold the source's pictures ({self._source_format}) without losing "
                f"{lost}; write a .mkv file, or go on without by --drop-unsupported."
            )
        self.notes.append(f"left out, since {self._suffix} files cannot hold it: {lost}.")

    def _open(self, path: Path) -> av.container.OutputContainer:
        muxer, options = MUXERS[self._suffix], {}
        if muxer in ("matroska", "webm"):  # or FFmpeg shifts all streams if the sound begins a little before 0
            options = {"avoid_negative_ts": "disabled"}
        elif muxer == "mpegts":
            options = {"mpegts_copyts": "1", "avoid_negative_ts": "disabled"}
        elif muxer == "image2":
            options = {"update": "1"}
        elif muxer in ("mp4", "mov"):
            units = self._original.time_bases() if self._original else []
            ticks = math.lcm(self._time_base.denominator, *(unit.denominator for unit in units))
            options = {"video_track_timescale": str(self._time_base.denominator)}
            options["movie_timescale"] = str(min(ticks, INT32_MAX))
            if self._original is not None and self._original.needs_any_tags():
                options["movflags"] = "use_metadata_tags"
        return av.open(str(path), "w", muxer, container_options=options)

    def _options(self, more: dict[str, str]) -> dict[str, str]:
        if self.plan.encoder == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr itself
        options = hdr.added_to(self.plan.options, self.plan.encoder, self._like)
        for key, value in more.items():
            joined = key.endswith("-params") and key in options
            options = {**options, key: f"{options[key]}:{value}" if joined else value}
        return options

    def _describe(self, target: Any) -> None:
        """Set the size, the pixel aspect ratio and the colour space."""
        target.width, target.height = self._size
        target.pix_fmt = self.plan.pix_fmt
        if self.plan.encoder == "libx265" and MUXERS[self._suffix] in ("mp4", "mov"):
            target.codec_tag = "hvc1"  # the one that Apple's players know
        shown = self._like if self._palette else convert(self._like, self.plan.pix_fmt)
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(target, name, int(getattr(shown, name)))
        if self._original is not None and self._original.pictures.sample_aspect_ratio:
            target.sample_aspect_ratio = self._original.pictures.sample_aspect_ratio


def _is_kept(key: str, unwanted: tuple[str, ...]) -> bool:
    return key.lower() not in unwanted and not key.startswith(("_", "BPS", "DURATION", "NUMBER_OF_"))
