"""Samples written by `fastinpaint prepare`, read through memory maps."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from fastinpaint.data.store import read_json
from fastinpaint.errors import UserError, shown
from fastinpaint.ranges import COUNT, FRAMES, SIDE, real

SPLITS = ("train", "val")
CHANNEL = real(0, 1)


class VideoSamples(Sequence[np.ndarray]):
    """The samples of one split: ``samples[i]`` is uint8 RGB ``[T, size, size, 3]``, a copy.

    Files are mapped and read on access, so the data may exceed memory. The object can be pickled for DataLoader
    workers; each worker opens the files again.

    Args:
        root: the folder given to ``fastinpaint prepare --out``.
        split: "train" or "val".

    Attributes:
        frames, size: T and the side of the frames in pixels.
        mean_pixel: red, green and blue in [0, 1], the mean over the training split.

    Raises:
        UserError: the folder does not exist, is not (completely) prepared, damaged or of another version, or the split
            is empty.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}; got {shown(split)}.")
        self.root, self.split = Path(root), split
        index = _index(self.root)
        try:
            self.frames, self.size = FRAMES.checked("frames", index["frames"]), SIDE.checked("size", index["size"])
            self.mean_pixel = _colour(index["mean_pixel"])
            self._files = [self.root / "clips" / _name(clip["file"]) for clip in index["clips"]]
            lengths = [COUNT.checked("samples", clip["samples"]) for clip in index["clips"]]
            ranges = [_range(entry, lengths) for entry in index[split]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__} {error}."
            raise UserError(f"{self.root / 'index.json'}: damaged: {reason}") from None
        for clip in sorted({clip for clip, _, _ in ranges}):
            self._check(clip, lengths[clip])
        self._places = [(clip, first + i) for clip, first, count in ranges for i in range(count)]
        if not self._places:
            raise UserError(f"{root}: the {split} split holds no sample; prepare more clips or longer ones.")
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        clip, place = self._places[index]
        if clip not in self._maps:
            self._maps[clip] = np.lib.format.open_memmap(self._files[clip], mode="r")
        return np.array(self._maps[clip][place])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _check(self, clip: int, length: int) -> None:
        """Check that the array exists, has the right shape, and is as long as its header says."""
        path = self._files[clip]
        expected = (length, self.frames, self.size, self.size, 3)
        if not path.is_file():
            raise UserError(f"{path}: missing, though the index names it; prepare the data again.")
        try:
            array = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError, EOFError, SyntaxError, OverflowError, TypeError, MemoryError, tokenize.TokenError):
            raise UserError(f"{path}: damaged; delete it and prepare the data again.") from None
        if array.shape != expected or array.dtype != np.uint8:
            raise UserError(f"{path}: must be uint8 {expected}, is {array.dtype} {array.shape}; prepare it again.")


def _colour(values: Any) -> tuple[float, float, float]:
    red, green, blue = (CHANNEL.checked("mean_pixel", value) for value in values)
    return red, green, blue


def _name(file: Any) -> str:
    """Check that the value is a file name in ``clips``, not a path to elsewhere."""
    if not isinstance(file, str) or Path(file).name != file:
        raise UserError(f"a clip's file must be a name, got {shown(file)}.")
    return file


def _range(entry: Any, lengths: list[int]) -> tuple[int, int, int]:
    """Check that (clip, first, count) lies within the existing clips."""
    clip, first, count = (COUNT.checked("a sample's place", value) for value in entry)
    if clip >= len(lengths) or first + count > lengths[clip]:
        raise UserError(f"samples {first} to {first + count} of clip {clip} are not there.")
    return clip, first, count


def _index(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `fastinpaint prepare SOURCES --out {root}` makes it.")
    if not (root / "index.json").is_file():
        if (root / "settings.json").is_file():
            raise UserError(f"{root}: preparing was not finished; give the same `fastinpaint prepare` command again.")
        raise UserError(f"{root}: must hold an index.json by `fastinpaint prepare`; it holds none.")
    return read_json(root / "index.json")
