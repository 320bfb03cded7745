"""Shared by all tests: one torch thread, one seed, and small generated video files.

PyAV is imported only where a file is written, so that kernel tests run without it on a rented GPU machine.

Tests of Triton kernels are in folders named triton. ``TRITON_INTERPRET=1 pytest tests`` collects only these and
interprets them under the guard, because Triton decides at import. Without the variable they launch on the GPU, or are
skipped without one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)
os.environ["FASTINPAINT_TUNE"] = "0"  # by default tests neither measure nor read measurements of this machine
os.environ["FASTINPAINT_OBJECTIVE"] = "fuse"  # by default tests fuse every layer


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from fastinpaint.testing import interpreter

    interpreter.install()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether this process must ignore a file; None leaves the decision to pytest."""
    if not collection_path.name.startswith("test_"):
        return None
    folders = collection_path.relative_to(Path(__file__).parent).parts[:-1]
    if "interpreter" in folders:
        runs = INTERPRETED
    elif "triton" in folders:
        runs = INTERPRETED or torch.cuda.is_available()
    else:
        runs = not INTERPRETED
    return None if runs else True


@pytest.fixture(autouse=INTERPRETED)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """When interpreted, use the widest tiles up to 64 x 64, because the interpreter's time is in the steps."""
    from fastinpaint.ops.conv_block.triton import tiles

    def widest(every: tuple[tiles.Tile, ...], work: tiles.Work) -> tiles.Tile:
        return max(tiles.candidates(every, work), key=lambda t: (min(t.m, 64) * min(t.n, 64), t.k, -t.m * t.n))

    monkeypatch.setattr(tiles, "best", widest)


@pytest.fixture(autouse=True)
def _forget_backends() -> Iterator[None]:
    """Ops remember the backend that runs them. A test that lets one run where it cannot must not leave it to others."""
    yield
    for op in ("activation", "batch_norm", "norm_act"):
        if (module := sys.modules.get(f"fastinpaint.ops.{op}.autograd")) is not None:
            module._modules.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed torch's generator, so that the accuracy rule is checked on the same numbers in every run."""
    torch.manual_seed(0)


def moving_square(frames: int, height: int, width: int) -> np.ndarray:
    """A light square that moves right over a dark ramp: uint8 [T, H, W, 3]."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:] = np.linspace(20, 90, width, dtype=np.uint8)[:, None]
    side = min(height, width) // 3
    for t in range(frames):
        left = t * 2 % (width - side)
        video[t, side // 2 : side // 2 + side, left : left + side] = (220, 160, 100)
    return video


def write_mp4(
    path: Path,
    video: np.ndarray,
    *,
    rate: Fraction | int = 10,
    audio: str | None = None,
    rotation: int = 0,
    pts: list[int] | None = None,
) -> Path:
    """Write [T, H, W, 3] uint8 as H.264, near lossless. `audio`: None, "first" or "last" among the streams."""
    import av

    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=8000, layout="mono") if audio == "first" else None
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "4"})
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = 1 / Fraction(rate)
        if rotation:
            stream.set_display_rotation(rotation)
        if audio == "last":
            sound = out.add_stream("aac", rate=8000, layout="mono")
        for t, rgb in enumerate(video):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = pts[t] if pts else t
            frame.time_base = 1 / Fraction(rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            tone = np.sin(np.arange(int(8000 * len(video) / rate)) * 0.3).astype(np.float32)[None]
            chunk = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            chunk.sample_rate, chunk.pts = 8000, 0
            out.mux(sound.encode(chunk))
            out.mux(sound.encode())
    return path


def write_gif(path: Path, video: np.ndarray, rate: int = 10) -> Path:
    """Write [T, H, W, 3] uint8 as a GIF with a fixed palette."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("gif", rate=rate)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "rgb8"
        for rgb in video:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())
    return path


def write_frames(folder: Path, video: np.ndarray) -> Path:
    """Write [T, H, W, 3] uint8 as frame0.png, frame1.png, ... frame10.png, names that need natural sorting."""
    folder.mkdir(parents=True)
    for t, rgb in enumerate(video):
        cv2.imwrite(str(folder / f"frame{t}.png"), rgb[:, :, ::-1])
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small clip and returns its path.

    ``clip("a.mp4", frames=12, height=48, width=64, audio="first")``; the suffix decides: .gif, none for a folder of
    PNG frames, anything else for H.264. ``video=`` gives the frames; other keywords go to `write_mp4`.
    """

    def write(
        name: str,
        frames: int = 12,
        height: int = 48,
        width: int = 64,
        video: np.ndarray | None = None,
        **options: object,
    ) -> Path:
        pixels = moving_square(frames, height, width) if video is None else video
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            return write_gif(path, pixels)
        if path.suffix == "":
            return write_frames(path, pixels)
        return write_mp4(path, pixels, **options)  # type: ignore[arg-type]

    return write
