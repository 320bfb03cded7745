"""Data flows one way: no room imports a room above it, and models and data know of no kernel."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastinpaint

ROOT = Path(fastinpaint.__file__).parent
# From the bottom up; a room imports what stands before it, and rooms of one line do not import each other but for those
# that together choose what runs an op.
LAYERS = (
    ("errors", "_version", "_native"),
    ("environment", "files", "memory", "ranges"),
    ("remembered", "strict_yaml"),
    ("backends", "measured", "ops"),
    ("nn",),
    ("accelerate",),
    ("models", "data"),
    ("training", "inference", "metrics"),
    ("testing",),
    ("demo", "bench"),
    ("cli",),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
CHOICE = {"backends", "measured", "ops"}
BASE = {"errors", "files", "memory", "ranges"}
PLAIN = {"models": BASE, "data": BASE}  # rooms that hold no kernel, and all that they may import


def imported(path: Path) -> set[str]:
    """The rooms of the package that a file imports, wherever in it."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "fastinpaint":
            names = [f"fastinpaint.{alias.name}" for alias in node.names]
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("fastinpaint.")}
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


FILES = sorted(path for path in ROOT.rglob("*.py") if room_of(path) not in ("__init__", "__main__"))


@pytest.mark.parametrize("room", sorted({room_of(path) for path in FILES}))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    for path in (path for path in FILES if room_of(path) == room):
        others = imported(path) - (CHOICE if room in CHOICE else {room})
        above = {other for other in others if HEIGHT[other] >= HEIGHT[room]}
        assert not above, f"{path.relative_to(ROOT)} imports {', '.join(sorted(above))}"
        assert imported(path) - {room} <= PLAIN.get(room, HEIGHT.keys())


def test_every_room_has_its_place() -> None:
    assert {room_of(path) for path in FILES} == set(HEIGHT)
