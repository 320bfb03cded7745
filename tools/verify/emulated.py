"""Builds the CUDA sources for the CPU (csrc/cuda_on_cpu) and runs the ops' `cuda` modules on them.

    with emulated.installed():                                  # plain, in this process
        y, mean, var = conv_block.cuda.fwd(...)                 # tensors on the CPU

Libraries and objects are cached under build/emulated by the content of their sources and flags. A defect can be
planted: ``build(plants=[Plant("conv_block/cuda/kernels/gather.cuh", "cp_async_wait<1>", "cp_async_wait<2>")])``
compiles a copy of the sources with that text replaced.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.dispatch.source_hash import cxx_content

ROOT = Path(__file__).parents[2]
FLAGS = (
    *("-std=c++17", "-g1", "-fPIC", "-fno-strict-aliasing", "-mf16c", "-ffp-contract=off"),
    *("-Wall", "-Wno-unknown-pragmas", "-DFI_EMULATED", "-x", "c++"),
    "-ftrivial-auto-var-init=pattern",  # an uninitialised accumulator starts at -1.7e38
)
SANITIZERS = {
    "plain": ("-O2",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "bounds": ("-O1", "-fsanitize=address"),  # compiles in two thirds of address's time
    "thread": ("-O1", "-fsanitize=thread"),
    # no runtime: access_counts.cu, which must be among the sources, replaces thread sanitizer's
    "counted": ("-O1", "-fsanitize=thread", "-U__SANITIZE_THREAD__", "-fno-threadsafe-statics"),
}
RUNTIMES = {"address": ("libasan.so",), "bounds": ("libasan.so",), "thread": ("libtsan.so",)}  # none for the others
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=66:report_signal_unsafe=0:history_size=4",
}

RUNTIME = "cuda_on_cpu/"
CXX_NAMES = {"__nv_bfloat16": "bf16", "__half": "half", "Tf32": "tf32", "false": "0", "true": "1"}


class Plant(NamedTuple):
    """A defect: `old`, which must occur once in `file` (under csrc), becomes `new`."""

    file: str
    old: str
    new: str


def why_not() -> str | None:
    """Why the emulation cannot run here, in one sentence, or None."""
    if shutil.which("g++") is None:
        return "the emulation of CUDA kernels needs g++."
    if os.uname().machine != "x86_64":
        return f"the emulation of CUDA kernels needs x86-64, this is {os.uname().machine}."
    return None


def build(
    sanitizer: str = "plain",
    plants: Sequence[Plant] = (),
    sources: Sequence[str] | None = None,
    optimised: bool = True,
) -> Path:
    """Return the emulated library; build it if it is not cached.

    Args:
        sanitizer: a key of `SANITIZERS`.
        plants: defects to compile in.
        sources: ``.cu`` files under csrc; by default all of the real library.
        optimised: False compiles in about half the time, for a run of a second or two.

    Raises:
        ValueError: a plant's text does not occur exactly once.
        RuntimeError: g++ failed (with its messages).
    """
    files = {
        str(path.relative_to(ROOT / "csrc")): path.read_text()
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in (".cu", ".cuh", ".h")
    }
    for plant in plants:
        if files[plant.file].count(plant.old) != 1:
            raise ValueError(f"plant: {plant.old!r} must occur once in {plant.file}.")
        files[plant.file] = files[plant.file].replace(plant.old, plant.new)
    real = sorted(name for name in files if re.fullmatch(r"\w+/cuda(_\w+)?\.cu|\w+/cuda/.*\.cu", name))
    chosen = real if sources is None else list(sources)
    flags = [*FLAGS, *SANITIZERS[sanitizer]]
    if not optimised:
        flags = [*(flag for flag in flags if not flag.startswith(("-O", "-g"))), "-O0"]
    folder = ROOT / "build" / "emulated"
    folder.mkdir(parents=True, exist_ok=True)
    objects = {source: folder / f"{digest(source, files, flags)}.o" for source in chosen}
    library = folder / f"{sanitizer}-{_hash([path.name for path in objects.values()])}.so"
    if not library.exists():
        linked = [flag for flag in flags if flag.startswith("-fsanitize")] if sanitizer in RUNTIMES else []
        with _held(objects.values()):
            parse = sanitizer != "counted" and not any(plant.file.startswith(RUNTIME) for plant in plants)
            _compile(files, objects, flags, linked, library, parse)
    return library


@contextmanager
def _held(paths: Iterable[Path]) -> Iterator[None]:
    """Inside, no other process makes these files: two workers of pytest need many of them at the same time."""
    with ExitStack() as stack:
        for path in sorted(paths):
            fcntl.flock(stack.enter_context(path.with_suffix(".lock").open("w")), fcntl.LOCK_EX)
        yield


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def digest(source: str, files: dict[str, str], flags: Sequence[str]) -> str:
    """A digest of the source and its includes without comments. Line numbers may differ for equal digests."""
    read, to_read = {}, [source]
    while to_read:
        name = to_read.pop()
        if name in files and name not in read:
            read[name] = cxx_content(files[name])
            for included in re.findall(r'#include "([^"]+)"', files[name]):
                to_read += [included, os.path.normpath(os.path.join(os.path.dirname(name), included))]
    return _hash((sorted(read.items()), flags))


def _compile(
    files: dict[str, str],
    objects: dict[str, Path],
    flags: Sequence[str],
    linked: Sequence[str],
    library: Path,
    parse: bool,
) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        if parse:
            flags = [*flags, "-include", _parsed(files, flags, Path(folder))]
        jobs = {}
        for source, made in objects.items():
            if not made.exists():
                command = ["g++", *flags, f"-I{folder}", "-c", f"{folder}/{source}", "-o", f"{folder}/{made.name}"]
                jobs[made] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        errors = "".join(job.communicate()[1] for job in jobs.values())
        if any(job.returncode for job in jobs.values()):
            raise RuntimeError(f"g++ could not build the emulated kernels:\n{errors}")
        for made in jobs:
            os.replace(f"{folder}/{made.name}", made)
        subprocess.run(["g++", "-shared", *linked, *map(str, objects.values()), "-o", f"{folder}/lib.so"], check=True)
        os.replace(f"{folder}/lib.so", library)


def _parsed(files: dict[str, str], flags: Sequence[str], written: Path) -> str:
    """The emulation's header as g++ has parsed it, which would take over a second of each source.

    If g++ refuses what it parsed, it takes the empty file of that name, and parses the header where it is included.
    """
    texts = [files[name] for name in sorted(files) if name.startswith(RUNTIME)]  # with comments: g++ compares them
    name = f"{_hash((texts, flags))}.h"
    made = written.parent / f"{name}.gch"
    with _held([made]):
        if not made.exists():
            header = str(written / RUNTIME / "cuda_on_cpu.h")
            command = ["g++", *flags, "-w", "-x", "c++-header", "-c", header, "-o", str(written / made.name)]
            subprocess.run(command, check=True)
            (written.parent / name).touch()
            os.replace(written / made.name, made)
    return str(written.parent / name)


@contextmanager
def installed(library: Path | None = None) -> Iterator[None]:
    """Inside, the ops' `cuda` modules run the emulated library (by default the plain one) on CPU tensors."""
    before = native_cuda.emulated
    native_cuda.emulated = native_cuda.declare(ctypes.CDLL(str(library or build())))
    try:
        yield
    finally:
        native_cuda.emulated = before


def launched() -> set[str]:
    """The kernels that the installed library has launched so far, with the names of `sass`."""
    listed = native_cuda.library().fi_emulated_launches
    listed.restype = ctypes.c_char_p
    names = set()
    for line in listed().decode().splitlines():
        name = line.split("kernel = ")[1].rstrip("]").replace("fi::", "")
        for written, short in CXX_NAMES.items():
            name = name.replace(written, short)
        names.add(name)
    return names


def preload(sanitizer: str) -> dict[str, str]:
    """The environment of a process that loads libraries of this sanitizer."""
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in RUNTIMES.get(sanitizer, ())
    ]
    return {**OPTIONS, "LD_PRELOAD": ":".join(runtimes), "OMP_NUM_THREADS": "1"}
