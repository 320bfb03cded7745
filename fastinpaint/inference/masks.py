"""Where the holes are: boxes, one image, a folder of images or a video, as one mask a frame."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from fastinpaint.data.reader import Frame, VideoReader
from fastinpaint.data.video import is_image, natural_key, open_video
from fastinpaint.errors import UserError
from fastinpaint.inference.boxes import Boxes, HoleBox
from fastinpaint.inference.mask_pictures import CHANNELS, MaskPictures

ALL_BUT = 0.95  # share of a frame beyond which a hole is more likely a mistake


@dataclass(frozen=True)
class MaskSettings:
    """How masks are read, and which frame each is for.

    Args:
        invert: black is the hole.
        resize: scale masks of another size to the video's.
        grow: pixels by which every hole is widened, so that the soft edges of an object go too.
        channel, label: see `MaskPictures`.
        start: the frame, from 0, of the first mask; if negative, that many masks are skipped. Frames without a mask
            have no hole then, and masks beyond the last frame are left out. None: there must be a mask for each frame.
        step: use every `step`-th mask.
        hold: frames that each mask is for; 0 is until the number in the next one's name.

    Raises:
        UserError: a value out of its range.
    """

    invert: bool = False
    resize: bool = False
    grow: int = 4
    channel: str = "auto"
    label: int | None = None
    start: int | None = None
    step: int = 1
    hold: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (("grow", 0, 1000), ("step", 1, 1 << 31), ("hold", 0, 1 << 31), ("label", 0, 65535)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"mask {name} must be from {least} to {most}, got {value}.")
        if self.channel not in CHANNELS:
            raise UserError(f"mask channel must be one of {', '.join(CHANNELS)}, got {self.channel!r}.")


class Masks:
    """The mask of each frame in turn, True = hole, in the orientation in which `video` stores its frames.

    Boxes and masks are given in the orientation in which the video is shown; the two differ for a video that carries
    a rotation. A mask of the stored size is taken as it is where the two sizes differ. Boxes and masks together are a
    union.

    Args:
        video: what the masks are for.
        path: an image (for all frames), or a folder of images or a video (one for each frame); or None.
        boxes: see `Boxes`.
        settings: see `MaskSettings`.
        notify: is given each sentence that a person should read.

    Attributes:
        name: for messages.
        length_hint: how many frames there are masks for, as far as known; None where it is one for all frames, or
            unknown, or where frames may lack one.

    Raises:
        UserError: neither path nor boxes; a box outside the frame; a mask that cannot be read or of another size; a gap
            in the numbers of the masks; one mask for all frames with no hole in it.
    """

    def __init__(
        self,
        video: VideoReader,
        path: str | Path | None = None,
        boxes: Sequence[HoleBox | tuple[int, int, int, int]] = (),
        settings: MaskSettings | None = None,
        notify: Callable[[str], None] = warnings.warn,
    ) -> None:
        if path is None and not boxes:
            raise UserError("a mask or a box is needed; got neither.")
        self._settings, self._notify = settings or MaskSettings(), notify
        self._orientation = video.orientation
        self._stored = (video.height, video.width)
        self._shown = self._stored[::-1] if self._orientation.swapped else self._stored
        self._boxes = Boxes(boxes, self._shown, notify) if boxes else None
        self._reader: VideoReader | None = None
        self.name = "the boxes" if path is None else str(path)
        self.rate = video.rate
        self.length_hint: int | None = None
        self._pictures: MaskPictures
        self._one: np.ndarray | None = None
        self._timed: Iterator[np.ndarray | None] = iter(())
        self._index = 0
        self._warned = False
        self._by_number: list[int] = []
        self._last_hold = 1
        self._none = np.zeros(self._stored, bool)
        self._last: tuple[np.ndarray | None, np.ndarray | None, np.ndarray] | None = None
        if path is not None:
            self._open(Path(path), video)

    def take(self, seconds: float) -> np.ndarray | None:
        """The next frame's mask, bool [H, W]; None where the masks have come to their end.

        Args:
            seconds: the frame's time from the first one on.
        """
        drawn = None if self._boxes is None else self._boxes.at(seconds)
        own = self._one
        if own is None and self._reader is not None:
            try:
                own = next(self._timed)
            except StopIteration:
                return None
            own = self._none if own is None else own
        return self._finished(own, drawn)

    def more(self) -> int:
        """How many frames too many there are masks for; the rest of the last mask's hold does not count."""
        if self._one is not None or self._settings.start is not None:
            return 0
        left = sum(1 for _ in self._timed)
        return left if left >= self.tolerance else 0

    @property
    def is_fixed(self) -> bool:
        """Whether all frames have the same mask."""
        pictured = self._reader is not None and self._one is None
        return not pictured and not (self._boxes is not None and self._boxes.moves)

    @property
    def invert(self) -> bool:
        """Whether black is the hole."""
        return self._settings.invert

    @property
    def tolerance(self) -> int:
        """Masks for fewer frames than this beyond the video's end are not too many."""
        return max(1, self._last_hold)

    def counted(self) -> int:
        """How many frames there are masks for, by reading them through."""
        if self._by_number:
            return sum(self._by_number)
        return -(-count_frames(self.name) // self._settings.step) * (self._settings.hold or 1)

    def __enter__(self) -> Masks:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()

    def _open(self, path: Path, video: VideoReader) -> None:
        self._reader = reader = open_video(path, keep_pictures=True)
        self.rate = reader.rate
        self._pictures = MaskPictures(self.name, self._settings.channel, self._settings.label, self._notify)
        if is_image(path) and path.is_file():
            self._one = self._read(next(reader), path)
            if self._boxes is None and not self._one.any():
                raise UserError(no_hole(self.name, self._settings.invert))
            return
        as_video = Path(video.name).is_dir() and reader.length_hint == video.length_hint  # which may have the same gaps
        images = sorted((p for p in path.iterdir() if is_image(p)), key=natural_key) if path.is_dir() else []
        self._by_number = holds = self._holds(images, as_video)
        self._last_hold = holds[-1] if holds else self._settings.hold or 1
        self._timed = self._in_time(reader, images, holds)
        hint = reader.length_hint
        if hint is not None and self._settings.start is None:
            self.length_hint = sum(holds) if holds else -(-hint // self._settings.step) * (self._settings.hold or 1)

    def _holds(self, images: list[Path], as_video: bool) -> list[int]:
        """The frames that each numbered image is for, with hold 0. Otherwise a gap in the numbers is refused."""
        found = [re.findall(r"\d+", path.stem) for path in images]
        numbers = [int(digits[-1]) for digits in found if digits]
        if len(numbers) < len(images) or len(numbers) < 2:
            numbers = []
        steps = [after - before for before, after in pairwise(numbers)]
        if self._settings.hold == 0:
            if not steps or min(steps) < 1:
                raise UserError(f"{self.name}: --mask-hold auto needs images with rising numbers in their names.")
            return [*steps, steps[-1]]
        time_pairwise = self._settings.hold is not None or self._settings.start is not None or as_video
        if not time_pairwise and steps and max(steps) > 1 and min(steps) > 0:
            place = steps.index(max(steps))
            even = len(set(steps)) == 1
            raise UserError(
                f"{self.name}: the numbers of the {len(images)} masks jump from {numbers[place]} to "
                f"{numbers[place + 1]}; "
                + (f"--mask-hold {steps[0]} shows each for {steps[0]} frames" if even else "add the missing ones")
                + ", --mask-hold auto shows each until the next one's number, --mask-hold 1 takes them one a frame."
            )
        return []

    def _in_time(self, reader: VideoReader, images: list[Path], holds: list[int]) -> Iterator[np.ndarray | None]:
        """A mask for each frame; None for a frame without."""
        start = self._settings.start
        for _ in range(max(0, start or 0)):
            yield None
        for number, frame in enumerate(reader):
            left_out = -min(0, start or 0)
            if number < left_out or (number - left_out) % self._settings.step:
                continue
            mask = self._read(frame, images[number] if images else Path(self.name))
            for _ in range(holds[number] if holds else self._settings.hold or 1):
                yield mask
        while start is not None:
            yield None

    def _read(self, frame: Frame, path: Path) -> np.ndarray:
        """A picture as mask, in the orientation in which the video stores its frames."""
        assert self._reader is not None  # a picture comes from a reader
        hole = self._pictures.hole(frame, path)
        hole = self._reader.orientation.shown(hole) != self._settings.invert
        if hole.shape == self._shown:
            return self._turned(hole)
        if hole.shape == self._stored:
            return np.ascontiguousarray(hole)
        height, width = self._shown
        if not self._settings.resize:
            raise UserError(
                f"{self.name}: the mask must have the video's size, {width}x{height}, and has "
                f"{hole.shape[1]}x{hole.shape[0]}; --mask-resize scales it."
            )
        soft = cv2.resize(hole.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        return self._turned(soft >= 128)

    def _finished(self, own: np.ndarray | None, drawn: np.ndarray | None) -> np.ndarray:
        """The union of both, widened. The last result is returned again for the same two inputs."""
        if self._last is not None and self._last[0] is own and self._last[1] is drawn:
            self._index += 1
            return self._last[2]
        mask = self._none if own is None else own
        if drawn is not None:
            mask = mask | self._turned(drawn != (own is None and self._settings.invert))
        if self._settings.grow and mask.any():
            side = 2 * self._settings.grow + 1
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            mask = cv2.dilate(mask.astype(np.uint8), kernel) > 0
        share = float(mask.mean())
        if share > ALL_BUT and not self._warned:
            self._warned = True
            self._notify(
                f"{self.name}: the hole is {100 * share:.0f} % of frame {self._index}; "
                "--mask-invert is for masks whose holes are black."
            )
        self._last = own, drawn, mask
        self._index += 1
        return mask

    def _turned(self, mask: np.ndarray) -> np.ndarray:
        """From the orientation shown to the one stored."""
        return np.ascontiguousarray(self._orientation.stored(mask))


def no_hole(name: str, invert: bool) -> str:
    """The error for a mask without a hole."""
    colour, whole = ("black", "white") if invert else ("white", "black")
    return f"{name}: the mask must have a {colour} pixel somewhere, where the hole is; it is {whole} throughout."


def count_frames(path: str | Path) -> int:
    """The number of frames of a video or folder, by reading it through."""
    with open_video(path) as reader:
        return sum(1 for _ in reader)


def wrong_count(masks: Masks, have: int, video: VideoReader, need: int) -> str:
    """The error for fewer or more masks than frames, with what the user can do."""
    more, few = max(have, need), max(1, min(have, need))
    times = round(more / few)
    fits = times > 1 and abs(more - times * few) < times
    rates = f" ({float(masks.rate):g} against {float(video.rate):g} a second)" if masks.rate != video.rate else ""
    if have < need:
        said = f"each frame needs a mask; there are {have} masks for the {need} frames of {video.name}{rates}; "
        if fits:
            return f"{masks.name}: {said}--mask-hold {times} shows each for {times} frames."
        return f"{masks.name}: {said}--mask-start N sets the frame of the first, and frames without stay as they are."
    said = f"there are {have} masks for the {need} frames of {video.name}{rates}; "
    if fits:
        return f"{masks.name}: {said}--mask-step {times} uses one in {times}."
    return (
        f"{masks.name}: {said}--mask-start 0 leaves out the last {have - need}, --mask-start -{have - need} the first."
    )
