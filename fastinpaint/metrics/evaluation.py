"""Measures networks and baselines side by side on a validation set, as in Table 2 of Wang et al. 2019."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from fastinpaint.data.holes import make_holes
from fastinpaint.errors import UserError
from fastinpaint.metrics.baselines import BASELINES
from fastinpaint.metrics.measures import SSIM_WINDOW, border_error, hole_l1, psnr, ssim, temporal_error, warping_error
from fastinpaint.metrics.networks import complete, truth_at
from fastinpaint.models import TwoDCN, VideoCompletionNet
from fastinpaint.propagation import Adaptation, propagate

Network = VideoCompletionNet | TwoDCN
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]

PROPAGATION = "propagation"
"""The method of `fastinpaint inpaint` without weights."""
ADAPTED = "propagation, adapted"
"""The method of `fastinpaint inpaint --adapt`."""
SOURCE = "source"
"""The truth itself, whose own flicker the others are compared with."""

COLUMNS = {
    "hole_l1": ("hole L1", "{:.2f}"),
    "psnr": ("PSNR dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "temporal_error": ("temporal L1", "{:.2f}"),
    "warping_error": ("warping L1", "{:.2f}"),
    "border_error": ("border L1", "{:.2f}"),
}
NOTE = """hole L1: mean error of a colour value inside the holes, 0 to 255. PSNR and SSIM: whole frames.
temporal L1: mean error of the change from frame to frame, at the holes, 0 to 255 (flicker).
warping L1: mean change along the truth's own motion, at the holes, 0 to 255 (flicker; the source's own is not 0).
border L1: mean error of the gradients along the holes' edges, 0 to 255 (seams)."""


FLOW_SIDE = 16
"""Pixels. Smaller frames have no warping error, because no flow can be computed."""


class Scores(NamedTuple):
    """One method's figures.

    None where undefined: a single frame, frames smaller than SSIM's window, or holes without an edge.
    """

    hole_l1: float
    psnr: float
    ssim: float | None
    temporal_error: float | None
    warping_error: float | None = None
    border_error: float | None = None


class Example(NamedTuple):
    """A sample for the pictures: video and results uint8 ``[T, H, W, 3]``, mask ``[T, H, W]``."""

    number: int
    video: np.ndarray
    mask: np.ndarray
    results: dict[str, np.ndarray]


@dataclass
class Evaluation:
    """The result of `evaluate`: each method's mean scores, its scores per sample, and examples for pictures."""

    holes: str
    seed: int
    samples: int
    frames: int
    size: tuple[int, int]
    means: dict[str, Scores] = field(default_factory=dict)
    per_sample: dict[str, list[Scores]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the examples, ready for JSON."""
        return {
            "holes": self.holes,
            "seed": self.seed,
            "samples": self.samples,
            "frames": self.frames,
            "size": list(self.size),
            "means": {name: scores._asdict() for name, scores in self.means.items()},
            "per_sample": {name: [s._asdict() for s in scores] for name, scores in self.per_sample.items()},
        }

    def table(self) -> str:
        """The means as text, one method a row."""
        rows = [["method", *(title for title, _ in COLUMNS.values())]]
        for name, scores in self.means.items():
            cells = zip(COLUMNS.values(), scores, strict=True)
            rows.append([name, *("-" if value is None else form.format(value) for (_, form), value in cells)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        height, width = self.size
        head = f"{self.samples} samples of {self.frames} frames, {width}x{height}, holes: {self.holes}"
        return "\n".join([head, *lines, NOTE])


def evaluate(
    models: Mapping[str, Network],
    samples: Sequence[np.ndarray],
    holes: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    rivals: bool = True,
    adapt: int = 0,
    examples: int = 3,
    progress: bool = True,
    methods: Mapping[str, Method] | None = None,
) -> Evaluation:
    """Measure networks and baselines on the same samples with the same holes.

    Args:
        models: by label; put into eval mode. A label is shown only if two models give results of the same name.
        samples: uint8 videos ``[T, H, W, 3]``, as `fastinpaint.data.dataset.VideoSamples`.
        holes: a kind of `fastinpaint.data.holes.make_holes`.
        limit: the most samples to measure, evenly spread over the set.
        seed: a sample's hole depends only on the seed and its index.
        rivals: whether to measure `BASELINES`, propagation and the source itself too.
        adapt: seconds on two cores that propagation adapts to each sample, as another row; 0 leaves that row out.
        examples: number of samples to keep for pictures.
        progress: show a progress bar on a terminal.
        methods: further fills by name, each given a video uint8 ``[T, H, W, 3]`` and a mask bool ``[T, H, W]``.

    Raises:
        UserError: there are no samples, the kind of holes is unknown, or a network's output is not finite.
    """
    if len(samples) == 0:
        raise UserError("evaluate: the data set has no samples of this split.")
    if limit is not None and limit < 1:
        raise UserError(f"evaluate: the limit must be at least 1 sample, got {limit}.")
    for model in models.values():
        model.eval()
    chosen = _spread(len(samples), limit)
    kept = {chosen[i] for i in _spread(len(chosen), examples)} if examples else set()
    frames, height, width = samples[chosen[0]].shape[:3]
    found = Evaluation(holes, seed, len(chosen), frames, (height, width))
    for index in tqdm(chosen, desc="evaluate", unit="sample", disable=None if progress else True):
        video = np.asarray(samples[index])
        length, rows, columns = video.shape[:3]
        mask = make_holes(holes, length, rows, columns, np.random.default_rng([seed, index])) > 0
        results = dict(
            sorted(_results(models, methods or {}, video, mask, rivals, adapt), key=lambda item: _rank(item[0]))
        )
        for name, result in results.items():
            if not np.isfinite(result).all():
                raise UserError(f"evaluate: {name} gave values that are not finite on sample {index}.")
            found.per_sample.setdefault(name, []).append(_scores(result, video, mask))
        if index in kept:
            full = {
                name: np.rint(result).astype(np.uint8)
                for name, result in results.items()
                if name != SOURCE and result.shape == video.shape
            }
            found.examples.append(Example(index, video, mask, full))
    found.means = {name: _mean(scores) for name, scores in found.per_sample.items()}
    return found


def _results(
    models: Mapping[str, Network],
    methods: Mapping[str, Method],
    video: np.ndarray,
    mask: np.ndarray,
    rivals: bool,
    adapt: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every method's result by name. The video's hole pixels are blanked for all methods."""
    blank = np.where(mask[..., None], 0, video).astype(np.uint8)
    kinds = {label: next(k for k in (VideoCompletionNet, TwoDCN) if isinstance(m, k)) for label, m in models.items()}
    several = {kind for kind, count in Counter(kinds.values()).items() if count > 1}
    for label, model in models.items():
        for name, result in complete(model, blank, mask).items():
            yield f"{name} {label}" if kinds[label] in several else name, result
    for name, rival in BASELINES.items() if rivals else ():
        yield name, rival(blank, mask)
    if rivals:
        yield PROPAGATION, propagate(blank, mask).video
    for name, method in methods.items():
        yield name, method(blank, mask)
    if adapt:
        yield ADAPTED, propagate(blank, mask, Adaptation(adapt)).video
    if rivals:
        yield SOURCE, video


def _rank(name: str) -> int:
    """Sort key: the networks in the paper's order, then the baselines."""
    order = ("3DCN", "2DCN", "CombCN")
    return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))


def _scores(result: np.ndarray, video: np.ndarray, mask: np.ndarray) -> Scores:
    truth, holes = truth_at((result.shape[1], result.shape[2]), video, mask)
    return Scores(
        hole_l1(result, truth, holes),
        psnr(result, truth),
        ssim(result, truth) if min(truth.shape[1:3]) >= SSIM_WINDOW else None,
        temporal_error(result, truth, holes) if len(truth) > 1 else None,
        warping_error(result, truth, holes) if len(truth) > 1 and min(truth.shape[1:3]) >= FLOW_SIDE else None,
        border_error(result, truth, holes) if not holes.all((1, 2)).all() else None,
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    values: list[Any] = [None if None in column else float(np.mean(column)) for column in zip(*scores, strict=True)]
    return Scores(*values)


def _spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of ``range(count)``, evenly spread."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, limit or count))})
