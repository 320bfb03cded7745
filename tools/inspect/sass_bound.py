"""An upper bound of a kernel's tensor-core utilisation, from its machine code and without a GPU.

    python -m tools.inspect.sass_bound kernel.cubin --arch sm_90 --warps 8 [--copied 128x256x64] [--name PART]

For one iteration of the main loop and one block, it counts cycles of one multiprocessor: of the tensor cores at peak,
    of the tensor cores as the instruction reaches them, of a scheduler's issue slots, of each arithmetic unit, of
    shared memory (bytes / 128) and of L2 (bytes / the chip's share); see `rates`.

    bound = tensor cycles at peak / the largest of all

It is a bound, not a prediction. It ignores latency, barriers, bank conflicts and pipeline fill. A kernel can reach half
of its bound or less, but never more than it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from fastinpaint.errors import UserError
from tools.inspect import rates, sass_text
from tools.inspect.sass_text import Block, Instruction, Loop

TENSOR = ("HGMMA", "HMMA")
FLOATS = ("FFMA", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2", "FMNMX", "HMNMX2", "F2FP")


class Prefetch(NamedTuple):
    """Iterations that prefetch: a thread's 16-byte LDG in one of them, and their share of all iterations.

    A share above 1 stands for loads that the outer loop has to catch up. adds: whether they also add an addend.
    vectors: most 16-byte LDS of a thread, which read the parameters of its channels.
    """

    loads: int
    share: float
    adds: bool = True
    vectors: int = 0


class Paths(NamedTuple):
    """The paths through a loop whose body has branches.

    Attributes:
        copies: LDGSTS per thread and iteration; None: all in the loop.
        prefetches: the iterations that load; others take the shortest path through all products. None: a single path.
        steps: iterations per iteration of the outer loop; None ignores the outer loop.
        parameters: 16-byte LDG of a thread that read its channels' parameters, in some iterations of the outer loop,
            and their share of all iterations of the inner one.
    """

    copies: int | None = None
    prefetches: tuple[Prefetch, ...] | None = None
    steps: float | None = None
    parameters: tuple[int, float] = (0, 0.0)


PLAIN = Paths()


class Copied(NamedTuple):
    """The bytes that copy engines bring into shared memory for a number of multiply-adds.

    written: bytes that threads write there in addition, outside the loop.
    """

    bytes: float
    products: float
    written: float = 0


NOTHING = Copied(0, 1)


def tiles(m: int, n: int, k: int, item: int = 2) -> Copied:
    """A step of a matrix product: m x k and k x n items for m x n x k multiply-adds."""
    return Copied((m + n) * k * item, m * n * k)


class Cost(NamedTuple):
    """Cycles of one multiprocessor per iteration of one block, by unit."""

    tensor: float
    busy: dict[str, float]

    @property
    def bound(self) -> float:
        """The upper bound of the share of the tensor cores' peak."""
        return self.tensor / max(self.tensor, *self.busy.values())

    @property
    def limit(self) -> str:
        """The unit that is busy longest."""
        return max(self.busy, key=self.busy.__getitem__)


class MainLoop(NamedTuple):
    """The innermost loop with the products, and its outer loops, inner ones first."""

    graph: list[Block]
    loops: list[Loop]
    inner: Loop
    around: list[Loop]


def main_loop(graph: list[Block]) -> MainLoop:
    """The loop with the most products among those without an inner loop with products.

    Raises:
        ValueError: no loop holds a product.
    """
    every = sass_text.loops(graph)
    heavy = [loop for loop in every if _products(graph, loop)]
    innermost = [loop for loop in heavy if not any(other.blocks < loop.blocks for other in heavy)]
    if not innermost:
        raise ValueError("sass_bound: no loop of this kernel holds a product of matrices.")
    inner = max(innermost, key=lambda loop: _products(graph, loop))
    return MainLoop(graph, every, inner, [loop for loop in every if inner.blocks < loop.blocks])


def _products(graph: list[Block], loop: Loop) -> float:
    return sum(rates.products(i.name)[0] for block in loop.blocks for i in graph[block].instructions)


def walk(
    main: MainLoop,
    loop: Loop,
    copies: int | None,
    loads: int | None,
    hole: Loop | None = None,
    adds: bool = True,
    vectors: int | None = None,
) -> list[int]:
    """The path of one iteration with the most products, copies and loads within the bounds, then the fewest blocks.

    Args:
        main, loop: the loop to walk, one of the kernel's loops. Inner loops are walked once.
        copies, loads, vectors: most LDGSTS, 16-byte LDG and 16-byte LDS; with a bound of loads, blocks with
            narrower LDG are avoided.
        hole: an inner loop that is skipped. What other inner loops load is skipped too.
        adds: whether additions count as arithmetic of the loads, so that a branch that adds an addend is taken.
    """
    graph, inside = main.graph, loop.blocks
    order = _order(graph, loop)
    inner_headers = {x.header: x.blocks for x in main.loops if x.blocks < inside}
    apart = {block for x in inner_headers.values() if hole is not None and not x & hole.blocks for block in x}
    # state: (copies, loads, vectors) -> (value, path)
    best: dict[int, dict[tuple[int, int, int], tuple[tuple[float, ...], list[int]]]] = {
        loop.header: {(0, 0, 0): ((0,) * 4, [])}
    }
    ends: list[tuple[tuple[float, ...], list[int]]] = []
    for at in order:
        for (used_copies, used_loads, used_vectors), (value, path) in best.get(at, {}).items():
            counted = [] if hole is not None and at in hole.blocks else graph[at].instructions
            now_copies = used_copies + sum(i.base == "LDGSTS" for i in counted)
            wide = sum(i.base == "LDG" and ".128" in i.name for i in counted)
            narrow = sum(i.base == "LDG" for i in counted) - wide
            read = sum(i.base == "LDS" and ".128" in i.name for i in counted)
            now_loads, now_vectors = used_loads + wide, used_vectors + read
            if copies is not None and now_copies > copies:
                continue
            if loads is not None and (now_loads > loads or (narrow and not wide) or (wide and at in apart)):
                continue
            if vectors is not None and now_vectors > vectors:
                continue
            gain = (
                sum(rates.products(i.name)[0] for i in graph[at].instructions),
                now_copies - used_copies + wide + read + sum(i.base == "STS" and ".128" in i.name for i in counted),
                sum(i.base in FLOATS and (adds or i.base != "FADD") for i in counted) if loads != 0 else 0,
                -len(counted),
            )
            new = tuple(a + b for a, b in zip(value, gain, strict=True)), [*path, at]
            for follower in graph[at].followers:
                if follower == loop.header:
                    ends.append(new)
                elif follower in inside and not (follower in inner_headers and at in inner_headers[follower]):
                    here = best.setdefault(follower, {})
                    key = (now_copies, now_loads, now_vectors)
                    if key not in here or here[key][0] < new[0]:
                        here[key] = new
    if not ends:
        raise ValueError("sass_bound: no path through the loop keeps within these bounds.")
    path = max(ends, key=lambda end: end[0])[1]
    return path if hole is None else [at for at in path if at not in hole.blocks]


def _order(graph: list[Block], loop: Loop) -> list[int]:
    """The loop's blocks in topological order without back edges."""
    order, seen = list[int](), {loop.header}
    stack = [(loop.header, 0)]
    while stack:
        at, child = stack.pop()
        if child < len(graph[at].followers):
            stack.append((at, child + 1))
            following = graph[at].followers[child]
            if following in loop.blocks and following not in seen:
                seen.add(following)
                stack.append((following, 0))
        else:
            order.append(at)
    return order[::-1]


class Executed(NamedTuple):
    """An instruction with its number of executions.

    own: the share of its bytes in global memory that differ between lanes.
    """

    instruction: Instruction
    times: float
    own: float = 1


PARAMETERS_READ = 1 / 8  # a warp's lanes have four vectors of channels; parameters of eight channels take two LDG


def cost(instructions: list[Executed], warps: int, copied: Copied, chip: rates.Chip) -> Cost:
    """The cost of instructions on a multiprocessor.

    Args:
        warps: number of warps of a block that run them.
        copied: what copy engines bring into shared memory at the same time.
    """
    busy = dict.fromkeys(("issue", rates.ALU, rates.FMA, rates.IMAD, rates.SPECIAL), 0.0)
    tensor = slowed = shared = l2 = amount = 0.0
    each = warps / rates.SCHEDULERS
    for instruction, times, own in instructions:
        name = instruction.name
        busy["issue"] += times * each
        if (held := rates.unit(name, chip)) is not None:
            busy[held[0]] += held[1] * times * each
        peak = 2 * rates.products(name)[1] * times * warps / chip.flop
        tensor += peak
        amount += rates.products(name)[0] * times * warps
        slowed += peak / (chip.mma_share if instruction.base == "HMMA" else 1)
        in_registers = instruction.base == "HGMMA" and _a_in_registers(instruction.operands)
        shared += (rates.shared_bytes(name) + rates.wgmma_bytes(name, in_registers)) * times * warps
        l2 += rates.global_bytes(name) * own * times * warps
    share = amount / copied.products
    brought, written = copied.bytes * share, copied.written * share
    busy |= {
        "tensor": slowed,
        "shared": (shared + brought + written) / rates.SHARED_BYTES,
        "L2": (l2 + brought) / chip.l2_bytes,
    }
    return Cost(tensor, busy)


def _a_in_registers(operands: str) -> bool:
    """Whether wgmma's left operand is in registers: then a register precedes B's descriptor."""
    parts = [part.strip() for part in operands.split(",")]
    return len(parts) > 1 and parts[1].startswith("R")


def loop_cost(main: MainLoop, warps: int, chip: rates.Chip, paths: Paths = PLAIN, copied: Copied = NOTHING) -> Cost:
    """The cost of an iteration of the main loop, with its share of the outer loop if `paths.steps` is given."""
    listed: list[Executed] = []

    def add(path: list[int], times: float, own: float = 1) -> None:
        listed.extend(Executed(i, times, own) for at in path for i in main.graph[at].instructions if times)

    if paths.prefetches is None:
        add(walk(main, main.inner, paths.copies, None), 1)
    else:
        for prefetch in paths.prefetches:
            path = walk(main, main.inner, paths.copies, prefetch.loads, adds=prefetch.adds, vectors=prefetch.vectors)
            add(path, prefetch.share)
        path = walk(main, main.inner, paths.copies, 0, vectors=0)
        add(path, 1 - sum(prefetch.share for prefetch in paths.prefetches))
    if paths.steps and main.around:
        loads, share = paths.parameters
        add(walk(main, main.around[0], 0, 0, hole=main.inner), 1 / paths.steps - share)
        if loads:
            add(walk(main, main.around[0], 0, loads, hole=main.inner), share, PARAMETERS_READ)
    return cost(listed, warps, copied, chip)


def occupancy(registers: int, shared: int, warps: int, chip: rates.Chip) -> int:
    """Resident blocks per multiprocessor, limited by registers, shared memory and warps."""
    by_registers = chip.registers // (-(-registers // 8) * 8 * rates.LANES * warps)
    by_shared = chip.shared // (shared + 1024)  # the system reserves 1 KiB per block
    return max(0, min(by_registers, by_shared, chip.warps // warps, 32))


def find_kernel(text: str, part: str) -> tuple[str, list[Block]]:
    """The one kernel of a disassembly whose mangled name holds `part`.

    Raises:
        ValueError: there are none or several.
    """
    found = [(name, graph) for name, graph in sass_text.kernels(text) if part in name]
    if len(found) != 1:
        raise ValueError(f"sass_bound: {part!r} must name one kernel, got {[name for name, _ in found]}.")
    return found[0]


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.inspect.sass_bound", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("cubin", type=Path)
    parser.add_argument("--arch", choices=rates.CHIPS, default="sm_90")
    parser.add_argument("--warps", type=int, required=True, help="of the block that run the main loop")
    parser.add_argument("--copied", help="MxNxK of the 16-bit tiles that copy engines bring for a step of the product")
    parser.add_argument("--name", default="", help="a part of the kernel's mangled name")
    arguments = parser.parse_args(argv)
    disassembler = sass_text.tool("nvdisasm")
    if disassembler is None:
        raise UserError("there is no nvdisasm; install the CUDA toolkit or triton.")
    text = sass_text.disassemble(disassembler, arguments.cubin.read_bytes())
    name, graph = find_kernel(text, arguments.name)
    copied = tiles(*map(int, arguments.copied.split("x"))) if arguments.copied else NOTHING
    found = loop_cost(main_loop(graph), arguments.warps, rates.CHIPS[arguments.arch], copied=copied)
    print(f"{name}: bound {found.bound:.2f}, by {found.limit}; tensor {found.tensor:.0f} cycles per iteration")
    for what, cycles in sorted(found.busy.items(), key=lambda item: -item[1]):
        print(f"  {what:10} {cycles:8.0f}")


if __name__ == "__main__":
    main()
