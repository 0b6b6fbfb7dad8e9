"""One launch per name at a time, and nothing left behind by those that died.

A launch holds a lock on its name, and writes down its run id and every process it started. The lock is the kernel's: it
is free as soon as the launcher is gone, however it went. The next launch of any name looks for runs whose lock is free,
ends what is left of their processes (by pid and start time, so that nobody else's is touched), and removes their shared
memory and sockets. Runs that live are never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from perception.errors import LaunchFileError, UserError, did_you_mean
from perception.runtime.shared_memory import remove_leftovers

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def runs_folder() -> Path:
    """Return the folder with the locks of this user."""
    return Path(tempfile.gettempdir()) / f"perception-runs-{getpass.getuser()}"


class RunLock:
    """Hold the name of a launch.

    Raises:
        LaunchFileError: the name is held by a running graph, or is no name.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise LaunchFileError(f"name '{name}': expected letters, digits, '_', '.' and '-', at most 64")
        self.name, self.run, self._endpoint = name, secrets.token_hex(4), ""
        folder = runs_folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        self._record = folder / f"{name}.json"
        self._lock = (folder / f"{name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise LaunchFileError(
                f"a graph named '{name}' is running already (process {_pid_of(self._record)}); "
                "stop it, or give this one another name with --set name=..."
            ) from None
        clean_dead_runs(held=name)
        _clean(self._record)
        self.note_processes([os.getpid()])

    def note_processes(self, pids: Iterable[int]) -> None:
        """Write down the processes of this run, so that the next launch can end what survives this one."""
        started = {}
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                started[str(pid)] = psutil.Process(pid).create_time()
        document = {"run": self.run, "launcher": os.getpid(), "endpoint": self._endpoint, "processes": started}
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps(document))
        temporary.replace(self._record)

    def note_endpoint(self, endpoint: str) -> None:
        """Write down where the graph publishes, for `endpoint_of`."""
        self._endpoint = endpoint
        self.note_processes([os.getpid()])

    def adopt(self, run: str) -> None:
        """Hold this run's shared memory from now on, in place of the one before."""
        self.run = run
        self.note_processes([os.getpid()])

    def release(self) -> None:
        """Give the name back; processes and shared memory are gone already."""
        remove_leftovers(self.run)
        self._record.unlink(missing_ok=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def clean_dead_runs(held: str = "") -> list[str]:
    """Clean up after runs whose launcher is gone and return their names; `held` is the caller's own name."""
    cleaned = []
    for record in sorted(runs_folder().glob("*.json")):
        if record.stem == held:
            continue
        with (record.with_suffix(".lock")).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # it lives
            _clean(record)
            cleaned.append(record.stem)
    return cleaned


def dead_runs() -> list[str]:
    """Return the names of runs whose launcher is gone and that nobody has cleaned up yet."""
    dead = []
    for record in sorted(runs_folder().glob("*.json")):
        with contextlib.suppress(OSError), record.with_suffix(".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.append(record.stem)
    return dead


def running() -> dict[str, str]:
    """Return where the graphs of this machine publish, by name; "" for one that does not say so yet."""
    dead, found = dead_runs(), {}
    for record in sorted(runs_folder().glob("*.json")):
        if record.stem not in dead:
            found[record.stem] = ""
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found[record.stem] = str(json.loads(record.read_text())["endpoint"])
    return found


def endpoint_of(name: str) -> str:
    """Return where the running graph of this name publishes.

    Raises:
        UserError: no graph of this name runs on this machine.
    """
    known = running()
    if endpoint := known.get(name):
        return endpoint
    said = f"running: {', '.join(known)}.{did_you_mean(name, known)}" if known else "none is running"
    raise UserError(f"no graph named '{name}' runs on this machine; {said}")


def is_it_running(endpoint: str) -> str:
    """Return what to ask where nobody answers at an endpoint, and which graphs of this machine publish elsewhere."""
    elsewhere = [f"{name} at {there}" for name, there in running().items() if there and there != endpoint]
    return "is the graph running?" + (f" On this machine run: {', '.join(elsewhere)}." if elsewhere else "")


def _clean(record: Path) -> None:
    try:
        document = json.loads(record.read_text())
        run, processes = str(document["run"]), dict(document["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        record.unlink(missing_ok=True)
        return
    alive = []
    for pid, created in processes.items():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(int(pid))
            if process.pid != os.getpid() and abs(process.create_time() - float(created)) < 0.01:
                process.kill()
                alive.append(process)
    psutil.wait_procs(alive, timeout=3)
    if re.fullmatch(r"[0-9a-f]{8,10}", run):
        remove_leftovers(run)
    record.unlink(missing_ok=True)


def _pid_of(record: Path) -> str:
    try:
        return str(json.loads(record.read_text())["launcher"])
    except (OSError, ValueError, KeyError):
        return "unknown"


__all__ = ["RunLock", "clean_dead_runs", "dead_runs", "endpoint_of", "is_it_running", "running", "runs_folder"]
