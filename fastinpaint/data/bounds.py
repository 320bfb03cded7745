"""Size limits of pictures and frames, checked from a file's header before anything is decoded."""

from __future__ import annotations

import struct

from fastinpaint.errors import UserError

MOST_PIXELS = 2**26
"""Pixels per frame: twice 8K video, 192 MiB as RGB. A program and its encoder hold several copies of a frame."""

PNG = b"\x89PNG\r\n\x1a\n"
FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}  # JPEG markers


def check_frame_size(name: str, width: int, height: int) -> None:
    """Reject frames of an impossible size.

    Raises:
        UserError: the frame has no pixels, or more than `MOST_PIXELS`.
    """
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise UserError(f"{name}: frames of {width}x{height} pixels; at most {MOST_PIXELS} pixels are read.")


def check_image(name: str, data: bytes | memoryview) -> None:
    """Reject an encoded image that would make a decoder allocate too much memory.

    Raises:
        UserError: the header states too many pixels, or a PNG chunk is longer than the file.
    """
    size = image_size(data)
    if size is not None:
        check_frame_size(name, *size)
    if bytes(data[:8]) == PNG:
        at = len(PNG)
        while at + 8 <= len(data):  # length, kind, that many bytes, checksum
            at += 12 + struct.unpack(">I", data[at : at + 4])[0]
        if at > len(data):
            raise UserError(f"{name}: not an image that can be decoded; it is cut short or damaged.")


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height from the header of a PNG, JPEG, BMP, TIFF, WebP or PNM; None if unknown."""
    head = bytes(data[:64])
    try:
        if head.startswith(PNG):
            return struct.unpack(">II", head[16:24])
        if head.startswith(b"BM"):
            width, height = struct.unpack("<ii", head[18:26])
            return abs(width), abs(height)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data, "<" if head[:1] == b"I" else ">")
        if head.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6"):
            return _pnm(bytes(data[:4096]))
    except (struct.error, IndexError, ValueError):
        pass
    return None


def _tiff(data: bytes | memoryview, order: str) -> tuple[int, int] | None:
    """Width and height (tags 256 and 257) in the first directory."""
    (place,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[place : place + 2])
    sizes = {}
    for number in range(count):
        at = place + 2 + 12 * number
        tag, kind = struct.unpack(order + "HH", data[at : at + 4])
        if tag in (256, 257):
            (sizes[tag],) = struct.unpack(
                order + ("H" if kind == 3 else "I"), data[at + 8 : at + (10 if kind == 3 else 12)]
            )
    return (sizes[256], sizes[257]) if len(sizes) == 2 else None


def _jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    at = 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker in FRAME_HEADERS:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8  # markers without a length
        at += (1 if marker == 0xFF else 2) if alone else 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _pnm(head: bytes) -> tuple[int, int]:
    lines = (line.split(b"#")[0] for line in head.splitlines())
    words = b" ".join(lines).split()
    return int(words[1][:20]), int(words[2][:20])
