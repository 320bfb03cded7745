"""Pictures without a hole near them, copied packet for packet between stretches that are encoded."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError

from fastinpaint.data.container import main_video
from fastinpaint.data.reader import Frame, VideoReader
from fastinpaint.inference import parameter_sets as nal
from fastinpaint.inference.groups import Groups, find_groups, pictures
from fastinpaint.inference.masks import Masks
from fastinpaint.inference.pixels import layout_of, samples, working_format
from fastinpaint.inference.planes import convert

SELF_CONTAINED = frozenset({"vp8", "vp9", "av1", "mjpeg", "prores"})
"""Codecs whose pictures hold all that a decoder needs, so that the file's header does not matter."""

NAL = frozenset({"h264", "hevc"})
"""Codecs of NAL units, whose parameter sets are kept apart or given again."""

BY_HEADER = frozenset({"ffv1", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "rawvideo", "v210", "qtrle"})
"""Codecs that can be copied where the encoder's header is the source's."""

PRORES = {"apco": "proxy", "apcs": "lt", "apcn": "standard", "apch": "hq", "ap4h": "4444", "ap4x": "4444xq"}
"""Profiles of the encoder by the tag of the stream."""

GRID = (8, 8)
SAME_PICTURE = 12
"""Levels of 255 by which a coarse view of an encoded picture may be off."""


class CopyError(Exception):
    """The output does not decode to what was written; all frames must be encoded."""


class Copies(NamedTuple):
    """Which pictures are copied.

    Attributes:
        groups: see `Groups`.
        keep: bool ``[N]``, pictures in order of presentation that are copied.
    """

    groups: Groups
    keep: np.ndarray


def find_copies(source: VideoReader, masks: Masks) -> Copies | None:
    """The pictures that can be copied: whole groups without a hole. None where there are none.

    Args:
        source: the source's reader.
        masks: one for each frame; they are read through.
    """
    groups = find_groups(source.name)
    if groups is None or len(groups.starts) < 2:
        return None
    holes = np.zeros(len(groups.pts), bool)
    for number, ticks in enumerate(groups.pts):
        mask = masks.take(float((int(ticks) - int(groups.pts[0])) * groups.time_base))
        if mask is None:
            return None
        holes[number] = mask.any()
    keep = groups.unchanged(holes)
    return Copies(groups, keep) if keep.any() and not keep.all() else None


class Copier:
    """The packets of one video: copied where nothing changes, else from an encoder that starts with each stretch.

    Args:
        source: the source's path.
        copies: which pictures are copied.
        make_encoder: makes the encoder's context, not open yet, with options added to its own.
        ticks: a time in seconds in the output's units.
        time_base: those units.

    Attributes:
        stream: the source's stream, to make the output's of.
        header: the output's extradata, which serves copied and encoded pictures.

    Raises:
        CopyError: copied and encoded pictures cannot stand in one stream.
    """

    def __init__(
        self,
        source: str,
        copies: Copies,
        make_encoder: Callable[[dict[str, str]], Any],
        ticks: Callable[[Fraction], int],
        time_base: Fraction,
    ) -> None:
        self._copies, self._make, self._ticks, self._time_base = copies, make_encoder, ticks, time_base
        self._input = av.open(source, metadata_errors="replace")
        try:
            self.stream = main_video(source, self._input)
            self._codec = self.stream.codec.canonical_name
            self._packets = pictures(self._input, self.stream)
            self._encoder: Any = None
            self._decoded = 0  # packets passed on so far
            self._shown = 0  # pictures taken
            self._last: int | None = None
            self._restate = False
            self._lengths: dict[int, int] = {}
            self._marks: array[int] = array("q")
            self._looks: list[bytes] = []
            self._prepare()
        except BaseException as error:
            self._input.close()
            if isinstance(error, (FFmpegError, ValueError)):
                raise CopyError(str(error)) from None
            raise

    def _prepare(self) -> None:
        """Choose the encoder's options and the header."""
        header = self.stream.codec_context.extradata or b""
        self._options = _like_source(self._codec, self.stream, self._copies.groups.delay)
        self._packing = nal.ANNEX_B
        if self._codec == "h264":
            self._packing = nal.packing("h264", header)
            sets = self._sets()
            number = nal.free_number(sets)
            if number is None:
                raise CopyError("no parameter set is free")
            self._options["x264-params"] = f"sps-id={number}"
        elif self._codec == "hevc":
            self._packing = nal.packing("hevc", header)
            if self._packing.length and self.stream.codec_context.codec_tag == "hvc1":
                raise CopyError("hvc1 has its parameter sets in the header alone")
        trial = self._opened()
        own = trial.extradata or b""
        if self._codec == "h264":
            self.header = nal.merged_h264(header, own)
            sequences = [unit for unit in [*sets, *nal.ANNEX_B.split(own)] if unit[0] & 31 == nal.SEQUENCE]
            if len(set(map(nal.bypasses_transform, sequences))) > 1:
                raise CopyError("decoders do not change between lossless and other H.264 within a stream")
        else:
            self.header = header
            same_tag = self._codec != "prores" or trial.codec_tag == self.stream.codec_context.codec_tag
            if (self._codec in BY_HEADER and own != header) or not same_tag:
                raise CopyError("the encoder's header is not the source's")

    def _sets(self) -> list[bytes]:
        """The parameter sets of the source, in its header and before its first picture."""
        with av.open(self._input.name, metadata_errors="replace") as file:
            first = next(pictures(file, main_video(self._input.name, file)))
        units = [*self._packing.sets, *self._packing.split(bytes(first))]
        return [unit for unit in units if unit[0] & 31 in nal.H264_SETS]

    def copies(self) -> bool:
        """Whether the next picture is copied."""
        return self._shown < len(self._copies.keep) and bool(self._copies.keep[self._shown])

    def take(self, frame: Frame, picture: Any, length: int) -> Iterator[av.Packet]:
        """The packets that are ready once the next picture has come.

        Args:
            frame: of the source.
            picture: the picture for the encoder, with its time in the output's units; None where it is copied.
            length: for how long it is shown, in the output's units; 0 where that is not known.

        Raises:
            CopyError: the source's pictures are not those of its packets, or times do not fit.
        """
        pts = self._copies.groups.pts
        if self._shown >= len(pts) or frame.pts != pts[self._shown]:
            raise CopyError("pictures do not come as their packets do")
        if picture is None:
            yield from self._finish()
            self._marks.append(_digest(frame.picture))
            self._looks.append(b"")
            self._shown += 1
            yield self._copied()
            return
        if self._encoder is None:
            self._encoder = self._opened()
        self._marks.append(-1)
        self._looks.append(_look(picture))
        self._shown += 1
        self._lengths[picture.pts] = length
        yield from map(self._timed, self._encoder.encode(picture))

    def end(self) -> Iterator[av.Packet]:
        """The last packets."""
        yield from self._finish()
        if self._shown != len(self._copies.groups.pts):
            raise CopyError("pictures do not come as their packets do")

    def check(self, path: Path) -> None:
        """Decode the output and compare it with what it should hold.

        Raises:
            CopyError: copied pictures differ from the source's, or encoded ones decode to other pictures.
        """
        count = 0
        try:
            with closing(av.open(str(path))) as file:
                for picture in file.decode(main_video(str(path), file)):
                    if count < len(self._marks) and self._is_same(count, picture):
                        count += 1
                    else:
                        raise CopyError(f"picture {count} decodes to another one")
        except FFmpegError as error:
            raise CopyError(f"picture {count} does not decode: {error.strerror}") from None
        if count != len(self._marks):
            raise CopyError(f"{count} of {len(self._marks)} pictures decode")

    def close(self) -> None:
        self._input.close()

    def _is_same(self, number: int, picture: Any) -> bool:
        if self._marks[number] >= 0:
            return self._marks[number] == _digest(picture)
        wanted, found = (np.frombuffer(look, np.uint8).astype(int) for look in (self._looks[number], _look(picture)))
        return bool(np.abs(wanted - found).max() <= SAME_PICTURE)

    def _opened(self) -> Any:
        encoder = self._make(self._options)
        if self._codec != "hevc":
            encoder.flags |= int(Flags.global_header)
        encoder.open()
        return encoder

    def _finish(self) -> Iterator[av.Packet]:
        """The packets that an encoder still holds at the end of its stretch."""
        if self._encoder is not None:
            yield from map(self._timed, self._encoder.encode(None))
            self._encoder, self._restate = None, self._codec == "hevc"
        if self._decoded != self._shown:
            raise CopyError("the encoder made more or fewer packets than it was given pictures")

    def _copied(self) -> av.Packet:
        """The next packet of the source."""
        packet = next(self._packets)
        if self._restate:
            packet = self._with_sets(packet)
            self._restate = False
        unit = self._copies.groups.time_base
        packet.duration = round((packet.duration or 0) * unit / self._time_base)
        packet.pts = self._ticks((packet.pts or 0) * unit)
        packet.time_base = self._time_base
        return self._decoded_at(packet)

    def _with_sets(self, packet: av.Packet) -> av.Packet:
        """A packet that repeats the parameter sets which the encoded HEVC before it has replaced."""
        units = self._packing.split(bytes(packet))
        if any(nal.kind("hevc", unit) in nal.HEVC_SETS for unit in units):
            return packet
        return _replaced(packet, self._packing.joined([*self._packing.sets, *units]))

    def _timed(self, packet: av.Packet) -> av.Packet:
        """The encoder's packet in the stream's form, with the decoding time of the source's packet in its place."""
        next(self._packets)
        if self._packing.length:
            packet = _replaced(packet, self._packing.joined(nal.ANNEX_B.split(bytes(packet))))
        packet.duration = self._lengths.pop(packet.pts or 0, 0) or packet.duration or 0
        return self._decoded_at(packet)

    def _decoded_at(self, packet: av.Packet) -> av.Packet:
        groups = self._copies.groups
        dts = self._ticks(int(groups.dts[self._decoded]) * groups.time_base)
        if packet.pts is None or dts > packet.pts or (self._last is not None and dts <= self._last):
            raise CopyError("times of decoding do not fit")
        packet.dts = self._last = dts
        self._decoded += 1
        return packet


def _like_source(codec: str, stream: Any, delay: int) -> dict[str, str]:
    """Options that make an encoder's pictures fit between the source's: order of decoding, profile."""
    context = stream.codec_context
    if codec == "h264":
        order = {0: {"bf": "0"}, 1: {"b-pyramid": "none"}}.get(delay, {})
        simple = {"Main": "main", "Baseline": "baseline", "Constrained Baseline": "baseline"}.get(context.profile)
        return {**order, **({"profile": simple} if simple else {})}
    if codec == "hevc":
        few = {0: "bframes=0:", 1: "b-pyramid=0:"}.get(delay, "")
        return {"x265-params": f"{few}open-gop=0:repeat-headers=1"}
    if codec == "prores" and context.codec_tag in PRORES:
        return {"profile": PRORES[context.codec_tag]}
    return {}


def _replaced(packet: av.Packet, data: bytes) -> av.Packet:
    """A packet with other data."""
    other = av.Packet(data)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    other.duration, other.is_keyframe = packet.duration or 0, packet.is_keyframe
    return other


def _digest(picture: Any) -> int:
    """A checksum of all samples."""
    views = samples(convert(picture, working_format(picture.format.name)))
    digest = 0
    for view in views.values():
        digest = zlib.crc32(np.ascontiguousarray(view).data, digest)
    return digest


def _look(picture: Any) -> bytes:
    """A coarse view of a picture's luma or red: means of a grid."""
    picture = convert(picture, working_format(picture.format.name))
    layout, views = layout_of(picture.format.name), samples(picture)
    assert layout is not None  # working formats have one
    view = views["y" if "y" in views else "r"].astype(np.float32) / (1 << (layout.depth + layout.shift - 8))
    return cv2.resize(view, GRID, interpolation=cv2.INTER_AREA).clip(0, 255).astype(np.uint8).tobytes()
