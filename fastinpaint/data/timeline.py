"""Makes the timestamps of a file continuous where its clock wraps or jumps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
from av.format import Flags

JUMP = 10  # least seconds of a jump, forwards or backwards; shorter gaps may be pauses
MIN_BACKWARD = Fraction(1, 10)  # least seconds of a step backwards that only a jump explains
MAX_STREAM_OFFSET = 2  # most seconds between two streams at the same jump


class Timeline:
    """Yields a container's packets in file order, with their timestamps changed in place to be continuous.

    In broadcast formats the clock restarts where recordings are joined. All streams are then shifted so that the stream
    that jumps first continues without a gap. Each stream takes the new shift at its own jump, because packets from
    before it may still follow in other streams. Two readers that both take all packets get the same times.
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
            if abs(gap) > JUMP or gap + clock.expected < clock.last - MIN_BACKWARD:
                self._next_run(clock, time)
        clock.last = time + self._shifts[clock.run]
        length = (packet.duration or 0) * packet.time_base
        if not length and packet.stream.type == "video" and packet.stream.average_rate:
            length = 1 / packet.stream.average_rate
        clock.expected = clock.last + length
        return self._shifts[clock.run]

    def _next_run(self, clock: _Clock, time: Fraction) -> None:
        """Use the shift that another stream found at this jump, or a new one."""
        assert clock.expected is not None  # a first packet cannot jump
        clock.run += 1
        known = (
            clock.run < len(self._shifts) and abs(time + self._shifts[clock.run] - clock.expected) < MAX_STREAM_OFFSET
        )
        if not known:
            self._shifts[clock.run :] = [clock.expected - time]


class _Clock:
    """One stream's position: its run between jumps, its last time and the next expected time, in seconds."""

    def __init__(self) -> None:
        self.run = 0
        self.last: Fraction | None = None
        self.expected: Fraction | None = None
