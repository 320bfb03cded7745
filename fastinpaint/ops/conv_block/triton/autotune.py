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

from fastinpaint.ops.conv_block.triton import ahead
from fastinpaint.ops.conv_block.triton import tiles as launch
from fastinpaint.ops.dispatch import triton_support as support
from fastinpaint.ops.dispatch import tuning_cache
from fastinpaint.ops.dispatch.source_hash import source_hash

logger = logging.getLogger(__name__)
# Candidates agree to rounding. A miscompiled kernel does not (reported for flattened loops at 8 warps).
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# A first call measures at most FEW tiles, within NEAR of the best expected time, because compiling one takes seconds.
FEW, NEAR = 3, 1.5

Run = Callable[[launch.Tile], Sequence[Tensor]]
_chosen: dict[tuple[Any, ...], launch.Tile] = {}


def choose(
    kind: str,
    tiles: tuple[launch.Tile, ...],
    work: launch.Work,
    shape: tuple[Any, ...],
    run: Run,
) -> launch.Tile:
    """Choose the tile for one pass.

    Args:
        kind: fwd, dgrad or wgrad.
        tiles, work: the available tiles, and the pass as described to the model.
        shape: all else that the time depends on. Equal shapes share a measurement.
        run: launches the pass and returns its results.
    """
    interpreting = support.INTERPRETING
    mode = "0" if interpreting else tuning_cache.mode()
    if ahead._collected is not None:
        return _collect(kind, tiles, work, run, thorough=mode == "1")
    on_gpu = not interpreting and torch.cuda.is_initialized()
    device = torch.cuda.current_device() if on_gpu else -1
    key = (mode, device, kind, work, shape)
    if key not in _chosen:
        measured = _measured(kind, tiles, work, shape, run, thorough=mode == "1") if mode != "0" else None
        tile: launch.Tile = measured or launch.best(tiles, work)
        if mode == "0" and device >= 0 and tile.num_warps > 4:
            if torch.cuda.is_current_stream_capturing():  # results cannot be compared now
                return baseline_tile(tiles, work)
            tile = (agreeing_tiles([tile], baseline_tile(tiles, work), run) or [tile])[0]
        if measured is None and mode != "0":
            return tile
        _chosen[key] = tile
    return _chosen[key]


def _measured(
    kind: str, tiles: tuple[launch.Tile, ...], work: launch.Work, shape: tuple[Any, ...], run: Run, thorough: bool
) -> launch.Tile | None:
    """The fastest tile by a remembered or new measurement; None while nothing can be measured."""
    path, key = memory_file(), f"{kind} {work!r} {shape!r}"
    every = launch.candidates(tiles + launch.MEASURED_ONLY.get(kind, ()), work)
    few = every if thorough else shortlist(tiles, work)
    *known, tried = _memory(path).get(key, (0,))
    if tried >= len(few):
        return launch.Tile(*known)
    if torch.cuda.is_current_stream_capturing():
        return None
    tile = fastest(few, baseline_tile(tiles, work), run) or launch.best(tiles, work)
    _memory(path)[key] = [*tile, len(few)]
    tuning_cache.write(path, _memory(path))
    logger.info("%s: %s", key, tile)
    return tile


def _collect(kind: str, tiles: tuple[launch.Tile, ...], work: launch.Work, run: Run, thorough: bool) -> launch.Tile:
    """Launch every tile that would be measured, to collect it for compilation; returns the model's choice."""
    every = launch.candidates(tiles + launch.MEASURED_ONLY.get(kind, ()), work)
    for tile in {*(every if thorough else shortlist(tiles, work)), baseline_tile(tiles, work)}:
        run(tile)
    return launch.best(tiles, work)


def shortlist(tiles: tuple[launch.Tile, ...], work: launch.Work) -> list[launch.Tile]:
    """The few tiles that the model expects to be fastest, best first."""
    ordered = sorted(launch.candidates(tiles, work), key=lambda tile: launch.expected_seconds(tile, work))
    bound = NEAR * launch.expected_seconds(ordered[0], work)
    return [tile for tile in ordered[:FEW] if launch.expected_seconds(tile, work) <= bound]


def baseline_tile(tiles: tuple[launch.Tile, ...], work: launch.Work) -> launch.Tile:
    """The fastest tile of 4 warps by the model. All other tiles' results are compared with its results."""
    narrow = [tile for tile in launch.candidates(tiles, work) if tile.num_warps == 4]
    return min(narrow, key=lambda tile: launch.expected_seconds(tile, work))


def fastest(tiles: list[launch.Tile], baseline: launch.Tile, run: Run) -> launch.Tile | None:
    """The fastest tile whose results agree with ``baseline``. Slow, because it compiles.

    If ``baseline`` is not among the tiles, it is chosen only if none of them agrees. A tile that does not compile or
    launch is skipped. Returns None if not even the baseline agrees with itself, as with maps that are not finite.
    """
    if tiles == [baseline]:
        return baseline
    times = {
        tile: seconds(functools.partial(run, tile)) if tile in tiles else math.inf
        for tile in agreeing_tiles(tiles, baseline, run)
    }
    return min(times, key=times.__getitem__) if times else None


def agreeing_tiles(tiles: list[launch.Tile], baseline: launch.Tile, run: Run) -> list[launch.Tile]:
    """The tiles whose results agree with ``baseline``, followed by the baseline; empty if none runs."""
    agreeing: list[launch.Tile] = []
    expected: list[Tensor] | None = None
    for tile in [baseline, *(tile for tile in tiles if tile != baseline)]:
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

    source = source_hash(Path(__file__).parent.glob("*.py"))
    return tuning_cache.file_of("triton", device, torch.__version__, triton.__version__, source)


@functools.cache
def _memory(path: Path) -> dict[str, list[int]]:
    """The measurements of a file, read once: the fastest tile and the number of tiles that were measured."""
    wanted = len(launch.Tile._fields) + 1
    return {key: entry for key, entry in tuning_cache.read(path).items() if len(entry) == wanted}
