"""Source hashes depend on the code only, not on comments, docstrings, blank space or file locations."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastinpaint.ops.dispatch import source_hash

CODE = '''
from fastinpaint.ops.types import Source

SCALE = 2  # a number


def double(x):
    """Twice x."""
    return x * SCALE
'''


def hash_of(folder: Path, text: str, name: str = "kernels.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return source_hash.source_hash([path])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a number", ""),
        ("SCALE = 2", "# The factor.\n\nSCALE = 2"),
        ("Twice x.", "The double of x."),
        ('    """Twice x."""\n', ""),
        ("\nfrom", '"""Doubles."""\nfrom'),
        ("fastinpaint.ops.types", "fastinpaint.ops.dispatch.types"),
        ("x * SCALE", "(x *  SCALE)"),
    ],
)
def test_comments_blanks_and_locations_keep_the_hash(tmp_path: Path, old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert hash_of(tmp_path, CODE) == hash_of(tmp_path, CODE.replace(old, new), "elsewhere/fwd.py")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * SCALE", "x + SCALE"),
        ("= 2", "= 3"),
        ("(x)", "(x, y)"),
        ("    return", '    "say"\n    return'),
        ("= 2", "= '2'"),
    ],
)
def test_other_code_has_another_hash(tmp_path: Path, old: str, new: str) -> None:
    assert hash_of(tmp_path, CODE) != hash_of(tmp_path, CODE.replace(old, new))


def test_every_file_counts_and_their_order_does_not(tmp_path: Path) -> None:
    one, two = tmp_path / "1.py", tmp_path / "2.py"
    one.write_text(CODE)
    two.write_text("x = 1")
    both = source_hash.source_hash([one, two])
    assert both == source_hash.source_hash([two, one])
    assert both not in (source_hash.source_hash([one]), source_hash.source_hash([one, one]))


CXX = '#define STEP 4\nint f(int x) {\n  return x / STEP;\n}\nconst char* s = "a // b";\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int f", "// Divides.\nint f"),
        ("  return", "\n      return"),
        ("x / STEP;", "x / STEP;  // a step"),
        ("(int x)", "(int /* a number,\nof steps */ x)"),
    ],
)
def test_comments_and_blanks_of_cxx_do_not_count(old: str, new: str) -> None:
    assert CXX.count(old) == 1
    assert source_hash.cxx_content(CXX) == source_hash.cxx_content(CXX.replace(old, new))


@pytest.mark.parametrize(("old", "new"), [("x / STEP", "x * STEP"), ("a // b", "a // c"), ("STEP 4\n", "STEP 4 ")])
def test_code_strings_and_directives_of_cxx_count(old: str, new: str) -> None:
    assert source_hash.cxx_content(CXX) != source_hash.cxx_content(CXX.replace(old, new))
