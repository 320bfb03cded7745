"""Option files: a plain subset of YAML, in which a small file cannot expand into a large object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fastinpaint.errors import UserError, shown
from fastinpaint.files import read_text

MOST_BYTES, DEEPEST = 2**20, 4


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of keys to strings, or to mappings of keys to strings. An empty file gives {}.

    Every value stays a string, as on a command line: no dates, no octal numbers, and "no" is not false.

    Raises:
        UserError: the file is unreadable, not YAML, not a mapping, or uses anchors, aliases, tags, duplicate keys
            or nested lists.
    """
    text = read_text(path, MOST_BYTES)
    try:
        _check(path, text)
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}.") from None
    if found in (None, ""):
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a mapping of options to values, got {shown(found)}.")
    return found


def _check(path: Path, text: str) -> None:
    """Check the parser's events, which take no memory, before any object is built."""
    depth = 0
    events: Iterator[Any] = yaml.parse(text, yaml.SafeLoader)
    for event in events:
        where = f"{path}: line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise UserError(f"{where}: anchors (&) and aliases (*) are not allowed in option files.")
        if getattr(event, "tag", None):
            raise UserError(f"{where}: tags are not allowed in option files, got {shown(event.tag)}.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{where}: options are nested {DEEPEST} levels deep at most.")


class _Loader(yaml.BaseLoader):
    """Keeps scalars as strings and rejects duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=True)
