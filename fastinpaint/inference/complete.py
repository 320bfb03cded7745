"""Completing frames in memory: from windows of the video to the network and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fastinpaint.inference.chroma import Span, limited, span_of
from fastinpaint.inference.pipeline import ahead
from fastinpaint.inference.regions import Region, find_regions, whole_frame
from fastinpaint.inference.settings import DTYPES, Settings
from fastinpaint.inference.temporal import blend, sliding
from fastinpaint.inference.trial import strength_of
from fastinpaint.models import TwoDCN, complete_frames
from fastinpaint.propagation import Adaptation, propagate_stream
from fastinpaint.propagation.boxes import around

Pair = tuple[np.ndarray, np.ndarray]

Doubt = TypeVar("Doubt", np.ndarray, Tensor)

AHEAD = 32
"""Filled frames that wait for the network, at most."""

KNOWN = 0.8
"""Doubt up to which a network's correction is left out; it counts in full at a doubt of 1. The network sees the video
coarsely, so what other frames show is better than what it says."""
TAPER = 4.0
"""Pixels of what the network sees, from the hole's edge inwards, over which its correction comes in. Near the edge the
fill fits the known pixels better than anything that is seen coarsely."""


def complete(
    model: nn.Module | None, video: np.ndarray, mask: np.ndarray, settings: Settings | None = None
) -> np.ndarray:
    """Fill the holes of a video: `where(mask, fill, video)`.

    Without a network the fill is what other frames show, or the surroundings suggest (`fastinpaint.propagation`). A
    network trained on that fill (`config.fill` "propagated") corrects it where the confidence is low; any other, as
    the paper has it, replaces it.

    Args:
        model: a `VideoCompletionNet` or a `TwoDCN`, which is put in eval mode and on the settings' device; or None.
        video: uint8 [T, H, W, 3], RGB.
        mask: bool [T, H, W] or, the same for all frames, [H, W]; True = hole.

    Returns:
        uint8 [T, H, W, 3], equal to `video` bit for bit where the mask is False.

    Raises:
        TypeError, ValueError: dtypes or shapes other than these.
    """
    if video.dtype != np.uint8 or mask.dtype != np.bool_:
        raise TypeError(f"complete: video must be uint8 and mask bool, got {video.dtype} and {mask.dtype}.")
    if video.ndim != 4 or video.shape[3] != 3:
        raise ValueError(f"complete: video must be [T, H, W, 3], got {video.shape}.")
    if mask.shape not in (video.shape[:3], video.shape[1:3]):
        raise ValueError(f"complete: mask must be {video.shape[:3]} or {video.shape[1:3]}, got {mask.shape}.")
    pairs = zip(video, np.broadcast_to(mask, video.shape[:3]), strict=True)
    out = np.empty_like(video)
    for index, frame in enumerate(complete_stream(model, pairs, settings or Settings())):
        out[index] = frame
    return out


def complete_stream(
    model: nn.Module | None,
    pairs: Iterable[Pair],
    settings: Settings,
    notify: Callable[[str], None] = lambda note: None,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """`complete` for a video of any length: takes (frame, mask) pairs and yields completed frames, in order.

    At most two windows of frames are held, and the frames that `propagate_stream` holds.

    Args:
        notify: is given a sentence that says whether adapting to the video helped, if the settings ask for it.
        progress: whether adapting draws a bar on stderr, if that is a terminal.
    """
    adaptation = Adaptation(settings.adapt, notify=notify, progress=progress) if settings.adapt else None
    network = None if model is None else model.eval().to(settings.torch_device())
    if network is not None and not corrects(network):
        yield from completed_stream(network, pairs, settings)
        return

    def fills(pairs: Iterable[Pair]) -> Iterator[np.ndarray]:
        filled = propagate_stream(pairs, adaptation=adaptation)
        if network is None:
            yield from (frame for frame, _ in filled)
            return
        with ahead(filled, AHEAD, "filler") as done:  # the network corrects while the next window is filled
            yield from completed_stream(network, ((frame, 1 - confidence) for frame, confidence in done), settings)

    yield from _faded(pairs, fills, settings.feather) if settings.feather else fills(pairs)


def completed_stream(model: nn.Module, pairs: Iterable[Pair], settings: Settings) -> Iterator[np.ndarray]:
    """Frames completed by a network; where its windows overlap, the later one fades in linearly.

    A network that corrects is tried on known pixels of the first window that has much in doubt. In the whole video its
    correction counts as far as it helps there.

    Args:
        pairs: frames and masks; for a network that corrects, propagated frames and 1 - confidence.
    """
    pending: list[np.ndarray] = []
    share: float | None = None if corrects(model) else 1.0
    for window, settled in sliding(pairs, settings.frames, settings.stride):
        doubtful = not corrects(model) or any((doubt > KNOWN).any() for _, doubt in window)
        if share is None and doubtful:
            share = strength_of(lambda pairs: complete_window(model, pairs, settings), window)
        use = share if doubtful else None
        done = complete_window(model, window, settings, use) if use else [frame for frame, _ in window]
        for index, old in enumerate(pending):
            done[index] = blend(old, done[index], window[index][1] > 0, (index + 1) / (len(pending) + 1))
        yield from done[:settled]
        pending = done[settled:]


def weight(doubt: Doubt) -> Doubt:
    """What a network's correction counts for: ``(doubt - KNOWN) / (1 - KNOWN)``, at least 0."""
    return ((doubt - KNOWN) / (1 - KNOWN)).clip(0, 1)


def taper(hole: np.ndarray, scale: float) -> np.ndarray:
    """``min(depth * scale / TAPER, 1)``: how much of a correction counts by the depth in the hole, float32 ``[h, w]``.

    Args:
        hole: bool ``[h, w]``.
        scale: the side of what the network sees over that of the hole's window.
    """
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(depth * (scale / TAPER), 1)


def corrects(model: nn.Module) -> bool:
    """Whether a network was trained to correct a propagated fill, rather than to fill by itself."""
    return getattr(getattr(model, "config", None), "fill", "mean") == "propagated"


def _faded(
    pairs: Iterable[Pair], fills: Callable[[Iterable[Pair]], Iterator[np.ndarray]], feather: int
) -> Iterator[np.ndarray]:
    """The frames that `fills` makes of the pairs; the source fades in over `feather` pixels from the hole's edge."""
    waiting: deque[Pair] = deque()

    def noted() -> Iterator[Pair]:
        for pair in pairs:
            waiting.append(pair)
            yield pair

    for filled in fills(noted()):
        frame, mask = waiting.popleft()
        result = frame.copy()
        _paste(result, filled, mask, mask, feather)
        yield result


def complete_window(
    model: nn.Module, window: list[Pair], settings: Settings, strength: float = 1.0
) -> list[np.ndarray]:
    """Completed copies of the frames of one window in time, at most `settings.frames` of them.

    Args:
        window: frames, and masks: bool, or, for a network that corrects, float32 in [0, 1], 1 - confidence.
        strength: what a correction is multiplied by.
    """
    frames = [frame.copy() for frame, _ in window]
    doubts = np.stack([mask for _, mask in window])
    masks = doubts > 0
    span = span_of(window) if corrects(model) else None
    for region in whole_frame(masks) if settings.full_frame else find_regions(masks, settings.size):
        seen = region.window.slices
        crops, holes = [frame[seen] for frame, _ in window], [doubt[seen] for doubt in doubts]
        fills = fill(model, crops, holes, region, settings, strength, span)
        own = np.zeros_like(masks[0])
        own[region.hole.slices] = True
        for frame, mask, filled in zip(frames, masks, fills, strict=True):
            _paste(frame[seen], filled, mask[seen], own[seen], 0 if corrects(model) else settings.feather)
    return frames


def fill(
    model: nn.Module,
    crops: list[np.ndarray],
    holes: list[np.ndarray],
    region: Region,
    settings: Settings,
    strength: float = 1.0,
    span: Span | None = None,
) -> list[np.ndarray]:
    """What the network sees in the holes of a region's window: one uint8 [h, w, 3] for each crop [h, w, 3].

    Scaling down averages pixels, and a small pixel is a hole where any of its pixels is, so no hole leaks. A network
    that corrects a fill counts only where little is known (see `KNOWN`), multiplied by `strength`. It brings in no
    colour that the `span` of the known pixels does not have; None sets no limit.
    """
    small, correcting = (region.width, region.height), corrects(model)
    video = np.stack([cv2.resize(crop, small, interpolation=cv2.INTER_AREA) for crop in crops])
    mask = np.stack([cv2.resize(hole.astype(np.float32), small, interpolation=cv2.INTER_AREA) for hole in holes])
    if not correcting:
        mask = (mask > 0).astype(np.float32)
    output = _run(model, video, mask, settings)
    if correcting:  # only the change is enlarged, so that the fill stays sharp
        filled = video / np.float32(255)
        output = (output if span is None else limited(output, filled, span)) - filled
    height, width = crops[0].shape[:2]
    enlarged = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in output]
    if not correcting:
        return [np.rint(frame.clip(0, 1) * 255).astype(np.uint8) for frame in enlarged]
    scale = region.width / width
    return [
        _corrected(crop, change, hole, strength, scale)
        for crop, change, hole in zip(crops, enlarged, holes, strict=True)
    ]


def _corrected(crop: np.ndarray, change: np.ndarray, doubt: np.ndarray, strength: float, scale: float) -> np.ndarray:
    """A window's frame with a correction, uint8 ``[h, w, 3]``; only the box around its hole is computed."""
    result, box = crop.copy(), around(doubt > 0, 1)
    if box is None or not (doubt > KNOWN).any():
        return result
    part = doubt[box.slices]
    share = strength * weight(part) * taper(part > 0, scale)
    frame = change[box.slices] * share[..., None] + crop[box.slices] / np.float32(255)
    result[box.slices] = np.rint(frame.clip(0, 1) * 255).astype(np.uint8)
    return result


@torch.inference_mode()
def _run(model: nn.Module, video: np.ndarray, mask: np.ndarray, settings: Settings) -> np.ndarray:
    """The network's output, float32 [T, h, w, 3] about [0, 1], for uint8 [T, h, w, 3] and float32 [T, h, w]."""
    device, dtype = settings.torch_device(), DTYPES[settings.dtype]
    clip = torch.from_numpy(video).to(device).permute(3, 0, 1, 2)[None].float() / 255
    hole = torch.from_numpy(mask).to(device)[None, None].float()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output: Tensor = complete_frames(model, clip, hole) if isinstance(model, TwoDCN) else model(clip, hole)[0]
    return np.ascontiguousarray(output[0].permute(1, 2, 3, 0).float().cpu().numpy())


def _paste(frame: np.ndarray, filled: np.ndarray, mask: np.ndarray, own: np.ndarray, feather: int) -> None:
    """Write the filled pixels of the mask that belong to this region into a view of the frame."""
    mine = mask & own
    if not feather:
        frame[mine] = filled[mine]
        return
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    share = np.minimum(depth / (feather + 1), 1)[mine][:, None]
    frame[mine] = np.rint(share * filled[mine] + (1 - share) * frame[mine]).astype(np.uint8)
