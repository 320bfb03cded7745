"""Bad surroundings: streams that are closed or full, disks that are full, variables, runs, caches, other processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tools.verify.bad_inputs import material
from tools.verify.bad_inputs.bases import Bases
from tools.verify.bad_inputs.calls import REFUSED, STOPS, SURVIVES, Call, Setup

VARIABLES = (
    "FASTINPAINT_BACKEND",
    "FASTINPAINT_TUNE",
    "FASTINPAINT_CPU_CONV",
    "FASTINPAINT_CPU_ISA",
    "FASTINPAINT_HOPPER",
)
GARBAGE = ("toaster", "-1", "1\n", "\udcff", "a" * 100_000)
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
TIME = {"FASTINPAINT_CACHE": "cache"}


def calls(bases: Bases) -> Iterator[Call]:
    """All of them."""
    yield from _streams(bases)
    yield from _disks(bases)
    yield from _variables(bases)
    yield from _caches(bases)
    yield from _runs(bases)


def _streams(bases: Bases) -> Iterator[Call]:
    """Standard output and standard error."""
    quick = ("info", "tune", "evaluate", "inpaint", "prepare", "train")
    for command in quick:
        for stdout in ("full", "gone"):
            yield Call(f"stdout: {stdout}", command, bases.argv(command), STOPS, env=TIME, stdout=stdout)
        for stderr in ("full", "gone"):
            yield Call(f"stderr: {stderr}", command, bases.argv(command), SURVIVES, env=TIME, stderr=stderr)
            argv = (*bases.argv(command), "--nonsense")
            yield Call(f"stderr: {stderr}", command, argv, REFUSED, env=TIME, stderr=stderr)
    for stdout, stderr in (("closed", "file"), ("file", "closed"), ("closed", "closed")):
        for command in ("info", "prepare"):
            yield Call(
                "streams: closed", command, bases.argv(command), SURVIVES, stdout=stdout, stderr=stderr, fresh=True
            )
    yield Call(
        "streams: closed", "inpaint", (*bases.argv("inpaint"), "--nonsense"), REFUSED, stderr="closed", fresh=True
    )
    yield Call("stdout: full", "info", (), REFUSED, stdout="full", fresh=True)
    yield Call("stdout: gone", "info", ("--help",), SURVIVES, stdout="gone", fresh=True)


def _disks(bases: Bases) -> Iterator[Call]:
    """A disk that is full after so many bytes of a file."""
    lines = {
        "prepare": bases.argv("prepare"),
        "train": (*bases.argv("train"), "--save-every", "1"),
        "inpaint": bases.argv("inpaint"),
        "evaluate": (*bases.argv("evaluate"), "--out", "new"),
        "demo": bases.argv("demo"),
        "bench": (*bases.argv("bench"), "--out", "new.jsonl"),
        "tune": bases.argv("tune"),
    }
    for command, argv in lines.items():
        for most in (0, 100, 2_000) if command not in ("bench", "demo") else (0, 100):
            expects = {"tune": SURVIVES, "inpaint": SURVIVES, "demo": REFUSED, "bench": REFUSED}.get(command, STOPS)
            yield Call("disk: full", command, argv, expects, env=TIME, most_bytes=most)
    yield Call("disk: full", "inpaint", bases.argv("inpaint", out="new"), REFUSED, most_bytes=100)
    yield Call("disk: full", "info", (), REFUSED, stdout="full")
    yield Call("disk: full", "train", bases.resume("--steps", "4"), STOPS, _run(bases), most_bytes=3_000)


def _variables(bases: Bases) -> Iterator[Call]:
    """Environment variables with garbage, and a user without a home."""
    for command in ("info", "train", "tune", "inpaint"):
        for name in VARIABLES:
            for value in GARBAGE[: 5 if command == "info" else 2]:
                yield Call("variable: garbage", command, bases.argv(command), REFUSED, env={name: value})
    for name in RANKS:
        for value in ("ten", "-3", "", "9" * 30):
            yield Call(
                "variable: garbage",
                "train",
                bases.argv("train"),
                SURVIVES if value == "" else REFUSED,
                env={name: value},
            )
    for value in ("/dev/null", "/dev/null/x", "n" * 300, "new\nline", "caf\udce9", "file", "~nobody54321/x"):
        yield Call("variable: cache", "tune", bases.argv("tune"), SURVIVES, _file, env={"FASTINPAINT_CACHE": value})
    for command in ("info", "tune", "evaluate", "inpaint"):
        env = {"HOME": None, "XDG_CACHE_HOME": None}
        yield Call("no home", command, bases.argv(command), SURVIVES, env=env, nobody=True)
        yield Call("no home", command, bases.argv(command), SURVIVES, env={"HOME": "/nonexistent"}, nobody=True)


def _file(folder: Path) -> None:
    (folder / "file").write_text("text\n")


def _caches(bases: Bases) -> Iterator[Call]:
    """A memory of measurements that is damaged: it counts as none."""
    contents = {
        "deep": b"[" * 200_000, "deep object": b'{"a":' * 100_000, "binary": bytes(range(256)) * 100, "empty": b"",
        "list": b"[1]", "number": b"1" * 10_000, "wrong": b'{"(1,)": 5}', "torn": b'{"a": "cp', "nan": b'{"a": NaN}',
    }  # fmt: skip
    for name, content in contents.items():
        yield Call(f"cache: {name}", "tune", bases.argv("tune"), SURVIVES, _cache(content), env=TIME)
    for target in ("/dev/zero", "/dev/full", "/proc/self/mem", "pipe", "loop"):
        yield Call("cache: a device", "tune", bases.argv("tune"), SURVIVES, _cache(target), env=TIME)


def _cache(content: bytes | str) -> Setup:
    """The very file that ``tune`` reads on this machine, with that content or as that link."""

    def setup(folder: Path) -> None:
        import torch

        from fastinpaint.ops.dispatch import autotune

        os.environ["FASTINPAINT_CACHE"] = "cache"
        autotune._memory_file.cache_clear()
        name = autotune.memory_file(torch.device("cpu")).name
        autotune._memory_file.cache_clear()
        del os.environ["FASTINPAINT_CACHE"]
        (folder / "cache").mkdir()
        os.mkfifo(folder / "cache/pipe")
        if isinstance(content, bytes):
            (folder / "cache" / name).write_bytes(content)
        else:
            (folder / "cache" / name).symlink_to(content if content != "loop" else name)

    return setup


def _run(bases: Bases, change: Setup | None = None) -> Setup:
    """A finished run as ``run``, then changed."""

    def setup(folder: Path) -> None:
        shutil.copytree(bases.material / material.RUN, folder / "run")
        if change is not None:
            change(folder / "run")

    return setup


def _runs(bases: Bases) -> Iterator[Call]:
    """Runs to go on with that are damaged, newer, held by another process or half-removed."""
    more = bases.resume("--steps", "3")
    logs = {
        "torn": b'{"event": "train", "step": 1, "ph',
        "torn in the middle": b'{"event": "tr\n{"event": "train", "step": 1}\n',
        "binary": bytes(range(256)) * 100,
        "not UTF-8": b'{"event": "caf\xe9"}\n', "list": b"[1]\n",
        "word": b'"step"\n',
        "no step": b'{"event": "train"}\n', "step of text": b'{"event": "train", "step": "x", "phase": "2dcn"}\n',
        "deep": b"[" * 100_000 + b"\n",
        "huge number": b'{"event": "train", "step": ' + b"9" * 6000 + b"}\n",
        "loss of text": b'{"event": "train", "step": 1, "phase": "2dcn", "2dcn": "low"}\n',
        "loss not finite": b'{"event": "train", "step": 1, "phase": "2dcn", "2dcn": NaN}\n',
        "step of null": b'{"event": "train", "step": null, "phase": "2dcn"}\n',
        "one line without end": b"{" * 10_000_000,
    }  # fmt: skip
    for name, content in logs.items():
        expects = SURVIVES if name in ("torn", "loss not finite", "one line without end") else REFUSED
        yield Call(f"log: {name}", "train", more, expects, _run(bases, _replaced("log.jsonl", content)))
    for target in ("/dev/zero", "pipe", "log.jsonl"):
        for name in ("log.jsonl", "config.yaml"):
            link = name if target == "log.jsonl" else target
            yield Call("run: a device for a file", "train", more, REFUSED, _run(bases, _link(name, link)))
    configs = {
        "empty": b"", "cut": b"model:\n  width: 0.0625\n", "comment": b"# nothing\n", "null": b"null\n",
        "mapping": b"{}\n",
        "newer": b"version: 99\n", "newer version of text": b"version: two\n", "other": b"strategy: t2\n",
    }  # fmt: skip
    for name, content in configs.items():
        kind = "run: of a newer version" if "newer" in name else "run: config empty or cut"
        yield Call(kind, "train", more, REFUSED, _run(bases, _replaced("config.yaml", content)))
    appended = {"newer": b"version: 99\n", "key": b"later_option: 5\n"}
    for content in appended.values():
        yield Call("run: of a newer version", "train", more, REFUSED, _run(bases, _appended("config.yaml", content)))
    for name in ("step-x", "step-99999999999999999999", "step-00000005", ".step-00000009.partial", "step--0000001"):
        yield Call("run: stray checkpoint", "train", more, SURVIVES, _run(bases, _folder(f"checkpoints/{name}")))
    for name in ("log.jsonl.part", ".config.yaml.partial", "last.safetensors.1.part"):
        yield Call("run: stale part", "train", more, SURVIVES, _run(bases, _folder(name)))
        yield Call("run: stale part", "train", more, SURVIVES, _run(bases, _replaced(name, b"half")))
    yield Call("data set: stale part", "prepare", bases.argv("prepare", out="data"), SURVIVES, _stale(bases))
    for name in ("checkpoints", "config.yaml"):
        yield Call("run: a part is missing", "train", more, SURVIVES, _run(bases, _without(name)))
    yield Call("two processes", "train", more, REFUSED, _held(_run(bases), "run"))
    yield Call("two processes", "prepare", bases.argv("prepare", out="data"), REFUSED, _held(_stale(bases), "data"))


def _replaced(name: str, content: bytes) -> Setup:
    def setup(run: Path) -> None:
        (run / name).write_bytes(content)

    return setup


def _appended(name: str, content: bytes) -> Setup:
    def setup(run: Path) -> None:
        with (run / name).open("ab") as file:
            file.write(content)

    return setup


def _folder(name: str) -> Setup:
    def setup(run: Path) -> None:
        (run / name).mkdir()
        (run / name / "state.json").write_text("{}")

    return setup


def _link(name: str, target: str) -> Setup:
    def setup(run: Path) -> None:
        (run / name).unlink()
        if target == "pipe":
            os.mkfifo(run / name)
        else:
            (run / name).symlink_to(target)

    return setup


def _without(name: str) -> Setup:
    def setup(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return setup


def _stale(bases: Bases) -> Setup:
    """A data set in which a killed process left a part of a clip, as a file and as a folder."""

    def setup(folder: Path) -> None:
        shutil.copytree(bases.material / material.DATA, folder / "data")
        (folder / "data/clips/a.npy.part").write_bytes(b"half")
        (folder / "data/clips/b.npy.part").mkdir()

    return setup


HELD: list[int] = []


def _held(before: Setup, name: str) -> Setup:
    """The folder as it is while another process works in it, which holds the lock until it ends."""

    def setup(folder: Path) -> None:
        before(folder)
        while HELD:
            os.close(HELD.pop())
        HELD.append(os.open(folder / name, os.O_RDONLY))
        fcntl.flock(HELD[0], fcntl.LOCK_EX)

    return setup
