"""Available memory, so that work that cannot fit is rejected before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastinpaint.errors import UserError

GIB = 2**30
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
CACHE = ("inactive_file", "active_file")  # page cache, which Linux reclaims when memory is short


def available_bytes(device: torch.device | None = None) -> int | None:
    """Bytes that this process can still allocate on a device (None: the CPU), or None where that is unknown.

    On the CPU it is the smallest of Linux's MemAvailable, the rest of the control group and the rest of ``ulimit -v``.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    found = [_meminfo(), *(_cgroup(*names) for names in CGROUPS), _address_space()]
    return min((value for value in found if value is not None), default=None)


def require(what: str, needed: float, device: torch.device | None = None) -> None:
    """Reject work that is certain not to fit.

    Args:
        what: subject of the error message, with its sizes.
        needed: a lower bound of the bytes needed.

    Raises:
        UserError: the device has less; the message states both amounts.
    """
    there = available_bytes(device)
    if there is not None and needed > there:
        where = "this machine" if device is None or device.type == "cpu" else str(device)
        raise UserError(f"{what} needs at least {_gib(needed)} of memory; {where} has {_gib(there)} free.")


def _gib(count: float) -> str:
    return f"{count / GIB:,.1f} GiB"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number, such as /proc/meminfo."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
        return {words[0]: int(words[1]) for words in lines if len(words) > 1}
    except (OSError, ValueError):
        return {}


def _meminfo() -> int | None:
    kib = _table(Path("/proc/meminfo"))
    return 1024 * (kib["MemAvailable"] + kib.get("SwapFree", 0)) if "MemAvailable" in kib else None


def _cgroup(folder: Path, most: str, used: str) -> int | None:
    limit, current = _number(folder / most), _number(folder / used)
    if limit is None or current is None:
        return None
    stat = _table(folder / "memory.stat")
    return max(0, limit - current + sum(stat.get(name, 0) for name in CACHE))


def _address_space() -> int | None:
    if os.name != "posix":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        used = 0
    return max(0, limit - used)
