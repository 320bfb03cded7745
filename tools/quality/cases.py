"""The clips that docs/quality.md measures on, their holes, and their fills."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastinpaint.data.holes import make_holes
from fastinpaint.inference import Settings
from fastinpaint.inference.complete import completed_stream
from fastinpaint.inference.trained import correction
from fastinpaint.metrics.clips import read_clip
from fastinpaint.propagation import Adaptation, propagate
from fastinpaint.propagation.adapt import ADAPT_SECONDS
from fastinpaint.propagation.fill import Filled

FRAMES, SIZE, ADAPT = 32, 128, ADAPT_SECONDS
HELD_OUT = (
    "people/intel_asl_walk.mkv",
    "people/intel_asl_yes.mkv",
    "people/intel_prev_head-pose-face-detection-female-and-male.gif",
    "driving/udacity_solidWhiteRight.mp4",
    "driving/udacity_vd_test.mp4",
    "scenes/intel_car.mp4",
    "scenes/intel_prev_person-bicycle-car-detection.gif",
    "scenes/intel_prev_worker-zone-detection.gif",
    "everyday/sam2_04_coffee.mp4",
    "everyday/sam2_05_default_juggle.mp4",
    "everyday/sam2_bedroom.mp4",
    "everyday/mdn_friday.mp4",
)
VALIDATION = (
    "people/intel_asl_milk.mkv",
    "people/intel_asl_sister.mkv",
    "people/intel_prev_face-demographics-walking.gif",
    "scenes/intel_prev_classroom.gif",
    "scenes/intel_prev_store-aisle-detection.gif",
    "everyday/sam2_01_dog.mp4",
    "everyday/mdn_flower.mp4",
)
"""Clips that choices about both networks are made by: no training draw and no training view shows them."""
SETS = {"held out": HELD_OUT, "validated on": VALIDATION}

Cases = Sequence[tuple[str, str]]
"""Clips, each with a kind of hole."""


class Case(NamedTuple):
    """A clip, its hole, and its propagated fill."""

    video: np.ndarray
    mask: np.ndarray
    filled: Filled


def case(clips: Path, work: Path, name: str, kind: str, adapt: bool = False) -> Case:
    """A clip with a hole, filled at the first call, by adapted weights or the package's."""
    video = read_clip(clips / name, FRAMES, SIZE)
    mask = make_holes(kind, len(video), SIZE, SIZE, np.random.default_rng([0, 0])) > 0
    target = work / f"{Path(name).stem}_{kind}_{'adapted' if adapt else 'plain'}.npz"
    if not target.exists():
        blank = np.where(mask[..., None], 0, video).astype(np.uint8)
        filled = propagate(blank, mask, Adaptation(ADAPT) if adapt else None)
        part = target.with_suffix(".part.npz")
        np.savez_compressed(part, **filled._asdict())
        part.replace(target)
    found = np.load(target)
    return Case(video, mask, Filled(found["video"], found["confidence"]))


def clips_of(kind: str) -> Sequence[str]:
    """Those that a kind of hole is measured on."""
    return (*HELD_OUT, *VALIDATION) if kind == "rectangle" else HELD_OUT


def corrected(filled: Filled) -> np.ndarray:
    """A propagated fill, corrected by the network."""
    network, seen = _network()
    settings = Settings(device="cpu", frames=seen.frames, size=seen.size)
    frames = completed_stream(network, zip(filled.video, 1 - filled.confidence, strict=True), settings)
    return np.stack(list(frames))


@cache
def _network():
    network, seen = correction()
    return network.eval(), seen
