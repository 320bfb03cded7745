"""`prepare` cuts videos into samples of F frames and splits them into training and validation."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fastinpaint.data.crops import BoxCrop, Crop, FaceCrop, Square
from fastinpaint.data.reader import VideoReader
from fastinpaint.data.scenes import split_scenes
from fastinpaint.data.sources import find_sources, stamp
from fastinpaint.data.split import split_samples
from fastinpaint.data.store import FORMAT, VERSION, clip_writer, read_json, write_json
from fastinpaint.data.video import open_video, upright
from fastinpaint.errors import UserError, one_line, shown
from fastinpaint.files import PART, locked
from fastinpaint.memory import require
from fastinpaint.ranges import FRAMES, SEED, SIDE, Number, whole

COPIES = 2  # at least two copies of a sample are held: its frames, and the array of all of them
CROPS = ("center", "box", "face")
RANGES: dict[str, Number] = {"frames": FRAMES, "size": SIDE, "stride": whole(1, 10**6), "min_side": SIDE, "seed": SEED}


@dataclass(frozen=True)
class PrepareConfig:
    """Options of a sample: `frames` consecutive frames of one scene, cropped to a square and resized to `size`.

    Samples of a scene start `stride` frames apart (default: `frames`, without overlap). Squares smaller than `min_side`
    pixels are not used (default: half of `size`). `seed` affects the split only.
    """

    frames: int = 32
    size: int = 128
    crop: str = "center"
    box: tuple[int, int, int, int] | None = None
    stride: int | None = None
    min_side: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, range in RANGES.items():
            if getattr(self, name) is not None:
                range.checked(f"--{name.replace('_', '-')}", getattr(self, name))
        if self.crop not in CROPS:
            raise UserError(f"--crop must be one of {', '.join(CROPS)}; got {shown(self.crop)}.")
        if (self.box is not None) != (self.crop == "box"):
            raise UserError(f"--crop box and --box x,y,w,h go together; got --crop {self.crop}, --box {self.box}.")
        if self.box is not None and (self.box[2] != self.box[3] or self.box[2] < 1):
            raise UserError(f"--box must be a square, as the samples are; got {self.box[2]}x{self.box[3]}.")

    def settings(self) -> dict[str, Any]:
        """All settings that the samples depend on."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "frames": self.frames,
            "size": self.size,
            "crop": self.crop,
            "box": list(self.box) if self.box else None,
            "stride": self.stride or self.frames,
            "min_side": self.min_side or max(1, self.size // 2),
        }

    def make_crop(self) -> Crop:
        """Create the crop of these settings."""
        min_side = self.settings()["min_side"]
        if self.box is not None:
            return BoxCrop(self.size, min_side, Square(*self.box[:3]))
        return (FaceCrop if self.crop == "face" else Crop)(self.size, min_side)


@dataclass
class Summary:
    """The result of `prepare`: clips that gave samples, samples per split, and why other clips gave none."""

    clips: int = 0
    train: int = 0
    val: int = 0
    bad: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = self.train + self.val
        split = f"{self.train} to train, {self.val} to validate"
        parts = [f"{_count(self.clips, 'clip')} gave {_count(total, 'sample')}: {split}"]
        if self.unused:
            parts.append(f"{_count(len(self.unused), 'clip')} gave none")
        if self.bad:
            parts.append(f"{_count(len(self.bad), 'file')} could not be read")
        return "; ".join(parts) + "."


def prepare(config: PrepareConfig, sources: Sequence[str | Path], out: str | Path) -> Summary:
    """Cut the sources into samples under the folder `out`, for `fastinpaint.data.dataset.VideoSamples`.

    Clips finished by an earlier, interrupted call are kept, unless their source has changed. A file that cannot be read
    or gives no sample is reported and skipped.

    Args:
        config: what a sample is.
        sources: videos, GIFs, folders of frames, or folders of these at any depth.
        out: the folder to write; new, empty, or prepared before with the same settings.

    Raises:
        UserError: there is no source or no sample, `out` holds something else, or `out` cannot be written.
    """
    root = Path(out)
    crop = config.make_crop()
    found = find_sources(sources, leave_out=root)
    if not found:
        raise UserError(f"no video, GIF or folder of frames found in {', '.join(map(str, sources))}.")
    pixels = config.frames * config.size**2
    require(f"prepare: a sample of {config.frames} frames of {config.size}x{config.size}", COPIES * 3 * pixels)
    made = [folder for folder in (root, *root.absolute().parents) if not folder.exists()]
    was_empty = bool(made) or (root.is_dir() and not any(root.iterdir()))
    clips: list[dict[str, Any]] = []
    try:
        _open_output(root, config)
        with locked(root, "the data set"):
            return _prepare_all(found, config, crop, root, clips)
    except (OSError, UserError) as error:
        if was_empty and not clips:  # nothing to resume from
            _remove_new_files(root, made)
        if isinstance(error, UserError):
            raise
        raise UserError(f"{error.filename or out}: cannot be read or written: {error.strerror or error}.") from None


def _prepare_all(
    found: list[Path], config: PrepareConfig, crop: Crop, root: Path, clips: list[dict[str, Any]]
) -> Summary:
    """Cut every clip, then write the index. Fills ``clips`` with the notes of clips that gave samples."""
    summary = Summary()
    for left in (root / "clips").glob("*" + PART):  # left by a killed call
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_json(root / "settings.json", config.settings())
    for path in (bar := tqdm(found, desc="clips", unit="clip", file=sys.stderr)):
        try:
            clip = _clip(path, config, crop, root / "clips")
        except UserError as error:
            summary.bad.append(str(error))
            bar.write(f"skipped: {one_line(str(error))}", file=sys.stderr)
            continue
        if clip["samples"]:
            clips.append(clip)
        else:
            summary.unused.append(str(path))
            bar.write(one_line(f"no sample: {path}: {clip['note']}"), file=sys.stderr)
    if not clips:
        reasons = f"{_count(len(summary.bad), 'file')} could not be read, {len(summary.unused)} gave no sample"
        raise UserError(f"nothing to train on in {_count(len(found), 'source')}: {reasons}.")
    summary.clips = len(clips)
    summary.train, summary.val = _write_index(root, config, clips)
    return summary


def _remove_new_files(root: Path, made: list[Path]) -> None:
    """Remove what this call wrote into a new or empty folder."""
    with contextlib.suppress(OSError):
        shutil.rmtree(root / "clips", ignore_errors=True)
        (root / "settings.json").unlink(missing_ok=True)
        for folder in made:
            folder.rmdir()


def _open_output(root: Path, config: PrepareConfig) -> None:
    """Create the folder, or check that this call can continue in it."""
    if (root / "settings.json").exists():
        there = read_json(root / "settings.json")
        for name, value in config.settings().items():
            if there.get(name) != value:
                raise UserError(
                    f"{root}: holds samples with {name} {shown(there.get(name))}, these would have {value}; "
                    "choose another --out or delete it."
                )
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: must be a new or empty folder, or one written by `fastinpaint prepare`.")
    (root / "clips").mkdir(parents=True, exist_ok=True)


def _clip(path: Path, config: PrepareConfig, crop: Crop, folder: Path) -> dict[str, Any]:
    """One clip's notes, from its JSON if that is still valid, else by cutting the clip."""
    resolved = str(path.resolve())
    slug = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:40]
    key = f"{slug}-{hashlib.sha1(os.fsencode(resolved)).hexdigest()[:10]}"
    array, note = folder / f"{key}.npy", folder / f"{key}.json"
    now = stamp(path)
    if note.exists():
        known = _read_note(note)
        if known is not None and known["stamp"] == now and (array.is_file() or not known["samples"]):
            return known
        note.unlink()
    clip = {"format": FORMAT, "version": VERSION, "name": str(path), "file": array.name, "stamp": now}
    clip |= cut_clip(path, config, crop, array)
    write_json(note, clip)
    return clip


def _read_note(note: Path) -> dict[str, Any] | None:
    """A clip's JSON, or None if it is damaged; the clip is then cut again."""
    kinds = {"stamp": list, "samples": int, "scenes": int, "starts": list, "squares": list, "means": list}
    try:
        known = read_json(note)
    except UserError:
        return None
    whole = all(type(known.get(name)) is kind for name, kind in kinds.items())
    counts = whole and {known["samples"]} == {len(known[name]) for name in ("starts", "squares", "means")}
    return known if counts and all(isinstance(known.get(name), str) for name in ("name", "file")) else None


def cut_clip(path: Path, config: PrepareConfig, crop: Crop, array: Path) -> dict[str, Any]:
    """Write one clip's samples to `array`; returns their number, first frames, squares and mean pixels."""
    settings = config.settings()
    starts: list[int] = []
    squares: list[Square] = []
    means: list[list[float]] = []
    longest = scenes = 0
    shape = (config.frames, config.size, config.size, 3)
    crop.start()
    try:
        with open_video(path) as reader, clip_writer(array, shape) as writer:
            for scene, length, start, seen in _windows(reader, crop, config.frames, settings["stride"]):
                scenes, longest = scene + 1, max(longest, length)
                sample = crop.cut(seen) if seen else None
                if sample is None:
                    continue
                square, video = sample
                writer.append(video)
                starts.append(start)
                squares.append(square)
                means.append((video.reshape(-1, 3).mean(0) / 255).tolist())
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    note = None
    if not starts:
        short = f"its longest scene has {longest} frames, a sample needs {config.frames}."
        note = short if longest < config.frames else f"no face of {settings['min_side']} pixels or more stays in view."
    return {
        "samples": len(starts),
        "scenes": scenes,
        "note": note,
        "starts": starts,
        "squares": squares,
        "means": means,
    }


def _windows(
    reader: VideoReader, crop: Crop, frames: int, stride: int
) -> Iterator[tuple[int, int, int, list[Any] | None]]:
    """For every frame yield its scene and the scene's length so far and, when a sample is complete, its frames."""
    window: deque[Any] = deque(maxlen=frames)  # of one scene only, once it is full
    pictures: Iterable[np.ndarray] = (upright(frame.rgb, reader.rotation) for frame in reader)
    name, total = Path(reader.name).name[:30], reader.length_hint
    progress = tqdm(pictures, name, total, leave=False, unit="frame", file=sys.stderr, disable=None)
    current, first = -1, 0
    for number, (scene, rgb) in enumerate(split_scenes(progress, lambda rgb: rgb)):
        if scene != current:
            current, first = scene, number
        window.append(crop.see(rgb))
        length = number - first + 1
        complete = length >= frames and (length - frames) % stride == 0
        yield scene, length, number - frames + 1, list(window) if complete else None


def _write_index(root: Path, config: PrepareConfig, clips: list[dict[str, Any]]) -> tuple[int, int]:
    """Split the clips, average the training pixels, write index.json; returns the two splits' sizes."""
    stride = config.settings()["stride"]
    train, val = split_samples([clip["starts"] for clip in clips], config.frames, config.seed)
    means = [mean for clip, first, count in train for mean in clips[clip]["means"][first : first + count]]
    kept = ("name", "file", "samples", "scenes", "starts", "squares")
    index = config.settings() | {
        "stride": stride,
        "seed": config.seed,
        "mean_pixel": np.mean(means, axis=0).tolist(),
        "clips": [{name: clip[name] for name in kept} for clip in clips],
        "train": train,
        "val": val,
    }
    write_json(root / "index.json", index)
    return sum(count for _, _, count in train), sum(count for _, _, count in val)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
