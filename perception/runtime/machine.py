"""What may go wrong with the machine under a running graph: full disks, full memory, heat. Looked at now and then."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
SYSTEM = Path("/sys")
TIME_ERROR = 5
FULL = 0.95
"""Share of a disk or of shared memory beyond which it counts as full."""
MEMORY_LEFT = 0.05
BELOW_TRIP_C = 3.0
"""So close to the temperature at which the system slows itself down it is too hot."""


class MachineWatch:
    """Looks at this machine.

    Args:
        folders: what the graph writes to, such as a recording's folder.
        shared_memory: where shared memory lies.
        system: where the kernel shows temperatures and throttling.
        synchronised: says whether this machine's clock is; None where that cannot be known.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        shared_memory: Path = SHARED_MEMORY,
        system: Path = SYSTEM,
        synchronised: Callable[[], bool | None] | None = None,
    ) -> None:
        self._folders, self._shared_memory, self._system = tuple(folders), shared_memory, system
        self._synchronised = synchronised or clock_is_synchronised
        self._was_synchronised = False
        self._throttled = self._throttle_count()

    def faults(self) -> list[str]:
        """Return what is wrong now, a reason each."""
        return [*self._full(), *self._memory(), *self._heat(), *self._clock()]

    def _full(self) -> Iterator[str]:
        named = [("shared memory", self._shared_memory), *(("the disk of", folder) for folder in self._folders)]
        for name, folder in named:
            share = used_share(folder)
            if share is not None and share >= FULL:
                place = "" if folder == self._shared_memory else f" {folder}"
                yield f"{name}{place} is {share:.0%} full"

    @staticmethod
    def _memory() -> Iterator[str]:
        memory = psutil.virtual_memory()
        if memory.available < MEMORY_LEFT * memory.total:
            yield f"memory is {1 - memory.available / memory.total:.0%} full"

    def _clock(self) -> Iterator[str]:
        """A clock that nothing ever disciplined is a choice; one that has lost it is a fault."""
        synchronised = self._synchronised()
        self._was_synchronised |= bool(synchronised)
        if synchronised is False and self._was_synchronised:
            yield "this host's clock has lost its synchronisation"

    def _heat(self) -> Iterator[str]:
        for zone in sorted(self._system.glob("class/thermal/thermal_zone*")):
            celsius, limit = _number(zone / "temp"), self._slowing_at(zone)
            if celsius is not None and limit is not None and celsius / 1000 > limit - BELOW_TRIP_C:
                name = _text(zone / "type") or zone.name
                yield f"{name} is at {celsius / 1000:.0f} degrees, {limit:.0f} slow it down"
        count = self._throttle_count()
        if count > self._throttled:
            yield f"the processor was slowed down for heat {count - self._throttled} times"
        self._throttled = count

    @staticmethod
    def _slowing_at(zone: Path) -> float | None:
        """Return the lowest temperature at which the kernel slows the machine down, in degrees Celsius."""
        limits = [
            _number(kind.with_name(kind.name.replace("_type", "_temp")))
            for kind in zone.glob("trip_point_*_type")
            if _text(kind) in ("passive", "hot", "critical")
        ]
        known = [limit / 1000 for limit in limits if limit]
        return min(known, default=None)

    def _throttle_count(self) -> int:
        files = self._system.glob("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
        return sum(_number(file) or 0 for file in files)


def clock_is_synchronised() -> bool | None:
    """Return whether the kernel knows its clock to be disciplined (NTP, PTP); None where it does not say."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(512)))
    return None if state < 0 else state != TIME_ERROR


def used_share(folder: Path) -> float | None:
    """Return which share of a file system's room, as this user may use it, is used; None where there is none."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    used = found.f_blocks - found.f_bfree
    usable = used + found.f_bavail
    return used / usable if usable else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:
        return None


__all__ = ["MachineWatch", "clock_is_synchronised", "used_share"]
