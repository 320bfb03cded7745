"""Writers of completed frames: a folder of images or a file, complete or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from av.error import FFmpegError

from fastinpaint.data.reader import Frame
from fastinpaint.errors import UserError
from fastinpaint.files import replacing
from fastinpaint.inference.encoder import MUXERS
from fastinpaint.inference.pixels import what_it_holds, working_format
from fastinpaint.inference.planes import convert, is_opaque, paste

FRAME_NAME = re.compile(r"\d{6,}\.(png|tiff)")


class TiffWriter:
    """One TIFF image. OpenCV says in the file that its transparency is not multiplied in, which FFmpeg does not."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name, self.copied = path, name, 0

    def write(self, frame: Frame, rgb: np.ndarray, mask: np.ndarray) -> None:
        if self._path.exists():
            raise UserError(f".tiff holds one image, and {self._name} has more frames; write a video or a folder.")
        picture = convert(frame.picture, working_format(frame.picture.format.name))
        picture.make_writable()
        paste(picture, rgb, mask)
        held = what_it_holds(picture.format.name)
        kind = "rgba" if held.alpha and not is_opaque(picture) else "gray" if held.gray else "rgb24"
        deep = {"rgba": "rgba64le", "gray": "gray16le", "rgb24": "rgb48le"}[kind]
        self._path.write_bytes(encoded(convert(picture, deep if held.depth > 8 else kind).to_ndarray(), ".tiff"))

    def close(self) -> None:
        """Nothing is left to write."""

    def check(self, path: Path) -> None:
        """Nothing was copied."""

    def release(self) -> None:
        """Nothing is open."""


def encoded(image: np.ndarray, suffix: str) -> bytes:
    """An image file of grey [H, W], RGB or RGBA [H, W, C], of 8 or 16 bits."""
    order = [2, 1, 0, 3]
    data = image if image.ndim == 2 else np.ascontiguousarray(image[..., order[: image.shape[2]]])
    return bytes(cv2.imencode(suffix, data)[1].tobytes())


class Writer(Protocol):
    """Takes frames in order. The output is complete after `close`; `release` closes files in any state.

    Attributes:
        copied: the number of frames that are copied without being encoded.
    """

    copied: int

    def write(self, frame: Frame, rgb: np.ndarray, mask: np.ndarray) -> None:
        """Add a frame of the source with the masked pixels of `rgb`, uint8 [H, W, 3], in it."""

    def close(self) -> None:
        """Write what is left, and the end of the file."""

    def check(self, path: Path) -> None:
        """Compare the file with what it should hold."""

    def release(self) -> None:
        """Close files."""


class FolderWriter:
    """A folder of losslessly stored frames, 000000.png and so on.

    PNG has 16 bits where the source has more than 8, TIFF always; both have transparency where the frame uses it.
    """

    def __init__(self, path: Path, image_format: str) -> None:
        path.mkdir()
        self._path = path
        self._suffix = "." + image_format
        self._next = self.copied = 0

    def write(self, frame: Frame, rgb: np.ndarray, mask: np.ndarray) -> None:
        held = what_it_holds(frame.picture.format.name)
        deep = held.depth > 8 or self._suffix == ".tiff"
        image = rgb
        if deep or (held.alpha and not is_opaque(frame.picture)):
            kind = f"rgb{'a' if held.alpha else ''}{'64le' if held.alpha and deep else '48le' if deep else ''}"
            image = convert(frame.picture, kind).to_ndarray()
            image[mask, :3] = rgb[mask].astype(image.dtype) * (257 if deep else 1)
        (self._path / f"{self._next:06d}{self._suffix}").write_bytes(encoded(image, self._suffix))
        self._next += 1

    def close(self) -> None:
        """Nothing is left to write."""

    def check(self, path: Path) -> None:
        """Nothing was copied."""

    def release(self) -> None:
        """Nothing is open."""


def is_movie(target: Path) -> bool:
    """Whether the name is that of a video or a still image, not of a folder."""
    return target.suffix.lower() in MUXERS


def check_output(target: Path, inputs: list[Path], overwrite: bool) -> None:
    """Raise UserError unless `target` is a place to write to that is none of the inputs."""
    if target.suffix and not is_movie(target) and not target.is_dir():
        known = ", ".join(MUXERS)
        raise UserError(f"{target}: the output must be a {known} file or a folder, whose name has no suffix.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.absolute().parent} to write to.")
    for path in inputs:
        if path.exists() and (path.resolve() == target.resolve() or (target.exists() and path.samefile(target))):
            raise UserError(f"{target}: the output must not be the input, {path}.")
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target}: exists already; --overwrite replaces it.")
    if target.is_dir():
        foreign = [p.name for p in target.iterdir() if not FRAME_NAME.fullmatch(p.name)]
        if foreign:
            raise UserError(f"{target}: only a folder of frames (000000.png ...) is replaced; it holds {foreign[0]}.")


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it replaces the target at the end, and is removed on any error.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(target.absolute(), suffix=target.suffix) as beside:
            yield beside
    except (OSError, FFmpegError) as error:
        raise UserError(f"{target}: cannot be written: {getattr(error, 'strerror', None) or error}.") from error
