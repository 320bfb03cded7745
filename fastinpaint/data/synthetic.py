"""Rendered clips, so that the system can be tried, tested and compared without any file.

A scene is a "dead leaves" picture (overlapping shapes of power-law sizes, with the edge statistics of photographs)
under a camera that pans, rotates and zooms. A few textured bodies move over it. As in real video, what a hole hides is
visible in other frames or follows from its surroundings.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.errors import UserError

LEAVES = 260
BODIES = (1, 3)
SUBPIXEL_BITS = 4  # cv2 draws shapes with corners in 16ths of a pixel


def synthetic_clip(seed: int, frames: int, size: int) -> np.ndarray:
    """A clip uint8 RGB ``[T, size, size, 3]``; the same seed renders the same clip."""
    rng = np.random.default_rng(seed)
    canvas = _leaves(rng, 2 * size)
    camera = _camera(rng, frames, size)
    bodies = [_Body(rng, frames, size) for _ in range(rng.integers(*BODIES, endpoint=True))]
    light = 1 + 0.06 * _sway(rng, frames)
    video = np.empty((frames, size, size, 3), np.uint8)
    for t in range(frames):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = cv2.warpAffine(canvas, camera[t], (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for body in bodies:
            frame = body.draw_over(frame, t)
        video[t] = np.clip(frame * light[t], 0, 255)
    return video


def write_synthetic(folder: str | Path, clips: int, frames: int, size: int, seed: int = 0) -> list[Path]:
    """Write clips ``synthetic_000.mp4`` ... of seeds ``seed``, ``seed + 1`` ... into `folder`; `size` must be even."""
    if size % 2:
        raise UserError(f"synthetic clips: the size must be even, as H.264 stores colour by 2x2 pixels; got {size}.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"synthetic_{i:03d}.mp4" for i in range(clips)]
    for i, path in enumerate(paths):
        write_mp4(path, synthetic_clip(seed + i, frames, size))
    return paths


class _Body:
    """An ellipse or polygon with its own texture, shading and smooth path."""

    def __init__(self, rng: np.random.Generator, frames: int, size: int) -> None:
        self.size = size
        radius = size * rng.uniform(0.1, 0.22)
        centre, turn = rng.uniform(0.2, 0.8, 2) * size, rng.uniform(0, 2 * np.pi)
        sway = np.stack([_sway(rng, frames), _sway(rng, frames)], 1)
        drift = rng.normal(0, 0.012 * size, 2) * np.arange(frames)[:, None]
        self.places = centre + drift + 0.08 * size * sway
        self.turns = turn + rng.normal(0, 0.03) * np.arange(frames)
        self.outline = _outline(rng, radius)
        self.texture = _texture(rng, size)

    def draw_over(self, frame: np.ndarray, t: int) -> np.ndarray:
        """Draw the body over a frame [H, W, 3]. Its edge is smooth; its texture moves and rotates with it."""
        cosine, sine = np.cos(self.turns[t]), np.sin(self.turns[t])
        turn = np.array([[cosine, -sine], [sine, cosine]])
        corners = self.outline @ turn.T + self.places[t]
        alpha = np.zeros(frame.shape[:2], np.uint8)
        fixed = np.rint(corners * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(alpha, [fixed], 255, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
        middle = np.array([self.size / 2, self.size / 2])
        place = np.concatenate([turn, (self.places[t] - turn @ middle)[:, None]], 1)
        skin = cv2.warpAffine(self.texture, place, frame.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        share = alpha[:, :, None].astype(np.float32) / 255
        return frame + (skin - frame) * share


def _leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """A dead-leaves picture float32 [size, size, 3]. Small shapes are drawn last, on top of large ones."""
    picture = cv2.resize(_palette(rng, 16).reshape(4, 4, 3), (size, size), interpolation=cv2.INTER_CUBIC)
    palette = _palette(rng, 12)
    radii = np.sort(size * 0.015 * rng.uniform(0.004, 1, LEAVES) ** -0.5)[::-1]  # density falls as radius^-3
    for radius in radii:
        corners = _outline(rng, min(radius, size / 6)) + rng.uniform(0, size, 2)
        fixed = np.rint(corners * (1 << SUBPIXEL_BITS)).astype(np.int32)
        colour = (palette[rng.integers(len(palette))] + rng.normal(0, 12, 3)).tolist()
        cv2.fillPoly(picture, [fixed], colour, lineType=cv2.LINE_AA, shift=SUBPIXEL_BITS)
    grain = cv2.GaussianBlur(rng.normal(0, 14, (size, size, 1)).astype(np.float32), (0, 0), 1.2)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.7) + grain[:, :, None], 0, 255)


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours float32 [count, 3] around one hue of the scene, light and dark."""
    tint = rng.uniform(-30, 30, 3)
    return np.clip(rng.uniform(25, 230, (count, 1)) + tint + rng.normal(0, 18, (count, 3)), 0, 255).astype(np.float32)


def _outline(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Corners float64 [K, 2] about the origin: an ellipse, or a polygon of 3 to 6 corners."""
    if rng.random() < 0.5:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        reach = np.array([1, rng.uniform(0.5, 1)])
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        reach = np.ones(2)
    turn = rng.uniform(0, 2 * np.pi)
    points = radius * reach * np.stack([np.cos(angles), np.sin(angles)], 1)
    return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).T


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Stripes of two colours under a light from one side: float32 [size, size, 3]."""
    light, dark = _palette(rng, 2)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    angle, waves = rng.uniform(0, np.pi), rng.uniform(4, 12)
    across = np.cos(angle) * x + np.sin(angle) * y
    share = 0.5 + 0.5 * np.tanh(4 * np.sin(waves * np.pi * across))
    shade = 1 + 0.5 * (np.cos(angle + 1) * x + np.sin(angle + 1) * y)
    mixed = light + (dark - light) * share[:, :, None]
    return np.clip(mixed * shade[:, :, None], 0, 255).astype(np.float32)


def _camera(rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
    """Affine maps [T, 2, 3] from frame to canvas: a pan, a slight rotation and zoom, and hand shake."""
    time = np.arange(frames)
    pan = rng.normal(0, 0.008 * size, 2) * (time - frames / 2)[:, None]
    sway = 0.02 * size * np.stack([_sway(rng, frames), _sway(rng, frames)], 1)
    turn = rng.normal(0, 0.004) * (time - frames / 2)
    zoom = np.exp(rng.normal(0, 0.004) * (time - frames / 2)) * rng.uniform(0.8, 1.2)
    maps = np.empty((frames, 2, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = zoom * np.cos(turn)
    maps[:, 1, 0] = zoom * np.sin(turn)
    maps[:, 0, 1] = -maps[:, 1, 0]
    middle = np.full(2, size / 2)
    maps[:, :, 2] = 2 * middle + pan + sway - maps[:, :, :2] @ middle
    return maps


def _sway(rng: np.random.Generator, frames: int) -> np.ndarray:
    """A slow smooth wave [T] of about unit size."""
    time = np.arange(frames)
    periods, phases = rng.uniform(15, 60, 2), rng.uniform(0, 2 * np.pi, 2)
    return (np.sin(2 * np.pi * time[:, None] / periods + phases)).mean(1)


def write_mp4(path: Path, video: np.ndarray, rate: Fraction = Fraction(25)) -> None:
    """Write uint8 ``[T, H, W, 3]`` as H.264; H and W must be even."""
    import av  # rendering itself needs no codec

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "14"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for rgb in video:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())
