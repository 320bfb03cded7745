"""The share of a chip's memory bandwidth that the depthwise kernels can reach, from their machine code.

    python -m tools.inspect.depthwise_bounds            # print the table of docs/results/gpu_depthwise.md
    python -m tools.inspect.depthwise_bounds --write    # update the page

For one tile of 128 positions x 32 channels in bfloat16, stride 1, with batch norm and ReLU in the load and without an
addend, it counts every instruction of a warp, of the code for sm_90a, and compares the busiest unit with the memory:

    share = cycles of the least bytes at the memory's rate / the larger of those and the busiest unit's cycles

The least bytes are each map once: x and y; y, dy, x and dx; x, y and dy. `sass_bound` counts the units. What a block
does once for all its tiles is left out. It is a bound as there: latency, barriers and bank conflicts are not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.inspect import layer_bounds, rates, sass_text
from tools.inspect.page import replace_table
from tools.inspect.sass_bound import NOTHING, Executed, MainLoop, cost, find_kernel, occupancy, walk
from tools.inspect.sass_text import Block, Loop

PAGE = Path(__file__).parents[2] / "docs" / "results" / "gpu_depthwise.md"
BEGIN, END = "<!-- depthwise bounds -->", "<!-- end of depthwise bounds -->"
POSITIONS, CHANNELS, THREADS, LANES, VECTOR = 128, 32, 128, 32, 8
ROWS, COLUMNS = 8, 16  # of a tile
UNROLLED, ENTRY = 4, 7  # taps of the loops of products: csrc/conv_block/cuda/depthwise
PARAMETERS, MAPS = layer_bounds.PARAMETERS, {"forward": 2, "dgrad": 4, "wgrad": 3}
KERNELS, PASSES = (3, 5, 7), tuple(MAPS)


class Share(NamedTuple):
    """One pass of a kernel size on a chip.

    Attributes:
        share: of the memory's bandwidth, at most. limit: the unit that is busy longest, or "memory".
        instructions: of a warp and tile. together: resident blocks per multiprocessor.
    """

    name: str
    kernel: int
    arch: str
    share: float
    limit: str
    instructions: float
    registers: int
    spills: int
    together: int


class Loops(NamedTuple):
    """The loops of a kernel: those that load slices, those around all others of a tile, and the one of the products."""

    slices: list[Loop]
    products: Loop
    runs: Loop | None  # around both, in forward
    tiles: Loop


def find_loops(graph: list[Block]) -> Loops:
    """The loops by what they hold."""
    every = sass_text.loops(graph)

    def count(loop: Loop, *names: str) -> int:
        found = (i for at in loop.blocks for i in graph[at].instructions)
        return sum(i.base == names[0] and all(part in i.name for part in names) for i in found)

    inner = [loop for loop in every if not any(other.blocks < loop.blocks for other in every)]
    products = max(inner, key=lambda loop: count(loop, "FFMA"))
    slices = [loop for loop in inner if count(loop, "LDG", "128") and count(loop, "STS", "128")]
    around = [loop for loop in every if all(each.blocks < loop.blocks for each in (products, *slices))]
    return Loops(slices, products, around[0] if len(around) > 1 else None, around[-1])


def executed(graph: list[Block], name: str, kernel: int) -> Iterator[Executed]:
    """The instructions of a warp for one tile. Slices hold two vectors of a thread."""
    loops = find_loops(graph)
    main = MainLoop(graph, sass_text.loops(graph), loops.products, [])
    apart = loops.products.blocks.union(*(loop.blocks for loop in loops.slices))
    patch = (ROWS + kernel - 1) * (COLUMNS + kernel - 1)

    def add(loop: Loop, times: float, loads: int | None, without: frozenset[int] = frozenset()) -> Iterator[Executed]:
        for at in walk(main, loop, None, loads, adds=loads != 2):
            if at not in without:
                yield from (Executed(i, times) for i in graph[at].instructions)

    def slices(positions: int) -> int:
        return -(-positions * CHANNELS // VECTOR // (2 * THREADS))

    if name == "wgrad":
        slots = LANES // (kernel * -(-kernel // ENTRY))
        yield from add(loops.products, -(-POSITIONS // slots) * (kernel + 1) / (ENTRY + 1), None)
        for loop, positions, loads in zip(loops.slices, (patch, POSITIONS), (2, 4), strict=True):
            yield from add(loop, slices(positions), loads)
        yield from add(loops.tiles, 1, 6, apart)
        return
    assert loops.runs is not None
    loads = 2 if name == "forward" else 4
    (loop,) = loops.slices
    yield from add(loops.products, kernel * kernel / UNROLLED, None)
    yield from add(loop, slices(patch), loads)
    yield from add(loops.runs, 1, loads, apart)
    yield from add(loops.runs, kernel - 1, 0, apart)
    inside = loops.runs.blocks
    epilogue = 1 if name == "forward" else PARAMETERS + 4
    for at in walk(main, loops.tiles, None, epilogue, hole=loops.runs):
        if at not in inside:
            yield from (Executed(i, 1) for i in graph[at].instructions)


def shares(arch: str) -> Iterator[Share]:
    """Every pass and kernel size on one chip."""
    chip, cubin = rates.CHIPS[arch], layer_bounds.cuda_cubin("depthwise", "sm_90")
    disassembler, dumper = sass_text.tool("nvdisasm"), sass_text.tool("cuobjdump")
    assert disassembler is not None
    assert dumper is not None
    text, resources = sass_text.disassemble(disassembler, cubin), sass_text.resources(dumper, cubin)
    for name in PASSES:
        symbol, graph = find_kernel(text, "22depthwise_wgrad_kernel" if name == "wgrad" else "16depthwise_kernel")
        for kernel in KERNELS:
            listed = list(executed(graph, name, kernel))
            busy = cost(listed, THREADS // 32, NOTHING, chip).busy
            del busy["tensor"]
            least = MAPS[name] * POSITIONS * CHANNELS * 2
            memory = least / (chip.bandwidth / chip.multiprocessors / chip.hertz)
            limit = max(busy, key=busy.__getitem__)
            registers, spills = resources[symbol]
            shared = (ROWS + kernel - 1) * (COLUMNS + kernel - 1) * 80 + (18 << 10 if name == "wgrad" else 4 << 10)
            yield Share(
                name, kernel, arch, memory / max(memory, busy[limit]), "memory" if memory >= busy[limit] else limit,
                sum(each.times for each in listed), registers, spills,
                occupancy(registers, max(shared, 18 << 10), THREADS // 32, chip),
            )  # fmt: skip


def table() -> str:
    """A Markdown table of all chips."""
    head = ("pass", "kernel", "chip", "share", "by", "instructions", "registers", "spills", "at once")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in (row for arch in rates.CHIPS for row in shares(arch)):
        cells = (
            row.name, f"{row.kernel}x{row.kernel}", row.arch, f"{row.share:.2f}", row.limit, round(row.instructions),
            row.registers, row.spills, row.together,
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.inspect.depthwise_bounds", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/results/gpu_depthwise.md")
    made = table()
    print(made)
    if parser.parse_args().write:
        replace_table(PAGE, BEGIN, END, made)


if __name__ == "__main__":
    main()
