"""Timestamps of a file put into one line, where its clock wraps or jumps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.format import Flags

JUMP = 10  # seconds, forwards or backwards; shorter ones may be pauses of the picture
BACK = Fraction(1, 10)  # seconds backwards that only a jump explains
APART = 2  # seconds by which two streams may be apart at one jump


class Timeline:
    """The packets of a container in the file's order, their timestamps changed in place so that they go on steadily.

    Formats for broadcast let their clock start again where recordings are joined. There the times of all streams are
    shifted so that the stream in which it shows first goes on where it stood. Each stream takes the new shift at its
    own jump, since packets of other streams from before it may still come. Two readers of one file that both take all
    packets get the same times.
    """

    def __init__(self, container: av.container.InputContainer) -> None:
        self._container = container
        self._jumps = bool(container.format.flags & cast(int, Flags.ts_discont.value))
        self._shifts = [Fraction(0)]
        self._clocks: dict[int, _Clock] = {}

    def packets(self) -> Iterator[av.Packet]:
        for packet in self._container.demux():
            if self._jumps and packet.size and packet.time_base:
                shift = self._shift(packet)
                ticks = round(shift / packet.time_base)
                packet.dts = None if packet.dts is None else packet.dts + ticks
                packet.pts = None if packet.pts is None else packet.pts + ticks
            yield packet

    def _shift(self, packet: av.Packet) -> Fraction:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.stream.type not in ("video", "audio"):
            return self._shifts[-1]
        clock = self._clocks.setdefault(packet.stream.index, _Clock())
        time = stamp * packet.time_base
        if clock.expected is not None and clock.last is not None:
            gap = time + self._shifts[clock.run] - clock.expected
            if abs(gap) > JUMP or gap + clock.expected < clock.last - BACK:
                self._next_run(clock, time)
        clock.last = time + self._shifts[clock.run]
        length = (packet.duration or 0) * packet.time_base
        if not length and packet.stream.type == "video" and packet.stream.average_rate:
            length = 1 / packet.stream.average_rate
        clock.expected = clock.last + length
        return self._shifts[clock.run]

    def _next_run(self, clock: _Clock, time: Fraction) -> None:
        """Take the shift that another stream found at this jump, or a new one."""
        assert clock.expected is not None  # a first packet cannot jump
        clock.run += 1
        known = clock.run < len(self._shifts) and abs(time + self._shifts[clock.run] - clock.expected) < APART
        if not known:
            self._shifts[clock.run :] = [clock.expected - time]


class _Clock:
    """Where one stream stands: in which run between jumps, its last time and the next one expected, in seconds."""

    def __init__(self) -> None:
        self.run = 0
        self.last: Fraction | None = None
        self.expected: Fraction | None = None
