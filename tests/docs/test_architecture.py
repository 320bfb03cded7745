"""docs/architecture.md and its picture name files and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
FILE = re.compile(r"`((?:[a-z_0-9]+/)+[A-Za-z_0-9]+\.(?:py|h|cpp|cu|cuh))`")
CODE = re.compile(r'class="code"[^>]*>([^<]+)<')


def places(name: str) -> list[Path]:
    """Where a name of the page may stand: from the root, or inside the package."""
    return [path for path in (ROOT / name, ROOT / "fastinpaint" / name) if path.exists()]


def missing_files(text: str) -> list[str]:
    return [name for name in FILE.findall(text) if not places(name)]


def missing_code(text: str) -> list[str]:
    """The entries ``file`` and ``file:name`` of the picture of which file or name is not there."""
    missing = []
    for entry in CODE.findall(text):
        name, _, symbol = entry.strip().partition(":")
        if "/" not in name:
            continue
        found = places(name)
        wanted = symbol.split(".")[-1]
        if not found or (wanted and not re.search(rf"\b(def|class) {wanted}\b", found[0].read_text())):
            missing.append(entry)
    return missing


def test_every_file_exists() -> None:
    assert len(FILE.findall(PAGE.read_text())) > 20
    assert not missing_files(PAGE.read_text())


def test_every_name_in_the_picture_exists() -> None:
    assert len(CODE.findall(PICTURE.read_text())) > 15
    assert not missing_code(PICTURE.read_text())


@pytest.mark.parametrize("entry", ["nn/gone.py:plain", "nn/deferred.py:gone"])
def test_a_stale_name_is_found(entry: str) -> None:
    assert missing_code(f'<text class="code">{entry}</text>') == [entry]
    assert missing_files("`nn/gone.py`") == ["nn/gone.py"]
