"""Sound encoded again, if the user asks for it and the output cannot hold the source's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import av

ENCODERS = {"mp4": "aac", "mov": "aac", "mpegts": "aac", "webm": "libopus", "matroska": "flac", "avi": "libmp3lame"}
"""Encoders by the muxer."""

BITS_A_CHANNEL = 128_000  # a second


class EncodedSound:
    """One track of sound, decoded and encoded again, with the source's times, tags and dispositions.

    Args:
        output: where to; nothing has been written yet.
        source: the track.
        encoder: one of `ENCODERS`.
    """

    def __init__(self, output: av.container.OutputContainer, source: Any, encoder: str) -> None:
        rate = 48000 if encoder == "libopus" else source.codec_context.sample_rate
        self.stream = cast(Any, output.add_stream(encoder, rate, layout=source.codec_context.layout.name))
        if encoder != "flac":
            self.stream.codec_context.bit_rate = BITS_A_CHANNEL * source.codec_context.layout.nb_channels
        self.stream.disposition = source.disposition
        context = self.stream.codec_context
        context.open(strict=False)  # which tells the size of a frame
        self._resampler = av.AudioResampler(context.format, context.layout, rate, context.frame_size or None)

    def packets(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """The packets made from one packet of the source; None ends the track."""
        frames: list[Any] = [None] if packet is None else list(packet.decode())
        for frame in frames:
            for part in self._resampler.resample(frame):
                yield from self.stream.encode(part)
        if packet is None:
            yield from self.stream.encode(None)
