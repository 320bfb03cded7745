"""docs/environment.md names every variable that the sources read, and no other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "environment.md"
NAME = re.compile(r"\bFASTINPAINT_[A-Z]+(?:_[A-Z]+)*\b")


def in_sources() -> set[str]:
    """The variables that the package, the kernels and setup.py name."""
    listed = ["git", "ls-files", "fastinpaint", "csrc", "setup.py"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = ((ROOT / file).read_text() for file in files if file.endswith((".py", ".cpp", ".h", ".cu", ".cuh")))
    return {name for text in texts for name in NAME.findall(text)}


def test_every_variable_is_documented() -> None:
    assert in_sources() == set(NAME.findall(PAGE.read_text()))
