"""Prose uses the field's terms: archaic and private words that were removed do not come back."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = (".py", ".md", ".cpp", ".h", ".cu", ".cuh", ".toml", ".yml", ".yaml", ".cff")
# word: what to write instead
BANNED = {
    r"afresh": "again",
    r"anew": "again",
    r"be it": "or",
    r"for want of": "without",
    r"in company": "padded",
    r"laid bare": "shown",
    r"left aside": "ignored",
    r"lest": "so that ... not",
    r"mended": "repaired",
    r"puts right": "corrects",
    r"therein": "in it",
    r"thereof": "of it",
    r"whilst": "while",
    r"hitherto": "so far",
    r"lonely": "of batch size 1",
    r"unasked": "by default",
    r"unsaid": "silently",
    r"whence": "from where",
    r"said so aloud": "reported",
}
PATTERN = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)


def prose() -> list[Path]:
    """Every tracked text except this file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        ROOT / name for name in listed.stdout.splitlines() if name.endswith(SUFFIXES) and ROOT / name != Path(__file__)
    ]


def found_in(text: str) -> list[str]:
    """The banned words of a text, by line."""
    lines = enumerate(text.splitlines(), 1)
    found = [(number, m[0]) for number, line in lines for m in PATTERN.finditer(line)]
    return [f"{number}: {word!r}; write {BANNED[word.lower()]!r}" for number, word in found]


def test_a_banned_word_is_found() -> None:
    assert found_in("fine\nIt is made anew.") == ["2: 'anew'; write 'again'"]


@pytest.mark.parametrize("folder", ["csrc", "docs", "fastinpaint", "tests", "tools", "benchmarks", "examples", "."])
def test_no_private_words(folder: str) -> None:
    home = ROOT / folder
    paths = [p for p in prose() if (p.parent == ROOT if folder == "." else p.is_relative_to(home)) and p.exists()]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in paths for line in found_in(path.read_text())]
    assert not found, "\n".join(found)
