"""HDR10's metadata: for encoders, and for containers if an encoder cannot carry it."""

from __future__ import annotations

import struct
from typing import Any

from fastinpaint.data.container import side_data

IN_PICTURES = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}
"""Encoders that write it into the pictures, and the option that passes it."""
BESIDE = {"libvpx-vp9": "vp9", "prores_ks": "prores", "ffv1": "ffv1"}
"""Codecs whose files hold it in the container, by the encoder."""

CHROMATICITY, LIGHT = 50_000, 10_000
"""Units of H.265 and of MP4, one in so many: chromaticity, and cd/m2."""


def added_to(options: dict[str, str], encoder: str, first: Any) -> dict[str, str]:
    """An encoder's options with the mastering display and the content light level of the first picture.

    Their units are H.265's (SEI messages 137 and 144); AV1's encoder takes plain numbers. Encoders other than x264,
    x265 and SVT-AV1 cannot carry them.
    """
    key = IN_PICTURES.get(encoder)
    if key is None:
        return options
    sides = side_data(first)
    said = []
    if "MASTERING_DISPLAY_METADATA" in sides:
        said.append(_mastering(_values(sides["MASTERING_DISPLAY_METADATA"]), encoder))
    if "CONTENT_LIGHT_LEVEL" in sides:
        name = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}[encoder]
        said.append("{}={},{}".format(name, *struct.unpack("=2I", sides["CONTENT_LIGHT_LEVEL"][:8])))
    return {**options, key: ":".join([*options.get(key, "").split(":"), *said]).strip(":")} if said else options


def beside(source: Any, first: Any, encoder: str) -> bool:
    """Whether the source's stream holds HDR10's side data of its codec that the encoder cannot write.

    PyAV cannot set them on a stream, but copies them from a stream that has them.

    Args:
        source: the source's stream.
        first: its first picture.
        encoder: of the output.
    """
    held = {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"} & side_data(first).keys()
    return bool(held) and BESIDE.get(encoder) == source.codec.canonical_name


def _values(data: bytes) -> list[list[float]]:
    """AVMasteringDisplayMetadata: red, green, blue and white as x and y, darkest and brightest, all fractions."""
    numbers = struct.unpack("=22i", data[:88])
    values = [n / d if d else 0.0 for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    return [values[place : place + 2] for place in range(0, 10, 2)]


def _mastering(values: list[list[float]], encoder: str) -> str:
    red, green, blue, white, light = values
    if encoder == "libsvtav1":
        places = [f"{kind}({x:.5f},{y:.5f})" for kind, (x, y) in zip("GBR", (green, blue, red), strict=True)]
        return f"mastering-display={''.join(places)}WP({white[0]:.5f},{white[1]:.5f})L({light[1]:.4f},{light[0]:.4f})"
    spots = [("G", green), ("B", blue), ("R", red), ("WP", white)]
    places = [f"{kind}({round(x * CHROMATICITY)},{round(y * CHROMATICITY)})" for kind, (x, y) in spots]
    key = "mastering-display" if encoder == "libx264" else "master-display"
    return f"{key}={''.join(places)}L({round(light[1] * LIGHT)},{round(light[0] * LIGHT)})"
