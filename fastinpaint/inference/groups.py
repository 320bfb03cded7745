"""Groups of pictures that decode without the others, and which of them have no hole."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from fastinpaint.data.container import main_video
from fastinpaint.data.timeline import Timeline
from fastinpaint.inference.parameter_sets import begins_closed, packing

VP8_SHOWN = 16
"""Bit of a VP8 picture's first byte; pictures without it are references and never shown."""


class Groups(NamedTuple):
    """The packets of a video, in the order of decoding.

    Attributes:
        pts: int64 ``[N]``, times of presentation in `time_base`, sorted.
        dts: int64 ``[N]``, times of decoding, rising.
        starts: where groups begin: all pictures before are shown earlier, and none from there on needs them.
        delay: by how many pictures decoding is ahead of presentation at most.
    """

    pts: np.ndarray
    dts: np.ndarray
    starts: np.ndarray
    delay: int
    time_base: Fraction

    def unchanged(self, holes: np.ndarray) -> np.ndarray:
        """bool ``[N]``: pictures of groups without a hole. `holes` has a bool for each picture as presented."""
        ends = [*self.starts[1:], len(self.pts)]
        keep = np.zeros(len(self.pts), bool)
        for start, end in zip(self.starts, ends, strict=True):
            keep[start:end] = not holes[start:end].any()
        return keep


def pictures(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream, with times that rise steadily."""
    return (p for p in Timeline(container).packets() if p.stream.index == stream.index and p.size)


def find_groups(name: str) -> Groups | None:
    """The groups of a file's main video; None if it has no groups or is damaged."""
    try:
        with closing(av.open(name, metadata_errors="replace")) as file:
            stream = main_video(name, file)
            return _groups(stream, pictures(file, stream))
    except (FFmpegError, OSError, ValueError):
        return None


def _groups(stream: Any, packets: Iterator[av.Packet]) -> Groups | None:
    codec = stream.codec.canonical_name
    closed = _closed(codec, stream.codec_context.extradata or b"")
    shown, decoded, keys = array("q"), array("q"), array("q")
    for number, packet in enumerate(packets):
        hidden = codec == "vp8" and not bytes(packet)[0] & VP8_SHOWN
        if packet.pts is None or packet.is_discard or packet.is_corrupt or hidden:
            return None
        shown.append(packet.pts)
        decoded.append(packet.dts if packet.dts is not None else packet.pts)
        if packet.is_keyframe and closed(packet):
            keys.append(number)
    pts, dts = np.array(shown, np.int64), np.array(decoded, np.int64)
    if not keys or keys[0] != 0:
        return None
    order = np.argsort(pts, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(pts))
    delay = int((np.arange(len(pts)) - ranks).max())
    if (np.diff(pts[order]) <= 0).any():
        return None
    if (np.diff(dts) <= 0).any() or (dts > pts).any():
        dts = _decoding_times(pts[order], delay)
    # a group begins where no later packet is shown before it and no earlier one after it
    least = np.minimum.accumulate(pts[::-1])[::-1]
    most = np.concatenate(([np.iinfo(np.int64).min], np.maximum.accumulate(pts)[:-1]))
    starts = np.array([k for k in keys if pts[k] == least[k] and most[k] < pts[k]], np.int64)
    return Groups(pts[order], dts, starts, delay, stream.time_base)


def _closed(codec: str, header: bytes) -> Callable[[av.Packet], bool]:
    """Whether a key picture's group needs nothing from before it."""
    if codec in ("h264", "hevc"):
        packed = packing(codec, header)
        return lambda packet: begins_closed(codec, packed.split(bytes(packet)))
    if codec == "av1":
        return lambda packet: has_sequence_header(bytes(packet))
    return lambda packet: True


def _decoding_times(pts: np.ndarray, delay: int) -> np.ndarray:
    """Times of decoding for sorted times of presentation: each `delay` pictures earlier."""
    step = int(np.diff(pts).min()) if len(pts) > 1 else 1
    before = pts[0] - step * np.arange(delay, 0, -1)
    return np.concatenate((before, pts[: len(pts) - delay])) if delay else pts


def has_sequence_header(data: bytes) -> bool:
    """Whether a temporal unit of AV1 has a sequence header, without which nothing can be decoded from there."""
    place = 0
    while place < len(data):
        kind, extended, sized = (data[place] >> 3) & 15, data[place] & 4, data[place] & 2
        if kind == 1 or not sized:
            return kind == 1
        place += 1 + bool(extended)
        size = shift = 0
        while place < len(data):
            size |= (data[place] & 127) << shift
            place, shift = place + 1, shift + 7
            if not data[place - 1] & 128:
                break
        place += size
    return False
