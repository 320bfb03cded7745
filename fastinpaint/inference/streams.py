"""Everything of a source file but its pictures, copied packet for packet: sound, subtitles, chapters, tags and more."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from fastinpaint.data.container import main_video
from fastinpaint.data.timeline import Timeline
from fastinpaint.errors import UserError
from fastinpaint.inference.encoder import MUXERS, PICTURES, Encoding, can_hold
from fastinpaint.inference.sound import ENCODERS, EncodedSound

COVER = av.stream.Disposition.attached_pic
OWN_TAGS = frozenset({"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "number_of_frames"})
"""Tags that describe the file and not what it shows; the muxer writes its own."""

MP4_TAGS = frozenset(
    [
        "title",
        "artist",
        "album_artist",
        "album",
        "composer",
        "comment",
        "date",
        "genre",
        "copyright",
        "description",
        "synopsis",
        "show",
        "episode_id",
        "network",
        "track",
        "disc",
        "lyrics",
        "encoder",
        "grouping",
        "season_number",
        "episode_sort",
        "media_type",
        "hd_video",
        "rating",
        "creation_time",
        "location",
        "handler_name",
        "language",
        "rotate",
        "timecode",
    ]
)
"""Tags that MP4 files hold without the extension for tags of any name."""

TRANSPORTED = frozenset(
    [
        "aac",
        "aac_latm",
        "mp2",
        "mp3",
        "ac3",
        "eac3",
        "dts",
        "opus",
        "dvb_subtitle",
        "dvb_teletext",
        "h264",
        "hevc",
        "mpeg2video",
        "klv",
        "timed_id3",
        "scte_35",
        "truehd",
        "pcm_bluray",
        "s302m",
        "hdmv_pgs_subtitle",
    ]
)
"""Codecs that players find in a transport stream; FFmpeg puts any other there as private data."""


class OtherStreams:
    """The source a second time: its description, and the packets of all streams but the pictures.

    Packets are passed on in step with the pictures, so that neither waits in memory for the other.

    Args:
        name: the source's path.

    Attributes:
        pictures: the main video stream.
    """

    def __init__(self, name: str) -> None:
        self._input = av.open(name, metadata_errors="replace")
        self.pictures = main_video(name, self._input)
        self._targets: dict[int, tuple[Any, Fraction | None]] = {}
        self._encoded: dict[int, EncodedSound] = {}
        self._last: dict[int, int] = {}
        self._packets = self._demux()
        self._next: tuple[av.Packet, Fraction] | None = None
        self._start = Fraction(0)

    @property
    def tags(self) -> dict[str, str]:
        """The file's own tags, without those that describe how it was written."""
        return _kept_tags(self._input.metadata)

    def needs_any_tags(self) -> bool:
        """Whether an MP4 file needs the extension for tags of any name."""
        return any(key.lower() not in MP4_TAGS for key in self.tags)

    @property
    def start(self) -> Fraction:
        """The earliest time of any stream, in seconds."""
        return Fraction(self._input.start_time or 0, av.time_base)

    def time_bases(self) -> list[Fraction]:
        return [stream.time_base for stream in self._input.streams if stream.type == "audio" and stream.time_base]

    def join(self, output: av.container.OutputContainer, suffix: str, encoding: Encoding, start: Fraction) -> list[str]:
        """Add all streams, chapters and tags to an output.

        Args:
            output: where to; nothing has been written yet.
            suffix: its suffix.
            encoding: whether sound that it cannot hold is encoded again, and whether it goes on without the rest.
            start: seconds by which all times are moved towards zero.

        Returns:
            Notes for the user.

        Raises:
            UserError: the output cannot hold a stream, and dropping it was not allowed.
        """
        self._start = start
        output.metadata.update(self.tags)
        refused = []
        for stream in self._input.streams:
            if stream.index == self.pictures.index or _written_by_muxer(stream):
                continue
            if suffix in PICTURES or not _fits(stream, suffix):
                if stream.type == "audio" and encoding.encode_audio and MUXERS[suffix] in ENCODERS:
                    self._encode(output, stream, suffix)
                else:
                    refused.append(_what(stream))
            elif stream.type == "attachment":
                _attach(output, stream)
            elif stream.disposition & COVER and MUXERS[suffix] == "matroska":
                self._attach_cover(output, stream)
            else:
                self._targets[stream.index] = _add(output, stream), stream.time_base
        if self._input.chapters():
            if MUXERS[suffix] in ("mp4", "mov", "matroska", "webm"):
                output.set_chapters(self._input.chapters())
            else:
                refused.append("chapters")
        self._next = next(self._packets, None)
        return self._refuse(refused, suffix, encoding)

    def copy(self, output: av.container.OutputContainer, until: Fraction | None) -> None:
        """Pass on the packets up to a time in seconds, or all that are left."""
        while self._next is not None:
            packet, time = self._next
            if until is not None and time > until:
                return
            self._send(output, packet)
            self._next = next(self._packets, None)
        if until is None:
            for sound in self._encoded.values():
                output.mux(list(sound.packets(None)))

    def close(self) -> None:
        self._input.close()

    def _encode(self, output: av.container.OutputContainer, stream: Any, suffix: str) -> None:
        sound = EncodedSound(output, stream, ENCODERS[MUXERS[suffix]])
        sound.stream.metadata.update(_kept_tags(stream.metadata))
        self._encoded[stream.index] = sound
        self._targets[stream.index] = sound.stream, stream.time_base

    def _send(self, output: av.container.OutputContainer, packet: av.Packet) -> None:
        """Muxers demand that decoding times rise within a stream; where the source's do not, they are moved a tick."""
        index = packet.stream.index
        target, _ = self._targets[index]
        shift = round(self._start / packet.time_base) if self._start else 0
        dts = (packet.dts if packet.dts is not None else 0) - shift
        rising = max(dts, self._last.get(index, dts - 1) + 1)
        self._last[index] = rising
        if packet.pts is not None:
            packet.pts = packet.pts - shift if rising == dts else max(packet.pts - shift, rising)
        packet.dts = rising
        if index in self._encoded:
            output.mux(list(self._encoded[index].packets(packet)))
            return
        packet.stream = target
        output.mux(packet)

    def _demux(self) -> Iterator[tuple[av.Packet, Fraction]]:
        """Packets of the streams that are copied with the time, in seconds, at which they are needed."""
        for packet in Timeline(self._input).packets():
            if packet.stream.index not in self._targets or not packet.size:
                continue
            if packet.dts is None:
                packet.dts = packet.pts if packet.pts is not None else self._last.get(packet.stream.index, -1) + 1
            if packet.time_base is not None:
                yield packet, packet.dts * packet.time_base

    def _attach_cover(self, output: av.container.OutputContainer, stream: Any) -> None:
        """A cover picture as Matroska holds it: as an attachment."""
        with av.open(self._input.name) as file:
            packet = next(p for p in file.demux(file.streams[stream.index]) if p.size)
            kind = "png" if stream.codec.name == "png" else "jpeg"
            output.add_attachment(f"cover.{'jpg' if kind == 'jpeg' else kind}", f"image/{kind}", bytes(packet))

    def _refuse(self, refused: list[str], suffix: str, encoding: Encoding) -> list[str]:
        if not refused:
            return []
        listed = ", ".join(refused)
        if not encoding.drop_unsupported and suffix not in PICTURES:
            ways = ["write a .mkv file"] * (suffix != ".mkv")
            ways += ["encode the audio by --encode-audio"] * ("audio" in listed and not encoding.encode_audio)
            ways = [", ".join(ways), "go on without by --drop-unsupported"] if ways else ["--drop-unsupported goes on"]
            raise UserError(f"{suffix} files cannot hold the source's {listed} as it is; {', or '.join(ways)}.")
        return [f"left out, since {suffix} files cannot hold it: {listed}."]


def _fits(stream: Any, suffix: str) -> bool:
    if suffix == ".ts" and stream.codec_context is not None and _codec(stream) not in TRANSPORTED:
        return False
    if stream.type == "attachment":
        return MUXERS[suffix] == "matroska"
    if stream.disposition & COVER:
        return MUXERS[suffix] in ("mp4", "matroska")
    return can_hold(MUXERS[suffix], lambda output: _add(output, stream))


def _add(output: av.container.OutputContainer, stream: Any) -> Any:
    """A stream like another, with its tags and dispositions."""
    target = output.add_stream_from_template(stream, opaque=True)
    target.metadata.update(_kept_tags(stream.metadata))
    target.disposition = stream.disposition
    return target


def _attach(output: av.container.OutputContainer, stream: Any) -> None:
    """A font or another attachment. A file without a name would not be found again."""
    name = stream.name or f"attachment{stream.index}"
    target = output.add_attachment(name, stream.mimetype or "application/octet-stream", bytes(stream.data))
    target.metadata.update(_kept_tags(stream.metadata))


def _kept_tags(tags: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in OWN_TAGS and not key.startswith(("_", "BPS", "DURATION", "NUMBER_OF_"))
    }


def _written_by_muxer(stream: Any) -> bool:
    """Time code tracks and tracks of chapter titles, which the muxer makes of tags and chapters."""
    handler = stream.metadata.get("handler_name", "")
    return stream.type == "data" and ("timecode" in stream.metadata or handler.startswith(("TimeCode", "Subtitle")))


def _codec(stream: Any) -> str:
    """The codec's name, not its decoder's."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else "data"


def _what(stream: Any) -> str:
    if stream.type == "attachment":
        return f"attachment ({stream.name})"
    codec = _codec(stream)
    kind = {"subtitle": "subtitles", "video": "further pictures"}.get(stream.type, stream.type)
    if stream.disposition & COVER:
        kind = "cover picture"
    return f"{kind} ({codec})"
