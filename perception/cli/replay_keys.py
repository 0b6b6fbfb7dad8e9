"""Keys that control a replay in the terminal that launched it: space, s, and the arrows."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from perception.runtime.replay_request import ReplayRequest

HELP = "keys: space pauses and goes on, s steps by a frame, left and right go back and ahead by 5 s"
SKIP_S = 5.0
LOOK_S = 0.2
KEYS = {
    b" ": ReplayRequest("toggle"),
    b"s": ReplayRequest("step"),
    b"\x1b[C": ReplayRequest("skip", SKIP_S),
    b"\x1b[D": ReplayRequest("skip", -SKIP_S),
    b"\x1bOC": ReplayRequest("skip", SKIP_S),
    b"\x1bOD": ReplayRequest("skip", -SKIP_S),
}
"""By what a terminal sends; arrows come in two ways."""


@contextmanager
def replay_keys(commands: deque[ReplayRequest]) -> Iterator[bool]:
    """Put what is asked by keys into `commands` while it lasts; gives False where stdin is no terminal.

    The terminal hands over each key at once and shows none; Ctrl-C stays what it is.
    """
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    end = threading.Event()
    thread = threading.Thread(target=_read, args=(terminal, commands, end), name="keys", daemon=True)
    try:
        tty.setcbreak(terminal)
        thread.start()
        yield True
    finally:
        end.set()
        thread.join()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read(terminal: int, commands: deque[ReplayRequest], end: threading.Event) -> None:
    while not end.is_set():
        readable, _, _ = select.select([terminal], [], [], LOOK_S)
        if readable:
            try:
                pressed = os.read(terminal, 64)
            except OSError:
                return  # the terminal is gone
            if not pressed:
                return
            commands.extend(requests_of(pressed))


def requests_of(pressed: bytes) -> list[ReplayRequest]:
    """Return what keys ask for; others are ignored."""
    found = []
    while pressed:
        key = next((key for key in KEYS if pressed.startswith(key)), pressed[:1])
        found += [KEYS[key]] if key in KEYS else []
        pressed = pressed[len(key) :]
    return found


__all__ = ["HELP", "replay_keys", "requests_of"]
