"""Which tile a pass of a shape runs with: a remembered measurement, a new one where asked for, or the model's choice.

    FASTINPAINT_TUNE=1     measure every shape that is not remembered, once, and remember it (``fastinpaint tune`` does)
    FASTINPAINT_TUNE=0     neither measure nor remember: the model's choice, the same on every machine
    FASTINPAINT_CACHE=...  the folder of the memory, instead of ~/.cache/fastinpaint

Unset, remembered measurements are used and none are made: compiling every candidate of every layer takes minutes.
With ``torch.use_deterministic_algorithms(True)`` it is as with 0. Whatever is chosen, two runs give the same bits.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastinpaint.ops import triton_support as support
from fastinpaint.ops.conv_block import triton_launch as launch

logger = logging.getLogger(__name__)
# Candidates agree to rounding; a kernel that was miscompiled does not (reported for flattened loops at 8 warps).
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def choose(
    kind: str,
    tiles: tuple[launch.Tile, ...],
    work: launch.Work,
    shape: tuple[Any, ...],
    run: Callable[[launch.Tile], Tensor],
) -> launch.Tile:
    """The tile for one pass.

    Args:
        kind: fwd, dgrad or wgrad.
        tiles, work: what there is to choose from, and the pass as the model sees it.
        shape: what else the time depends on; equal shapes share a measurement.
        run: launches the pass and returns its result.
    """
    mode = os.environ.get("FASTINPAINT_TUNE")
    if support.INTERPRETING or mode == "0" or torch.are_deterministic_algorithms_enabled():
        return launch.best(tiles, work)
    key = f"{kind} {work!r} {shape!r}"
    known = _memory().get(key)
    if known is not None:
        return launch.Tile(*known)
    if mode != "1" or torch.cuda.is_current_stream_capturing():
        return launch.best(tiles, work)
    tile = fastest(launch.candidates(tiles + launch.MEASURED_ONLY.get(kind, ()), work), run)
    _memory()[key] = list(tile)
    _save(memory_file(), _memory())
    logger.info("%s: %s", key, tile)
    return tile


def fastest(tiles: list[launch.Tile], run: Callable[[launch.Tile], Tensor]) -> launch.Tile:
    """The tile that runs quickest of those that agree with the first one of 4 warps; slow where it compiles."""
    from triton.testing import do_bench

    expected = run(next((t for t in tiles if t.num_warps == 4), tiles[0])).clone()
    bound = TOLERANCE[expected.dtype] * expected.abs().max()
    times = {}
    for tile in tiles:
        if (run(tile) - expected).abs().max() <= bound:
            times[tile] = do_bench(functools.partial(run, tile), warmup=5, rep=20, return_mode="median")
        else:
            logger.warning("%s gives another result than the rest and is left out", tile)
    return min(times, key=times.__getitem__)


def cache_folder() -> Path:
    """Where measurements are kept."""
    root = os.environ.get("FASTINPAINT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fastinpaint"
    return Path(root).expanduser()


@functools.cache
def memory_file() -> Path:
    """One file for each device, versions and kernel source: a change of any forgets."""
    import triton

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("triton_*.py")):
        digest.update(source.read_bytes())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    parts = (device, torch.__version__, triton.__version__, digest.hexdigest()[:12])
    return cache_folder() / f"triton-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.json"


@functools.cache
def _memory() -> dict[str, list[int]]:
    """The measurements remembered on disk, read once; a file that cannot be read counts as none."""
    try:
        known = json.loads(memory_file().read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if len(v) == len(launch.Tile._fields)}


def _save(path: Path, known: dict[str, list[int]]) -> None:
    """Write beside and rename, so that a reader finds the old file or the new one, with what others wrote meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        known = {**json.loads(path.read_text()), **known}
    except (OSError, ValueError):
        known = dict(known)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(known, file, indent=0, sort_keys=True)
    os.replace(file.name, path)
