"""The samples that `fastinpaint prepare` wrote, read back through memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from fastinpaint.data.store import read_json
from fastinpaint.errors import UserError

SPLITS = ("train", "val")


class VideoSamples(Sequence[np.ndarray]):
    """The samples of one split: ``samples[i]`` is uint8 RGB ``[T, size, size, 3]``, a copy.

    Nothing is read before it is asked for, and only maps are held, so the data may be larger than memory. It can be
    pickled for the workers of a DataLoader; each opens the files anew.

    Args:
        root: the folder given to ``fastinpaint prepare --out``.
        split: "train" or "val".

    Attributes:
        frames, size: T and the side of the frames in pixels.
        mean_pixel: red, green and blue in [0, 1], the mean over the training split.

    Raises:
        UserError: no such folder, not prepared or only in part, damaged, of another version, or an empty split.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}; got {split!r}.")
        self.root, self.split = Path(root), split
        index = _index(self.root)
        try:
            self.frames, self.size = int(index["frames"]), int(index["size"])
            red, green, blue = index["mean_pixel"]
            self.mean_pixel = (float(red), float(green), float(blue))
            self._files = [self.root / "clips" / clip["file"] for clip in index["clips"]]
            lengths = [int(clip["samples"]) for clip in index["clips"]]
            ranges = [(int(clip), int(first), int(count)) for clip, first, count in index[split]]
            self._places = [(clip, first + i) for clip, first, count in ranges for i in range(count)]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.root / 'index.json'}: damaged: {type(error).__name__} {error}.") from None
        if not self._places:
            raise UserError(f"{root}: the {split} split holds no sample; prepare more clips or longer ones.")
        for clip in sorted({clip for clip, _ in self._places}):
            self._check(clip, lengths[clip])
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
            self._maps[clip] = np.load(self._files[clip], mmap_mode="r", allow_pickle=False)
        return np.array(self._maps[clip][place])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def _check(self, clip: int, length: int) -> None:
        """The array is there, of the right shape, and as long as its header says."""
        path = self._files[clip]
        expected = (length, self.frames, self.size, self.size, 3)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{path}: missing, though the index names it; prepare the data again.") from None
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path}: damaged; delete it and prepare the data again.") from None
        if array.shape != expected or array.dtype != np.uint8:
            raise UserError(f"{path}: must be uint8 {expected}, is {array.dtype} {array.shape}; prepare it again.")


def _index(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; `fastinpaint prepare SOURCES --out {root}` makes it.")
    if not (root / "index.json").is_file():
        if (root / "settings.json").is_file():
            raise UserError(f"{root}: preparing was not finished; give the same `fastinpaint prepare` command again.")
        raise UserError(f"{root}: must hold an index.json by `fastinpaint prepare`; it holds none.")
    return read_json(root / "index.json")
