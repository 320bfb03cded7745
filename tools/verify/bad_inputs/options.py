"""Each option of each command, as argparse declares it, with each kind of bad value."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from tools.verify.bad_inputs import material, values
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, SURVIVES, Call

LARGE = ("--size", "4000")


def calls(bases: Bases) -> Iterator[Call]:
    """All of them."""
    from fastinpaint.cli import COMMANDS, parser_for

    for command in COMMANDS:
        for action in parser_for(command)._actions:
            if action.nargs != 0 and action.option_strings and not values.is_path(action):
                yield from _of_option(bases, command, action)
        yield from _of_the_line(bases, command)


def _of_option(bases: Bases, command: str, action: argparse.Action) -> Iterator[Call]:
    """Each bad value in place of, or after, the good one."""
    flag = action.option_strings[-1]
    for kind, value in _values(command, action):
        given = (flag, value) if action.nargs in ("+", "*") else (f"{flag}={value}",)
        clipped = "box" in action.dest and kind == "beyond 64 bits"  # a box over the edge may be clipped
        expects = SURVIVES if clipped else REFUSED
        yield Call(f"option: {kind}", command, bases.argv(command) + given, expects)
    if action.nargs is None:
        yield Call("option: value missing", command, (*bases.argv(command), flag))


def _values(command: str, action: argparse.Action) -> Iterator[tuple[str, str]]:
    """Kinds and values for one option."""
    if action.dest == "device":
        yield from (("device that does not exist", device) for device in values.DEVICES)
        yield from values.of(values.WORDS)
    elif "box" in action.dest:
        yield from values.of(values.BOXES)
    elif values.is_number(action) or action.dest in values.COUNT_OR_WORD:
        yield from values.of_number(f"{command} {action.dest}", action.dest, values.is_whole(action))
    elif command == "train" and (kind := _train_kinds().get(action.dest)) in (int, float):
        yield from values.of_number(f"{command} {action.dest}", action.dest, kind is int)
    else:
        yield from values.of(values.WORDS)


def _train_kinds() -> dict[str, Any]:
    """The types of the options that `train` reads as text and the config's classes check."""
    from fastinpaint.models import ModelConfig
    from fastinpaint.training import TrainConfig

    return {
        item.name: get_type_hints(cls)[item.name]
        for cls in (TrainConfig, ModelConfig)
        for item in dataclasses.fields(cls)
    }


def _of_the_line(bases: Bases, command: str) -> Iterator[Call]:
    """Command lines that are wrong as a whole."""
    good = bases.argv(command)
    for kind, more in (
        ("line: unknown option", ("--nonsense",)),
        ("line: unknown option", ("--\udcff=1",)),
        ("line: unknown option", ("--new\nline",)),
        ("line: unknown option", ("-\x1b[31m",)),
        ("line: abbreviated twice", ("--" + "a" * 5000,)),
    ):
        yield Call(kind, command, (*good, *more))
    if command == "inpaint":
        yield Call("line: options that exclude each other", command, (*good, "--fp16", "--bf16"))
        yield Call("line: numbers that do not fit each other", command, (*good, "--frames", "4", "--overlap", "4"))
    if command == "evaluate":
        clip = bases.at(material.CLIP)
        yield Call("line: options that exclude each other", command, (*good, "--video", clip))
        yield Call("line: options that need each other", command, ("--data", bases.at(material.DATA)))
        yield Call("line: options that need each other", command, (bases.at(material.WEIGHTS), "--frames", "4"))
    if command == "prepare":
        yield Call("line: options that need each other", command, (*good, "--crop", "box"))
        yield Call("line: options that need each other", command, (*good, "--box", "0,0,8,8"))
        yield Call("line: numbers that do not fit each other", command, (*good, "--crop", "box", "--box", "0,0,8,9"))
    if command == "train":
        yield Call("line: numbers that do not fit each other", command, (*good, "--batch", "3", "--accumulate", "2"))
        yield Call("line: numbers that do not fit each other", command, (*good, "--steps", "0"))
        yield Call("line: options that exclude each other", command, (*good, "--memory", "low"))
        yield Call(
            "line: options that exclude each other", command, (*good, "--preset", "chang2019", "--guidance", "before")
        )
    if command in ("prepare", "train", "evaluate", "inpaint"):  # the others need nothing
        yield Call("line: nothing given", command)


def too_large(bases: Bases) -> Iterator[Call]:
    """Numbers that are each allowed and together need more memory than any machine has."""
    step = (("--frames", "4000", "--size", "4000"), ("--batch", "500", "--size", "4000"), ("--width", "60", *LARGE))
    sizes: dict[str, tuple[tuple[str, ...], ...]] = {
        "bench": step,
        "tune": step,
        "train": (
            ("--batch", "400000"),
            ("--width", "60", "--strategy", "t2"),
            ("--batch", "65536", "--width", "1"),
        ),
        "prepare": (("--size", "8000", "--frames", "2000", "--min-side", "1"),),
    }
    for command, all_sizes in sizes.items():
        for size in all_sizes:
            yield Call("memory: sizes that cannot fit", command, bases.argv(command) + size)
