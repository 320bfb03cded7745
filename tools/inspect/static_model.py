"""The work of each pass of the paper's layers, and the Triton kernels' launches for it on an H200. Nothing runs.

    python -m tools.inspect.static_model            prints the table
    python -m tools.inspect.static_model --write    updates docs/results/triton_model.md

The launches come from the library's own host code on "meta" tensors. A multiply-add is two FLOPs; live FLOPs leave out
the taps that a tile skips. Bytes are the least possible: every map read or written once. The floor is the larger of
live FLOPs at 788 TFLOP/s and bytes at 4.3 TB/s, both measured on an H200 in bfloat16. The expected time is
`tiles.expected_seconds`, a model that has to be compared with measurements.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from triton.runtime.jit import JITFunction

from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.geometry import live_taps
from fastinpaint.ops.conv_block.triton import autotune, tiles
from fastinpaint.ops.conv_block.triton.taps import Gather, Problem
from fastinpaint.ops.conv_block.triton.taps import live_share as live_share_of
from tools.inspect.page import replace_table
from tools.inspect.paper_layers import PaperLayer, paper_layers

FLOPS, BANDWIDTH = 788e12, 4.3e12
PAGE = Path(__file__).parents[2] / "docs" / "results" / "triton_model.md"
BEGIN, END = "<!-- static model: begin -->", "<!-- static model: end -->"
KINDS = ("fwd", "dgrad", "wgrad", "boxes")


class Pass(NamedTuple):
    """One heavy launch of one layer. The kind "boxes" is wgrad from maps that are written first.

    Attributes:
        bytes: moved at least, all launches of the pass together. before: those of the launches that write its maps.
        after: seconds of a second launch that adds the sums of several programs.
    """

    layer: str
    kind: str
    flop: float
    live: float
    bytes: float
    tile: tiles.Tile
    programs: int
    waves: int
    steps: int
    expected: float
    before: float
    after: float

    @property
    def floor(self) -> float:
        """The floor in seconds."""
        return max(self.live / FLOPS, self.bytes / BANDWIDTH)


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, tiles.Work, tuple[Any, ...], tiles.Tile]]]:
    """Inside, nothing is launched, and the passes that choose a tile are collected."""
    found: list[tuple[str, tiles.Work, tuple[Any, ...], tiles.Tile]] = []
    upstream, choose = JITFunction.run, autotune.choose

    def note(
        kind: str, available: tuple[tiles.Tile, ...], work: tiles.Work, shape: tuple[Any, ...], run: Any
    ) -> tiles.Tile:
        tile = tiles.best(available, work)
        found.append((kind, work, shape, tile))
        return tile

    autotune.choose = note
    JITFunction.run = lambda self, *args, **options: None
    try:
        yield found
    finally:
        autotune.choose, JITFunction.run = choose, upstream


def live_share(kind: str, conv: Problem, tile: tiles.Tile, packed: bool) -> float:
    """Live FLOPs over all FLOPs."""
    if kind in ("wgrad", "boxes"):
        if packed:
            return 1.0
        shares = []
        for taps, stride, padding, dilation, small, large in zip(*conv[1:5], conv.small, conv.large, strict=True):
            shares.append(live_taps(small, large, taps, stride, padding, dilation) / (small * taps))
        return math.prod(shares)
    gather: Gather = conv.forward() if kind == "fwd" else conv.backward()
    return live_share_of(gather, tiles.gather_block(tile.m, gather))


def passes(layer: PaperLayer) -> list[Pass]:
    """The heavy launches of a layer's forward and backward, in bfloat16."""
    sources, weight, bias = layer.inputs(torch.bfloat16, "meta")
    needs = [layer.channels != 4] * len(sources)
    with recorded() as found:
        y, mean, var = conv_block.fwd(sources, weight, bias, layer.geometry, layer.stats)
        conv_block.bwd(y, mean, var, y, mean, sources, weight, layer.geometry, needs, True, bias is not None)
    y_bytes, weight_bytes = y.numel() * 2, weight.numel() * 2
    maps = sum(s.x.numel() * 2 * (1 + (s.addend is not None)) for s in sources)
    of_g = y_bytes * (1 + layer.stats)
    moved = {
        "fwd": maps + weight_bytes + y_bytes,
        "dgrad": 2 * maps + weight_bytes + of_g,
        "wgrad": maps + weight_bytes + of_g,
    }
    before = dict.fromkeys(KINDS, 0)
    if any(kind == "boxes" for kind, *_ in found):  # the activation and G are written first
        activation = layer.channels * sources[0].x.numel() // sources[0].x.shape[1] * 2
        before |= {"fwd": maps + activation, "boxes": maps + activation + of_g + y_bytes}
        moved["fwd"] = before["fwd"] + activation + weight_bytes + y_bytes
        moved["boxes"] = before["boxes"] + activation + weight_bytes + y_bytes
        moved["dgrad"] += y_bytes - of_g
    rows = []
    for kind, work, (conv, *_), tile in found:
        flop = 2.0 * math.prod((conv.samples, *conv.small, *conv.taps)) * layer.channels * layer.out_channels
        packed = kind == "wgrad" and work.products == 1
        live = live_share(kind, conv, tile, packed)
        share = tiles.splits(tile, work)
        work = work._replace(depth=max(1, round(work.depth * live)), live=1.0)
        programs = work.products * -(-work.rows // tile.m) * -(-work.columns // tile.n) * share
        waves = -(-programs // (tiles.MULTIPROCESSORS * tiles.ctas_per_sm(tile, work)))
        first, after = float(before[kind]), tiles.sums_seconds(work, share)
        steps = -(-work.depth // (tile.k * share))
        expected = tiles.seconds_of(tile, work, share) + first / BANDWIDTH
        size = float(moved[kind])
        rows.append(
            Pass(layer.name, kind, flop, flop * live, size, tile, programs, waves, steps, expected, first, after)
        )
    return rows


def table() -> str:
    """The table as Markdown, with sums."""
    rows = [row for layer in paper_layers() for row in passes(layer)]
    lines = [
        "| layer | pass | GFLOP | live | MB | floor us | tile (m x n x k, warps, stages) | programs | waves | K-steps "
        "| expected us |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for p in rows:
        t = p.tile
        lines.append(
            f"| {p.layer} | {p.kind} | {p.flop / 1e9:.2f} | {p.live / p.flop:.2f} | {p.bytes / 1e6:.1f} | "
            f"{p.floor * 1e6:.1f} | {t.m} x {t.n} x {t.k}, {t.num_warps}, {t.num_stages} | {p.programs} | {p.waves} | "
            f"{p.steps} | {p.expected * 1e6:.0f} |"
        )
    flop, live, moved = (sum(getattr(p, field) for p in rows) for field in ("flop", "live", "bytes"))
    floor, expected = sum(p.floor for p in rows), sum(p.expected for p in rows)
    lines.append(
        f"| all | | {flop / 1e9:.0f} | {live / flop:.2f} | {moved / 1e6:.0f} | {floor * 1e6:.0f} | | | | | "
        f"{expected * 1e6:.0f} |"
    )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table, or write it into docs/results/triton_model.md."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args(argv).write:
        print(table())
        return
    replace_table(PAGE, BEGIN, END, table())


if __name__ == "__main__":
    main()
