"""Timestamps of a file put into one line, where its clock wraps or jumps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.format import Flags

JUMP = 10  # seconds, forwards or backwards; shorter ones may be pauses of the picture
BACK = Fraction(1, 10)  # seconds backwards that only a jump explains


class Timeline:
    """The packets of a container in the file's order, their timestamps changed in place so that they go on steadily.

    Formats for broadcast let their clock wrap (33 bits of 90 kHz) or start again where recordings are joined. There the
    times of all streams are shifted so that the stream in which it shows first goes on where it stood. Two readers of
    one file that both take all packets get the same times.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        self._container = container
        self._jumps = bool(container.format.flags & Flags.ts_discont.value)
        self._shift = Fraction(0)
        self._next: dict[int, Fraction] = {}
        self._last: dict[int, Fraction] = {}

    def packets(self) -> Iterator[av.Packet]:
        for packet in self._container.demux():
            if self._jumps and packet.size and packet.time_base and packet.stream.type in ("video", "audio"):
                self._follow(packet)
            if self._shift and packet.time_base:
                ticks = round(self._shift / packet.time_base)
                packet.dts = None if packet.dts is None else packet.dts + ticks
                packet.pts = None if packet.pts is None else packet.pts + ticks
            yield packet

    def _follow(self, packet: av.Packet) -> None:
        """Change the shift where this packet is not where its stream's last one ended."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        index, time = packet.stream.index, stamp * packet.time_base
        expected = self._next.get(index)
        if expected is not None:
            gap = time + self._shift - expected
            if abs(gap) > JUMP or time + self._shift < self._last[index] - BACK:
                self._shift -= gap
        self._last[index] = time + self._shift
        length = (packet.duration or 0) * packet.time_base
        if not length and packet.stream.type == "video" and packet.stream.average_rate:
            length = 1 / packet.stream.average_rate
        self._next[index] = self._last[index] + length
