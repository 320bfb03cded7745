"""A hash of what source code does: comments, docstrings, blank space and the files' places do not count."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]
SUFFIXES = {"cpu": (".cpp", ".h"), "cuda": (".cu", ".cuh", ".h")}  # of the files that a library is built from
EMULATION = "cuda_on_cpu"  # a folder for tests, of which no library is built
# A string or character of C++, which may hold what looks like a comment, or a comment.
CXX_COMMENT = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*|/\*.*?\*/""", re.S)


def source_hash(paths: Iterable[Path]) -> str:
    """The hash of these Python files together: 64 hexadecimal digits, the same wherever they lie and on every Python.

    Imports from this package do not count, so that a module can move; the module that is imported has its own hash.
    """
    parts = sorted(hashlib.sha256(python_content(path.read_text("utf-8")).encode()).hexdigest() for path in paths)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def cxx_hash(csrc: Path, library: str) -> str:
    """The hash of the C++ or CUDA files below a folder that a library is built from: 64 hexadecimal digits."""
    found = (path for path in csrc.rglob("*") if path.suffix in SUFFIXES[library])
    paths = sorted(path for path in found if path.relative_to(csrc).parts[0] != EMULATION)
    parts = [f"{path.relative_to(csrc).as_posix()}\n{cxx_content(path.read_text('utf-8'))}" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def python_content(text: str) -> str:
    """What a Python file does, written out: its syntax tree without docstrings and without imports of this package."""
    return repr(_content(ast.parse(text)))


def cxx_content(text: str) -> str:
    """C++ or CUDA source with neither comments nor blank space at the ends of lines, nor more than one blank in a row.

    Line ends stay, because directives of the preprocessor need theirs.
    """
    bare = CXX_COMMENT.sub(lambda found: found[1] or " ", text)
    lines = (" ".join(line.split()) for line in bare.splitlines())
    return "\n".join(line for line in lines if line)


def _content(node: Any) -> Any:
    """A node as nested tuples. Empty fields are left out: which of them a node has depends on Python's version."""
    if isinstance(node, list):
        return tuple(_content(entry) for entry in node if not _is_own_import(entry))
    if not isinstance(node, ast.AST):
        return node
    fields = {name: getattr(node, name, None) for name in node._fields}
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _has_docstring(node):
        fields["body"] = node.body[1:]
    return (type(node).__name__, *((k, _content(v)) for k, v in fields.items() if v is not None and v != []))


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _is_own_import(node: Any) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    return any(name.partition(".")[0] == PACKAGE for name in names)
