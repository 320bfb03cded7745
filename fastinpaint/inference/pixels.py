"""How pixel formats lay samples out in memory, and which formats hold all that another holds."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from av.video.format import VideoFormat

PACKED = {
    **{name: name for name in ("rgba", "bgra", "argb", "abgr")},
    **{"rgb24": "rgb", "bgr24": "bgr", "rgb48": "rgb", "bgr48": "bgr", "rgba64": "rgba", "bgra64": "bgra"},
    **{"rgb0": "rgb-", "bgr0": "bgr-", "0rgb": "-rgb", "0bgr": "-bgr", "ya8": "ya", "ya16": "ya"},
    **{"ayuv64": "ayuv", "ayuv": "ayuv", "vuya": "vuya", "vuyx": "vuy-", "uyva": "uyva", "vyu444": "vyu"},
}
"""Order of the components of one pixel, by a format's name without its byte order; `-` is padding."""

PAIRED = {"yuyv422": "yuyv", "yvyu422": "yvyu", "uyvy422": "uyvy", "y210": "yuyv", "y212": "yuyv", "y216": "yuyv"}
"""Order of the components of two neighbouring pixels that share their chroma."""

STAND_INS = {
    **dict.fromkeys(("pal8",), "bgra"),
    **dict.fromkeys(("monow", "monob"), "gray"),
    **dict.fromkeys(("rgb8", "bgr8", "rgb4_byte", "bgr4_byte", "rgb4", "bgr4"), "rgb24"),
    **{f"{order}{bits}{end}": "rgb24" for order in ("rgb", "bgr") for bits in (444, 555, 565) for end in ("le", "be")},
    **{"uyyvyy411": "yuv411p", "v30xle": "yuv444p10le", "xv30le": "yuv444p10le", "xv36le": "yuv444p12le"},
    **{"x2rgb10le": "gbrp10le", "x2bgr10le": "gbrp10le"},
}
"""For formats without whole bytes a sample: one that has them and holds the same."""


class Component(NamedTuple):
    """Samples of one kind, one of `yuvrgba`: in plane `plane`, from item `offset` on, every `step` items."""

    kind: str
    plane: int
    offset: int
    step: int


class Layout(NamedTuple):
    """Where the samples of a pixel format lie.

    A sample is an item of `dtype` shifted left by `shift` bits and holds `depth` bits. One chroma sample serves
    `block_width` x `block_height` pixels.
    """

    components: tuple[Component, ...]
    depth: int
    shift: int
    dtype: str
    block_width: int
    block_height: int


class Holds(NamedTuple):
    """What a pixel format can hold."""

    rgb: bool
    gray: bool
    alpha: bool
    depth: int
    block: tuple[int, int]


@cache
def layout_of(name: str) -> Layout | None:
    """The layout of a pixel format by FFmpeg's name, or None where its samples are not whole bytes."""
    bare = re.sub(r"(le|be)$", "", name)
    order = ">" if name.endswith("be") else "<"
    components = _components(bare)
    if components is None:
        return None
    holds = what_it_holds(name)
    dtype = "u1" if holds.depth <= 8 else f"{order}u2"
    shifted = re.fullmatch(r"(p[024]|y2)1[02]|nv20", bare) and bare != "nv20"
    return Layout(components, holds.depth, 16 - holds.depth if shifted else 0, dtype, *holds.block)


def _components(bare: str) -> tuple[Component, ...] | None:
    if re.fullmatch(r"yuvj?\d{3}p\d*|yuva\d{3}p\d*", bare):
        return tuple(Component(kind, plane, 0, 1) for plane, kind in enumerate("yuva" if "a" in bare else "yuv"))
    if re.fullmatch(r"gbra?p\d*", bare):
        return tuple(Component(kind, plane, 0, 1) for plane, kind in enumerate("gbra" if "a" in bare else "gbr"))
    if re.fullmatch(r"gray\d*", bare):
        return (Component("y", 0, 0, 1),)
    if re.fullmatch(r"nv\d\d|p[024]1[026]", bare):
        chroma = "vu" if bare in ("nv21", "nv42") else "uv"
        return (Component("y", 0, 0, 1), *(Component(kind, 1, place, 2) for place, kind in enumerate(chroma)))
    if bare in PAIRED:
        pair = PAIRED[bare]
        return tuple(Component(kind, 0, pair.index(kind), 2 if kind == "y" else 4) for kind in "yuv")
    if bare in PACKED:
        pixel = PACKED[bare]
        return tuple(Component(kind, 0, place, len(pixel)) for place, kind in enumerate(pixel) if kind != "-")
    return None


@cache
def what_it_holds(name: str) -> Holds:
    """What a pixel format's samples can express."""
    form = VideoFormat(name, 16, 16)
    alpha = form.has_palette or any(part.is_alpha for part in form.components)
    colour = [part for part in form.components if not part.is_alpha]
    gray = len(colour) == 1 and not form.has_palette and not form.is_bayer
    rgb = form.has_palette or form.is_bayer or (form.is_rgb and not gray)
    depth = 8 if form.has_palette else max(part.bits for part in colour)
    block = (1, 1) if rgb or gray else (16 // form.chroma_width(16), 16 // form.chroma_height(16))
    return Holds(rgb, gray, alpha, depth, block)


def working_format(name: str) -> str:
    """The format itself where its samples can be written in place, else one that holds the same."""
    if layout_of(name) is not None:
        return name
    if name in STAND_INS:
        return STAND_INS[name]
    holds = what_it_holds(name)
    if holds.gray:
        return "ya16le" if holds.alpha else "gray16le"
    return "rgba64le" if holds.alpha else "rgb48le"


def without_alpha(name: str) -> str:
    """The format that holds the same without transparency."""
    held = what_it_holds(name)
    if held.gray:
        return "gray" if held.depth == 8 else "gray16le"
    if held.rgb:
        return "gbrp" if held.depth == 8 else f"gbrp{held.depth}le"
    chroma = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}[held.block]
    return f"yuv{chroma}p" if held.depth == 8 else f"yuv{chroma}p{held.depth}le"


def losses(source: str, target: str) -> list[str]:
    """What another format loses of pixels in one format, in words."""
    have, can = what_it_holds(source), what_it_holds(target)
    lost = []
    if have.alpha and not can.alpha:
        lost.append("transparency")
    if can.gray and not have.gray:
        lost.append("colour")
    elif not have.gray and have.rgb != can.rgb:
        lost.append("RGB as such" if have.rgb else "YUV as such")
    if not have.gray and not can.gray and any(c > h for c, h in zip(can.block, have.block, strict=True)):
        lost.append("full chroma" if have.block == (1, 1) else "its chroma's resolution")
    if can.depth < have.depth:
        lost.append(f"{have.depth} bits a sample")
    return lost


def nearest(source: str, formats: list[str]) -> str:
    """The format among some that loses least of another; of equals the same one or the smallest."""

    def cost(name: str) -> tuple[int, int, bool]:
        have, can = what_it_holds(source), what_it_holds(name)
        waste = can.depth - have.depth + 8 * (can.alpha - have.alpha) + 16 * (have.gray - can.gray)
        waste += 16 * ((can.block == (1, 1)) if have.gray and not can.gray else (have.block != can.block))
        return sum(map(weight, losses(source, name))), abs(waste), ("yuvj" in source) != ("yuvj" in name)

    return source if source in formats else min(formats, key=cost)


def weight(loss: str) -> int:
    """How much a loss named by `losses` counts against others."""
    return next((cost for word, cost in (("colour", 16), ("transp", 8), ("bits", 4), ("chroma", 2)) if word in loss), 1)


def samples(picture: Any) -> dict[str, np.ndarray]:
    """Views of a picture's samples by their kind: y, u, v, or r, g, b, and a, each [h, w], writable.

    Args:
        picture: an `av.VideoFrame` in a format that has a `Layout`.

    Raises:
        ValueError: another format.
    """
    layout = layout_of(picture.format.name)
    if layout is None:
        raise ValueError(f"samples: the picture's format must have whole bytes a sample, got {picture.format.name}.")
    views = {}
    for kind, plane, offset, step in layout.components:
        memory = picture.planes[plane]
        items = np.frombuffer(memory, layout.dtype).reshape(-1, abs(memory.line_size) // int(layout.dtype[-1]))
        width, height = picture.width, picture.height
        if kind in "uv":
            width, height = -(-width // layout.block_width), -(-height // layout.block_height)
        rows = items[:: -1 if memory.line_size < 0 else 1]
        views[kind] = rows[:height, offset : offset + step * width : step][:, :width]
    return views
