"""The declared arguments of the CPU kernels are those of their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastinpaint.ops.dispatch import native_cpu

SOURCES = Path(__file__).parents[3] / "csrc"
ENTRY = re.compile(r"FI_EXPORT \w+ (fi_cpu_\w+)\(([^)]*)\)")
LETTERS = {"int64_t": "l", "int": "i", "double": "d"}


def letter(parameter: str) -> str:
    """That of `native_cpu.KINDS` for a parameter such as ``const float* bias``."""
    return "p" if "*" in parameter else LETTERS[parameter.split()[-2]]


def entries() -> dict[str, str]:
    """The arguments of every entry point, as its definition has them."""
    text = "".join(path.read_text() for path in sorted(SOURCES.rglob("*.cpp")))
    return {name: "".join(map(letter, given.split(","))) for name, given in ENTRY.findall(text) if given}


@pytest.mark.parametrize("name", native_cpu.ARGUMENTS)
def test_arguments_are_declared_as_they_are_defined(name: str) -> None:
    assert native_cpu.ARGUMENTS[name] == entries()[name]


def test_every_entry_that_kernels_are_called_by_is_declared() -> None:
    assert entries().keys() - native_cpu.ARGUMENTS.keys() == {"fi_cpu_use_openmp", "fi_cpu_use_amx"}
