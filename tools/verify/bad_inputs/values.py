"""Bad values by kind, for numbers, words and paths; written down here, so that they do not follow the code's ranges."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

NUMBERS = {
    "negative": ("-1", "-9999999"),
    "zero": ("0",),
    "NaN": ("nan",),
    "infinite": ("inf", "-inf", "1e999"),
    "too large": ("1000000000000",),
    "beyond 64 bits": ("18446744073709551616", "9" * 40, "1" + "0" * 5000),
    "not a number": ("ten", "1,5", "0x10", "1.5.2", "--1", "1e"),
    "empty": ("", " "),
    "control character": ("1\n2", "\x1b[31m1", "1\x85"),
    "not UTF-8": ("1\udcff", "\udcc3"),
}
FRACTION = {"a fraction": ("1.5", "1e-3")}
REALS = {"too large": ("1e30", "1e300"), "beyond 64 bits": ("9" * 40, "9" * 400)}

# What is no mistake for some options.
ZERO_IS_FINE = {
    "seed", "steps", "pretrain_steps", "lr", "weight_decay", "clip", "alpha", "validate_every", "validation_samples",
    "save_every", "workers", "feather", "adapt", "overlap", "crf", "grow", "label", "mask_channel", "mask_start",
    "evaluate size",
}  # fmt: skip
COUNT_OR_WORD = {"mask_hold"}
LARGE_IS_FINE = {"seed"}

WORDS = {
    "unknown word": ("toaster", "REFERENCE!", "1"),
    "empty": ("", " "),
    "control character": ("cpu\n", "a\x00b"[:1] + "\nb", "\x1b[31mred"),
    "not UTF-8": ("\udcff\udcfe", "\udce9t\udce9"),
    "very long": ("a" * 10_000,),
}
BOXES = {
    "not a number": ("1,2,3", "a,b,c,d", "1,2,3,4,5", "1;2;3;4", "nan,0,8,8"),
    "empty": ("", ",,,"),
    "negative": ("0,0,-8,-8",),
    "zero": ("0,0,0,0",),
    "beyond 64 bits": (f"0,0,{2**64},{2**64}", f"{2**70},0,8,8", f"0,0,{'9' * 5000},1"),
    "not UTF-8": ("1,2,3,\udcff",),
    "control character": ("1,2\n,3,x",),
}
DEVICES = (
    "cuda:99",
    "cuda:-1",
    "cuda:1000000000000",
    "meta",
    "mps",
    "xla",
    "hpu",
    "cpu:7",
    "gpu",
    "cuda:",
    ":0",
    "vulkan",
)


def of_number(option: str, name: str, whole: bool) -> Iterator[tuple[str, str]]:
    """Kinds and bad values of a number; ``option`` is the command and the name."""
    zero_is_fine = bool({option, name} & ZERO_IS_FINE)
    kinds = {**NUMBERS, **(FRACTION if whole else REALS)}
    if not whole:
        kinds["beyond 64 bits"] = REALS["beyond 64 bits"]
    for kind, values in kinds.items():
        if (kind == "zero" and zero_is_fine) or (kind == "too large" and name in LARGE_IS_FINE):
            continue
        yield from ((kind, value) for value in values)


def of(table: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Kinds and values of a table."""
    for kind, values in table.items():
        yield from ((kind, value) for value in values)


def is_whole(action: argparse.Action) -> bool:
    """Whether an option takes a whole number, by its type or by the class of its default."""
    kind = getattr(action.type, "kind", action.type)
    return kind is int or action.dest in COUNT_OR_WORD


def is_number(action: argparse.Action) -> bool:
    """Whether an option takes a number."""
    return getattr(action.type, "kind", action.type) in (int, float)


def is_path(action: argparse.Action) -> bool:
    """Whether an option takes a path: by its type, or by its name where its type says nothing."""
    named = action.dest in {"video", "mask", "weights", "output", "out", "sources", "data", "config"}
    return action.type is Path or getattr(action.type, "__name__", "") == "path" or named
