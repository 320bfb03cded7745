"""Square crops. A crop sees the frames one by one, then makes a sample from F of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fastinpaint.errors import UserError

DETECT_EVERY = 4  # frames between two face detections; a face moves little in between
DETECT_SIDE = 360  # the shorter side of the detector's input, in pixels
MIN_NEIGHBOURS = 4  # overlapping rectangles that the cascade needs to report a face
CASCADE = "haarcascade_frontalface_alt2.xml"  # found more faces in trials than "default", none in floors
SMALLEST_FACE = 1 / 10  # of the shorter side
FACE_MARGIN = 1.5  # side of the crop over side of the cascade's box, which spans brow to chin
AGREEING_SHARE, MIN_AGREEING = 0.5, 3  # share and number of detections that must agree on one face


class Square(NamedTuple):
    """A square in pixels of the upright frame."""

    x: int
    y: int
    side: int


class Crop:
    """The largest square in the middle of the frame, as the paper crops Caltech (480x480 of 640x480).

    Args:
        size: side of the samples in pixels.
        min_side: smallest square to use, because enlarged pictures are blurred.
    """

    def __init__(self, size: int, min_side: int) -> None:
        self.size, self.min_side = size, min_side

    def start(self) -> None:
        """A new clip begins."""

    def see(self, rgb: np.ndarray) -> Any:
        """What `cut` needs of a frame ``[H, W, 3]``. Called once per frame, in order."""
        square = self.square(*rgb.shape[:2])
        if square.side < self.min_side:
            raise UserError(f"the square to crop must be at least {self.min_side} pixels wide; it has {square.side}.")
        return square, resize(rgb, square, self.size)

    def cut(self, seen: list[Any]) -> tuple[Square, np.ndarray] | None:
        """The square and the sample uint8 ``[F, size, size, 3]`` of F frames seen, or None if no square fits."""
        return seen[0][0], np.stack([frame for _, frame in seen])

    def square(self, height: int, width: int) -> Square:
        """Where a frame of this size is cropped."""
        side = min(height, width)
        return Square((width - side) // 2, (height - side) // 2, side)


class BoxCrop(Crop):
    """A square that the user gives."""

    def __init__(self, size: int, min_side: int, box: Square) -> None:
        super().__init__(size, min_side)
        self.box = box

    def square(self, height: int, width: int) -> Square:
        x, y, side = self.box
        if x < 0 or y < 0 or x + side > width or y + side > height:
            raise UserError(f"the box {x},{y},{side},{side} must lie in the frame, which is {width}x{height}.")
        return self.box


class FaceCrop(Crop):
    """A square around the face that most frames of a sample agree on, found by OpenCV's frontal Haar cascade.

    Single detections jitter and fail, so the square is the median of those that agree over all F frames. Frames are
    held at full size until the sample is complete.
    """

    def __init__(self, size: int, min_side: int) -> None:
        super().__init__(size, min_side)
        self._cascade = _cascade(CASCADE)
        self._count = 0

    def start(self) -> None:
        self._count = 0

    def see(self, rgb: np.ndarray) -> Any:
        looks = self._count % DETECT_EVERY == 0
        self._count += 1
        return rgb, self._faces(rgb) if looks else None

    def cut(self, seen: list[Any]) -> tuple[Square, np.ndarray] | None:
        looks = [faces for _, faces in seen if faces is not None]
        face = agreed_face(looks)
        if face is None:
            return None
        square = square_around(face, *seen[0][0].shape[:2])
        if square.side < self.min_side:
            return None
        return square, np.stack([resize(rgb, square, self.size) for rgb, _ in seen])

    def _faces(self, rgb: np.ndarray) -> np.ndarray:
        """Faces in the frame: float64 ``[K, 3]`` of centre x, centre y and side."""
        scale = min(1.0, DETECT_SIDE / min(rgb.shape[:2]))
        luma = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        luma = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        least = max(20, round(SMALLEST_FACE * min(luma.shape)))
        found = self._cascade.detectMultiScale(luma, 1.1, MIN_NEIGHBOURS, minSize=(least, least))
        boxes = np.asarray(found, np.float64).reshape(-1, 4) / scale
        return np.stack([boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2, boxes[:, 2]], 1)


def agreed_face(looks: list[np.ndarray]) -> np.ndarray | None:
    """The median (x, y, side) of the detections of one face, or None if too few looks found one.

    A detection supports another if their centres are within half a side and their sides within a factor of 1.5. The
    detection with support in most looks wins, on a tie the largest one.
    """
    best: tuple[int, float] = (0, 0.0)
    chosen: np.ndarray | None = None
    for candidate in (face for faces in looks for face in faces):
        support = []
        for faces in looks:
            apart = np.linalg.norm(faces[:, :2] - candidate[:2], axis=1)
            ratio = np.maximum(faces[:, 2], candidate[2]) / np.minimum(faces[:, 2], candidate[2])
            near = (apart < candidate[2] / 2) & (ratio < 1.5)
            if near.any():
                support.append(faces[near][apart[near].argmin()])
        if (len(support), candidate[2]) > best:
            best = len(support), float(candidate[2])
            chosen = np.median(support, axis=0)
    needed = max(1, AGREEING_SHARE * len(looks), min(MIN_AGREEING, len(looks)))
    return chosen if best[0] >= needed else None


def square_around(face: np.ndarray, height: int, width: int) -> Square:
    """The square around a face (x, y, side) with its margin, moved and, if necessary, shrunk to fit the frame."""
    side = min(round(FACE_MARGIN * face[2]), height, width)
    x, y = (round(centre - side / 2) for centre in face[:2])
    return Square(min(max(x, 0), width - side), min(max(y, 0), height - side), side)


def resize(rgb: np.ndarray, square: Square, size: int) -> np.ndarray:
    """Resize a square of the frame to ``[size, size, 3]``: by area when shrinking, cubic when growing."""
    x, y, side = square
    cut = np.ascontiguousarray(rgb[y : y + side, x : x + side])
    return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC)


def _cascade(name: str) -> cv2.CascadeClassifier:
    """A cascade that comes with the opencv-python package of version 4."""
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    if not hasattr(cv2, "CascadeClassifier") or not (Path(folder) / name).is_file():
        raise UserError(
            f"--crop face needs OpenCV 4, whose package holds {name}; OpenCV {cv2.__version__} does not: "
            "pip install 'opencv-python-headless<5'."
        )
    return cv2.CascadeClassifier(str(Path(folder) / name))
