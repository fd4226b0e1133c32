"""How much memory the machine still has for the state, and a clear error when that is not enough."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from engine.errors import DoesNotFit

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def available_bytes(device: str | torch.device = "cpu", cgroup: Path = CGROUP, own_groups: Path = OWN_GROUPS) -> int:
    """Bytes that can still be allocated: of the GPU, or of the machine and of the control groups this process is in."""
    place = torch.device(device)
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    return min([psutil.virtual_memory().available, *_group_rooms(cgroup, own_groups)])


def require(needed: int, device: str | torch.device, what: str, available: int | None = None, advice: str = "") -> None:
    """Raise `DoesNotFit` naming what does not fit, the bytes it needs and the bytes there are.

    Args:
        needed: bytes about to be allocated.
        device: where.
        what: the thing, for the message.
        available: instead of asking the machine.
        advice: what may be done about it, for the end of the message.
    """
    there = available_bytes(device) if available is None else available
    if needed > there:
        raise DoesNotFit(f"{what}: {needed:,} bytes needed, {there:,} bytes of memory available on {torch.device(device)}{advice}")


def _group_rooms(cgroup: Path, own_groups: Path) -> list[int]:
    """Limit − use of every control group from our own up to the root, version 2 (memory.max) and 1 (memory.limit_in_bytes)."""
    rooms = []
    for line in own_groups.read_text().splitlines() if own_groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, use = cgroup, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, use = cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in [group, *(parent for parent in group.parents if parent.is_relative_to(root))]:
            most, used = _number(folder / limit), _number(folder / use)
            if most is not None and used is not None:
                rooms.append(max(0, most - used + _reclaimable(folder)))
    return rooms


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache that the kernel gives back when the group needs them; without them a group that has read many files
    looks full."""
    statistics = folder / "memory.stat"
    if not statistics.is_file():
        return 0
    values = dict(line.split(" ", 1) for line in statistics.read_text().splitlines() if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", "0")))


def _number(path: Path) -> int | None:
    if not path.is_file():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None  # "max": no limit
