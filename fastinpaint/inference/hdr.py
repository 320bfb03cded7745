"""What HDR10 says of a picture beside its samples, as encoders want to be told."""

from __future__ import annotations

import struct
from typing import Any

from fastinpaint.data.container import side_data


def added_to(options: dict[str, str], encoder: str, first: Any) -> dict[str, str]:
    """An encoder's options with the mastering display and the content light level of the first picture.

    Their units are H.265's (SEI messages 137 and 144): 0.00002 of chromaticity, 0.0001 cd/m2; AV1's encoder takes plain
    numbers. Encoders other than x264, x265 and SVT-AV1 have no place for them.
    """
    sides = side_data(first)
    said = []
    if "MASTERING_DISPLAY_METADATA" in sides:
        said.append(_mastering(sides["MASTERING_DISPLAY_METADATA"], encoder))
    if "CONTENT_LIGHT_LEVEL" in sides:
        most, average = struct.unpack("=2I", sides["CONTENT_LIGHT_LEVEL"][:8])
        key = {"libx264": "cll", "libx265": "max-cll", "libsvtav1": "content-light"}.get(encoder)
        said.append(f"{key}={most},{average}" if key else "")
    said = [part for part in said if part]
    if not said:
        return options
    key = {"libx264": "x264-params", "libx265": "x265-params", "libsvtav1": "svtav1-params"}[encoder]
    return {**options, key: ":".join([*options.get(key, "").split(":"), *said]).strip(":")}


def _mastering(data: bytes, encoder: str) -> str:
    """AVMasteringDisplayMetadata: red, green, blue and white as x and y, darkest and brightest, all fractions."""
    numbers = struct.unpack("=22i", data[:88])
    values = [n / d if d else 0.0 for n, d in zip(numbers[0:20:2], numbers[1:20:2], strict=True)]
    red, green, blue, white, light = (values[place : place + 2] for place in range(0, 10, 2))
    if encoder == "libsvtav1":
        places = [f"{kind}({x:.5f},{y:.5f})" for kind, (x, y) in zip("GBR", (green, blue, red), strict=True)]
        return f"mastering-display={''.join(places)}WP({white[0]:.5f},{white[1]:.5f})L({light[1]:.4f},{light[0]:.4f})"
    if encoder not in ("libx264", "libx265"):
        return ""
    spots = [("G", green), ("B", blue), ("R", red), ("WP", white)]
    places = [f"{kind}({round(x * 50000)},{round(y * 50000)})" for kind, (x, y) in spots]
    key = "mastering-display" if encoder == "libx264" else "master-display"
    return f"{key}={''.join(places)}L({round(light[1] * 10000)},{round(light[0] * 10000)})"
