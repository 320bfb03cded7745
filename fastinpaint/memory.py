"""How much memory there is, so that what cannot fit is refused before it is tried."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastinpaint.errors import UserError

GIB = 2**30
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes(device: torch.device | None = None) -> int | None:
    """Bytes that a process may still take on a device (None: the CPU); None where the system does not tell.

    On the CPU the least of what Linux calls available, what the control group leaves and what ``ulimit -v`` leaves.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    found = [_meminfo(), *(_cgroup(Path(most), Path(used)) for most, used in CGROUPS), _address_space()]
    return min((value for value in found if value is not None), default=None)


def require(what: str, needed: float, device: torch.device | None = None) -> None:
    """Refuse what is certain not to fit.

    Args:
        what: subject of the sentence, with the numbers that matter.
        needed: bytes, at the very least.

    Raises:
        UserError: the device has less; the sentence says how much is needed and how much there is.
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


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    return 1024 * (kib["MemAvailable"] + kib.get("SwapFree", 0)) if "MemAvailable" in kib else None


def _cgroup(most: Path, used: Path) -> int | None:
    limit, current = _number(most), _number(used)
    return None if limit is None or current is None else max(0, limit - current)


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
