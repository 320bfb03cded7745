"""Writes completed RGB into a picture's own planes: only the samples that the hole touches."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from fastinpaint.data.container import ROUNDED
from fastinpaint.inference.pixels import layout_of, samples, what_it_holds, working_format

LIMITED, FULL = 1, 2
WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Red's and blue's share of luma by H.273's number of the matrix; BT.601's for all others, as swscale has it."""
BT601 = (0.299, 0.114)


def convert(picture: Any, name: str) -> Any:
    """The picture in another pixel format, with its times, tags and side data; samples that both have are equal.

    swscale's conversions round even where nothing has to be lost, so samples are copied here. Added bits are filled
    with zeros for luma and chroma, and by repetition for RGB and alpha, as their full range demands. What the
    formats do not share (RGB against YUV, another resolution of chroma, fewer bits) is swscale's work.

    Args:
        picture: an `av.VideoFrame`.
        name: a pixel format.
    """
    if picture.format.name == name:
        return picture
    levels = FULL if "yuvj" in picture.format.name else picture.color_range
    target_levels = FULL if "yuvj" in name else levels
    converted = picture.reformat(
        format=name, interpolation=ROUNDED, src_color_range=levels, dst_color_range=target_levels
    )
    source, target = layout_of(picture.format.name), layout_of(name)
    if source is None or target is None or target.depth < source.depth or levels != target_levels:
        return converted
    have, want = samples(picture), samples(converted)
    same_blocks = (source.block_width, source.block_height) == (target.block_width, target.block_height)
    for kind, view in want.items():
        if kind == "a" and "a" not in have:
            view[...] = ((1 << target.depth) - 1) << target.shift
        elif kind in have and (kind not in "uv" or same_blocks):
            view[...] = _deeper(have[kind] >> source.shift, source.depth, target.depth, kind in "rgba") << target.shift
        elif kind in "uv" and "u" not in have and "r" not in have:
            view[...] = 1 << (target.depth - 1 + target.shift)
    return converted


def _deeper(values: np.ndarray, depth: int, wanted: int, full: bool) -> np.ndarray:
    if wanted == depth:
        return values
    if not full:
        return values.astype(np.uint16) << (wanted - depth)
    top, wanted_top = (1 << depth) - 1, (1 << wanted) - 1
    return ((values.astype(np.uint32) * wanted_top + top // 2) // top).astype(np.uint16)


def is_opaque(picture: Any) -> bool:
    """Whether a picture has an alpha channel that is opaque everywhere; False without an alpha channel."""
    name = working_format(picture.format.name)
    if not what_it_holds(name).alpha:
        return False
    alpha = samples(convert(picture, name))["a"]
    return bool((alpha >= (1 << what_it_holds(name).depth) - 1).all())


def paste(picture: Any, rgb: np.ndarray, mask: np.ndarray) -> None:
    """Write the masked pixels of an RGB picture into the samples of a picture, in place.

    Luma, R, G and B are written where the mask is True. A chroma sample serves a block of pixels; it becomes the mean
    of the block, to which masked pixels give their new colour and the others the old sample. All other samples, and
    alpha, stay bit for bit.

        Y = Kr R + (1 - Kr - Kb) G + Kb B,  U = (B - Y) / 2 (1 - Kb),  V = (R - Y) / 2 (1 - Kr)   (H.273)

    Args:
        picture: an `av.VideoFrame` with a layout (see `samples`), writable.
        rgb: uint8 [H, W, 3].
        mask: bool [H, W].
    """
    box = _bounds(mask, picture)
    if box is None:
        return
    views, layout = samples(picture), layout_of(picture.format.name)
    assert layout is not None  # samples() has checked
    rows, columns = box
    hole, colour = mask[rows, columns], rgb[rows, columns].astype(np.float32) / 255
    top = (1 << layout.depth) - 1
    if "r" in views:
        for place, kind in enumerate("rgb"):
            _write(views[kind][rows, columns], colour[..., place] * top, hole, top, layout.shift)
        return
    red, blue = WEIGHTS.get(picture.colorspace, BT601)
    luma = colour @ np.array([red, 1 - red - blue, blue], np.float32)
    limited = picture.color_range == LIMITED or (picture.color_range != FULL and "u" in views)
    full = not limited or "yuvj" in picture.format.name
    unit = 1 << (layout.depth - 8)
    zero, span = (0, top) if full else (16 * unit, 219 * unit)
    _write(views["y"][rows, columns], zero + span * luma, hole, top, layout.shift)
    if "u" not in views:
        return
    swing = top if full else 224 * unit
    high, wide = layout.block_height, layout.block_width
    share = _block_sum(hole.astype(np.float32), high, wide)
    size = _block_sum(np.ones_like(luma), high, wide)
    coarse = slice(rows.start // high, -(-rows.stop // high)), slice(columns.start // wide, -(-columns.stop // wide))
    for kind, place, weight in (("u", 2, blue), ("v", 0, red)):
        new = 128 * unit + swing * (colour[..., place] - luma) / (2 * (1 - weight))
        view = views[kind][coarse]
        old = (view >> layout.shift).astype(np.float32)
        mean = (_block_sum(np.where(hole, new, 0), high, wide) + (size - share) * old) / size
        _write(view, mean, share > 0, top, layout.shift)


def _bounds(mask: np.ndarray, picture: Any) -> tuple[slice, slice] | None:
    """The rows and columns of the hole, from and to whole blocks of chroma or the picture's edge."""
    if not mask.any():
        return None
    layout = layout_of(picture.format.name)
    high, wide = (layout.block_height, layout.block_width) if layout else (1, 1)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    ends = (rows, high, picture.height), (columns, wide, picture.width)
    low_y, low_x = (int(line[0]) // unit * unit for line, unit, _ in ends)
    high_y, high_x = (min(-(-int(line[-1] + 1) // unit) * unit, limit) for line, unit, limit in ends)
    return slice(low_y, high_y), slice(low_x, high_x)


def _write(view: np.ndarray, values: np.ndarray, where: np.ndarray, top: int, shift: int) -> None:
    rounded = np.rint(values[where]).clip(0, top).astype(np.uint16)
    view[where] = (rounded << shift).astype(view.dtype)


def _block_sum(values: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Sums over blocks of high x wide values; blocks at the right and lower edge may be smaller."""
    if high == wide == 1:
        return values
    below, beside = -values.shape[0] % high, -values.shape[1] % wide
    padded = cv2.copyMakeBorder(values.astype(np.float32), 0, below, 0, beside, cv2.BORDER_CONSTANT, value=0)
    height, width = padded.shape
    return padded.reshape(height // high, high, width // wide, wide).sum((1, 3))
