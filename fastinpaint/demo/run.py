"""The demo, step by step; every step is the function that the command of its name calls."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastinpaint.data.dataset import VideoSamples
from fastinpaint.data.prepare import PrepareConfig, prepare
from fastinpaint.data.synthetic import write_mp4, write_synthetic
from fastinpaint.demo.compare import OURS, classical_fills, save_comparison
from fastinpaint.demo.page import write_page
from fastinpaint.demo.scene import scribbled_scene
from fastinpaint.errors import UserError
from fastinpaint.inference import Settings, complete
from fastinpaint.inference.output import whole_or_nothing
from fastinpaint.metrics import Evaluation, evaluate, save_report
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import load_weights
from fastinpaint.training import TrainConfig, train
from fastinpaint.training.backend import accelerate_model
from fastinpaint.training.curves import plot_curves

PAGE = "index.html"
HELD_OUT_SEED = 10_002  # far from the seeds of the training and validation clips
RUNS = {"completion": "paper", "2dcn": "2dcn"}
HOLES = "strokes"  # the easiest to learn in minutes, and what a scribble leaves


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the defaults take under five minutes on two cores.

    Attributes:
        clips, clip_frames: rendered clips, 5 of 6 to train on, and frames of each.
        frames, size: of a sample, which is the middle of a clip twice as wide.
        width: of the networks, as a share of the paper's channels.
        pretrain_steps, steps: of 3DCN alone, then of both networks; 2DCN gets `steps` too.
        batch: samples a step; with one alone the batch statistics are those of a single clip.
        lr: higher than usual, for a run this short.
        held_out_frames, held_out_size: of the clip that the scribble is removed from.
    """

    clips: int = 48
    clip_frames: int = 36
    frames: int = 6
    size: int = 48
    width: float = 0.125
    pretrain_steps: int = 300
    steps: int = 900
    batch: int = 2
    lr: float = 6e-3
    held_out_frames: int = 64
    held_out_size: int = 144


def run_demo(out: str | Path, backend: str = "reference", size: DemoSize | None = None) -> Evaluation:
    """Render, prepare, train, evaluate and inpaint; leaves the folder `out` with a page that shows all of it.

    Args:
        out: a new folder, or one that an earlier demo left, which is replaced at the end.
        backend: the layers' backend, as for `fastinpaint train`.

    Raises:
        UserError: `out` is something else, or cannot be written.
    """
    out, size = Path(out), size or DemoSize()
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out}: must be a new folder, or one that an earlier demo left; it is a broken link.")
    if out.exists() and not (out.is_dir() and ((out / PAGE).is_file() or not any(out.iterdir()))):
        raise UserError(f"{out}: must be a new folder, or one that an earlier demo left.")
    _fused(VideoCompletionNet(ModelConfig(width=size.width)), backend)  # refused now, not after minutes
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.absolute().parent} to make it in.")
    seconds: dict[str, float] = {}
    with whole_or_nothing(out) as folder, _no_advice():
        folder.mkdir()
        with _timed("rendering and preparing clips", seconds):
            make_data(folder, size)
        for run, strategy in RUNS.items():
            with _timed(f"training {run}, strategy {strategy}", seconds):
                train(train_config(size, strategy, backend), folder / "data", folder / run)
        with _timed("evaluating on clips not trained on", seconds):
            found = _evaluate(folder, backend)
        with _timed("removing a scribble from a clip not seen before", seconds):
            errors = _inpaint(folder, size, backend)
        write_page(folder / PAGE, found, dataclasses.asdict(size), seconds, errors)
    return found


@contextmanager
def _no_advice() -> Iterator[None]:
    """Ctrl-C ends the demo. Training's hint on how to resume would name a folder that no longer exists."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


@contextmanager
def _timed(task: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"{task} ...", flush=True)
    start = time.perf_counter()
    yield
    seconds[task] = time.perf_counter() - start


def make_data(folder: Path, size: DemoSize) -> None:
    """clips/ and data/."""
    clips = write_synthetic(folder / "clips", size.clips, size.clip_frames, 2 * size.size)
    middle = (size.size // 2, size.size // 2, size.size, size.size)
    prepare(PrepareConfig(size.frames, size.size, crop="box", box=middle), clips, folder / "data")


def train_config(size: DemoSize, strategy: str, backend: str) -> TrainConfig:
    """The demo's training options."""
    return TrainConfig(
        model=ModelConfig(width=size.width),
        strategy=strategy,
        pretrain_steps=size.pretrain_steps,
        steps=size.steps,
        batch=size.batch,
        lr=size.lr,
        holes=HOLES,
        flip=True,
        validate_every=max(1, size.steps // 4),
        save_every=0,
        backend=backend,
    )


def _evaluate(folder: Path, backend: str) -> Evaluation:
    """evaluation.json, frames.png, differences.png, table.txt, curves.png."""
    models = {run: _fused(load_weights(folder / run / "last.safetensors"), backend) for run in RUNS}
    found = evaluate(models, VideoSamples(folder / "data", "val"), HOLES)
    save_report(found, folder)
    (folder / "table.txt").write_text(found.table() + "\n", encoding="utf-8")
    plot_curves({run: folder / run / "log.jsonl" for run in RUNS}, folder / "curves.png")
    return found


def _fused(model: VideoCompletionNet | TwoDCN, backend: str) -> VideoCompletionNet | TwoDCN:
    """The model on the device and with the backend that training and inpainting use."""
    return accelerate_model(model.to(Settings().torch_device()), backend)


def _inpaint(folder: Path, size: DemoSize, backend: str) -> str:
    """input.mp4, mask.mp4, filled.mp4 (no network), completed.mp4 (the network), sheet.png, errors.png, compare.mp4.

    Every fill gets the same pixels, those that were rendered; the files are compressed copies.

    Returns:
        a sentence on the errors.
    """
    truth, clip, mask = scribbled_scene(HELD_OUT_SEED, size.held_out_frames, size.held_out_size, size.size)
    write_mp4(folder / "input.mp4", clip)
    write_mp4(folder / "mask.mp4", np.repeat(mask[..., None], 3, 3).astype(np.uint8) * 255)
    model = _fused(load_weights(folder / "completion" / "last.safetensors"), backend)
    fills = classical_fills(clip, mask)
    fills["network"] = complete(model, clip, mask, Settings(frames=size.frames, full_frame=True))
    fills[OURS] = complete(None, clip, mask)
    write_mp4(folder / "completed.mp4", fills["network"])
    write_mp4(folder / "filled.mp4", fills[OURS])
    return save_comparison(folder, clip, mask, fills, truth)
