"""Chooses the tile of a pass: a remembered measurement, else a new one, else the launch model's choice.

A new shape is measured among the few tiles that the model expects to be fastest, and remembered (`tuning_cache`).
``FASTINPAINT_TUNE=1``, which ``fastinpaint tune`` sets, measures all tiles that fit. A tile is chosen only if all its
results agree with those of a baseline tile of 4 warps. Nothing is measured while a CUDA graph is captured.

With ``FASTINPAINT_TUNE=0`` and with ``torch.use_deterministic_algorithms(True)`` the model chooses, and its tile is
compared with the baseline once. This choice is otherwise the same on every machine. With any choice, two runs give the
same bits.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops.conv_block.triton import ahead, tiles
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch import tuning_cache

logger = logging.getLogger(__name__)
# Candidates agree to rounding. A miscompiled kernel does not (reported for flattened loops at 8 warps).
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A first call measures at most FEW tiles, within NEAR of the best expected time, because compiling one takes seconds.
FEW, NEAR = 3, 1.5

Run = Callable[[tiles.Tile], Sequence[Tensor]]
_chosen: dict[tuple[Any, ...], tiles.Tile] = {}


def choose(
    kind: str,
    available: tuple[tiles.Tile, ...],
    work: tiles.Work,
    shape: tuple[Any, ...],
    run: Run,
) -> tiles.Tile:
    """Choose the tile for one pass.

    Args:
        kind: fwd, dgrad or wgrad.
        available, work: the tiles to choose from, and the pass as described to the model.
        shape: all else that the time depends on. Equal shapes share a measurement.
        run: launches the pass and returns its results.
    """
    key = _key(kind, work, shape)
    mode, device = key[:2]
    if ahead._collected is not None:
        return _collect(kind, available, work, shape, run, mode)
    if key not in _chosen:
        measured = _measured(kind, available, work, shape, run, thorough=mode == "1") if mode != "0" else None
        tile: tiles.Tile = measured or tiles.best(available, work)
        if mode == "0" and device >= 0 and tile.num_warps > 4:
            if torch.cuda.is_current_stream_capturing():  # results cannot be compared now
                return baseline_tile(available, work)
            tile = (agreeing_tiles([tile], baseline_tile(available, work), run) or [tile])[0]
        if measured is None and mode != "0":
            return tile
        _chosen[key] = tile
    return _chosen[key]


def is_chosen(kind: str, work: tiles.Work, shape: tuple[Any, ...]) -> bool:
    """Whether `choose` will give the same tile from now on."""
    return ahead._collected is None and _key(kind, work, shape) in _chosen


def _key(kind: str, work: tiles.Work, shape: tuple[Any, ...]) -> tuple[Any, ...]:
    interpreting = support.INTERPRETING
    on_gpu = not interpreting and torch.cuda.is_initialized()
    device = torch.cuda.current_device() if on_gpu else -1
    return ("0" if interpreting else tuning_cache.mode(), device, kind, work, shape)


def _measured(
    kind: str, available: tuple[tiles.Tile, ...], work: tiles.Work, shape: tuple[Any, ...], run: Run, thorough: bool
) -> tiles.Tile | None:
    """The fastest tile by a remembered or new measurement; None while nothing can be measured."""
    known, few = _remembered(kind, available, work, shape, thorough)
    if known is not None:
        return known
    if torch.cuda.is_current_stream_capturing():
        return None
    tile = fastest(few, baseline_tile(available, work), run) or tiles.best(available, work)
    path, key = memory_file(), _name(kind, work, shape)
    _memory(path)[key] = [*tile, len(few)]
    tuning_cache.write(path, _memory(path))
    logger.info("%s: %s", key, tile)
    return tile


def _remembered(
    kind: str, available: tuple[tiles.Tile, ...], work: tiles.Work, shape: tuple[Any, ...], thorough: bool
) -> tuple[tiles.Tile | None, list[tiles.Tile]]:
    """The tile that was measured as the fastest, if enough were, and the tiles to measure."""
    every = tiles.candidates(available + tiles.MEASURED_ONLY.get(kind, ()), work)
    few = every if thorough else shortlist(available, work)
    *known, tried = _memory(memory_file()).get(_name(kind, work, shape), (0,))
    return (tiles.Tile(*known) if tried >= len(few) else None), few


def _name(kind: str, work: tiles.Work, shape: tuple[Any, ...]) -> str:
    return f"{kind} {work!r} {shape!r}"


def _collect(
    kind: str, available: tuple[tiles.Tile, ...], work: tiles.Work, shape: tuple[Any, ...], run: Run, mode: str
) -> tiles.Tile:
    """Launch every tile but the result that `choose` would launch, to collect it for compilation."""
    tile, wanted = tiles.best(available, work), list[tiles.Tile]()
    if mode != "0":
        known, wanted = _remembered(kind, available, work, shape, thorough=mode == "1")
        if known is not None:
            return known
    if mode != "0" or tile.num_warps > 4:
        wanted = [*wanted, baseline_tile(available, work)]
    for other in {*wanted}:
        run(other)
    return tile


def shortlist(available: tuple[tiles.Tile, ...], work: tiles.Work) -> list[tiles.Tile]:
    """The few tiles that the model expects to be fastest, best first."""
    ordered = sorted(tiles.candidates(available, work), key=lambda tile: tiles.expected_seconds(tile, work))
    bound = NEAR * tiles.expected_seconds(ordered[0], work)
    return [tile for tile in ordered[:FEW] if tiles.expected_seconds(tile, work) <= bound]


def baseline_tile(available: tuple[tiles.Tile, ...], work: tiles.Work) -> tiles.Tile:
    """The fastest tile of 4 warps by the model. All other tiles' results are compared with its results."""
    narrow = [tile for tile in tiles.candidates(available, work) if tile.num_warps == 4]
    return min(narrow, key=lambda tile: tiles.expected_seconds(tile, work))


def fastest(available: list[tiles.Tile], baseline: tiles.Tile, run: Run) -> tiles.Tile | None:
    """The fastest tile whose results agree with ``baseline``. Slow, because it compiles.

    If ``baseline`` is not among the tiles, it is chosen only if none of them agrees. A tile that does not compile or
    launch is skipped. Returns None if not even the baseline agrees with itself, as with maps that are not finite.
    """
    if available == [baseline]:
        return baseline
    times = {
        tile: seconds(functools.partial(run, tile)) if tile in available else math.inf
        for tile in agreeing_tiles(available, baseline, run)
    }
    return min(times, key=times.__getitem__) if times else None


def agreeing_tiles(available: list[tiles.Tile], baseline: tiles.Tile, run: Run) -> list[tiles.Tile]:
    """The tiles whose results agree with ``baseline``, followed by the baseline; empty if none runs."""
    agreeing: list[tiles.Tile] = []
    expected: list[Tensor] | None = None
    for tile in [baseline, *(tile for tile in available if tile != baseline)]:
        try:
            results = run(tile)
            if expected is None:
                expected = [result.clone() for result in results]
            if all(map(_agree, results, expected)):
                agreeing.append(tile)
            else:
                logger.warning("%s gives another result than %s and is left out", tile, baseline)
        except support.failures() as error:
            logger.warning("%s is left out: %s", tile, str(error).partition("\n")[0])
    return [*(tile for tile in agreeing if tile != baseline), *(tile for tile in agreeing if tile == baseline)]


def _agree(result: Tensor, expected: Tensor) -> bool:
    return bool((result - expected).abs().max() <= TOLERANCE[expected.dtype] * expected.abs().max())


def seconds(run: Callable[[], object]) -> float:
    """The median seconds of a launch with a cold L2 cache."""
    from triton.testing import do_bench

    return do_bench(run, warmup=5, rep=20, return_mode="median") / 1e3


def memory_file() -> Path:
    """The file of measurements: one per device, versions and kernel source."""
    return _memory_file(torch.cuda.get_device_name() if torch.cuda.is_available() else "no device")


@functools.cache
def _memory_file(device: str) -> Path:
    import triton

    source = tuning_cache.hash_of(Path(__file__).parent.glob("*.py"))
    return tuning_cache.file_of("triton", device, torch.__version__, triton.__version__, source)


@functools.cache
def _memory(path: Path) -> dict[str, list[int]]:
    """The measurements of a file, read once: the fastest tile and the number of tiles that were measured."""
    wanted = len(tiles.Tile._fields) + 1
    return {key: entry for key, entry in tuning_cache.read(path).items() if len(entry) == wanted}
