"""Imports go one way: no room imports a room above it, and models and data import no kernel."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastinpaint

ROOT = Path(fastinpaint.__file__).parents[1]
# From the bottom up. A room imports only rooms of earlier lines; rooms of one line do not import each other. The rooms
# of `ops` are listed separately. Tests, tools and benchmarks are above the package.
LAYERS = (
    ("errors", "_version", "ops.types", "ops.layout"),
    ("environment", "files", "memory", "ranges"),
    ("strict_yaml",),
    ("ops.buffer_pool",),
    ("ops.dispatch",),
    ("ops.saved",),
    ("ops.activation",),
    ("ops.norm_act", "ops.channel_scale"),
    ("ops.batch_norm",),
    ("ops.conv_block",),
    ("nn",),
    ("acceleration",),
    ("accelerate", "graph"),
    ("models", "data"),
    ("propagation",),
    ("training", "inference", "metrics"),
    ("testing",),
    ("demo", "bench"),
    ("cli",),
    ("tools",),
    ("benchmarks",),
    ("tests",),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
# Rooms without kernels, and all that they may import.
PLAIN = {room: {"errors", "files", "memory", "ranges"} for room in ("models", "data")}
PLAIN["propagation"] = {"errors", "data"}


def room_of(name: str) -> str | None:
    """The room of a dotted name; None for the package itself and for other packages."""
    parts = name.split(".")
    if parts[0] != "fastinpaint":
        return parts[0] if parts[0] in HEIGHT else None
    if parts[1:2] == ["ops"]:
        return ".".join(parts[1:3]) if len(parts) > 2 else None
    return parts[1] if len(parts) > 1 else None


def imported(path: Path) -> set[str | None]:
    """The rooms that a file imports anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in ("fastinpaint", "fastinpaint.ops"):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {room for name in names if (room := room_of(name)) in HEIGHT}


FILES: dict[str, list[Path]] = {}
for _path in sorted(p for top in ("fastinpaint", "tools", "benchmarks", "tests") for p in (ROOT / top).rglob("*.py")):
    _room = room_of(".".join(_path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    if _room not in (None, "__main__"):
        FILES.setdefault(_room, []).append(_path)


@pytest.mark.parametrize("room", FILES)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    for path in FILES[room]:
        others = imported(path) - {room}
        above = {str(other) for other in others if HEIGHT[other] >= HEIGHT[room]}
        assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))}"
        assert others <= PLAIN.get(room, HEIGHT.keys()), path


def test_every_room_is_listed() -> None:
    assert FILES.keys() == HEIGHT.keys()
