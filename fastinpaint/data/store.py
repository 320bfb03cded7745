"""The format of prepared samples on disk.

    DATA/settings.json       the settings of the samples; another prepare into DATA must have the same
    DATA/clips/KEY.npy       uint8 [samples, F, size, size, 3], read through a memory map
    DATA/clips/KEY.json      the clip's notes; written after the array, so its presence shows that the array is complete
    DATA/index.json          written last: the clips, the two splits and the mean pixel

Every file is written atomically, under another name that is then renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastinpaint.errors import UserError, shown
from fastinpaint.files import parse_json, read_text, replace_text, replacing

FORMAT = "fastinpaint samples"
VERSION = 1


class ClipWriter:
    """Appends samples to an array file whose final length is not known in advance."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...]) -> None:
        self.file, self.shape, self.count = file, shape, 0
        self._header()

    def append(self, sample: np.ndarray) -> None:
        """Write one uint8 sample of the given shape."""
        if sample.shape != self.shape or sample.dtype != np.uint8:
            raise ValueError(f"sample must be uint8 {self.shape}, got {sample.dtype} {sample.shape}.")
        self.file.write(np.ascontiguousarray(sample).data)
        self.count += 1

    def finish(self) -> None:
        """Write the final length into the header, which numpy pads so that the first axis can grow."""
        self.file.seek(0)
        self._header()

    def _header(self) -> None:
        description = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, description)


@contextmanager
def clip_writer(path: Path, shape: tuple[int, ...]) -> Iterator[ClipWriter]:
    """Write DATA/clips/KEY.npy. The file appears when the block ends, unless with an error or without a sample."""
    with replacing(path) as beside:
        with beside.open("wb") as file:
            writer = ClipWriter(file, shape)
            yield writer
            writer.finish()
        if not writer.count:
            beside.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object atomically."""
    replace_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this format and version.

    Raises:
        UserError: the file is unreadable, damaged, or of another format or version.
    """
    try:
        content = parse_json(read_text(path))
    except UserError:
        raise
    except ValueError:
        raise UserError(f"{path}: damaged: it is not JSON.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not written by `fastinpaint prepare`.")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path}: version {VERSION} of the format is needed, this is version {shown(content.get('version'))}; "
            "prepare the data again."
        )
    return content
