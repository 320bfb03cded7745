"""H.264 and HEVC outside of their slices: NAL units, and the parameter sets that decoders need before pictures."""

from __future__ import annotations

import re
from typing import NamedTuple

START = b"\0\0\1"
HEAD = 16
"""Bytes of a parameter set that are looked at."""
MOST_IDS = 32
"""H.264's parameter sets have numbers below this."""
H264_KEY, H264_SETS = frozenset({5}), frozenset({7, 8})
SEQUENCE = 7
HEVC_KEY, HEVC_SETS = frozenset({16, 17, 18, 19, 20}), frozenset({32, 33, 34})
WITH_FORMAT = (100, 110, 122, 144, 244)
"""Profiles of H.264 whose `avcC` states chroma and depth."""


class Packing(NamedTuple):
    """How a file's packets hold NAL units, and the parameter sets beside them.

    Attributes:
        length: bytes of the length before each unit; 0 where start codes divide them (Annex B).
        sets: the parameter sets that the file's header holds.
    """

    length: int
    sets: list[bytes]

    def split(self, data: bytes) -> list[bytes]:
        """The NAL units of a packet.

        Raises:
            ValueError: it holds none, or a length goes beyond its end.
        """
        units = _by_length(data, self.length) if self.length else _by_start_code(data)
        if not units or not all(units):
            raise ValueError("a packet without NAL units")
        return units

    def joined(self, units: list[bytes]) -> bytes:
        """The packet that holds these NAL units."""
        if not self.length:
            return b"".join(b"\0" + START + unit for unit in units)
        return b"".join(len(unit).to_bytes(self.length, "big") + unit for unit in units)


ANNEX_B = Packing(0, [])


def packing(codec: str, header: bytes) -> Packing:
    """A stream's packing, by the codec's name and its extradata.

    Raises:
        ValueError: the header is damaged.
    """
    if not header or header[0] != 1:
        return Packing(0, _by_start_code(header))
    try:
        return _hvcc(header) if codec == "hevc" else _avcc(header)[0]
    except IndexError:
        raise ValueError("a header that is cut short") from None


def kind(codec: str, unit: bytes) -> int:
    """The type of a NAL unit."""
    return (unit[0] >> 1) & 63 if codec == "hevc" else unit[0] & 31


def begins_closed(codec: str, units: list[bytes]) -> bool:
    """Whether a packet's picture starts a sequence that needs nothing from before it."""
    return any(kind(codec, unit) in (HEVC_KEY if codec == "hevc" else H264_KEY) for unit in units)


def set_number(unit: bytes) -> int:
    """The number by which slices and others name a parameter set of H.264."""
    return _Bits(unit[4:] if unit[0] & 31 == 7 else unit[1:]).exp_golomb()


def bypasses_transform(unit: bytes) -> bool:
    """Whether a sequence parameter set of H.264 makes pictures of quantizer 0 lossless."""
    if unit[1] not in WITH_FORMAT:
        return False
    bits = _Bits(unit[4:])
    bits.exp_golomb()
    if bits.exp_golomb() == 3:  # 4:4:4, where planes may be coded apart
        bits.take(1)
    bits.exp_golomb()
    bits.exp_golomb()
    return bool(bits.take(1))


def free_number(sets: list[bytes]) -> int | None:
    """A number that no parameter set of H.264 has; None where all are taken."""
    return next((number for number in range(MOST_IDS) if number not in set(map(set_number, sets))), None)


def merged_h264(header: bytes, own: bytes) -> bytes:
    """A stream's header with the parameter sets of an encoder added.

    Args:
        header: of the stream, `avcC` or Annex B.
        own: of the encoder, Annex B.

    Raises:
        ValueError: the header cannot describe both.
    """
    added = [unit for unit in _by_start_code(own) if unit[0] & 31 in H264_SETS]
    if not header or header[0] != 1:
        return header + ANNEX_B.joined(added)
    old, rest = _avcc(header)
    new = next(unit for unit in added if unit[0] & 31 == 7)
    if (header[1] in WITH_FORMAT) != (new[1] in WITH_FORMAT):
        raise ValueError("H.264 profiles that one header cannot describe")
    head = bytes([1, max(header[1], new[1]), header[2] & new[2], max(header[3], new[3]), header[4]])
    body = b""
    for which, reserved in ((7, 0xE0), (8, 0)):
        units = [unit for unit in [*old.sets, *added] if unit[0] & 31 == which]
        if len(units) >= MOST_IDS:
            raise ValueError("more parameter sets than a header holds")
        body += bytes([reserved | len(units)]) + b"".join(len(u).to_bytes(2, "big") + u for u in units)
    return head + body + rest


def _avcc(header: bytes) -> tuple[Packing, bytes]:
    """The packing, and the bytes after the parameter sets."""
    sets, place = [], 5
    for mask in (31, 255):
        count = header[place] & mask
        place += 1
        for _ in range(count):
            size = int.from_bytes(header[place : place + 2], "big")
            sets.append(header[place + 2 : place + 2 + size])
            place += 2 + size
    if place > len(header) or not all(sets):
        raise ValueError("a header that is cut short")
    return Packing((header[4] & 3) + 1, sets), header[place:]


def _hvcc(header: bytes) -> Packing:
    sets, place = [], 23
    for _ in range(header[22]):
        count = int.from_bytes(header[place + 1 : place + 3], "big")
        place += 3
        for _ in range(count):
            size = int.from_bytes(header[place : place + 2], "big")
            sets.append(header[place + 2 : place + 2 + size])
            place += 2 + size
    sets = [unit for unit in sets if unit and kind("hevc", unit) in HEVC_SETS]
    if place > len(header):
        raise ValueError("a header that is cut short")
    return Packing((header[21] & 3) + 1, sets)


def _by_length(data: bytes, size: int) -> list[bytes]:
    units, place = [], 0
    while place + size <= len(data):
        length = int.from_bytes(data[place : place + size], "big")
        place += size
        if place + length > len(data):
            raise ValueError("a NAL unit that goes beyond its packet")
        units.append(data[place : place + length])
        place += length
    return units


def _by_start_code(data: bytes) -> list[bytes]:
    return [unit.rstrip(b"\0") for unit in re.split(rb"\x00{2,}\x01", data)[1:]]


class _Bits:
    """Reads bits from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._bits = f"{int.from_bytes(b'@' + data[:HEAD] + b'@', 'big'):b}"[7:]

    def take(self, count: int) -> int:
        taken, self._bits = self._bits[:count], self._bits[count:]
        return int(taken, 2)

    def exp_golomb(self) -> int:
        zeros = self._bits.index("1")
        return self.take(2 * zeros + 1) - 1
