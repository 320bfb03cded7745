"""Parses nvdisasm's output into basic blocks and loops."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTION = re.compile(r"^\.text\.(\w+):")
LABEL = re.compile(r"^(\.L_\w+):")
LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.\w+)*)\s*([^;]*);")
TARGET = re.compile(r"`\((\.L_\w+)\)")
ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL", "BPT")


class Instruction(NamedTuple):
    """One instruction: its full name, its operands, and whether a predicate guards it."""

    name: str
    operands: str
    guarded: bool

    @property
    def base(self) -> str:
        return self.name.partition(".")[0]


class Block(NamedTuple):
    """A basic block: its instructions and the indices of its successors."""

    instructions: list[Instruction]
    followers: list[int]


class Loop(NamedTuple):
    """A natural loop: its header and all its blocks."""

    header: int
    blocks: frozenset[int]


def disassemble(tool: str, cubin: bytes) -> str:
    """nvdisasm's text of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def resources(tool: str, cubin: bytes) -> dict[str, tuple[int, int]]:
    """Registers and stack bytes per thread, by kernel, from cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"Function (\w+):\s*\n\s*REG:(\d+) STACK:(\d+)", text)
    return {name: (int(registers), int(stack)) for name, registers, stack in found}


def kernels(text: str) -> Iterator[tuple[str, list[Block]]]:
    """Every kernel's mangled name and blocks."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if match := SECTION.match(line):
            if name:
                yield name, blocks(lines)
            name, lines = match[1], []
        elif name and line.startswith("\t.section"):
            yield name, blocks(lines)
            name = ""
        else:
            lines.append(line)
    if name:
        yield name, blocks(lines)


def blocks(lines: list[str]) -> list[Block]:
    """The basic blocks of one kernel, its entry first."""
    found: list[list[Instruction]] = [[]]
    starts: dict[str, int] = {}
    ended = False
    for line in lines:
        if match := LABEL.match(line):
            if found[-1]:
                found.append([])
            starts[match[1]] = len(found) - 1
            ended = False
        elif match := LINE.match(line):
            if ended:
                found.append([])
            found[-1].append(Instruction(match[2], match[3].strip(), match[1] is not None))
            ended = found[-1][-1].base in ("BRA", "CALL", *ENDS)
    return [Block(each, _followers(i, each, starts, len(found))) for i, each in enumerate(found)]


def _followers(index: int, instructions: list[Instruction], starts: dict[str, int], count: int) -> list[int]:
    after = [index + 1] if index + 1 < count else []
    last = instructions[-1] if instructions else None
    if last is None or (last.base not in ("BRA", *ENDS)):
        return after
    conditional = last.guarded or last.operands.startswith(("P", "!P", "UP", "!UP")) or ".ANY" in last.name
    if last.base != "BRA":
        return after if conditional else []
    target = TARGET.search(last.operands)
    reached = [starts[target[1]]] if target and target[1] in starts else []
    return [*reached, *(after if conditional else [])]


def loops(graph: list[Block]) -> list[Loop]:
    """The natural loops, inner ones first. Loops with the same header are merged."""
    dominators = _dominators(graph)
    before: list[list[int]] = [[] for _ in graph]
    for i, block in enumerate(graph):
        for follower in block.followers:
            before[follower].append(i)
    members: dict[int, set[int]] = {}
    for i, block in enumerate(graph):
        for header in block.followers:
            if dominators[i] is not None and header in dominators[i]:
                inside = members.setdefault(header, {header})
                waiting = [i]
                while waiting:
                    at = waiting.pop()
                    if at not in inside:
                        inside.add(at)
                        waiting.extend(b for b in before[at] if dominators[b])
    found = [Loop(header, frozenset(inside)) for header, inside in members.items()]
    return sorted(found, key=lambda loop: len(loop.blocks))


def _dominators(graph: list[Block]) -> list[set[int]]:
    """Each block's dominators; empty if it is unreachable."""
    order, seen = [], set[int]()
    stack: list[tuple[int, int]] = [(0, 0)]
    seen.add(0)
    while stack:
        at, child = stack.pop()
        if child < len(graph[at].followers):
            stack.append((at, child + 1))
            following = graph[at].followers[child]
            if following not in seen:
                seen.add(following)
                stack.append((following, 0))
        else:
            order.append(at)
    order.reverse()
    before: list[list[int]] = [[] for _ in graph]
    for i in order:
        for follower in graph[i].followers:
            before[follower].append(i)
    found: list[set[int] | None] = [None] * len(graph)
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for i in order[1:]:
            known = [found[b] for b in before[i] if found[b] is not None]
            new = set.intersection(*known) | {i} if known else {i}  # type: ignore[arg-type]
            if new != found[i]:
                found[i], changed = new, True
    return [each or set() for each in found]


def tool(name: str) -> str | None:
    """The path of cuobjdump or nvdisasm, from PATH or the triton wheel, or None."""
    import importlib.util
    import shutil

    spec = importlib.util.find_spec("triton")
    wheel = Path(spec.origin).parent / "backends/nvidia/bin" / name if spec and spec.origin else None
    return shutil.which(name) or (str(wheel) if wheel and wheel.exists() else None)
