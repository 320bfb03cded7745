"""The grammar: all calls in a fixed order, and a fixed choice of a few of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.verify.bad_inputs import bombs, damaged, options, places, surroundings, yaml_files
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import DONE, Call


def calls(material: Path) -> list[Call]:
    """Every call, each once."""
    bases = Bases(material)
    return list(_all(bases))


def _all(bases: Bases) -> Iterator[Call]:
    yield from bases.good()
    yield from options.calls(bases)
    yield from options.too_large(bases)
    yield from yaml_files.calls(bases)
    yield from places.calls(bases)
    yield from damaged.calls(bases)
    yield from bombs.calls(bases)
    yield from surroundings.calls(bases)


def chosen(calls: list[Call], count: int, fresh: int = 3) -> list[Call]:
    """``count`` of the calls, of every kind and command in turn; the good calls, and at most ``fresh`` slow ones."""
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if call.expects != DONE:
            groups.setdefault((call.kind, call.command), []).append(call)
    found = [call for call in calls if call.expects == DONE]
    depth = 0
    while len(found) < count and any(len(group) > depth for group in groups.values()):
        for group in groups.values():
            if len(group) > depth and len(found) < count:
                call = group[(depth * 7919 + len(group) // 2) % len(group)]
                if call not in found and not (call.fresh and fresh == 0):
                    fresh -= call.fresh
                    found.append(call)
        depth += 1
    return found
