"""Configuration files: each key with each kind of bad value, and YAML that is bad as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_type_hints

from tools.verify.bad_inputs import values
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, Call, Setup

VALUES = {
    "wrong type": ("[1, 2]", "{a: 1}", "[]"),
    "null": ("null", "~", ""),
    "date": ("2026-11-29", "2026-11-29 04:30:00"),
    "tag": ("!!python/object/apply:os.system [true]", "!!binary aGVsbG8=", "!!timestamp 2026-01-01", "!own 1"),
    "duplicate key": (None,),
}
NUMBERS = {
    "negative": ("-1",),
    "NaN": (".nan", "nan"),
    "infinite": (".inf", "-.inf", "1e999"),
    "too large": ("1000000000000",),
    "beyond 64 bits": ("18446744073709551616", "9" * 400, "1" + "0" * 100_000),
    "not a number": ("ten", "0x1G", "1:30:00"),
    "truth value": ("true", "no"),
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{key}: &{key} [{','.join(['*' + before] * 9)}]\n" for before, key in zip("abcdefgh", "bcdefghi", strict=True)
)
DOCUMENTS = {
    "empty": ("",),
    "not a mapping": ("5\n", "- 1\n- 2\n", "word\n", "'text'\n"),
    "alias bomb": (BOMB, "x: &x {y: *x}\n", "seed: &a 1\nsteps: *a\n", "<<: &m {seed: 1}\n"),
    "deep nesting": ("[" * 5000, "{a: " * 3000, "- " * 20_000 + "x\n", "a: " + "[" * 200_000),
    "tag": (
        "!!python/object/new:os.system [echo]\n",
        "!!python/name:os.system\n",
        "!!set {seed}\n",
        "%TAG ! tag:x\n---\n!a b\n",
    ),
    "duplicate key": ("seed: 1\nseed: 2\n", "model: {r: 2}\nmodel: {r: 1}\n", "model: {r: 1, r: 2}\n"),
    "unknown key": (
        "sed: 1\n",
        "model: {depth: 3}\n",
        "? [a, b]\n: 1\n",
        "1: 2\n",
        "null: 1\n",
        "'': 1\n",
        '"a\\nb": 1\n',
    ),
    "not YAML": (
        "a: b: c\n",
        "\t\tx\n",
        "'open\n",
        "{a: 1\n",
        "@x\n",
        "a: [1,\n",
        "--- a\n--- b\n",
        "\x00",
        "seed: 1\x07\n",
    ),
}
BYTES = {
    "not UTF-8": (b"seed: \xff\xfe\n", b"\xff\xfe\x00\x01", b"strategy: caf\xe9\n", b"\x80" * 1000),
    "binary": (bytes(range(256)) * 20, b"\x7fELF\x02\x01\x01" + bytes(4000)),
    "very long": (b"# " + b"x" * 50_000_000, b"seed: " + b"1" * 20_000_000),
}


def written(content: bytes, name: str = "bad.yaml") -> Setup:
    """Puts such a file into the call's folder."""

    def setup(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return setup


def calls(bases: Bases) -> Iterator[Call]:
    """All of them, as ``--config``; and what is bad as a whole, as the config of a run that is resumed."""

    def call(kind: str, content: str | bytes) -> Call:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        return Call(f"config: {kind}", "train", bases.argv("train", config="bad.yaml"), REFUSED, written(data))

    for name, whole, number, prefix in _keys():
        for kind, value in _values(name, whole, number):
            line = f"{name}: 1\n{prefix}{name}: 2" if value is None else f"{name}: {value}"
            yield call(kind, f"model:\n  {line}\n" if prefix else f"{line}\n")
    yield from _of_documents(call, DOCUMENTS)
    yield from _of_documents(call, BYTES)


def _of_documents(call: Callable[[str, str | bytes], Call], table: dict) -> Iterator[Call]:
    for kind, contents in table.items():
        for content in contents:
            if kind != "empty":  # an empty file of options is none; an empty config of a run is damaged
                yield call(kind, content)


def _keys() -> Iterator[tuple[str, bool, bool, str]]:
    """Name, whether whole, whether a number, and the indent of every key."""
    from fastinpaint.models import ModelConfig
    from fastinpaint.training import TrainConfig

    for cls, prefix in ((TrainConfig, ""), (ModelConfig, "  ")):
        kinds = get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if item.name != "model":
                yield item.name, kinds[item.name] is int, kinds[item.name] in (int, float), prefix


def _values(name: str, whole: bool, number: bool) -> Iterator[tuple[str, str | None]]:
    for kind, contents in {**VALUES, **(NUMBERS if number else {"unknown word": ("toaster", "17")})}.items():
        if kind == "too large" and name in values.LARGE_IS_FINE:
            continue
        yield from ((kind, content) for content in contents)
    if whole:
        yield "a fraction", "1.5"
