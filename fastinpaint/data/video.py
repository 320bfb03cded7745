"""Frames of a video file, a GIF, an image or a folder of images, one at a time.

`open_video` opens all of them. A reader holds only a few frames, however long the video.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError

from fastinpaint.data.bounds import check_image
from fastinpaint.data.container import ROUNDED, ContainerReader
from fastinpaint.data.reader import FOLDER_RATE, Frame, VideoReader
from fastinpaint.data.silence import silent_libraries
from fastinpaint.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

IMAGE_CODECS = {".jpg": "mjpeg", ".jpeg": "mjpeg", ".tif": "tiff", ".webp": "webp", ".bmp": "bmp", ".ppm": "ppm"}


class FolderReader(VideoReader):
    """Reads images as the frames of a video of `rate` frames per second."""

    def __init__(self, name: str, images: list[Path], rate: Fraction, keep_pictures: bool = False) -> None:
        self.name, self.rate, self.length_hint = name, rate, len(images)
        self._images = images
        self._next = 0
        self._read = read_picture if keep_pictures else lambda path: (read_image(path), None)
        self._last = images[0], *self._read(images[0])
        self.height, self.width = self._last[1].shape[:2]
        if keep_pictures:
            self.codec = IMAGE_CODECS.get(images[0].suffix.lower(), "png")

    def __next__(self) -> Frame:
        if self._next == len(self._images):
            raise StopIteration
        path = self._images[self._next]
        if self._last[0] != path:
            self._last = path, *self._read(path)
        _, rgb, picture = self._last
        if rgb.shape[:2] != (self.height, self.width):
            raise UserError(
                f"{path}: every frame must be {self.width}x{self.height} like the first one, "
                f"{self._images[0].name}; this one is {rgb.shape[1]}x{rgb.shape[0]}."
            )
        self._next += 1
        return Frame(rgb, self._next - 1, 1 / self.rate, picture)

    def close(self) -> None:
        self._next = len(self._images)


def open_video(path: str | Path, rate: Fraction = FOLDER_RATE, keep_pictures: bool = False) -> VideoReader:
    """Open a video file (all that FFmpeg reads), a GIF, one image, or a folder of images in natural order.

    The first video stream that is not a cover picture is read. The first frame is decoded at once, so an unreadable
    file fails here and not later.

    Args:
        path: a local file or folder.
        rate: frames per second for images.
        keep_pictures: return the decoder's own pictures too (see `Frame`).

    Raises:
        UserError: the path does not exist, is not a video, has no video stream, frame or image, or its images differ
            in size.
        DamagedVideo: (while iterating) the file is truncated or damaged; the frames before that have been returned.
    """
    source = Path(path)
    if source.is_dir():
        images = sorted((p for p in source.iterdir() if is_image(p)), key=natural_key)
        if not images:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"{path}: a folder of frames must hold images ({known}); this one holds none.")
        return FolderReader(str(path), images, rate, keep_pictures)
    if not source.exists():
        raise UserError(f"{path}: no such file or folder.")
    if not source.is_file():
        raise UserError(f"{path}: must be a regular file or a folder, and is neither.")
    if is_image(source):
        return FolderReader(str(path), [source], rate, keep_pictures)
    return ContainerReader(str(path), keep_pictures)


def upright(rgb: np.ndarray, rotation: int) -> np.ndarray:
    """Rotate a frame [H, W, 3] as a player does: counter-clockwise by `rotation`, to the nearest right angle."""
    return np.rot90(rgb, round(rotation / 90) % 4)


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 RGB [H, W, 3]. Grey is repeated, 16 bits become 8, transparency is dropped."""
    if not path.is_file():
        raise UserError(f"{path}: cannot be read: it is not a regular file.")
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    check_image(str(path), data.data)
    bgr = _decoded(data)
    if bgr is None:
        raise UserError(f"{path}: not an image that can be decoded; it may be empty or damaged.")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def read_picture(path: Path) -> tuple[np.ndarray, av.VideoFrame]:
    """Read an image as `read_image` does, and also with its own samples (depth, transparency, palette, YUV)."""
    rgb = read_image(path)
    try:
        with av.open(str(path)) as file:
            picture = next(file.decode(video=0))
    except (FFmpegError, OSError, StopIteration, ValueError):
        picture = None
    stored = _decoded(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    turned = stored is None or not np.array_equal(stored[:, :, ::-1], rgb)  # rotated by EXIF
    if picture is None or turned or (picture.height, picture.width) != rgb.shape[:2]:
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    return picture.to_ndarray(format="rgb24", interpolation=ROUNDED), picture


def _decoded(data: np.ndarray, how: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Decode to uint8 BGR [H, W, 3], or None if OpenCV cannot. Its libraries' messages are silenced."""
    try:
        with silent_libraries():
            return cv2.imdecode(data, how) if data.size else None
    except cv2.error:  # too many pixels for OpenCV or for the memory
        return None


def is_image(path: Path) -> bool:
    """Whether the name is that of an image and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Sorts frame2.png before frame10.png."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
