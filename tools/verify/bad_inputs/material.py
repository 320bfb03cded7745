"""Good files of every kind that the commands read, made small; bad ones are made from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

FRAMES, SIZE, WIDTH = 4, 16, "0.0625"
MANY = 100_000

CLIP, GIF, MATROSKA, FOLDER = "clip.mp4", "clip.gif", "clip.mkv", "frames"
MASK, MASK_FOLDER, MASK_CLIP = "mask.png", "masks", "mask.mp4"
PICTURES = ("picture.png", "picture.jpg", "picture.bmp", "picture.tiff", "picture.webp", "picture.ppm")
CLIPS, DATA, RUN, CONFIG, ROWS = "clips", "data", "run", "config.yaml", "rows.jsonl"
WEIGHTS, TWODCN = "weights.safetensors", "run/last.safetensors"
CROWD = "many"


def make(folder: Path, many: int = MANY) -> None:
    """Fill the folder; takes a few seconds.

    Args:
        many: files of the folder that is too full to be a video.
    """
    from fastinpaint.cli import main
    from fastinpaint.data.synthetic import synthetic_clip, write_mp4, write_synthetic
    from fastinpaint.models import ModelConfig, VideoCompletionNet
    from fastinpaint.models.weights import save_weights

    video = synthetic_clip(7, 8, 64)
    write_mp4(folder / CLIP, video)
    _write_other(folder, video)
    _write_pictures(folder, video)
    write_synthetic(folder / CLIPS, 3, 12, 32)
    save_weights(
        folder / WEIGHTS, VideoCompletionNet(ModelConfig(width=float(WIDTH))), {"frames": FRAMES, "size": SIZE}
    )
    data, run = str(folder / DATA), str(folder / RUN)
    size = ["--frames", str(FRAMES), "--size", str(SIZE)]
    few = ["--strategy", "2dcn", "--steps", "2", "--width", WIDTH, "--device", "cpu", "--log-every", "1"]
    for argv in (
        ["prepare", str(folder / CLIPS), "--out", data, *size],
        ["train", data, "--out", run, *few, "--validate-every", "1"],
    ):
        if main(argv):
            raise RuntimeError(f"a good call failed: {argv}")
    (folder / CONFIG).write_bytes((folder / RUN / CONFIG).read_bytes())
    (folder / ROWS).write_text('{"case": "step"}\n')
    (folder / CROWD).mkdir()
    for number in range(many):
        os.close(os.open(folder / CROWD / f"{number}.png", os.O_CREAT | os.O_WRONLY))


def _write_other(folder: Path, video: np.ndarray) -> None:
    """The clip in other containers."""
    import av

    for name, codec, form in ((GIF, "gif", "rgb8"), (MATROSKA, "ffv1", "bgr0")):
        with av.open(str(folder / name), "w") as out:
            stream: Any = out.add_stream(codec, rate=10)
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = form
            for rgb in video:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            out.mux(stream.encode())


def _write_pictures(folder: Path, video: np.ndarray) -> None:
    """Frames, masks and one picture in every format."""
    import cv2

    from fastinpaint.data.synthetic import write_mp4

    mask = np.zeros((*video.shape[1:3], 3), np.uint8)
    mask[16:32, 16:32] = 255
    for name in (FOLDER, MASK_FOLDER):
        (folder / name).mkdir()
        for number, rgb in enumerate(video):
            cv2.imwrite(str(folder / name / f"{number}.png"), mask if name == MASK_FOLDER else rgb[:, :, ::-1])
    cv2.imwrite(str(folder / MASK), mask)
    write_mp4(folder / MASK_CLIP, np.repeat(mask[None], len(video), 0))
    for name in PICTURES:
        cv2.imwrite(str(folder / name), video[0])
