"""Paths that are no good: missing, of the wrong kind, devices, pipes, loops, names of any bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.verify.bad_inputs import material
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, SURVIVES, Call, Setup

PLACES = {
    "prepare": ("source", "out"),
    "train": ("data", "out", "config"),
    "evaluate": ("weights", "data", "video"),
    "inpaint": ("source", "mask", "weights", "out"),
    "demo": ("out",),
}
BYTES, LINE, RED = "caf\udce9", "two\nlines", "\x1b[31mred"


def _odd(folder: Path) -> None:
    """One of everything that is no regular file."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "file").write_text("text\n")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("keep\n")
    (folder / "empty").mkdir()


def calls(bases: Bases) -> Iterator[Call]:
    """Every path of every command."""
    paths = {
        "missing": ("none", BYTES, LINE, RED, "none/none"),
        "empty": ("",),
        "too long": ("n" * 300, "d/" * 3000),
        "a device": ("/dev/zero", "/dev/null", "/dev/full", "/dev/random"),
        "a pipe": ("pipe",),
        "a loop": ("loop", "dangling"),
        "of the wrong kind": ("file", "full", "file/below", "/proc/self/mem", "/proc/1/environ", "/sys"),
    }
    for command, places in PLACES.items():
        for place in places:
            for kind, names in paths.items():
                for name in names:
                    if _is_wrong(command, place, kind, name):
                        yield Call(f"path: {kind}", command, bases.argv(command, **{place: name}), REFUSED, _odd)
    yield from _outputs(bases)
    yield from _names(bases)


def _is_wrong(command: str, place: str, kind: str, name: str) -> bool:
    """Whether that path is a mistake there."""
    if place != "out":
        return not (place == "config" and name in ("/dev/null", "none/none"))
    new = (kind == "missing" and name != "none/none") or name in ("/sys", "d/" * 3000)
    new = new or (name == "dangling" and command != "demo")
    return not new and not (name == "none/none" and command in ("prepare", "train"))


def _outputs(bases: Bases) -> Iterator[Call]:
    """Outputs that must not be written to, and file options of ``bench`` and ``evaluate``."""
    for name in ("new.avi!", "new.txt", bases.at(material.CLIP), ".", "..", "/"):
        yield Call("path: output", "inpaint", bases.argv("inpaint", out=name), REFUSED, _odd)
    yield Call("path: output", "inpaint", (*bases.argv("inpaint", out="full"), "--overwrite"), REFUSED, _odd)
    for name in ("/dev/full", "/dev/null/x", "full", "file/below", "", "pipe", "loop", "n" * 300):
        argv = (*bases.argv("bench"), "--out", name)
        yield Call("path: output", "bench", argv, REFUSED, _odd)
        expects = SURVIVES if name == "full" else REFUSED
        yield Call("path: output", "evaluate", (*bases.argv("evaluate"), "--out", name), expects, _odd)


def _names(bases: Bases) -> Iterator[Call]:
    """Good files under names that are not UTF-8, hold newlines or colour a terminal: any name may work."""
    for name in (BYTES, LINE, RED, "-", "a b", "%d", "x:y"):
        for command, place, source in (
            ("inpaint", "source", material.CLIP),
            ("inpaint", "source", material.FOLDER),
            ("inpaint", "mask", material.MASK),
            ("inpaint", "weights", material.WEIGHTS),
            ("evaluate", "weights", material.WEIGHTS),
            ("evaluate", "video", material.CLIP),
            ("prepare", "source", material.CLIPS),
            ("train", "data", material.DATA),
        ):
            there = "./" + name + Path(source).suffix
            argv = bases.argv(command, **{place: there})
            yield Call("name: odd bytes", command, argv, SURVIVES, _linked(bases.material / source, there))
        for command in ("inpaint", "prepare", "train"):
            argv = bases.argv(command, out="./" + name + (".mp4" if command == "inpaint" else ""))
            yield Call("name: odd bytes", command, argv, SURVIVES)


def _linked(source: Path, name: str) -> Setup:
    def setup(folder: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copyfile(source, folder / name)

    return setup
