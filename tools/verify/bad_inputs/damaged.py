"""Files that a command reads, damaged with a fixed seed: bytes flipped, cut off, blanked, doubled."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.verify.bad_inputs import material
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, SURVIVES, Call, Setup

Damage = Callable[[bytes, random.Random], bytes]


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 30))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flipped_early(data: bytes, rng: random.Random) -> bytes:
    """In the first 200 bytes, where headers are."""
    changed = bytearray(data)
    for _ in range(4):
        changed[rng.randrange(min(200, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _blanked(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    length = min(len(data) - start, rng.choice((8, 100, 4000)))
    return data[:start] + bytes(length) + data[start + length :]


def _noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(min(len(data), 20_000))


DAMAGES: dict[str, Damage] = {
    "bytes flipped": _flipped,
    "header overwritten": _flipped_early,
    "cut off": _cut,
    "zeros in it": _blanked,
    "noise": _noise,
    "empty": lambda data, rng: b"",
}

# The command that reads it, the place in the command line that names it, and the files; each is damaged in each way.
READ_AS: dict[tuple[str, str], tuple[str, ...]] = {
    ("inpaint", "source"): (material.CLIP, material.GIF, material.MATROSKA, *material.PICTURES),
    ("inpaint", "mask"): (material.MASK, material.MASK_CLIP),
    ("inpaint", "weights"): (material.WEIGHTS, material.TWODCN),
    ("evaluate", "weights"): (material.WEIGHTS,),
    ("evaluate", "video"): (material.CLIP, material.GIF),
    ("prepare", "source"): (material.CLIP, material.GIF, material.MATROSKA),
    ("train", "config"): (material.CONFIG,),
}
IN_DATA = ("index.json", "settings.json", "clips/*.npy", "clips/*.json")
IN_RUN = ("config.yaml", "log.jsonl", "checkpoints/step-*/state.json", "checkpoints/step-*/optimizer.safetensors",
          "checkpoints/step-*/weights.safetensors")  # fmt: skip


def calls(bases: Bases, repeats: int = 3, seed: int = 0) -> Iterator[Call]:
    """Every file in every way, some ways several times."""
    for (command, place), names in READ_AS.items():
        for name in names:
            yield from _of_file(bases, command, place, name, repeats, seed)
    for pattern in IN_DATA:
        for how, number in _ways(repeats):
            setup = _copied(bases.material / material.DATA, "data", pattern, how, f"{seed} {pattern} {number}")
            yield Call(f"data set: {how}", "train", bases.argv("train", data="data"), SURVIVES, setup)
            if pattern in ("index.json", "clips/*.npy"):
                yield Call(f"data set: {how}", "evaluate", bases.argv("evaluate", data="data"), SURVIVES, setup)
            else:
                yield Call(f"data set: {how}", "prepare", bases.argv("prepare", out="data"), SURVIVES, setup)
    for pattern in IN_RUN:
        for how, number in _ways(repeats):
            setup = _copied(bases.material / material.RUN, "run", pattern, how, f"{seed} {pattern} {number}")
            expects = REFUSED if how in ("empty", "noise") and pattern != "log.jsonl" else SURVIVES
            yield Call(f"run: {how}", "train", bases.resume("--steps", "3"), expects, setup)


def _ways(repeats: int) -> Iterator[tuple[str, int]]:
    for how in DAMAGES:
        for number in range(1 if how == "empty" else repeats):
            yield how, number


def _of_file(bases: Bases, command: str, place: str, name: str, repeats: int, seed: int) -> Iterator[Call]:
    for how, number in _ways(repeats):
        target = f"bad{Path(name).suffix}"
        expects = (
            REFUSED if how in ("empty", "noise") and place != "config" and name[-3:] not in ("bmp", "ppm") else SURVIVES
        )
        if place == "config" and how == "noise":
            expects = REFUSED
        setup = _of_one(bases.material / name, target, how, f"{seed} {name} {number}")
        kind = {"source": "video", "video": "video", "config": "config", "mask": "mask", "weights": "weights"}[place]
        if name in material.PICTURES:
            kind = "picture"
        yield Call(f"{kind}: {how}", command, bases.argv(command, **{place: target}), expects, setup)


def _of_one(source: Path, target: str, how: str, seed: str) -> Setup:
    def setup(folder: Path) -> None:
        (folder / target).write_bytes(DAMAGES[how](source.read_bytes(), random.Random(f"{how} {seed}")))

    return setup


def _copied(source: Path, name: str, pattern: str, how: str, seed: str) -> Setup:
    """A copy of a folder with one file of it damaged."""

    def setup(folder: Path) -> None:
        shutil.copytree(source, folder / name)
        path = sorted((folder / name).glob(pattern))[0]
        path.write_bytes(DAMAGES[how](path.read_bytes(), random.Random(f"{how} {seed}")))

    return setup
