"""Files and signatures stay small: at most 400 lines per file, and at most 12 parameters per function.

Parameters of Triton kernels and device functions do not count, because Triton has no structures to group them in.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_PARAMETERS = 400, 12
SOURCES = ("*.py", "*.cpp", "*.cu", "*.cuh", "*.h")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def oversized(text: str) -> list[str]:
    """The functions of a Python file with too many parameters; ``self``, ``cls`` and ``ctx`` do not count."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len(parameters) - (parameters[:1] in (["self"], ["cls"], ["ctx"]))
            if count > MOST_PARAMETERS and not any("jit" in ast.unparse(d) for d in node.decorator_list):
                found.append(f"{node.name} has {count} parameters")
    return found


def test_an_oversized_function_is_found() -> None:
    names = ", ".join(f"p{i}" for i in range(13))
    assert oversized(f"def f({names}): ...") == ["f has 13 parameters"]
    assert oversized(f"@triton.jit\ndef f({names}): ...\ndef g(self, {names[4:]}): ...") == []


def test_no_function_has_too_many_parameters() -> None:
    found = [f"{path.relative_to(ROOT)}: {fault}" for path in tracked("*.py") for fault in oversized(path.read_text())]
    assert not found, "\n".join(found)


def test_no_file_is_too_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in tracked(*SOURCES)}
    assert not {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES}
